"""What could not be mapped: kept once, with the job that met it last, until it can be.

Streams that are read again and again bring the same bad rows each time. A row that is in quarantine already is refreshed and goes over
to the job that met it now, which counts it from then on instead of the one before: one active job a connection, so the one before has
ended. What comes in after all, or is replayed (`replaying.py`), leaves the quarantine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

from psycopg import AsyncCursor

from historical_sync.database import Connection
from historical_sync.extraction import RecordRow, Rejected, any_document
from historical_sync.identity import content_hash
from historical_sync.leases import Lease
from integrations.crypto import encrypt_document

TOO_MANY = "too_many_quarantined"  # why a chunk failed


async def quarantine(db: Connection, lease: Lease, rejected: Sequence[Rejected]) -> tuple[int, int]:
    """Keeps rows, in the caller's transaction, which holds the chunk; returns how many are new to the job, and how many of these were in
    quarantine before and let be: the import that had met them went on, as they were few or as somebody told it to."""
    answers = [await _keep(db, lease, row) for row in rejected]
    new = let_be = 0
    before: Counter[tuple[UUID, UUID]] = Counter()
    for answer in answers:
        for fresh, job_id, chunk_id, why_failed in await answer.fetchall():
            if not fresh and (job_id is None or str(job_id) == lease.job_id):
                continue  # the job's own, refreshed
            new += 1
            if not fresh:
                before[job_id, chunk_id] += 1
                let_be += why_failed != TOO_MANY
    await _uncount(db, before)
    return new, let_be


async def _keep(db: Connection, lease: Lease, row: Rejected) -> AsyncCursor[tuple[Any, ...]]:
    """Asks whether the row is new, and otherwise for the job and the chunk that had it, and why that failed if it did."""
    document = any_document(row.payload)
    named = row.external_id[:512].replace("\0", "\ufffd")
    return await db.execute(
        """
        WITH before AS (
            SELECT job_id, chunk_id FROM historical_sync_quarantinedrecord
            WHERE connection_id = %(connection)s AND stream = %(stream)s AND fingerprint = %(fingerprint)s AND replayed_at IS NULL
            FOR UPDATE
        ), kept AS (
            INSERT INTO historical_sync_quarantinedrecord AS q
                (id, tenant_id, connection_id, job_id, chunk_id, stream, external_id, reason, fingerprint, sealed_payload, occurred_at)
            SELECT gen_random_uuid(), %(tenant)s::uuid, %(connection)s::uuid, %(job)s::uuid, %(chunk)s::uuid, %(stream)s,
                   %(external_id)s, %(reason)s, %(fingerprint)s::uuid, %(sealed)s::bytea, %(occurred_at)s::timestamptz
            FROM (SELECT count(*) FROM before) AS looked  -- before it is written
            ON CONFLICT (connection_id, stream, fingerprint) WHERE replayed_at IS NULL
            DO UPDATE SET job_id = excluded.job_id,
                chunk_id = CASE WHEN q.job_id = excluded.job_id THEN q.chunk_id ELSE excluded.chunk_id END,
                reason = excluded.reason, sealed_payload = excluded.sealed_payload, occurred_at = excluded.occurred_at,
                created_at = statement_timestamp()
            RETURNING xmax = 0 AS fresh
        )
        SELECT kept.fresh, before.job_id, before.chunk_id, chunk.error_code
        FROM kept LEFT JOIN before ON true LEFT JOIN historical_sync_syncchunk chunk ON chunk.id = before.chunk_id
        """,
        {
            "tenant": lease.tenant_id,
            "connection": lease.connection_id,
            "job": lease.job_id,
            "chunk": lease.chunk_id,
            "stream": lease.stream,
            "external_id": named,
            "reason": row.reason[:2000].replace("\0", "\ufffd"),
            "fingerprint": _of_id(row.external_id) if named else UUID(bytes=content_hash(document)),
            "sealed": encrypt_document(document),
            "occurred_at": row.occurred_at,
        },
    )


def _of_id(external_id: str) -> UUID:
    return UUID(bytes=sha256(b"id " + external_id.encode()).digest()[:16])


async def release(db: Connection, lease: Lease, rows: Sequence[RecordRow]) -> None:
    """Forgets what was kept of records that are here now, in the caller's transaction. What had no id may have one by now."""
    named = [_of_id(row.external_id) for row in rows]
    answer = await db.execute(
        """
        DELETE FROM historical_sync_quarantinedrecord
        WHERE connection_id = %s AND stream = %s AND fingerprint = ANY(%s) AND replayed_at IS NULL
        RETURNING job_id, chunk_id
        """,
        [lease.connection_id, lease.stream, [*named, *[UUID(bytes=row.hash) for row in rows]]],
    )
    await _uncount(db, Counter([(job_id, chunk_id) for job_id, chunk_id in await answer.fetchall()]))


async def _uncount(db: Connection, left: Counter[tuple[UUID, UUID]]) -> None:
    """Takes rows that left the quarantine from the counters of the jobs and chunks that had met them: (job, chunk) -> how many."""
    for (job_id, chunk_id), rows in sorted(left.items()):
        values = {"job": job_id, "chunk": chunk_id, "rows": rows}
        await db.execute(
            """
            UPDATE historical_sync_syncchunk
            SET records_quarantined = GREATEST(records_quarantined - %(rows)s, 0),
                quarantine_forgiven = GREATEST(quarantine_forgiven - %(rows)s, 0)
            WHERE id = %(chunk)s
            """,
            values,
        )
        await db.execute(
            """
            UPDATE historical_sync_historicalsyncjob
            SET records_quarantined = GREATEST(records_quarantined - %(rows)s, 0), revision = revision + 1 WHERE id = %(job)s
            """,
            values,
        )
