"""The stage of the crash suite and its bench: worker processes on a database, jobs for them, and pictures of what came in.

A picture is all that an import left; two runs of the same tenant's import are equal exactly if nothing was lost, nothing came twice
and no counter is off. (A key that stands for nothing itself any more has no name of note: it depends on who told of it first.)
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo

from tests.forked import Forked

PROJECT = Path(__file__).resolve().parent.parent.parent
LEASE_SECONDS = 2.0  # short, so that a dead worker is noticed soon
END = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
START = END - timedelta(days=300)
KILLED = -signal.SIGKILL
NAMES = uuid.UUID("6f2b1c3e-0000-4000-8000-000000000000")


def database_url() -> str:
    """The address of the database that this process uses, for other processes."""
    from django.db import connection

    params = connection.get_connection_params()
    known = {name: params[name] for name in ("host", "port", "user", "password", "dbname") if params.get(name)}
    return make_conninfo(**known)


class WorkerProcess:
    """`manage.py sync_worker` in a process of its own."""

    def __init__(
        self,
        url: str,
        sandbox_root: str,
        *,
        fault: str = "",
        concurrency: int = 8,
        lease: float = LEASE_SECONDS,
        **environment: str,
    ) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process writes
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "REDIS_URL", "DATABASE_URL"))}
        arguments = "-W", "ignore", "manage.py", "sync_worker", "--concurrency", str(concurrency)
        self.process = Forked(
            *arguments,
            env={
                **kept,
                "DATABASE_URL": url,
                "ATOM_SANDBOX_URL": sandbox_root,
                "ATOM_LEASE_SECONDS": str(lease),
                "ATOM_FAULT_POINT": fault,
                **environment,
            },
            stdin=self.log,
            stdout=self.log,
            stderr=self.log,
        )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.alive:
            self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 30) -> int:
        """Asks it to end; its exit code."""
        if self.alive:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        return self.process.wait(seconds)

    def words(self) -> str:
        self.log.seek(0)
        return self.log.read()[-4000:]


@dataclass
class Stage:
    """Workers and jobs on one database and one sandbox."""

    sandbox: Any
    url: str = ""
    lease: float = LEASE_SECONDS
    workers: list[WorkerProcess] = field(default_factory=list)

    def worker(self, fault: str = "", **options: Any) -> WorkerProcess:
        started = WorkerProcess(
            self.url or database_url(), self.sandbox.root, fault=fault, **{"lease": self.lease, **options}
        )
        self.workers.append(started)
        return started

    def clear(self) -> None:
        """Kills what is left."""
        for worker in self.workers:
            worker.kill()
            worker.log.close()
        self.workers.clear()

    def tenant(self, number: int = 0, plan: str = "enterprise") -> Any:
        """Tenant `number`. Its id, and its connections', are the same in every run: ids of rows are computed from them."""
        from atom.models import Tenant

        made, _ = Tenant.objects.get_or_create(
            id=uuid.uuid5(NAMES, f"tenant {number}"),
            defaults={"name": f"T{number}", "slug": f"t{number}", "plan": plan},
        )
        return made

    def job(
        self, number: int = 0, provider: str = "github", *, plan: str = "enterprise", account: str = "", **options: Any
    ) -> Any:
        """An import of START to END by tenant `number`, started and not waited for."""
        from atom.access import system_actor
        from atom.tenancy import tenant_scope
        from historical_sync import actions
        from integrations.models import Connection
        from tests.conftest import connected

        tenant = self.tenant(number, plan)
        account = account or f"{number}"
        with tenant_scope(tenant.id):
            connection = (
                Connection.objects.of(tenant).filter(provider_slug=provider, external_account_id=account).first()
            )
            if connection is None:
                made = connected(tenant, provider, self.sandbox.root, account=account)
                fixed = uuid.uuid5(NAMES, f"connection {provider} {account}")
                Connection.objects.of(tenant).filter(id=made.id).update(id=fixed)
                connection = Connection.objects.of(tenant).get(id=fixed)
            return actions.start_sync(
                system_actor(tenant, "the suite"), connection, **{"start": START, "end": END, **options}
            )


@contextmanager
def stage(sandbox: Any, **options: Any) -> Iterator[Stage]:
    made = Stage(sandbox, **options)
    try:
        yield made
    finally:
        made.clear()


# -- pictures -----------------------------------------------------------------------------------------------------------------

ROWS = {
    "records": """
        SELECT r.stream, r.partition, r.external_id, r.occurred_at::text, r.content_hash::text, e.key
        FROM historical_sync_syncrecord r LEFT JOIN historical_sync_entity e ON e.id = r.entity_id WHERE r.tenant_id = %s
        """,
    "entities": """
        SELECT e.kind, e.key, CASE WHEN e.merged_into IS NULL THEN e.name END, e.properties::text, e.as_of::text, root.key, r.external_id
        FROM historical_sync_entity e LEFT JOIN historical_sync_entity root ON root.id = e.merged_into
        LEFT JOIN historical_sync_syncrecord r ON r.id = e.record_id WHERE e.tenant_id = %s
        """,
    "relationships": """
        SELECT kind, source_id::text, target_id::text, record_id::text FROM historical_sync_relationship WHERE tenant_id = %s
        """,
    "quarantine": """
        SELECT stream, external_id, reason, fingerprint::text FROM historical_sync_quarantinedrecord WHERE tenant_id = %s
        """,
    # What is read whole is covered up to the job's start, which is another one each time.
    "coverage": """
        SELECT stream, partition, CASE WHEN lower_inf(ranges) THEN 'whole' ELSE ranges::text END
        FROM historical_sync_coverage WHERE tenant_id = %s
        """,
    "chunks": """
        SELECT stream, partition, since::text, until::text, status, pages, records_processed, records_skipped, records_quarantined,
               progress, lease
        FROM historical_sync_syncchunk WHERE tenant_id = %s
        """,
    "counters": """
        SELECT v.kind, counted, round(job.progress::numeric, 3) FROM historical_sync_historicalsyncjob job
        CROSS JOIN LATERAL (VALUES
            ('status ' || status, 0), ('control ' || control, 0), ('total chunks', total_chunks), ('completed', completed_chunks),
            ('failed', failed_chunks), ('processed', records_processed), ('skipped', records_skipped),
            ('quarantined', records_quarantined), ('entities', entities_extracted), ('relationships', relationships_extracted)
        ) AS v(kind, counted) WHERE tenant_id = %s
        """,
    "by kind": """
        SELECT k.kind, n FROM historical_sync_historicalsyncjob job
        CROSS JOIN LATERAL jsonb_each_text(entities_by_kind || relationships_by_kind) AS k(kind, n) WHERE tenant_id = %s
        """,
}
Picture = dict[str, Counter[tuple[Any, ...]]]


def picture(tenant: Any) -> Picture:
    """All that the tenant's import left, as multisets of rows."""
    from django.db import connection

    from atom.tenancy import across_tenants

    found: Picture = {}
    with across_tenants("a picture for the crash suite"), connection.cursor() as cursor:
        for name, query in ROWS.items():
            cursor.execute(query, [tenant.id])
            found[name] = Counter(cursor.fetchall())
    return found


@dataclass(frozen=True)
class Damage:
    """What is different from the undisturbed run: rows that are missing, and rows or counts that are too many."""

    lost: dict[str, list[Any]]
    added: dict[str, list[Any]]

    def __bool__(self) -> bool:
        return bool(self.lost or self.added)

    @property
    def rows_lost(self) -> int:
        return sum(len(rows) for rows in self.lost.values())

    @property
    def rows_added(self) -> int:
        return sum(len(rows) for rows in self.added.values())

    def __str__(self) -> str:
        lines = []
        for word, rows in (("missing", self.lost), ("too many", self.added)):
            lines += [f"{word} {name}: {len(found)}, such as {found[:4]}" for name, found in rows.items()]
        return "\n".join(lines) or "none"


def damage(undisturbed: Picture, found: Picture) -> Damage:
    lost = {name: list((rows - found[name]).elements()) for name, rows in undisturbed.items() if rows - found[name]}
    added = {name: list((found[name] - rows).elements()) for name, rows in undisturbed.items() if found[name] - rows}
    return Damage(lost, added)


# -- looking ------------------------------------------------------------------------------------------------------------------


def leases(job: Any) -> dict[str, tuple[str, int]]:
    """Chunks that are being worked on: id -> (lease, pages stored)."""
    from atom.tenancy import tenant_scope
    from historical_sync.models import SyncChunk

    with tenant_scope(job.tenant_id):
        rows = SyncChunk.objects.filter(tenant_id=job.tenant_id, job=job, status="running")
        return {str(pk): (str(lease), pages) for pk, lease, pages in rows.values_list("id", "lease", "pages")}


def taken_up(job: Any, before: dict[str, tuple[str, int]]) -> bool:
    """Whether every chunk that was being worked on has come further since, or the job is over."""
    from atom.tenancy import tenant_scope
    from historical_sync.models import HistoricalSyncJob, SyncChunk

    with tenant_scope(job.tenant_id):
        if HistoricalSyncJob.objects.get(tenant_id=job.tenant_id, id=job.id).status in (
            "completed",
            "cancelled",
            "failed",
        ):
            return True
        rows = SyncChunk.objects.filter(tenant_id=job.tenant_id, id__in=list(before))
        return all(
            status in ("completed", "split") or pages > before[str(pk)][1]
            for pk, status, pages in rows.values_list("id", "status", "pages")
        )


def pages_of(job: Any) -> int:
    """Pages that the job has stored so far."""
    from django.db.models import Sum

    from atom.tenancy import tenant_scope
    from historical_sync.models import SyncChunk

    with tenant_scope(job.tenant_id):
        found = SyncChunk.objects.filter(tenant_id=job.tenant_id, job=job).aggregate(pages=Sum("pages"))
    return int(found["pages"] or 0)


def seconds_until(condition: Any, seconds: float = 60.0) -> float:
    """How long it took until `condition` was true."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not so after {seconds} s")
        time.sleep(0.03)
    return time.monotonic() - started
