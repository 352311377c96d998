"""Ends what is due to end: the one place that pauses, cancels, completes or fails a job once no worker is at it.

Called in the transaction that let go of a chunk or asked for a stop, after it locked the job's row: whoever comes second waits for
that lock and then sees what the first one did, so the last chunk out always turns off the light.
"""

from __future__ import annotations

from uuid import UUID

from django.db import connection as database

# $1 = %(job)s. One statement: the decision and the conditional update can't come apart.
SETTLE = """
WITH chunks AS MATERIALIZED (
    SELECT count(*) FILTER (WHERE status = 'running') AS running,
           count(*) FILTER (WHERE status = 'pending') AS pending,
           count(*) FILTER (WHERE status = 'failed') AS failed
    FROM historical_sync_syncchunk WHERE job_id = %(job)s
), verdict AS (
    SELECT CASE WHEN job.control = 'cancel' THEN 'cancelled'
                WHEN job.status = 'running' AND job.planned AND chunks.pending = 0 THEN CASE WHEN chunks.failed > 0 THEN 'failed' ELSE 'completed' END
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
        revision = job.revision + 1
    FROM verdict
    WHERE job.id = %(job)s AND verdict.status IS NOT NULL AND job.status IN ('pending', 'running')
    RETURNING job.id, job.tenant_id, job.status, job.failed_chunks
), noted AS (
    INSERT INTO historical_sync_jobevent (id, tenant_id, job_id, at, actor, kind, detail)
    SELECT gen_random_uuid(), tenant_id, id, clock_timestamp(), 'Atom', status,
           CASE WHEN status = 'failed' THEN failed_chunks || ' parts could not be imported' ELSE '' END
    FROM settled
)
SELECT status FROM settled
"""


def settle_sync(job_id: UUID) -> str | None:
    """For actions: the job's new status, None when nothing was due. The caller holds the job's row lock."""
    with database.cursor() as cursor:
        cursor.execute(SETTLE, {"job": job_id})
        row = cursor.fetchone()
    return row[0] if row else None
