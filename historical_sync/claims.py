"""Who works on what: leases on chunks, taken, kept alive, given back, taken away.

A lease is a random token in the chunk's row with a time it runs out. Its worker prolongs it with every page and every few seconds;
the reaper takes it away when it has run out. Everything here is a short transaction of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from django.conf import settings
from psycopg import AsyncCursor
from psycopg.types.json import Jsonb

from historical_sync.allowance import USED_UP, month_of
from historical_sync.database import (
    Pool,
    from_now,
    pipelined_transaction,
    retried,
    system_transaction,
    tenant_transaction,
)
from historical_sync.job_changes import forget_pace, job_note, pause, set_running, set_waiting
from historical_sync.leases import Lease
from historical_sync.planning import PlannedChunk
from historical_sync.settling import settle
from integrations.providers import PROVIDERS
from integrations.providers.base import JSON, Partition, Window

MOST_CHUNKS = 20_000  # of one job; more means that a provider finds every window too large
ROOM_AGAIN = timedelta(seconds=0.5)  # until another look for room, when all of the tenant's is taken


@dataclass(frozen=True, slots=True)
class Claim:
    """A chunk to work on, with what its worker needs to know. pages: of it that are stored."""

    lease: Lease
    window: Window
    partition: Partition
    cursor: JSON | None
    position: datetime | None
    progress: float
    estimate: int | None
    records_seen: int
    pages: int


@dataclass(frozen=True, slots=True)
class ToPlan:
    """The job has no chunks yet: plan it first."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What became of that: the job's chunks, how many records they hold by which kind of estimate, and what the provider left out, in
    words."""

    chunks: Sequence[PlannedChunk]
    estimate: int | None
    quality: str
    left_out: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Nothing:
    """No chunk for this queue entry. again_at: when one may be ready; None: the entry is not needed any more."""

    again_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """How much of the job may be worked on, by plan and provider: chunks at once, of it and of all jobs of its tenant, and records that
    these may bring in a month; None: any number."""

    job: int
    tenant: int
    records_a_month: int | None = None

    def share(self, jobs: int) -> int:
        """What one of the tenant's `jobs` that have work may take of it."""
        return min(self.job, max(1, self.tenant // max(1, jobs)))


@retried
async def claim(
    pool: Pool, job_id: str, tenant_id: str, room: Room, planned: Planned | None = None
) -> Claim | ToPlan | Nothing:
    """The job's next chunk, newest window first, if there is room for it. planned: written before, unless somebody else had planned the
    job, or it was ended, meanwhile."""
    async with pipelined_transaction(pool, tenant_id, "plan" if planned else "claim") as db:
        cursor = db.cursor()
        # Claims of a tenant come one after the other, so that its chunks can be counted.
        await db.execute("SELECT pg_advisory_xact_lock(hashtextextended('claim ' || %s, 0))", [tenant_id])
        if planned is not None:
            await _store_plan(cursor, job_id, tenant_id, planned)
        # The job's row lock puts claims, requests to stop and settling of one job in a row.
        held = await db.execute(
            f"""
            SELECT status, control, planned, connection_id::text, {USED_UP}
            FROM historical_sync_historicalsyncjob job WHERE id = %(job)s FOR UPDATE
            """,  # noqa: S608 - a condition of this project's own
            {
                "job": job_id,
                "tenant": tenant_id,
                "records_a_month": room.records_a_month,
                "month": month_of(datetime.now(UTC)).date(),
            },
        )
        counted = await db.execute(
            """
            SELECT count(*) FILTER (WHERE status = 'running'), min(not_before) FILTER (WHERE status = 'pending'),
                   count(*) FILTER (WHERE status = 'pending'), clock_timestamp(),
                   (SELECT count(*) FROM historical_sync_syncchunk WHERE tenant_id = %(tenant)s AND status = 'running'),
                   (SELECT count(*) FROM historical_sync_historicalsyncjob
                    WHERE tenant_id = %(tenant)s AND status IN ('pending', 'running'))
            FROM historical_sync_syncchunk WHERE job_id = %(job)s AND status IN ('pending', 'running')
            """,
            {"job": job_id, "tenant": tenant_id},
        )
        job = await held.fetchone()
        if job is None or job[0] not in ("pending", "running"):
            return Nothing()
        status, control, is_planned, connection_id, exhausted = job
        if control != "none":
            await settle(cursor, job_id)
            return Nothing()
        if not is_planned:
            await set_running(cursor, job_id, status)
            return ToPlan()
        if exhausted:
            words = "Your plan's records for this month are used up. It goes on by itself with the next month (UTC)."
            await pause(cursor, job_id, "plan", "plan_records_exhausted", words)
            return Nothing()
        row = await counted.fetchone()
        assert row is not None
        running, not_before, pending, now, running_of_all, jobs = row
        if pending == 0:
            await set_running(cursor, job_id, status)
            await settle(cursor, job_id)
            return Nothing()
        if running >= room.share(jobs):
            return Nothing()
        if running_of_all >= room.tenant:
            # Another of the tenant's jobs is yet to give up what was its share before this one started.
            return Nothing(now + ROOM_AGAIN)
        taken = await _take(cursor, job_id, tenant_id, connection_id)
        if taken is None:
            if running == 0:
                await set_waiting(cursor, job_id, not_before)
            return Nothing(not_before)
        await set_running(cursor, job_id, status)
        if running == 0:
            await forget_pace(cursor, job_id)
        return taken


async def _take(cursor: AsyncCursor[Any], job_id: str, tenant_id: str, connection_id: str) -> Claim | None:
    """Takes a lease on the job's next chunk; None when none is ready."""
    token = str(uuid4())
    await cursor.execute(
        """
        UPDATE historical_sync_syncchunk
        SET status = 'running', lease = %(token)s, lease_until = clock_timestamp() + make_interval(secs => %(seconds)s),
            started_at = COALESCE(started_at, clock_timestamp()), not_before = NULL
        WHERE id = (
            SELECT id FROM historical_sync_syncchunk
            WHERE job_id = %(job)s AND status = 'pending' AND (not_before IS NULL OR not_before <= clock_timestamp())
            ORDER BY ordinal LIMIT 1 FOR UPDATE
        )
        RETURNING id::text, stream, partition, partition_label, partition_facts, since, until, cursor, position, progress,
                  estimate, records_processed + records_skipped, pages
        """,
        {"token": token, "seconds": settings.LEASE_SECONDS, "job": job_id},
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    chunk_id, stream, partition, label, facts, since, until, *state = row  # the rest in the order of a claim's fields
    lease = Lease(chunk_id, token, job_id, tenant_id, connection_id, stream, partition)
    return Claim(lease, Window(since, until), Partition(partition, label, facts), *state)


@retried
async def release(
    pool: Pool, lease: Lease, *, not_before: datetime | None = None, code: str = "provider_throttled", waiting: str = ""
) -> datetime | None:
    """Gives the chunk back unchanged: after a stop, a shutdown, or to wait until `not_before` (`waiting`: what for, in words), which is
    returned as by the database's clock."""
    async with pipelined_transaction(pool, lease.tenant_id, "release") as db:
        cursor = db.cursor()
        if not await _let_go(cursor, lease, "pending", not_before=not_before):
            return None
        again_at: datetime | None = None
        if not_before is not None:
            await cursor.execute(
                """
                UPDATE historical_sync_historicalsyncjob job
                SET waiting_until = GREATEST(job.waiting_until, chunk.not_before), last_error_code = %s, last_error_message = %s,
                    last_error_at = clock_timestamp(), pace_at = NULL, earlier_pace_at = NULL, revision = job.revision + 1
                FROM historical_sync_syncchunk chunk
                WHERE job.id = %s AND chunk.id = %s RETURNING chunk.not_before
                """,
                [code, waiting, lease.job_id, lease.chunk_id],
            )
            row = await cursor.fetchone()
            again_at = None if row is None else row[0]
        await settle(cursor, lease.job_id)
        return again_at


@retried
async def retry_later(
    pool: Pool, lease: Lease, code: str, message: str, not_before: datetime, *, failed: bool = True
) -> None:
    """Gives the chunk back for another attempt at `not_before`. `failed`: this one is counted and noted as a failure."""
    async with tenant_transaction(pool, lease.tenant_id, "retry") as cursor:
        if not await _let_go(
            cursor, lease, "pending", not_before=not_before, code=code, message=message, failed=failed
        ):
            return
        await cursor.execute(
            """
            UPDATE historical_sync_historicalsyncjob
            SET last_error_code = %s, last_error_message = %s, last_error_at = clock_timestamp(), revision = revision + 1 WHERE id = %s
            """,
            [code, message, lease.job_id],
        )
        if failed:
            await _note(cursor, lease, "retry", message)
        await settle(cursor, lease.job_id)


@retried
async def fail(pool: Pool, lease: Lease, code: str, message: str, *, astray: bool = False) -> None:
    """Gives the chunk up until somebody resumes the job; the other chunks go on. astray: its page cursor leads nowhere, and whoever
    resumes it begins at its committed position."""
    async with tenant_transaction(pool, lease.tenant_id, "fail") as cursor:
        if not await _let_go(cursor, lease, "failed", code=code, message=message, failed=True):
            return
        if astray:
            await cursor.execute("UPDATE historical_sync_syncchunk SET cursor = NULL WHERE id = %s", [lease.chunk_id])
        await cursor.execute(
            """
            UPDATE historical_sync_historicalsyncjob
            SET failed_chunks = failed_chunks + 1, last_error_code = %s, last_error_message = %s, last_error_at = clock_timestamp(),
                revision = revision + 1
            WHERE id = %s
            """,
            [code, message, lease.job_id],
        )
        await _note(cursor, lease, "chunk_failed", message)
        await settle(cursor, lease.job_id)


@retried
async def restart_window(pool: Pool, lease: Lease, code: str, message: str, not_before: datetime) -> None:
    """The page cursor is dead: at `not_before` the chunk goes on from its committed position, with no cursor."""
    async with tenant_transaction(pool, lease.tenant_id, "restart") as cursor:
        if await _let_go(cursor, lease, "pending", not_before=not_before, code=code, message=message):
            await cursor.execute(
                "UPDATE historical_sync_syncchunk SET cursor = NULL, restarts = restarts + 1 WHERE id = %s",
                [lease.chunk_id],
            )
            await _note(cursor, lease, "restarted", message)
            await settle(cursor, lease.job_id)


@retried
async def split(pool: Pool, lease: Lease, at: datetime) -> bool:
    """Replaces the chunk by two halves that meet at `at`; what it stored stays and is met again as unchanged.

    False: the job has too many chunks already.
    """
    async with tenant_transaction(pool, lease.tenant_id, "split") as cursor:
        await cursor.execute(
            "SELECT total_chunks FROM historical_sync_historicalsyncjob WHERE id = %s FOR UPDATE", [lease.job_id]
        )
        row = await cursor.fetchone()
        if row is not None and row[0] >= MOST_CHUNKS:
            return False
        if not await _let_go(cursor, lease, "split"):
            return True
        await cursor.execute(
            """
            INSERT INTO historical_sync_syncchunk
                (id, tenant_id, job_id, ordinal, stream, partition, partition_label, partition_facts, since, until, status, attempts,
                 weight, progress, pages, records_processed, records_skipped, records_quarantined, error_code, error_message, estimate)
            SELECT gen_random_uuid(), tenant_id, job_id, ordinal, stream, partition, partition_label, partition_facts, half.since, half.until,
                   'pending', 0, weight * (1 - progress) / 2, 0, 0, 0, 0, 0, '', '', NULL
            FROM historical_sync_syncchunk c
            CROSS JOIN LATERAL (VALUES (c.since, %(at)s::timestamptz), (%(at)s::timestamptz, c.until)) AS half(since, until)
            WHERE c.id = %(chunk)s
            """,
            {"at": at, "chunk": lease.chunk_id},
        )
        await cursor.execute(
            "UPDATE historical_sync_historicalsyncjob SET total_chunks = total_chunks + 1, revision = revision + 1 WHERE id = %s",
            [lease.job_id],
        )
        await _note(cursor, lease, "split", "the window holds more than the provider lists at once")
        await settle(cursor, lease.job_id)
        return True


@retried
async def replace(pool: Pool, lease: Lease, chunks: Sequence[PlannedChunk]) -> None:
    """Replaces a chunk of a whole stream by those of its partitions, which could not be listed when the job was planned.

    They share its weight: were the job to become more, its percentage would go back.
    """
    async with tenant_transaction(pool, lease.tenant_id, "replace") as cursor:
        if not await _let_go(cursor, lease, "split"):
            return
        await cursor.execute("SELECT ordinal, weight FROM historical_sync_syncchunk WHERE id = %s", [lease.chunk_id])
        row = await cursor.fetchone()
        assert row is not None, "it was let go of"
        ordinal, weight = row
        whole = sum(chunk.weight for chunk in chunks)
        parts = [dataclasses.replace(chunk, weight=weight * chunk.weight / whole) for chunk in chunks]
        await _insert_chunks(cursor, lease.job_id, lease.tenant_id, parts, ordinal)
        await cursor.execute(
            """
            UPDATE historical_sync_historicalsyncjob
            SET total_chunks = total_chunks + %(more)s, progress_total = progress_total - %(gone)s, revision = revision + 1
            WHERE id = %(job)s
            """,
            {"more": len(chunks) - 1, "gone": 0.0 if chunks else weight, "job": lease.job_id},
        )
        await settle(cursor, lease.job_id)


async def failures(pool: Pool, lease: Lease) -> tuple[int, int]:
    """The chunk's failures since its last progress, and restarts since its last page with something new."""
    async with tenant_transaction(pool, lease.tenant_id) as cursor:
        await cursor.execute("SELECT attempts, restarts FROM historical_sync_syncchunk WHERE id = %s", [lease.chunk_id])
        row = await cursor.fetchone()
        return (row[0], row[1]) if row else (0, 0)


@retried
async def prolong(pool: Pool, leases: Sequence[Lease]) -> set[str]:
    """Keeps the worker's leases alive; the tokens of those that are still its own."""
    if not leases:
        return set()
    async with system_transaction(pool, "a worker's leases are of many tenants") as cursor:
        await cursor.execute(
            """
            UPDATE historical_sync_syncchunk SET lease_until = clock_timestamp() + make_interval(secs => %s)
            WHERE id = ANY(%s::uuid[]) AND lease = ANY(%s::uuid[]) AND status = 'running' RETURNING lease::text
            """,
            [settings.LEASE_SECONDS, [lease.chunk_id for lease in leases], [lease.token for lease in leases]],
        )
        return {row[0] for row in await cursor.fetchall()}


async def _store_plan(cursor: AsyncCursor[Any], job_id: str, tenant_id: str, planned: Planned) -> None:
    """Once. Also for a job that was paused meanwhile: whoever resumes it need not plan it again."""
    weight = sum(chunk.weight for chunk in planned.chunks)
    await cursor.execute(
        """
        UPDATE historical_sync_historicalsyncjob
        SET planned = true, attempts = 0, total_chunks = %s, total_records_estimate = %s, estimate_quality = %s, progress_total = %s,
            pace_at = NULL, earlier_pace_at = NULL, waiting_until = NULL, revision = revision + 1
        WHERE id = %s AND NOT planned AND status IN ('pending', 'running', 'paused') RETURNING id
        """,
        [len(planned.chunks), planned.estimate, planned.quality, weight, job_id],
    )
    if await cursor.fetchone() is not None:
        await _insert_chunks(cursor, job_id, tenant_id, planned.chunks, 0)
        for words in planned.left_out:
            await job_note(cursor, job_id, tenant_id, "left_out", _storable(words))


async def _insert_chunks(
    cursor: AsyncCursor[Any], job_id: str, tenant_id: str, chunks: Sequence[PlannedChunk], ordinal: int
) -> None:
    await cursor.executemany(
        """
        INSERT INTO historical_sync_syncchunk
            (id, tenant_id, job_id, ordinal, stream, partition, partition_label, partition_facts, since, until, estimate, weight,
             status, attempts, progress, pages, records_processed, records_skipped, records_quarantined, error_code, error_message)
        VALUES (gen_random_uuid(), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'pending', 0, 0, 0, 0, 0, 0, '', '')
        """,
        [
            (
                tenant_id,
                job_id,
                number,
                c.stream,
                _storable(c.partition.key),
                _storable(c.partition.label[:255]),
                Jsonb(_storable(dict(c.partition.facts))),
                c.window.since,
                c.window.until,
                c.estimate,
                c.weight,
            )
            for number, c in enumerate(chunks, ordinal)
        ],
    )


def _storable(value: Any) -> Any:
    """Of what a provider calls its parts: NUL, which no column holds, becomes U+FFFD."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {_storable(name): _storable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(one) for one in value]
    return value


async def _let_go(
    cursor: AsyncCursor[Any],
    lease: Lease,
    status: str,
    *,
    not_before: datetime | None = None,
    code: str = "",
    message: str = "",
    failed: bool = False,
) -> bool:
    """Ends the lease; False when it was not ours any more. Locks the job's row first, as `claim` does."""
    await cursor.execute("SELECT FROM historical_sync_historicalsyncjob WHERE id = %s FOR UPDATE", [lease.job_id])
    await cursor.execute(
        """
        UPDATE historical_sync_syncchunk
        SET status = %(status)s::text, lease = NULL, lease_until = NULL, not_before = clock_timestamp() + %(wait)s::interval,
            attempts = attempts + %(failed)s::int, error_code = %(code)s, error_message = %(message)s,
            completed_at = CASE WHEN %(status)s::text IN ('failed', 'split') THEN clock_timestamp() END
        WHERE id = %(chunk)s AND lease = %(token)s AND status = 'running' RETURNING id
        """,
        {
            "status": status,
            "wait": from_now(not_before),
            "failed": failed,
            "code": code,
            "message": message,
            "chunk": lease.chunk_id,
            "token": lease.token,
        },
    )
    return await cursor.fetchone() is not None


async def _note(cursor: AsyncCursor[Any], lease: Lease, kind: str, words: str) -> None:
    """In the job's timeline, beginning with what people know the part's stream by."""
    await cursor.execute("SELECT provider FROM integrations_connection WHERE id = %s", [lease.connection_id])
    row = await cursor.fetchone()
    provider = PROVIDERS.get(row[0]) if row else None
    labels = {stream.name: stream.label for stream in provider.streams} if provider else {}
    detail = f"{labels.get(lease.stream, lease.stream)}: {words}"
    await job_note(cursor, lease.job_id, lease.tenant_id, kind, detail)
