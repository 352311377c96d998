"""What a job looks like right now, read once and rendered once for everybody in this process who watches it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from django.conf import settings
from django.db.models import BooleanField, Case, Exists, Model, OuterRef, Q, When
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.functional import SimpleLazyObject
from psycopg import AsyncConnection

from atom.access import Actor, Right
from atom.fanout import Message
from atom.tenancy import SYSTEM_ROLE, tenant_scope
from atom.threads import in_thread
from historical_sync import states
from historical_sync.database import connect_arguments
from historical_sync.models import HistoricalSyncJob, JobEvent
from historical_sync.progress import describe, percentage
from historical_sync.serializers import job_json
from integrations.models import Connection

LONG_AGO = timedelta(hours=1)  # how far back a page is told of what stopped, at most
SHOWN = 50  # jobs that it is told of at once, the newest


class LiveJob:
    """One reading of a job, and what was made of it."""

    def __init__(self, job: HistoricalSyncJob) -> None:
        self.job = job
        self.tenant_id = str(job.tenant_id)
        self.at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._made: dict[tuple[str, bool], Message] = {}

    def event(self, kind: str, actor: Actor, **more: str) -> Message:
        """The contract's event as JSON, with the job as `actor` sees it. `more`: fields beside, each of one text for all who have these rights."""
        key = (" ".join(("event", kind, *more)), actor.may(Right.OPERATE))
        if key not in self._made:
            event = {"type": kind, "seq": self.job.revision, "at": self.at, "job": job_json(self.job, actor), **more}
            self._made[key] = Message(orjson.dumps(event).decode())
        return self._made[key]

    def html(self, template: str, may_operate: bool) -> Message:
        """A fragment of the job; `template` gets what `job_context` says."""
        key = (template, may_operate)
        if key not in self._made:
            self._made[key] = Message(render_to_string(template, job_context(self.job, may_operate)))
        return self._made[key]


def job_context(job: HistoricalSyncJob, may_operate: bool) -> dict[str, Any]:
    """What the fragments of a job get: the page's, htmx's and the socket's are the same."""
    running = SimpleLazyObject(lambda: running_jobs(job.tenant_id))
    return {"job": job, "progress": describe(job), "may_operate": may_operate, "running_jobs": running}


def running_jobs(tenant_id: UUID | str) -> dict[str, Any]:
    """What the header's indicator shows: how many imports run, how far they are on average, and when that was so."""
    read_at = timezone.now().isoformat(timespec="microseconds")
    jobs = HistoricalSyncJob.objects.filter(tenant_id=tenant_id, status__in=states.WORKABLE).order_by()
    # Few: the limits of every plan see to that.
    percentages = [percentage(job) for job in jobs.values_list("status", "progress", "progress_total", named=True)]
    average = sum(percentages) // len(percentages) if percentages else 0
    return {"count": len(percentages), "percentage": average, "read_at": read_at}


def since(given: str) -> datetime:
    """The time (ISO 8601, with its zone) from which a page wants to be told of what stopped: when it was made.

    Raises ValueError when it is no such time.
    """
    found = parse_datetime(given)
    if found is None or found.tzinfo is None:
        raise ValueError(f"not a time in ISO 8601 with its zone: {given!r}")
    return max(found, timezone.now() - LONG_AGO)


def of_late(tenant_id: UUID | str, since: datetime) -> list[HistoricalSyncJob]:
    """The tenant's jobs that are not over and those that ended since then, in the order of their starts.

    `stopped_lately`: it ended or was paused since then.
    """
    paused_since = JobEvent.objects.filter(job=OuterRef("pk"), kind=states.PAUSED, at__gte=since)
    jobs = HistoricalSyncJob.objects.with_names().filter(tenant_id=tenant_id)
    # What ended lately has its parts: the two together have indexes of little more than what is looked for.
    jobs = jobs.filter(status__in=states.ACTIVE) | jobs.filter(completed_at__gte=since, parts_forgotten=False)
    jobs = jobs.annotate(
        stopped_lately=Case(
            When(status=states.PAUSED, then=Exists(paused_since)),
            default=Q(completed_at__isnull=False),
            output_field=BooleanField(),
        )
    )
    return list(reversed(jobs.order_by("-created_at")[:SHOWN]))


async def read_late(tenant_id: str, since: datetime, template: str, may_operate: bool) -> list[LiveJob]:
    """`of_late`, each with its fragment rendered."""
    found: list[LiveJob] = await in_thread(_read_late)(tenant_id, since, template, may_operate)
    return found


def _read_late(tenant_id: str, since: datetime, template: str, may_operate: bool) -> list[LiveJob]:
    with tenant_scope(tenant_id):
        seen = [LiveJob(job) for job in of_late(tenant_id, since)]
        for one in seen:
            one.html(template, may_operate)
    return seen


async def read(tenant_id: str, job_id: str) -> LiveJob | None:
    """The job as it is now; None when the tenant has no such job (any more)."""
    found: LiveJob | None = await in_thread(_read)(tenant_id, job_id)
    return found


def _read(tenant_id: str, job_id: str) -> LiveJob | None:
    with tenant_scope(tenant_id):
        job = HistoricalSyncJob.objects.with_names().filter(tenant_id=tenant_id, id=job_id).first()
    return LiveJob(job) if job is not None else None


class Reader:
    """Reads changed jobs, of all tenants in one query, on a connection of its own in the event loop.

    For the hub, which hears of hundreds of changes a second and tells every tenant's watchers of that tenant's jobs only. Through
    Django's ORM and its threads one reading costs three times as much, and holds up the loop that sends.
    """

    def __init__(self) -> None:
        self.connection: AsyncConnection[tuple[Any, ...]] | None = None

    async def read(self, job_ids: Iterable[str]) -> list[LiveJob]:
        """These jobs as they are now, without those that are no more."""
        connection = await self._open()
        rows = await connection.execute(_CHANGED, [settings.LEASE_SECONDS, list(job_ids)], prepare=True)
        return [LiveJob(_job(row)) for row in await rows.fetchall()]

    async def revisions(self, tenant_ids: Iterable[str], job_ids: Iterable[str]) -> list[tuple[str, str, int, str]]:
        """(job, tenant, revision, status) of the tenants' jobs that are not over, and of these ones."""
        connection = await self._open()
        rows = await connection.execute(
            _REVISIONS, [list(tenant_ids), list(states.ACTIVE), list(job_ids)], prepare=True
        )
        return await rows.fetchall()

    async def _open(self) -> AsyncConnection[tuple[Any, ...]]:
        if self.connection is None or self.connection.closed:
            self.connection = await AsyncConnection.connect(**connect_arguments(), autocommit=True)
            await self.connection.execute(f"SET ROLE {SYSTEM_ROLE}")
            await self.connection.execute("SET default_transaction_read_only = on")
        return self.connection

    async def close(self) -> None:
        if self.connection is not None:
            await self.connection.close()


_JOB = tuple(field.attname for field in HistoricalSyncJob._meta.concrete_fields)
_CONNECTION = ("id", "provider_slug", "account_label", "by_oauth")  # what is shown beside a job; no credentials


def _columns(model: type[Model], names: Iterable[str], alias: str) -> str:
    columns = {field.attname: field.column for field in model._meta.concrete_fields}
    return ", ".join(f'{alias}."{columns[name]}"' for name in names)


_CHANGED = f"""
    SELECT {_columns(HistoricalSyncJob, _JOB, "job")}, {_columns(Connection, _CONNECTION, "connection")},
           CASE WHEN job.status = 'paused'
                THEN (SELECT max(at) FROM historical_sync_jobevent WHERE job_id = job.id AND kind = 'paused') END,
           EXISTS (SELECT FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => %s))
    FROM historical_sync_historicalsyncjob job JOIN integrations_connection connection ON connection.id = job.connection_id
    WHERE job.id = ANY(%s::uuid[])
"""  # noqa: S608 - of names of columns

_REVISIONS = """
    SELECT id::text, tenant_id::text, revision, status FROM historical_sync_historicalsyncjob
    WHERE tenant_id = ANY(%s::uuid[]) AND (status = ANY(%s) OR id = ANY(%s::uuid[]))
"""


def _job(row: tuple[Any, ...]) -> HistoricalSyncJob:
    job = HistoricalSyncJob.from_db("default", _JOB, row[: len(_JOB)])
    job.connection = Connection.from_db("default", _CONNECTION, row[len(_JOB) : -2])
    job.paused_at, job.worker_alive = row[-2:]  # type: ignore[attr-defined] # as `JobQuerySet.with_names` has it
    return job


async def render(wanted: list[tuple[LiveJob, set[tuple[str, bool]]]]) -> None:
    """Has the fragments (template, may operate) of the jobs made, in a thread."""
    await in_thread(_render)(wanted)


def _render(wanted: list[tuple[LiveJob, set[tuple[str, bool]]]]) -> None:
    for seen, fragments in wanted:
        with tenant_scope(seen.tenant_id):
            for template, may_operate in fragments:
                seen.html(template, may_operate)
