"""What the engine changes on a job as a whole: it waits, runs, pauses, fails. Everything public here is a short transaction of its own,
or takes the cursor of its caller's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg import AsyncCursor

from historical_sync.database import Pool, from_now, retried, system_transaction, tenant_transaction
from integrations.crypto import decrypt

LONG_SINCE = 60  # seconds between two pages of a job that no worker has


async def job_failures(pool: Pool, job_id: str, tenant_id: str) -> int:
    """How often the job could not be planned, or its provider not be reached at all, since its last progress."""
    async with tenant_transaction(pool, tenant_id) as cursor:
        await cursor.execute("SELECT attempts FROM historical_sync_historicalsyncjob WHERE id = %s", [job_id])
        row = await cursor.fetchone()
        return row[0] if row else 0


@retried
async def lost_access(pool: Pool, job_id: str, tenant_id: str, token: str, message: str) -> bool:
    """The provider no longer takes `token`: marks the connection and pauses its work until a person reconnects.

    False when the connection has another token by now: somebody has reconnected, and nothing is lost. Decided under the
    connection's row lock, which a reconnect takes too, so that no job pauses after the reconnect that should resume it. It locks no
    key: who holds the job and commits looks whether its connection is there, and each would wait for the other.
    """
    async with tenant_transaction(pool, tenant_id, "lost_access") as cursor:
        await cursor.execute(
            """
            SELECT id, status, credentials FROM integrations_connection
            WHERE id = (SELECT connection_id FROM historical_sync_historicalsyncjob WHERE id = %s) FOR NO KEY UPDATE
            """,
            [job_id],
        )
        row = await cursor.fetchone()
        if row is None:
            return True
        if row[1] == "connected":
            if decrypt(row[2])["access_token"] != token:
                return False
            await cursor.execute(
                """
                UPDATE integrations_connection SET status = 'reauth_required', last_error = %s, updated_at = now() WHERE id = %s
                """,
                [message, row[0]],
            )
        await cursor.execute("SELECT FROM historical_sync_historicalsyncjob WHERE id = %s FOR UPDATE", [job_id])
        await pause(cursor, job_id, "reauth_required", "connection_reauth_required", message)
        return True


@retried
async def fail_job(pool: Pool, job_id: str, tenant_id: str, code: str, message: str) -> None:
    """The job can't be worked on: it fails as a whole, or is cancelled if that was asked for; workers lose its chunks."""
    async with tenant_transaction(pool, tenant_id, "fail_job") as cursor:
        await cursor.execute("SELECT FROM historical_sync_historicalsyncjob WHERE id = %s FOR UPDATE", [job_id])
        await take_chunks(cursor, job_id)
        await cursor.execute(
            """
            UPDATE historical_sync_historicalsyncjob
            SET status = CASE WHEN control = 'cancel' THEN 'cancelled' ELSE 'failed' END,
                control = 'none', control_at = NULL, completed_at = clock_timestamp(), waiting_until = NULL,
                last_error_code = %s, last_error_message = %s, revision = revision + 1
            WHERE id = %s AND status IN ('pending', 'running')
            RETURNING status
            """,
            [code, message, job_id],
        )
        if (row := await cursor.fetchone()) is not None:
            await job_note(cursor, job_id, tenant_id, row[0], message)


@retried
async def planning_waits(
    pool: Pool, job_id: str, tenant_id: str, until: datetime, code: str, message: str, *, failed: bool
) -> datetime | None:
    """Planning is tried again at `until`, which is returned as by the database's clock; None: the job has ended. `failed`: that spends a
    retry."""
    async with tenant_transaction(pool, tenant_id, "planning_waits") as cursor:
        await cursor.execute(
            """
            UPDATE historical_sync_historicalsyncjob
            SET waiting_until = clock_timestamp() + %s::interval, last_error_code = %s, last_error_message = %s,
                last_error_at = clock_timestamp(), attempts = attempts + %s, revision = revision + 1
            WHERE id = %s AND status IN ('pending', 'running') RETURNING waiting_until
            """,
            [from_now(until), code, message, int(failed), job_id],
        )
        row = await cursor.fetchone()
        return row[0] if row else None


async def requests_to_stop(pool: Pool, job_ids: Sequence[str]) -> set[str]:
    """Which of these jobs' workers shall let go: asked to pause or cancel, or not running any more."""
    if not job_ids:
        return set()
    async with system_transaction(pool, "a worker's jobs are of many tenants") as cursor:
        await cursor.execute(
            """
            SELECT id::text FROM historical_sync_historicalsyncjob
            WHERE id = ANY(%s::uuid[]) AND (control <> 'none' OR status NOT IN ('pending', 'running'))
            """,
            [list(job_ids)],
        )
        return {row[0] for row in await cursor.fetchall()}


async def set_waiting(cursor: AsyncCursor[Any], job_id: str, until: datetime | None) -> None:
    """All that is left of the job waits until then: people see for how long."""
    await cursor.execute(
        """
        UPDATE historical_sync_historicalsyncjob SET waiting_until = %(until)s, revision = revision + 1
        WHERE id = %(job)s AND waiting_until IS DISTINCT FROM %(until)s
        """,
        {"until": until, "job": job_id},
    )


async def set_running(cursor: AsyncCursor[Any], job_id: str, status: str) -> None:
    if status == "running":
        return
    await cursor.execute(
        """
        UPDATE historical_sync_historicalsyncjob
        SET status = 'running', started_at = COALESCE(started_at, clock_timestamp()), revision = revision + 1
        WHERE id = %s AND status = 'pending'
        """,
        [job_id],
    )


async def forget_pace(cursor: AsyncCursor[Any], job_id: str) -> None:
    """Nobody was at the job: a long time since its last page is no working time, and says nothing of the time left."""
    await cursor.execute(
        """
        UPDATE historical_sync_historicalsyncjob SET pace_at = NULL, earlier_pace_at = NULL, revision = revision + 1
        WHERE id = %s AND pace_at IS NOT NULL AND last_page_at < clock_timestamp() - make_interval(secs => %s)
        """,
        [job_id, LONG_SINCE],
    )


async def take_chunks(cursor: AsyncCursor[Any], job_id: str) -> None:
    """Ends every lease on the job's chunks: only a job that is being worked on has any. The caller holds the job's row."""
    await cursor.execute(
        """
        UPDATE historical_sync_syncchunk c SET status = 'pending', lease = NULL, lease_until = NULL
        FROM historical_sync_historicalsyncjob job
        WHERE job.id = %s AND job.status IN ('pending', 'running') AND c.job_id = job.id AND c.status = 'running'
        """,
        [job_id],
    )


async def pause(cursor: AsyncCursor[Any], job_id: str, reason: str, code: str, message: str) -> None:
    """Stops the job until a person or a reconnect resumes it, taking every chunk from its worker: their pages are refused.

    A person who has asked for a pause meanwhile has paused it: nothing but a person resumes it then. The caller holds the job's row.
    """
    await take_chunks(cursor, job_id)
    await cursor.execute(
        """
        UPDATE historical_sync_historicalsyncjob
        SET status = CASE WHEN control = 'cancel' THEN 'cancelled' ELSE 'paused' END,
            pause_reason = CASE control WHEN 'cancel' THEN '' WHEN 'pause' THEN 'user' ELSE %(reason)s END,
            completed_at = CASE WHEN control = 'cancel' THEN clock_timestamp() END,
            control = 'none', control_at = NULL, waiting_until = NULL, last_error_code = %(code)s, last_error_message = %(message)s,
            revision = revision + 1
        WHERE id = %(job)s AND status IN ('pending', 'running')
        RETURNING tenant_id::text, status
        """,
        {"reason": reason, "code": code, "message": message, "job": job_id},
    )
    row = await cursor.fetchone()
    if row is not None:
        await job_note(cursor, job_id, row[0], row[1], message)


async def job_note(cursor: AsyncCursor[Any], job_id: Any, tenant_id: Any, kind: str, detail: str) -> None:
    await cursor.execute(
        """
        INSERT INTO historical_sync_jobevent (id, tenant_id, job_id, at, actor, kind, detail)
        VALUES (gen_random_uuid(), %s, %s, clock_timestamp(), 'Atom', %s, %s)
        """,
        [tenant_id, job_id, kind, detail],
    )
