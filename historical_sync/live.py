"""What a job looks like right now, read once and rendered once for everybody in this process who watches it."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from channels.db import DatabaseSyncToAsync
from django.template.loader import render_to_string
from django.utils.functional import SimpleLazyObject

from atom.access import Actor, Right
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import states
from historical_sync.models import HistoricalSyncJob
from historical_sync.progress import describe
from historical_sync.serializers import job_json

# Not Django's one shared thread: a slow page must not hold up live progress.
_THREADS = ThreadPoolExecutor(4, thread_name_prefix="live")


def in_thread(function: Any) -> Any:
    """`function` for await, in a thread with a database connection of its own."""
    return DatabaseSyncToAsync(function, thread_sensitive=False, executor=_THREADS)


class LiveJob:
    """One reading of a job, and what was made of it."""

    def __init__(self, job: HistoricalSyncJob) -> None:
        self.job = job
        self.tenant_id = str(job.tenant_id)
        self.at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._made: dict[tuple[str, bool], str] = {}

    def event(self, kind: str, actor: Actor, **more: str) -> str:
        """The contract's event as JSON text, with the job as `actor` sees it."""
        key = (f"event {kind}", actor.may(Right.OPERATE))
        if key not in self._made:
            event = {"type": kind, "seq": self.job.revision, "at": self.at, "job": job_json(self.job, actor), **more}
            self._made[key] = orjson.dumps(event).decode()
        return self._made[key]

    def html(self, template: str, may_operate: bool) -> str:
        """A fragment of the job; `template` gets what `job_context` says."""
        key = (template, may_operate)
        if key not in self._made:
            self._made[key] = render_to_string(template, job_context(self.job, may_operate))
        return self._made[key]


def job_context(job: HistoricalSyncJob, may_operate: bool) -> dict[str, Any]:
    """What the fragments of a job get: the page's, htmx's and the socket's are the same."""
    running = SimpleLazyObject(lambda: running_jobs(job.tenant_id))
    return {"job": job, "progress": describe(job), "may_operate": may_operate, "running_jobs": running}


def running_jobs(tenant_id: UUID | str) -> dict[str, int]:
    """What the header's indicator shows: how many imports run, and how far they are on average."""
    jobs = list(HistoricalSyncJob.objects.filter(tenant_id=tenant_id, status__in=states.WORKABLE)[:10])
    percentages = [describe(job).percentage for job in jobs]
    return {"count": len(jobs), "percentage": sum(percentages) // len(percentages) if percentages else 0}


async def read(tenant_id: str, job_id: str) -> LiveJob | None:
    """The job as it is now; None when the tenant has no such job (any more)."""
    found: LiveJob | None = await in_thread(_read)(tenant_id, job_id)
    return found


def _read(tenant_id: str, job_id: str) -> LiveJob | None:
    with tenant_scope(tenant_id):
        job = HistoricalSyncJob.objects.with_names().filter(tenant_id=tenant_id, id=job_id).first()
    return LiveJob(job) if job is not None else None


async def read_many(wanted: dict[str, set[tuple[str, bool]]]) -> list[LiveJob]:
    """The jobs with these ids, of whichever tenants, each with its fragments (template, may operate) rendered.

    For the hub, which tells every tenant's watchers of that tenant's jobs only.
    """
    found: list[LiveJob] = await in_thread(_read_many)(wanted)
    return found


def _read_many(wanted: dict[str, set[tuple[str, bool]]]) -> list[LiveJob]:
    with across_tenants("a process's watchers are of many tenants"):
        seen = [LiveJob(job) for job in _jobs(wanted)]
    for one in seen:
        with tenant_scope(one.tenant_id):
            for template, may_operate in wanted[str(one.job.id)]:
                one.html(template, may_operate)
    return seen


def _jobs(ids: Iterable[str]) -> Iterable[HistoricalSyncJob]:
    return HistoricalSyncJob.objects.with_names().filter(id__in=list(ids))
