"""Stores what came in. `save_pages` is the only writer of records, with what they say, and of entities.

Delivery is at least once, effects are exactly once: the rows, the chunk's cursor, all counters, quarantine and coverage of one or
more pages commit in one transaction that holds the chunk's row and carries its lease. A worker whose lease is gone writes
nothing. The road not taken: remembering progress beside the data (in Redis, in the queue) would leave a gap between the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from psycopg import AsyncCursor, errors
from psycopg.types.json import Jsonb

from historical_sync import rollcall
from historical_sync.allowance import COUNT, USED_UP, month_of
from historical_sync.database import Connection, Pool, pipelined_transaction, retried
from historical_sync.entities import write_entities
from historical_sync.extraction import RecordRow, Rejected, newest, sound
from historical_sync.leases import Lease, LeaseLost
from historical_sync.mapping import Mapper, Where
from historical_sync.merging import merge, write_addresses
from historical_sync.pgarrays import instant
from historical_sync.quarantine import quarantine, release
from historical_sync.records import Seen, add_records, look_up, new_statements, revise_records, version
from historical_sync.settling import settle
from historical_sync.stale import mark, withdrawn
from integrations.errors import UNMAPPABLE
from integrations.providers.base import JSON, Clock, Context, Extract

PACE_SECONDS = 8  # between the two points that speed is measured by
QUARANTINE_SHARE = 0.2  # of a chunk's records; more means that we, not the records, are wrong
QUARANTINE_FLOOR = 20  # records in quarantine before the share says anything
READ_BEFORE = timedelta(minutes=1)  # what is stored now was read no earlier


@dataclass(slots=True)
class Pages:
    """One or more pages of a chunk, in order, to be stored together.

    after: how many pages of the chunk are stored before these, as far as its worker knows. done: the window has been read to its
    end. whole: of a stream that is read whole, whatever the window. moved: they reach further than the chunk's pages before them.
    before: external ids that the chunk's pages before these brought: pages that overlap bring them again, and what is unchanged is
    counted once. only: of which of the stream's parts the records are, where others were sorted out; None: of all. clock, as_read: as
    the stream's. roll: their job looks for what is gone, and so notes what it meets (`rollcall.py`).
    shared: as the stream's.
    """

    rows: list[RecordRow] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    pages: int = 0
    after: int = 0
    cursor: JSON | None = None
    position: datetime | None = None
    progress: float = 0.0
    done: bool = False
    whole: bool = False
    moved: bool = False
    clock: Clock = Clock.UPDATED
    as_read: bool = False
    before: Collection[str] = ()
    only: Sequence[str] | None = None
    roll: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class LockedChunk:
    """The chunk as it was when its row was locked. seen: records of it that are stored or in quarantine.

    generation: how often something was taken out of the tenant's graph. kept_aside: whether anything of the connection's stream is in
    quarantine.
    """

    progress: float
    weight: float
    seen: int
    quarantined: int
    forgiven: int
    generation: int
    kept_aside: bool


@dataclass(frozen=True, slots=True)
class Saved:
    """What a save did. control: the job's open request, for the worker to honour. waiting: chunks of the job that no worker has;
    counted once this one is done.

    too_many: words, when more of the chunk's records are in quarantine than can be the records' fault. All is stored then, but
    the chunk has not moved on, nor is it done.
    """

    stored: int
    unchanged: int
    quarantined: int
    control: str
    job_status: str
    exhausted: bool
    waiting: int | None = None
    too_many: str = ""


async def save_pages(
    pool: Pool,
    lease: Lease,
    batch: Pages,
    extract: Extract,
    context: Context,
    mapper: Mapper,
    *,
    phase: str = "",
    records_a_month: int | None = None,
) -> Saved:
    """Stores a batch and moves the chunk on, exactly once. Raises LeaseLost, leaving no trace.

    records_a_month: of the tenant's plan.

    Records that are stored already with the same content are counted as skipped (by another job's work) or not at all (this
    job's own: a page read twice); their graph is there already.
    """
    try:
        return await _save(pool, lease, batch, extract, context, mapper, phase, records_a_month)
    except (*UNMAPPABLE, RecursionError, errors.DataError):
        # A record that can't be stored must not keep the others out.
        good, bad = sound(batch.rows, extract, context)
        batch = replace(batch, rows=good, rejected=[*batch.rejected, *bad])
    return await _save(pool, lease, batch, extract, context, mapper, phase, records_a_month)


@retried
async def _save(
    pool: Pool,
    lease: Lease,
    batch: Pages,
    extract: Extract,
    context: Context,
    mapper: Mapper,
    phase: str,
    records_a_month: int | None,
) -> Saved:
    rows = newest(batch.rows, batch.clock)
    async with pipelined_transaction(pool, lease.tenant_id, "done" if batch.done else "save") as db:
        await enter_graph(db, lease.tenant_id)
        locked, stored_before = await _lock(db, lease, batch.after), await look_up(db, lease, rows, batch.clock)
        chunk = await _locked(locked)
        read_at = datetime.now(UTC) - READ_BEFORE if batch.as_read else None
        written = await write_rows(
            db, lease, rows, stored_before, extract, context, mapper, chunk.generation, batch.before, read_at
        )
        if batch.shared and written.stored:
            await rollcall.look_again(db, lease.tenant_id, rows)
        rejected = batch.rejected + written.rejected
        if chunk.kept_aside:
            bad = {row.external_id for row in rejected}
            await release(db, lease, [row for row in rows.values() if row.external_id not in bad])
        quarantined, let_be = await quarantine(db, lease, rejected) if rejected else (0, 0)
        if batch.roll:
            await rollcall.note(db, lease, rows, batch.rejected)
        too_many = _too_many(chunk, written.stored + written.unchanged, quarantined - let_be)
        job = await _advance(db, lease, batch, chunk, written, quarantined, let_be, phase, too_many, records_a_month)
        waiting = await settle(db.cursor(), lease.job_id) if batch.done and not too_many else None
    # Asked for only now: the job's row is locked from the moment it was written, and every chunk of the job wants it next.
    row = await job.fetchone()
    assert row is not None, "its chunk was locked"
    written.remember()
    control, status, exhausted = row
    return Saved(written.stored, written.unchanged, quarantined, control, status, exhausted, waiting, too_many)


@dataclass(frozen=True, slots=True)
class Written:
    """What `write_rows` did. rejected: rows that could not be mapped. remember: call it once all that is committed."""

    stored: int
    unchanged: int
    entities: Counter[str]
    relationships: Counter[str]
    rejected: list[Rejected]
    remember: Callable[[], None]

    def counts(self) -> dict[str, Any]:
        """What the counters of the chunk and the job grow by, as parameters of their statements."""
        return {
            "stored": self.stored,
            "unchanged": self.unchanged,
            "entities": self.entities.total(),
            "relationships": self.relationships.total(),
            "entities_by_kind": Jsonb({kind: n for kind, n in self.entities.items() if n}),
            "relationships_by_kind": Jsonb({kind: n for kind, n in self.relationships.items() if n}),
        }


async def write_rows(
    db: Connection,
    lease: Lease,
    rows: dict[bytes, RecordRow],
    stored_before: AsyncCursor[Any],
    extract: Extract,
    context: Context,
    mapper: Mapper,
    generation: int = 0,
    before: Collection[str] = (),
    read_at: datetime | None = None,
) -> Written:
    """Writes records and what they say, in the caller's transaction, which has entered the graph. stored_before: what `look_up`
    asked for. generation: of the tenant's graph. before: as in `Pages`. read_at: of a stream whose rows count as of then."""
    seen = {key.bytes: Seen(*facts) for key, *facts in await stored_before.fetchall()}
    changed = {key: row for key, row in rows.items() if not (key in seen and seen[key].current)}
    where = Where(lease.tenant_id, generation, lease.stream, context, None if read_at is None else instant(read_at))
    mapped, remember = await mapper.map(list(changed.values()), changed.keys() & seen.keys(), where, extract)
    rejected = [(changed.pop(key), why) for key, why in mapped.rejected]
    revised = [row for key, row in changed.items() if key in seen]
    added = [row for key, row in changed.items() if key not in seen] if revised else list(changed.values())
    if mapped.added:
        await add_records(db, lease, added, mapped.added, read_at)
    if mapped.revised:
        await revise_records(db, lease, revised, mapped.revised, seen, read_at)
    if mapped.aliases or mapped.addresses:
        # Before any entity row is locked: whoever merges holds the tenant's merge lock first.
        await db.execute("SELECT pg_advisory_xact_lock(hashtextextended('merge ' || %s, 0))", [lease.tenant_id])
    entities: Counter[str] = Counter()
    led: dict[bytes, bytes] = {}
    if mapped.entities:
        entities, new_keys = await write_entities(db, lease.tenant_id, mapped.entities)
        led = {key: mapped.leads[key] for key in new_keys}
    if mapped.aliases:
        entities.subtract(await merge(db, lease.tenant_id, mapped.aliases, led))
    if mapped.addresses:
        await write_addresses(db, lease.tenant_id, mapped.addresses)
    statements = mapped.statements
    if revised:
        for row in revised:
            statements.update(new_statements(mapped.said[row.id], seen[row.id]))
        updates = [version(row, seen[row.id], mapped.said[row.id]) for row in revised]
        doubts = withdrawn(updates, extract, context, mapper.memory.of(lease.tenant_id, generation).ids)
        if doubts:
            await mark(db, lease.tenant_id, doubts)
    return Written(
        stored=sum(1 for key in changed if not (key in seen and seen[key].own)),
        unchanged=sum(
            1 for key, found in seen.items() if found.current and not found.own and rows[key].external_id not in before
        ),
        entities=entities,
        relationships=statements,
        rejected=[Rejected(row.external_id, row.payload, why, row.occurred_at) for row, why in rejected],
        remember=remember,
    )


async def enter_graph(db: Connection, tenant_id: str) -> None:
    """Keeps out who takes things out of the tenant's graph until the transaction ends; any number may add to it at once."""
    await db.execute("SELECT pg_advisory_xact_lock_shared(hashtextextended('graph ' || %s, 0))", [tenant_id])


async def _lock(db: Connection, lease: Lease, after: int) -> AsyncCursor[tuple[Any, ...]]:
    """Locks the chunk if the lease is still ours, and asks for the fields of `LockedChunk`.

    A database that took back what it had confirmed (a replica that took over before it had heard of everything) has fewer pages
    than its worker knows of; whoever went on would leave a gap.
    """
    return await db.execute(
        """
        SELECT progress, weight, records_processed + records_skipped + records_quarantined, records_quarantined, quarantine_forgiven,
               COALESCE((SELECT number FROM historical_sync_graphgeneration WHERE tenant_id = %s), 0),
               EXISTS (SELECT FROM historical_sync_quarantinedrecord
                       WHERE connection_id = %s AND stream = %s AND replayed_at IS NULL)
        FROM historical_sync_syncchunk WHERE id = %s AND lease = %s AND status = 'running' AND pages = %s FOR UPDATE
        """,
        [lease.tenant_id, lease.connection_id, lease.stream, lease.chunk_id, lease.token, after],
    )


async def _locked(cursor: AsyncCursor[Any]) -> LockedChunk:
    """The chunk that `_lock` locked. Raises LeaseLost when it did not."""
    row = await cursor.fetchone()
    if row is None:
        raise LeaseLost
    return LockedChunk(*row)


def _too_many(chunk: LockedChunk, mapped: int, quarantined: int) -> str:
    """Why the chunk must fail, in words; "" when its records' shape is as expected. quarantined: but for those that were let be."""
    bad = chunk.quarantined + quarantined - chunk.forgiven
    seen = chunk.seen + mapped + quarantined - chunk.forgiven
    if bad <= QUARANTINE_FLOOR or bad <= QUARANTINE_SHARE * seen:
        return ""
    return f"{bad:,} of {seen:,} records could not be understood and are kept aside; Retry goes on without them"


MOVE_CHUNK = """
UPDATE historical_sync_syncchunk
SET cursor = CASE WHEN %(stay)s THEN cursor ELSE %(cursor)s END,
    position = CASE WHEN %(stay)s THEN position ELSE COALESCE(%(position)s, position) END,
    pages = pages + %(pages)s, progress = %(progress)s,
    restarts = CASE WHEN %(new)s THEN 0 ELSE restarts END,
    records_processed = records_processed + %(stored)s, records_skipped = records_skipped + %(unchanged)s,
    records_quarantined = records_quarantined + %(quarantined)s, quarantine_forgiven = quarantine_forgiven + %(let_be)s,
    attempts = 0, error_code = '', error_message = '',
    status = CASE WHEN %(done)s THEN 'completed' ELSE status END,
    lease = CASE WHEN %(done)s THEN NULL ELSE lease END,
    lease_until = CASE WHEN %(done)s THEN NULL ELSE clock_timestamp() + make_interval(secs => %(lease_seconds)s) END,
    completed_at = CASE WHEN %(done)s THEN clock_timestamp() END
WHERE id = %(chunk)s
"""

# Up to the watermark of the job's start only; what was read whole has no beginning (see `coverage.py`). Nothing where the connection was to
# bring more by now than was let through.
COVER = """
INSERT INTO historical_sync_coverage AS c (id, tenant_id, connection_id, stream, partition, ranges)
SELECT gen_random_uuid(), %(tenant)s, %(connection)s, %(stream)s, %(partition)s,
       CASE WHEN %(only)s::text[] IS NULL
                 OR EXISTS (SELECT FROM integrations_connection c WHERE c.id = job.connection_id AND c.only <@ %(only)s::text[])
            THEN tstzmultirange(tstzrange(CASE WHEN NOT %(whole)s THEN chunk.since END, span.until))
            ELSE '{}'::tstzmultirange END
FROM historical_sync_syncchunk chunk
JOIN historical_sync_historicalsyncjob job ON job.id = chunk.job_id
CROSS JOIN LATERAL (SELECT COALESCE(job.watermark, job.created_at) AS mark) AS settled
CROSS JOIN LATERAL (
    SELECT CASE WHEN %(whole)s THEN mark ELSE LEAST(chunk.until, mark) END AS until
) AS span
WHERE chunk.id = %(chunk)s AND (%(whole)s OR chunk.since < span.until)
ON CONFLICT (connection_id, stream, partition) DO UPDATE SET ranges = c.ranges + excluded.ranges
"""

PACE_DUE = "pace_at < clock_timestamp() - make_interval(secs => %(pace_seconds)s)"
# The two points that speed is measured by: once the later one is old enough it becomes the earlier one, and now is the later.
PACE = ",\n    ".join(
    f"""earlier_pace_{name} = CASE WHEN pace_at IS NULL THEN {now} WHEN {PACE_DUE} THEN pace_{name} ELSE earlier_pace_{name} END,
    pace_{name} = CASE WHEN pace_at IS NULL OR {PACE_DUE} THEN {now} ELSE pace_{name} END"""
    for name, now in {
        "at": "clock_timestamp()",
        "progress": "progress + %(work)s",
        "records": "records_processed + records_skipped + %(stored)s + %(unchanged)s",
    }.items()
)

MOVE_JOB = f"""
UPDATE historical_sync_historicalsyncjob job
SET records_processed = records_processed + %(stored)s, records_skipped = records_skipped + %(unchanged)s,
    records_quarantined = records_quarantined + %(quarantined)s,
    entities_extracted = entities_extracted + %(entities)s,
    relationships_extracted = relationships_extracted + %(relationships)s,
    entities_by_kind = CASE WHEN %(entities_by_kind)s = '{{}}'::jsonb THEN entities_by_kind
        ELSE atom_add_counts(entities_by_kind, %(entities_by_kind)s) END,
    relationships_by_kind = CASE WHEN %(relationships_by_kind)s = '{{}}'::jsonb THEN relationships_by_kind
        ELSE atom_add_counts(relationships_by_kind, %(relationships_by_kind)s) END,
    completed_chunks = completed_chunks + CASE WHEN %(done)s THEN 1 ELSE 0 END,
    progress = progress + %(work)s, revision = revision + 1, attempts = 0, waiting_until = NULL, phase_detail = %(phase)s,
    last_page_at = clock_timestamp(),
    {PACE}
WHERE id = %(job)s
RETURNING control, status, {USED_UP}
"""  # noqa: S608 - a condition of this project's own


async def _advance(
    db: Connection,
    lease: Lease,
    batch: Pages,
    chunk: LockedChunk,
    written: Written,
    quarantined: int,
    let_be: int,
    phase: str,
    too_many: str,
    records_a_month: int | None,
) -> AsyncCursor[tuple[Any, ...]]:
    """Moves the chunk's cursor and every counter; last in the transaction, as it locks the job's row. Asks for `Saved`'s control,
    job_status and exhausted."""
    done = batch.done and not too_many
    progress = chunk.progress if too_many else 1.0 if done else max(chunk.progress, min(batch.progress, 0.99))
    values = {
        "chunk": lease.chunk_id,
        "job": lease.job_id,
        "tenant": lease.tenant_id,
        "connection": lease.connection_id,
        "stream": lease.stream,
        "partition": lease.partition,
        "lease_seconds": settings.LEASE_SECONDS,
        "cursor": None if batch.cursor is None else Jsonb(batch.cursor),
        "position": batch.position,
        "pages": batch.pages,
        "progress": progress,
        "work": (progress - chunk.progress) * chunk.weight,
        **written.counts(),
        "quarantined": quarantined,
        "let_be": let_be,
        "phase": phase[:200],
        "done": done,
        "stay": bool(too_many),
        # What another job stored is met again by every pass of a provider that goes in circles.
        "new": batch.moved or written.stored + quarantined > 0,
        "whole": batch.whole,
        "only": None if batch.only is None else list(batch.only),
        "pace_seconds": PACE_SECONDS,
        "records_a_month": records_a_month,
        "month": month_of(datetime.now(UTC)).date(),
    }
    await db.execute(MOVE_CHUNK, values)
    if done:
        await db.execute(COVER, values)
    if written.stored:
        await db.execute(COUNT, values)
    return await db.execute(MOVE_JOB, values)
