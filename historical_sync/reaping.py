"""Looks after what dead and deaf workers leave: leases that ran out, requests that nobody honours, queue entries that are missed.

Every worker does this every few seconds, one of them at a time; so whoever is left looks after the rest.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings

from historical_sync.claims import ROOM_AGAIN, Room
from historical_sync.database import ENGINE, Connection, Pool, retried, system_transaction, tenant_transaction
from historical_sync.job_changes import job_note
from historical_sync.settling import settle

STOP_GRACE_SECONDS = 8  # a worker that has not honoured a request to stop by then is not listening


@retried
async def reap(pool: Pool) -> list[tuple[str, str]]:
    """Takes chunks from workers that are gone or don't listen, settles what is due: (job, tenant) of the jobs that changed."""
    async with system_transaction(pool, "the reaper looks after every tenant's jobs") as cursor:
        await cursor.execute(
            """
            SELECT DISTINCT job.id, job.tenant_id FROM historical_sync_historicalsyncjob job
            LEFT JOIN historical_sync_syncchunk c ON c.job_id = job.id AND c.status = 'running'
            WHERE job.status IN ('pending', 'running')
              AND (c.lease_until < clock_timestamp()
                   OR job.control <> 'none' AND job.control_at < clock_timestamp() - make_interval(secs => %s))
            """,
            [STOP_GRACE_SECONDS],
        )
        jobs = await cursor.fetchall()
    changed: list[tuple[str, str]] = []
    for job_id, tenant_id in jobs:
        async with tenant_transaction(pool, str(tenant_id)) as cursor:
            await cursor.execute(
                "SELECT control <> 'none' AND control_at < clock_timestamp() - make_interval(secs => %s) "
                "FROM historical_sync_historicalsyncjob WHERE id = %s AND status IN ('pending', 'running') FOR UPDATE",
                [STOP_GRACE_SECONDS, job_id],
            )
            row = await cursor.fetchone()
            if row is None:
                continue
            await cursor.execute(
                """
                UPDATE historical_sync_syncchunk SET status = 'pending', lease = NULL, lease_until = NULL
                WHERE job_id = %s AND status = 'running' AND (lease_until < clock_timestamp() OR %s)
                """,
                [job_id, row[0]],
            )
            if cursor.rowcount:
                await job_note(
                    cursor, job_id, tenant_id, "worker_lost", f"{cursor.rowcount} parts are taken up by another worker"
                )
            await settle(cursor, job_id)
            changed.append((str(job_id), str(tenant_id)))
    return changed


@dataclass(frozen=True, slots=True)
class Lanes:
    """A workable job and what stands for it. ready: chunks to take up now, none while its provider must not be asked; running:
    chunks being worked on.

    due: queue entries that no worker has taken yet, with those that look for room again in a moment; doing: entries in the hands of live
    workers; later: scheduled entries. jobs, running_of_all: the tenant's jobs that have work, and their chunks being worked on.
    """

    job_id: str
    tenant_id: str
    plan: str
    provider: str
    planned: bool
    ready: int
    running: int
    due: int
    doing: int
    later: int
    jobs: int
    running_of_all: int

    def missing(self, room: Room) -> int:
        """Queue entries to add, so that the job gets on as it may.

        An entry too many ends as soon as a worker takes it; one too few slows the job down, and none leaves it standing.
        What a worker has in hand between two chunks looks like nothing here, so planned jobs may get some too many.
        """
        if not self.planned:
            return 0 if self.due or self.doing or self.later else 1
        # While others have all of the tenant's room, more entries would only ask for it more often.
        free = min(room.share(self.jobs) - self.running, room.tenant - self.running_of_all)
        wanted = max(0, min(free, self.ready) - self.due)
        if self.running == 0 and not (self.due or self.doing or self.later):
            return max(1, wanted)  # to end it, or to wait for room, or for its chunks that must
        return wanted


async def lanes(pool: Pool, task: str) -> list[Lanes]:
    """Every workable job with its queue entries, for whoever replaces those that died with a worker."""
    async with system_transaction(pool, "the reaper looks after every tenant's jobs") as cursor:
        await cursor.execute(
            """
            WITH entries AS (
                SELECT q.args->>'job_id' AS job_id,
                       count(*) FILTER (WHERE q.status = 'todo' AND (q.scheduled_at IS NULL OR q.scheduled_at <= now() + %(soon)s)) AS due,
                       count(*) FILTER (WHERE q.status = 'todo' AND q.scheduled_at > now() + %(soon)s) AS later,
                       count(*) FILTER (WHERE q.status = 'doing'
                                        AND w.last_heartbeat > now() - make_interval(secs => %(stalled)s)) AS doing
                FROM procrastinate_jobs q LEFT JOIN procrastinate_workers w ON w.id = q.worker_id
                WHERE q.task_name = %(task)s AND q.status IN ('todo', 'doing') GROUP BY 1
            ), chunks AS (
                SELECT c.job_id, count(*) FILTER (WHERE c.status = 'running') AS running,
                       count(*) FILTER (WHERE c.status = 'pending' AND (c.not_before IS NULL OR c.not_before <= now())) AS ready
                FROM historical_sync_syncchunk c WHERE c.status IN ('pending', 'running') GROUP BY 1
            )
            SELECT job.id::text, job.tenant_id::text, tenant.plan, connection.provider, job.planned,
                   CASE WHEN connection.blocked_until > now() OR (job.attempts > 0 AND job.waiting_until > now()) THEN 0
                        ELSE COALESCE(chunks.ready, 0) END,
                   COALESCE(chunks.running, 0),
                   COALESCE(entries.due, 0), COALESCE(entries.doing, 0), COALESCE(entries.later, 0),
                   count(*) OVER (PARTITION BY job.tenant_id), COALESCE(sum(chunks.running) OVER (PARTITION BY job.tenant_id), 0)::int
            FROM historical_sync_historicalsyncjob job
            JOIN atom_tenant tenant ON tenant.id = job.tenant_id
            JOIN integrations_connection connection ON connection.id = job.connection_id
            LEFT JOIN entries ON entries.job_id = job.id::text
            LEFT JOIN chunks ON chunks.job_id = job.id
            WHERE job.status IN ('pending', 'running')
            """,
            {"task": task, "stalled": settings.LEASE_SECONDS, "soon": 2 * ROOM_AGAIN},
        )
        return [Lanes(*row) for row in await cursor.fetchall()]


@asynccontextmanager
async def only_reaper(pool: Pool) -> AsyncIterator[bool]:
    """Whether this worker is the one that reaps just now; none else is until the block ends."""
    async with system_transaction(pool, "the reaper looks after every tenant's jobs") as cursor:
        await cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended('reaper', 0))")
        row = await cursor.fetchone()
        yield bool(row and row[0])


async def removals_without_entry(pool: Pool, task: str) -> list[tuple[str, str]]:
    """(connection, tenant) of each removal of data that is not done and that nobody has in hand or will get."""
    async with system_transaction(pool, "removals of all tenants") as cursor:
        await cursor.execute(
            """
            SELECT connection_id::text, tenant_id::text FROM historical_sync_dataremoval r
            WHERE completed_at IS NULL AND NOT EXISTS (
                SELECT FROM procrastinate_jobs entry
                WHERE entry.task_name = %s AND entry.status IN ('todo', 'doing')
                  AND entry.args ->> 'connection_id' = r.connection_id::text)
            """,
            [task],
        )
        return [(connection, tenant) for connection, tenant in await cursor.fetchall()]


class SilentClients:
    """Cuts off workers that stopped in the middle of a pipeline (frozen, or their machine is gone), whose locks would stay for ever.

    PostgreSQL counts idle time from a pipeline's Sync only. Before it, a server process waits for its client without a limit, and
    shows as 'active'; after it, any message that has no answer (a Flush) ends the count, and the process goes on showing as idle.
    (`transaction_timeout` would also end a transaction that is at work, and came with PostgreSQL 17.)
    """

    def __init__(self) -> None:
        # When each was first seen to wait: (process, time of the last message from its client) -> monotonic seconds.
        self._since: dict[tuple[int, datetime], float] = {}

    async def cut_off(self, connection: Connection) -> int:
        """Ends the engine's connections that have said nothing for a lease's time while the server waits for them; how many.

        connection: one of its own, in autocommit; those of the pool may all be waiting for these very locks.
        """
        # As who logged in: the run-time role may neither see what other connections do nor end them.
        await connection.execute("SET ROLE NONE")
        answer = await connection.execute(
            """
            SELECT pid, state_change FROM pg_stat_activity
            WHERE datname = current_database() AND usename = session_user AND application_name = %s
              AND state IN ('active', 'idle in transaction', 'idle in transaction (aborted)') AND wait_event_type = 'Client'
            """,
            [ENGINE],
        )
        now = time.monotonic()
        self._since = {(pid, at): self._since.get((pid, at), now) for pid, at in await answer.fetchall()}
        ended = 0
        for (pid, at), since in self._since.items():
            if now - since >= settings.LEASE_SECONDS:
                answer = await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND state_change = %s",
                    [pid, at],
                )
                ended += len(await answer.fetchall())
        return ended
