"""What is wrong or stuck, and how to mend it: for `manage.py doctor` and the admin's first page.

`read()` asks the database, once; `judge()` decides, and is pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from django.conf import settings
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from environs import EnvError

from atom.encryption import box
from atom.probes import check_channel_layer
from atom.rls import IS_MEMBER
from atom.tenancy import across_tenants
from historical_sync import tasks
from historical_sync.database import connect_arguments
from historical_sync.reaping import STOP_GRACE_SECONDS
from integrations.crypto import UndecipherableError, decrypt
from integrations.models import Connection, ConnectionStatus

QUEUE_AGE = 120.0  # seconds that a due queue entry may wait
STARTS_KEPT = 600  # seconds in which starts of workers are counted
FEW_STARTS = 5  # within them, that are no sign of anything
_STARTS = "worker-starts"
OVERDUE_GRACE = 15.0  # seconds after its lease in which the reaper takes a chunk back
CONNECT_SECONDS = 5
OURS = ("atom", "integrations", "historical_sync")
SECRETS_TRIED = 200  # connections whose credentials are opened


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: what, in words, and how to mend it."""

    what: str
    mend: str


@dataclass(frozen=True, slots=True)
class Facts:
    """The deployment as it is just now. Ages in seconds; None: there is nothing to be old.

    pooler: why no process starts where DATABASE_URL leads to one. unapplied: migrations; unknown: those that a later version made.
    workers: alive. starts: of workers, within ten minutes. overdue: chunks whose worker is gone and which nobody took over. unheard: jobs
    whose request to stop nobody honours.
    reconnect, unreadable: connections, in words. layer: why the channel layer does not answer, "" if it does.
    """

    database: str = ""
    pooler: str = ""
    unapplied: Sequence[str] = ()
    unknown: Sequence[str] = ()
    keys: str = ""
    layer: str = ""
    shared_layer: bool = True
    workers: int = 0
    starts: int = 0
    workable_jobs: int = 0
    overdue: int = 0
    unheard: int = 0
    queue_age: float | None = None
    reconnect: Sequence[str] = ()
    unreadable: Sequence[str] = ()


def judge(facts: Facts) -> list[Finding]:
    """What of the facts is wrong, the gravest first. Empty: all is well."""
    return list(_judged(facts))


def _judged(facts: Facts) -> Iterator[Finding]:
    if facts.keys:
        yield Finding(facts.keys, "Set ATOM_ENCRYPTION_KEYS to the keys that the data was encrypted with.")
    if facts.database:
        yield Finding(f"The database does not answer: {facts.database}", "Start PostgreSQL, or correct DATABASE_URL.")
        return
    if facts.pooler:
        yield Finding(facts.pooler, "Correct DATABASE_URL: no process starts on this one.")
        return
    if facts.unknown:
        yield Finding(
            f"The database is a later version's, which made {_some(facts.unknown)} in it.",
            "Run that version, or bring back a backup from before.",
        )
        return
    if facts.unapplied:
        names = _some(facts.unapplied)
        yield Finding(f"Migrations are missing: {names}.", "Run manage.py migrate.")
        return
    if facts.unreadable:
        yield Finding(
            f"No key opens the credentials of {_some(facts.unreadable)}.",
            "Put the key they were encrypted with back into ATOM_ENCRYPTION_KEYS, or reconnect them.",
        )
    if facts.workers == 0:
        verb = "waits" if facts.workable_jobs == 1 else "wait"
        waiting = f" {_count(facts.workable_jobs, 'import')} {verb} for one." if facts.workable_jobs else ""
        yield Finding(f"No worker is running.{waiting}", "Start one: manage.py sync_worker.")
    if facts.starts > max(FEW_STARTS, facts.workers):
        yield Finding(
            f"Workers were started {facts.starts} times within ten minutes: they end soon after they start.",
            "Read a worker's log, or what starts them: it may have too little memory.",
        )
    if facts.overdue:
        yield Finding(
            f"{_count(facts.overdue, 'part')} of imports are past their time: their worker is gone and none took over.",
            "A running worker takes them over within seconds; if one runs, restart it and read its log.",
        )
    if facts.unheard:
        yield Finding(
            f"{_count(facts.unheard, 'import')} should have been paused or cancelled by now.",
            "A running worker settles this within seconds; if one runs, restart it and read its log.",
        )
    if facts.workers and facts.queue_age is not None and facts.queue_age > QUEUE_AGE:
        yield Finding(
            f"Work has been waiting in the queue for {facts.queue_age / 60:.0f} min.",
            "Start more workers (manage.py sync_worker), or give them more --concurrency.",
        )
    if facts.reconnect:
        yield Finding(
            f"Access was lost to {_some(facts.reconnect)}.",
            "A member of the workspace must choose Reconnect on the integrations page.",
        )
    if facts.layer:
        yield Finding(
            f"The channel layer does not answer: {facts.layer}. Pages poll meanwhile, imports go on.",
            "Start Redis, or correct REDIS_URL.",
        )
    elif not facts.shared_layer and settings.PRODUCTION:
        yield Finding("Live progress reaches one process only.", "Set REDIS_URL.")


def findings() -> list[Finding]:
    """What is wrong just now."""
    return judge(read())


def read() -> Facts:
    """The facts; what can't be found out is a fact as well. Never raises for what it is there to tell."""
    keys = ""
    try:
        box()
    except ImproperlyConfigured as error:
        keys = str(error)
    try:
        connection.refuse_pooler()  # type: ignore[attr-defined]
        if not _has_roles():
            return Facts(unapplied=["all of them"], keys=keys)
        connection.ensure_connection()
        unapplied, unknown = _migrations()
    except EnvError as error:
        return Facts(pooler=str(error), keys=keys)
    except (DatabaseError, psycopg.Error, OSError) as error:
        return Facts(database=str(error).partition("\n")[0], keys=keys)
    layer = _layer()
    shared = bool(settings.REDIS_URL)
    if unapplied or unknown:
        return Facts(unapplied=unapplied, unknown=unknown, keys=keys, layer=layer, shared_layer=shared)
    with across_tenants("an operator looks after the deployment"):
        now = standing()
        reconnect, unreadable = _connections()
    return Facts(
        keys=keys,
        layer=layer,
        shared_layer=shared,
        workers=now.workers,
        starts=cache.get(_STARTS, 0),
        workable_jobs=now.workable_jobs,
        overdue=now.overdue,
        unheard=now.unheard,
        queue_age=now.queue_age,
        reconnect=reconnect,
        unreadable=() if keys else unreadable,
    )


def count_start() -> None:
    """Counts a worker that starts, where processes share a cache: one that ends soon leaves nothing else behind."""
    cache.add(_STARTS, 0, STARTS_KEPT)
    with suppress(ValueError):  # it ran out in between
        cache.incr(_STARTS)


class Standing(NamedTuple):
    """How the work stands. workers: loops at the queue that are alive. queued: due queue entries that nobody has taken. Ages in seconds,
    None where there is nothing to be old; the rest as in `Facts`."""

    workers: int
    heartbeat_age: float | None
    workable_jobs: int
    overdue: int
    unheard: int
    queued: int
    queue_age: float | None


def standing() -> Standing:
    """How the work of all tenants stands just now."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT workers.alive, workers.age,
                   (SELECT count(*) FROM historical_sync_historicalsyncjob WHERE status IN ('pending', 'running')),
                   (SELECT count(*) FROM historical_sync_syncchunk
                    WHERE status = 'running' AND lease_until < now() - make_interval(secs => %(overdue)s)),
                   (SELECT count(*) FROM historical_sync_historicalsyncjob
                    WHERE status IN ('pending', 'running')  -- which those with a request are, and of which there is an index
                      AND control <> 'none' AND control_at < now() - make_interval(secs => %(unheard)s)),
                   queue.waiting, queue.age
            FROM (SELECT count(*) FILTER (WHERE last_heartbeat > now() - make_interval(secs => %(dead_after)s)) AS alive,
                         extract(epoch FROM now() - max(last_heartbeat))::float AS age
                  FROM procrastinate_workers) workers,
                 (SELECT count(*) AS waiting, extract(epoch FROM now() - min(COALESCE(q.scheduled_at, e.at)))::float AS age
                  FROM procrastinate_jobs q
                  LEFT JOIN procrastinate_events e ON e.job_id = q.id AND e.type = 'deferred'
                  WHERE q.queue_name = ANY(%(queues)s) AND q.status = 'todo'
                    AND (q.scheduled_at IS NULL OR q.scheduled_at <= now())) queue
            """,
            {
                "dead_after": settings.LEASE_SECONDS,
                "overdue": OVERDUE_GRACE,
                "unheard": STOP_GRACE_SECONDS + OVERDUE_GRACE,
                "queues": [tasks.QUEUE, tasks.STARTS],
            },
        )
        return Standing(*cursor.fetchone())


def _has_roles() -> bool:
    """Whether there are run-time roles to take on; psycopg.Error with the reason when the database does not answer.

    By a connection of its own, as who logged in: the pool only says, after a while, that it has none.
    """
    arguments = {"connect_timeout": CONNECT_SECONDS, **connect_arguments(), "options": ""}
    with psycopg.connect(**arguments) as plain:
        row = plain.execute(IS_MEMBER).fetchone()
    return bool(row and row[0])


def _migrations() -> tuple[list[str], list[str]]:
    """(those that are missing, those of ours that this version does not know)"""
    executor = MigrationExecutor(connection)
    loader = executor.loader
    plan = executor.migration_plan(loader.graph.leaf_nodes())
    unapplied = [f"{migration.app_label} {migration.name}" for migration, _ in plan]
    # Other packages may have given up some of theirs.
    unknown = [key for key in sorted(loader.applied_migrations) if key[0] in OURS and key not in loader.disk_migrations]
    return unapplied, [f"{label} {name}" for label, name in unknown]


def _layer() -> str:
    try:
        check_channel_layer()
    except Exception as error:
        return type(error).__name__
    return ""


def _connections() -> tuple[list[str], list[str]]:
    """(those that need a reconnect, those whose credentials no key opens), in words."""
    rows = Connection.objects.select_related("tenant")
    reconnect = [
        f"{row} of {row.tenant}" for row in rows.filter(status=ConnectionStatus.REAUTH_REQUIRED)[:SECRETS_TRIED]
    ]
    unreadable = []
    for row in rows.filter(status=ConnectionStatus.CONNECTED).order_by("-updated_at")[:SECRETS_TRIED]:
        try:
            decrypt(row.sealed_credentials)
        except (UndecipherableError, ImproperlyConfigured):
            unreadable.append(f"{row} of {row.tenant}")
    return reconnect, unreadable


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
