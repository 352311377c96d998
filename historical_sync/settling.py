"""Ends what is due to end: the one place that pauses, cancels, completes or fails a job once no worker is at it.

Called in the transaction that let go of a chunk or asked for a stop, after it locked the job's row: whoever comes second waits for
that lock and then sees what the first one did, so the last chunk out always turns off the light. It writes nothing on the connection,
whose row is locked before its jobs' (`job_changes.lost_access`, a reconnect): that an import succeeded is noted by `upkeep`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection as database
from psycopg import AsyncCursor

from historical_sync.planning import words
from integrations.providers.base import Window

# One statement: the decision and the conditional update can't come apart. told: what `TOLD` has counted; without it a scheduled job that
# lacks something is not ended yet. The third column: whether the job is over and lacks something.
SETTLE = """
WITH chunks AS MATERIALIZED (
    SELECT count(*) FILTER (WHERE status = 'running') AS running,
           count(*) FILTER (WHERE status = 'pending') AS pending,
           count(*) FILTER (WHERE status = 'failed') AS failed,
           count(*) FILTER (WHERE status IN ('pending', 'failed') AND error_code <> '') AS troubled
    FROM historical_sync_syncchunk WHERE job_id = %(job)s
), verdict AS (
    SELECT CASE WHEN job.control = 'cancel' THEN 'cancelled'
                WHEN job.status = 'running' AND job.planned AND chunks.pending = 0
                THEN CASE WHEN chunks.failed = 0 THEN 'completed'
                          WHEN %(told)s::bigint IS NULL AND job.trigger = 'schedule' THEN NULL
                          WHEN chunks.failed > COALESCE(%(told)s, 0) THEN 'failed' ELSE 'completed' END
                WHEN job.control = 'pause' THEN 'paused'
           END AS status
    FROM historical_sync_historicalsyncjob job, chunks
    WHERE job.id = %(job)s AND job.status IN ('pending', 'running') AND chunks.running = 0
), settled AS (
    UPDATE historical_sync_historicalsyncjob job
    SET status = verdict.status,
        control = 'none',
        control_at = NULL,
        pause_reason = CASE WHEN verdict.status = 'paused' THEN 'user' ELSE '' END,
        completed_at = CASE WHEN verdict.status = 'paused' THEN NULL ELSE clock_timestamp() END,
        started_at = COALESCE(job.started_at, CASE WHEN verdict.status IN ('completed', 'failed') THEN clock_timestamp() END),
        waiting_until = NULL,
        phase_detail = '',
        -- What every chunk has got over says nothing of why the job ended or paused.
        last_error_code = CASE WHEN job.planned AND chunks.troubled = 0 THEN '' ELSE job.last_error_code END,
        last_error_message = CASE WHEN job.planned AND chunks.troubled = 0 THEN '' ELSE job.last_error_message END,
        revision = job.revision + 1
    FROM verdict, chunks
    WHERE job.id = %(job)s AND verdict.status IS NOT NULL AND job.status IN ('pending', 'running')
    RETURNING job.id, job.tenant_id, job.status, job.failed_chunks
), noted AS (
    INSERT INTO historical_sync_jobevent (id, tenant_id, job_id, at, actor, kind, detail)
    SELECT gen_random_uuid(), tenant_id, id, clock_timestamp(), 'Atom', status,
           CASE WHEN failed_chunks = 0 THEN ''
                ELSE failed_chunks || CASE WHEN failed_chunks = 1 THEN ' part' ELSE ' parts' END || ' could not be imported' END
    FROM settled
)
SELECT (SELECT status FROM settled), pending, running + pending = 0 AND failed > 0 FROM chunks
"""

# How much of what a scheduled job was refused was refused in the same words when the connection's imports were last at that stream: that
# did not fail unheard, and goes on until the provider or a person changes it. Not a part of SETTLE, which each page would have planned.
TOLD = """
SELECT count(*)
FROM historical_sync_historicalsyncjob job
JOIN historical_sync_syncchunk chunk ON chunk.job_id = job.id
CROSS JOIN LATERAL (
    SELECT earlier.id FROM historical_sync_historicalsyncjob earlier
    WHERE earlier.connection_id = job.connection_id AND earlier.created_at < job.created_at
      AND earlier.status IN ('failed', 'completed')
      AND EXISTS (SELECT FROM historical_sync_syncchunk c
                  WHERE c.job_id = earlier.id AND c.stream = chunk.stream AND c.status <> 'split')
    ORDER BY earlier.created_at DESC LIMIT 1) last
WHERE job.id = %(job)s AND job.trigger = 'schedule' AND chunk.status = 'failed' AND chunk.error_code = 'provider_access_denied'
  AND EXISTS (SELECT FROM historical_sync_syncchunk c
              WHERE c.job_id = last.id AND c.status = 'failed' AND c.stream = chunk.stream AND c.partition = chunk.partition
                AND c.error_code = chunk.error_code AND c.error_message = chunk.error_message)
"""


# What a job lacks that is over: its failed chunks, one line a stream, place and reason.
MISSING = """
SELECT stream, partition_label, error_code, error_message, min(since), max(until)
FROM historical_sync_syncchunk WHERE job_id = %(job)s AND status = 'failed'
GROUP BY stream, partition_label, error_code, error_message ORDER BY min(ordinal), partition_label
"""
SAY = """
UPDATE historical_sync_historicalsyncjob SET last_error_code = %(code)s, last_error_message = %(message)s
WHERE id = %(job)s AND status IN ('failed', 'completed')
RETURNING tenant_id
"""
MOST_SAID = 5  # streams and reasons in the words for what is missing


async def settle(cursor: AsyncCursor[Any], job_id: UUID | str) -> int:
    """Ends what is due to end; how many chunks of the job wait for a worker. The caller holds the job's row lock."""

    async def found(statement: str, **values: Any) -> list[tuple[Any, ...]]:
        await cursor.execute(statement, {"job": job_id, **values})
        return await cursor.fetchall()

    [(status, waiting, lacks)] = await found(SETTLE, told=None)
    if lacks and status is None:
        [(told,)] = await found(TOLD)
        [(status, waiting, lacks)] = await found(SETTLE, told=told)
    if lacks and status in ("failed", "completed"):
        missing = await found(MISSING)
        await cursor.execute(SAY, {"job": job_id, "code": missing[0][2], "message": missing_words(missing)})
    return int(waiting)


def settle_sync(job_id: UUID) -> None:
    """The same for actions."""
    with database.cursor() as cursor:

        def found(statement: str, **values: Any) -> list[tuple[Any, ...]]:
            cursor.execute(statement, {"job": job_id, **values})
            return cursor.fetchall()

        [(status, _, lacks)] = found(SETTLE, told=None)
        if lacks and status is None:
            [(told,)] = found(TOLD)
            [(status, _, lacks)] = found(SETTLE, told=told)
        if lacks and status in ("failed", "completed"):
            missing = found(MISSING)
            cursor.execute(SAY, {"job": job_id, "code": missing[0][2], "message": missing_words(missing)})


def missing_words(rows: Sequence[tuple[Any, ...]]) -> str:
    """What `MISSING` found, for people: "Not imported: issues of 1–30 Sep 2026 in acme/web (GitHub does not allow it)"."""
    parts: dict[tuple[str, str], tuple[list[str], Window]] = {}
    for stream, place, _, reason, since, until in rows:
        places, window = parts.get((stream, reason), ([], Window(since, until)))
        if place:
            places.append(place)
        parts[stream, reason] = places, Window(min(window.since, since), max(window.until, until))
    said = []
    for (stream, reason), (places, window) in list(parts.items())[:MOST_SAID]:
        where = f" in {places[0]}" if places else ""
        if len(places) > 1:
            where += f" and {len(places) - 1} more" if len(places) > 2 else f" and {places[1]}"
        said.append(f"{stream.replace('_', ' ')} of {words(window)}{where} ({reason.rstrip('.')})")
    if len(parts) > MOST_SAID:
        said.append(f"and {len(parts) - MOST_SAID} more")
    return f"Not imported: {'; '.join(said)}."


# A worker that can't answer can't honour a request to stop. Other workers notice (`reaping.reap`), if there are any.
TAKE_FROM_THE_DEAD = """
UPDATE historical_sync_syncchunk SET status = 'pending', lease = NULL, lease_until = NULL
WHERE id IN (
    SELECT id FROM historical_sync_syncchunk
    WHERE job_id = %(job)s AND status = 'running' AND (
        lease_until < clock_timestamp()
        OR NOT EXISTS (SELECT FROM procrastinate_workers
                       WHERE last_heartbeat > clock_timestamp() - make_interval(secs => %(dead_after)s)))
    -- Whoever is storing a page right now is not dead.
    FOR UPDATE SKIP LOCKED
)
"""


def take_from_the_dead(job_id: UUID) -> None:
    """For actions: ends the leases of workers that are gone, so that the job can be settled. The caller holds the job's row lock."""
    with database.cursor() as cursor:
        cursor.execute(TAKE_FROM_THE_DEAD, {"job": job_id, "dead_after": settings.LEASE_SECONDS})
