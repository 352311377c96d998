"""Maps quarantined records again after a fix, from what was kept of them: the provider is not asked.

Exactly once, as a page's save: a record's row, what it says, the counters and the mark on its quarantined row commit together,
and two replays at once share the rows between them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncCursor

from historical_sync import pgarrays as pg
from historical_sync.allowance import COUNT, month_of
from historical_sync.coverage import KEPT
from historical_sync.database import Connection, Pool, make_pool, pipelined_transaction, retried, tenant_transaction
from historical_sync.extraction import RecordRow, newest, record_rows, sound
from historical_sync.leases import Lease
from historical_sync.mapping import Mapper
from historical_sync.models import HistoricalSyncJob
from historical_sync.records import look_up
from historical_sync.rollcall import look_again
from historical_sync.storage import Written, enter_graph, write_rows
from integrations import gateway
from integrations.crypto import decrypt
from integrations.errors import UNMAPPABLE, RecordRejected
from integrations.providers.base import Context, Partition, Record, Stream, WindowKind

AT_ONCE = 100  # rows of one transaction

Place = tuple[datetime, UUID]  # of a row in the order of replaying


@dataclass(frozen=True, slots=True)
class Replayed:
    """mapped: records that left the quarantine. left: those that stay in it. untried: those for which there was no time."""

    mapped: int
    left: int
    untried: int = 0

    def words(self) -> str:
        """For people and the timeline."""
        if not self.mapped and not self.left and not self.untried:
            return "Nothing is in quarantine"
        stay = f"; {self.left:,} still can't be mapped" if self.left else ""
        untried = f"; {self.untried:,} are still to be tried" if self.untried else ""
        return f"{self.mapped:,} of {self.mapped + self.left:,} quarantined records were mapped{stay}{untried}"


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Where quarantined rows came from."""

    lease: Lease
    stream: Stream
    context: Context
    since: datetime
    until: datetime


async def replay(job: HistoricalSyncJob, seconds: float | None = None) -> Replayed:
    """Tries every quarantined record of the job again, or as many as that takes. The job's `connection` is loaded."""
    end = None if seconds is None else time.monotonic() + seconds
    pool = make_pool(1)
    await pool.open(wait=True, timeout=10)
    try:
        mapped = left = 0
        for chunk in await _chunks(pool, job):
            after: Place | None = (datetime.min.replace(tzinfo=UTC), UUID(int=0))
            while after is not None:
                if end is not None and time.monotonic() > end:
                    return Replayed(mapped, left, max(await _kept(pool, job) - left, 0))
                done, stay, after = await _replay_some(pool, chunk, after)
                mapped, left = mapped + done, left + stay
        return Replayed(mapped, left)
    finally:
        await pool.close()


async def _kept(pool: Pool, job: HistoricalSyncJob) -> int:
    async with tenant_transaction(pool, str(job.tenant_id)) as cursor:
        await cursor.execute(
            "SELECT count(*) FROM historical_sync_quarantinedrecord WHERE job_id = %s AND replayed_at IS NULL", [job.id]
        )
        row = await cursor.fetchone()
        return int(row[0]) if row else 0


async def _chunks(pool: Pool, job: HistoricalSyncJob) -> list[_Chunk]:
    connection = job.connection
    known = {stream.name: stream for stream in connection.provider.streams}
    namespace = gateway.namespace(connection.provider, connection.base_url, connection.external_account_id)
    async with tenant_transaction(pool, str(job.tenant_id)) as cursor:
        # A row that an earlier import was to bring goes over to the one that met it again, be that beyond its own range.
        await cursor.execute(
            f"""
            SELECT stream, min(start_date), max(end_date)
            FROM historical_sync_historicalsyncjob job CROSS JOIN LATERAL unnest(streams) AS stream WHERE {KEPT} GROUP BY stream
            """,  # noqa: S608 - a condition of this project's own
            {"tenants": [job.tenant_id], "connections": [job.connection_id]},
        )
        asked = {stream: (since, until) for stream, since, until in await cursor.fetchall()}
        await cursor.execute(
            """
            SELECT id::text, stream, partition, partition_label, partition_facts, since, until FROM historical_sync_syncchunk chunk
            WHERE job_id = %s AND EXISTS (
                SELECT FROM historical_sync_quarantinedrecord q WHERE q.chunk_id = chunk.id AND q.replayed_at IS NULL)
            ORDER BY ordinal, id
            """,
            [job.id],
        )
        return [
            _Chunk(
                Lease(chunk_id, "", str(job.id), str(job.tenant_id), str(connection.id), stream, partition),
                known[stream],
                Context(namespace, Partition(partition, label, facts)),
                min(since, asked.get(stream, (since, until))[0]),
                max(until, asked.get(stream, (since, until))[1]),
            )
            for chunk_id, stream, partition, label, facts, since, until in await cursor.fetchall()
            if stream in known
        ]


@retried
async def _replay_some(pool: Pool, chunk: _Chunk, after: Place) -> tuple[int, int, Place | None]:
    """(mapped, left, the last row tried) of some rows after row `after`; None for the last when there were no more.

    Rows go in the order of their coming, and count as stored when they came: what was stored since is newer, whatever time it bears.
    """
    lease = chunk.lease
    async with pipelined_transaction(pool, lease.tenant_id, "replay") as db:
        await enter_graph(db, lease.tenant_id)
        removal = await db.execute(
            "SELECT EXISTS (SELECT FROM historical_sync_dataremoval WHERE connection_id = %s AND completed_at IS NULL)",
            [lease.connection_id],
        )
        # As a page's save: the chunk's row first, the job's last.
        await db.execute("SELECT FROM historical_sync_syncchunk WHERE id = %s FOR UPDATE", [lease.chunk_id])
        found: AsyncCursor[Any] = await db.execute(
            """
            SELECT id, external_id, occurred_at, sealed_payload, created_at FROM historical_sync_quarantinedrecord
            WHERE chunk_id = %s AND replayed_at IS NULL AND (created_at, id) > (%s, %s)
            ORDER BY created_at, id LIMIT %s FOR UPDATE SKIP LOCKED
            """,
            [lease.chunk_id, *after, AT_ONCE],
        )
        kept = await found.fetchall()
        (is_removed,) = await removal.fetchone() or (False,)
        if not kept or is_removed:
            return 0, 0, None
        records: list[Record] = []
        made: dict[str, list[UUID]] = {}  # external id -> the quarantined rows that it is made of
        done: list[UUID] = []
        why: dict[UUID, str] = {}
        came: dict[str, datetime] = {}
        for row_id, external_id, occurred_at, sealed, created_at in kept:
            try:
                record = _record(chunk.stream, external_id, occurred_at, decrypt(sealed))
            except UNMAPPABLE as error:
                why[row_id] = str(error) if isinstance(error, RecordRejected) else f"no usable id or time: {error!r}"
                continue
            if chunk.stream.window is not WindowKind.SNAPSHOT and not chunk.since <= record.occurred_at < chunk.until:
                done.append(row_id)  # of another span of time than was asked for: nothing is lost with it
                continue
            records.append(record)
            made.setdefault(record.external_id, []).append(row_id)
            came[record.external_id] = created_at
        made_of, no_rows = record_rows(records, lease.connection_bytes, lease.stream)
        good, bad = sound(made_of, chunk.stream.extract, chunk.context)
        for rejected in (*no_rows, *bad):
            why.update(dict.fromkeys(made.pop(rejected.external_id, ()), rejected.reason))
        rows = newest((row for row in good if row.external_id in made), chunk.stream.clock)
        rows = await _not_outdated(db, rows, came)
        before = await look_up(db, lease, rows, chunk.stream.clock)
        read_at = kept[0][4] if chunk.stream.as_read else None
        written = await write_rows(
            db, lease, rows, before, chunk.stream.extract, chunk.context, Mapper(), read_at=read_at
        )
        if chunk.stream.shared and written.stored:
            await look_again(db, lease.tenant_id, rows)
        if read_at is None:
            await _date(db, rows, came)
        for rejected in written.rejected:
            why.update(dict.fromkeys(made.pop(rejected.external_id, ()), rejected.reason))
        done += [row_id for ids in made.values() for row_id in ids]
        await _count(db, lease, len(done), written)
        await _mark(db, done, why)
    return len(done), len(why), (kept[-1][4], kept[-1][0])


async def _not_outdated(
    db: Connection, rows: dict[bytes, RecordRow], came: Mapping[str, datetime]
) -> dict[bytes, RecordRow]:
    """Without those of which a version is stored that came later, or that were found to be gone since."""
    found = await db.execute(
        "SELECT id, GREATEST(stored_at, gone_at) FROM historical_sync_syncrecord WHERE id = ANY(%s)",
        [pg.uuids(list(rows))],
    )
    stored = {key.bytes: stored_at for key, stored_at in await found.fetchall()}
    return {key: row for key, row in rows.items() if key not in stored or stored[key] <= came[row.external_id]}


async def _date(db: Connection, rows: Mapping[bytes, RecordRow], came: Mapping[str, datetime]) -> None:
    """Dates what this transaction has stored by when it came: what came later and is still in quarantine is newer."""
    await db.execute(
        """
        UPDATE historical_sync_syncrecord r SET stored_at = u.came FROM unnest(%s, %s) AS u(id, came)
        WHERE r.id = u.id AND r.stored_at = now()
        """,
        [pg.uuids(list(rows)), pg.timestamps([came[row.external_id] for row in rows.values()])],
    )


def _record(stream: Stream, external_id: str, occurred_at: datetime | None, payload: Any) -> Record:
    if occurred_at is not None:
        return Record(external_id, occurred_at, payload)
    if stream.record is None:
        raise RecordRejected("no usable id or time; import its part again to bring it")
    return stream.record(payload)


async def _mark(db: Connection, done: Sequence[UUID], why: dict[UUID, str]) -> None:
    await db.execute(
        "UPDATE historical_sync_quarantinedrecord SET replayed_at = clock_timestamp() WHERE id = ANY(%s)", [list(done)]
    )
    await db.execute(
        """
        UPDATE historical_sync_quarantinedrecord q SET reason = u.reason
        FROM unnest(%s::uuid[], %s::text[]) AS u(id, reason) WHERE q.id = u.id
        """,
        [list(why), [reason[:2000].replace("\0", "\ufffd") for reason in why.values()]],
    )


async def _count(
    db: Connection,
    lease: Lease,
    mapped: int,
    written: Written,
) -> None:
    """Moves the counters of the chunk and the job as if the records had been mapped at once."""
    values = {
        "chunk": lease.chunk_id,
        "job": lease.job_id,
        "tenant": lease.tenant_id,
        "connection": lease.connection_id,
        "month": month_of(datetime.now(UTC)).date(),
        "mapped": mapped,
        **written.counts(),
    }
    await db.execute(
        """
        UPDATE historical_sync_syncchunk
        SET records_processed = records_processed + %(stored)s, records_skipped = records_skipped + %(unchanged)s,
            records_quarantined = GREATEST(records_quarantined - %(mapped)s, 0),
            quarantine_forgiven = GREATEST(quarantine_forgiven - %(mapped)s, 0)
        WHERE id = %(chunk)s
        """,
        values,
    )
    if written.stored:
        await db.execute(COUNT, values)
    await db.execute(
        """
        UPDATE historical_sync_historicalsyncjob
        SET records_processed = records_processed + %(stored)s, records_skipped = records_skipped + %(unchanged)s,
            records_quarantined = GREATEST(records_quarantined - %(mapped)s, 0),
            entities_extracted = entities_extracted + %(entities)s,
            relationships_extracted = relationships_extracted + %(relationships)s,
            entities_by_kind = atom_add_counts(entities_by_kind, %(entities_by_kind)s),
            relationships_by_kind = atom_add_counts(relationships_by_kind, %(relationships_by_kind)s),
            revision = revision + 1
        WHERE id = %(job)s
        """,
        values,
    )
