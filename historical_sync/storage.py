"""Stores what came in. `save_pages` is the only writer of records, with what they say, and of entities.

Delivery is at least once, effects are exactly once: the rows, the chunk's cursor, all counters, quarantine and coverage of one or
more pages commit in one transaction that holds the chunk's row and carries its lease. A worker whose lease is gone writes
nothing. The road not taken: remembering progress beside the data (in Redis, in the queue) would leave a gap between the two.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from psycopg import AsyncCursor, errors
from psycopg.types.json import Jsonb

from historical_sync import pgarrays as pg
from historical_sync.database import Connection, Pool, pipelined_transaction
from historical_sync.extraction import (
    NO_LINKS,
    GraphRows,
    Ids,
    RecordRow,
    Rejected,
    any_document,
    graph_rows,
    record_rows,
    sound,
)
from historical_sync.identity import KEY_RANK, NAME_RANK, content_hash, entity_id, key_rank
from historical_sync.settling import settle
from historical_sync.stale import Version, mark, withdrawn
from integrations.crypto import encrypt_document
from integrations.providers.base import JSON, Context, Entity, Extract, Record
from integrations.providers.links import located

PACE_SECONDS = 8  # between the two points that speed is measured by
QUARANTINE_SHARE = 0.2  # of a chunk's records; more means that we, not the records, are wrong
QUARANTINE_FLOOR = 20  # records in quarantine before the share says anything
RETRIES = 5  # of a transaction that PostgreSQL refused for reasons of concurrency


class LeaseLost(Exception):
    """Somebody else works on the chunk, or nobody may: leave, writing nothing."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to a chunk, and where it belongs. Ids as PostgreSQL's text form; `*_bytes` the same as 16 bytes."""

    chunk_id: str
    token: str
    job_id: str
    tenant_id: str
    connection_id: str
    stream: str
    partition: str

    @property
    def tenant_bytes(self) -> bytes:
        return UUID(self.tenant_id).bytes

    @property
    def connection_bytes(self) -> bytes:
        return UUID(self.connection_id).bytes


@dataclass(slots=True)
class Pages:
    """One or more pages of a chunk, in order, to be stored together.

    done: the window has been read to its end. whole: of a stream that is read whole, whatever the window.
    """

    records: list[Record] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    pages: int = 0
    cursor: JSON | None = None
    position: datetime | None = None
    progress: float = 0.0
    done: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """The chunk as it was when its row was locked. seen: records of it that are stored or in quarantine.

    generation: how often something was taken out of the tenant's graph.
    """

    progress: float
    weight: float
    seen: int
    quarantined: int
    forgiven: int
    generation: int


@dataclass(frozen=True, slots=True)
class Saved:
    """What a save did. control: the job's open request, for the worker to honour.

    too_many: words, when more of the chunk's records are in quarantine than can be the records' fault. All is stored then, but
    the chunk has not moved on, nor is it done.
    """

    stored: int
    unchanged: int
    quarantined: int
    control: str
    job_status: str
    exhausted: bool
    too_many: str = ""


class Seen(NamedTuple):
    """A record that is stored already. current: nothing to write, its content is the same or newer than ours. own: this job
    wrote it. subject, link_kinds, link_ids: what it said, payload: its JSON; unless it is current."""

    current: bool
    own: bool
    hash: UUID
    subject: UUID | None
    link_kinds: str | None
    link_ids: list[UUID] | None
    payload: str | None

    def ends(self) -> set[bytes]:
        """What it spoke of."""
        return {key.bytes for key in (self.subject, *(self.link_ids or ())) if key is not None}

    def statements(self) -> set[tuple[str, bytes]]:
        """(kind, other end)."""
        return set(zip((self.link_kinds or "").split(), (key.bytes for key in self.link_ids or ()), strict=True))


class Known(NamedTuple):
    """What is stored of a tenant: mentions as they were told; kind and name of mentioned entities; pairs of alias and entity."""

    ids: Ids
    told: set[Entity]
    mentioned: dict[bytes, tuple[str, str]]
    merged: set[tuple[bytes, bytes]]

    @property
    def size(self) -> int:
        return len(self.told) + len(self.mentioned) + len(self.merged)


class Memory:
    """What this worker knows to be stored already, so that it need not be sent again: mentioned entities and aliases of a tenant.

    Forgetting is always safe. Remembering is safe because whoever removes such rows counts the generation up (`removing.py`).
    """

    LIMIT = 100_000

    def __init__(self) -> None:
        self.tenants: dict[tuple[str, int], Known] = {}

    def of(self, tenant_id: str, generation: int = 0) -> Known:
        """generation: grows when something is taken out of the tenant's graph; what was known before is void then."""
        found = self.tenants.get((tenant_id, generation))
        if found is None or found.size > self.LIMIT:
            if len(self.tenants) > 50:
                self.tenants.clear()
            self.forget(tenant_id)
            found = self.tenants[tenant_id, generation] = Known(Ids(UUID(tenant_id).bytes), set(), {}, set())
        return found

    def forget(self, tenant_id: str) -> None:
        for known in [known for known in self.tenants if known[0] == tenant_id]:
            del self.tenants[known]


async def save_pages(
    pool: Pool, lease: Lease, batch: Pages, extract: Extract, context: Context, memory: Memory, *, phase: str = ""
) -> Saved:
    """Stores a batch and moves the chunk on, exactly once. Raises LeaseLost, leaving no trace.

    Records that are stored already with the same content are counted as skipped (by another job's work) or not at all (this
    job's own: a page read twice); their graph is there already.
    """
    checked = False
    for attempt in range(RETRIES):
        try:
            rows = record_rows(batch.records, lease.connection_bytes, lease.stream)
            return await _save(pool, lease, batch, rows, extract, context, memory, phase)
        except (TypeError, ValueError, AttributeError, IndexError, RecursionError, errors.DataError):
            # A record that can't be stored must not keep the others out.
            if checked:
                raise
            checked = True
            good, bad = sound(batch.records, extract, context)
            batch = replace(batch, records=good, rejected=[*batch.rejected, *bad])
        except (errors.DeadlockDetected, errors.SerializationFailure, errors.UniqueViolation):
            if attempt == RETRIES - 1:
                raise
            await asyncio.sleep(0.01 * 2**attempt)
    raise AssertionError("unreachable")


async def _save(
    pool: Pool,
    lease: Lease,
    batch: Pages,
    rows: dict[bytes, RecordRow],
    extract: Extract,
    context: Context,
    memory: Memory,
    phase: str,
) -> Saved:
    # A page's rows and the cursor behind them are kept or lost together, so only a chunk's end need wait for the disk.
    place = "done" if batch.done else "save"
    async with pipelined_transaction(pool, lease.tenant_id, place, durable=batch.done) as db:
        await enter_graph(db, lease.tenant_id)
        chunk, stored_before = await _hold(db, lease), await look_up(db, lease, rows)
        held = await _held(chunk)
        written = await write_rows(db, lease, rows, stored_before, extract, context, memory, held.generation)
        rejected = batch.rejected + written.rejected
        quarantined = await _quarantine(db, lease, rejected) if rejected else 0
        too_many = _too_many(held, written.stored + written.unchanged, quarantined)
        job = await _advance(db, lease, batch, held, written, quarantined, phase, too_many)
        if batch.done and not too_many:
            await settle(db.cursor(), lease.job_id)
    # Asked for only now: the job's row is locked from the moment it was written, and every chunk of the job wants it next.
    row = await job.fetchone()
    assert row is not None, "its chunk was locked"
    written.remember()
    control, status, exhausted = row
    return Saved(written.stored, written.unchanged, quarantined, control, status, exhausted, too_many)


@dataclass(frozen=True, slots=True)
class Written:
    """What `write_rows` did. rejected: rows that could not be mapped. remember: call it once all that is committed."""

    stored: int
    unchanged: int
    entities: Counter[str]
    relationships: Counter[str]
    rejected: list[Rejected]
    remember: Callable[[], None]


async def write_rows(
    db: Connection,
    lease: Lease,
    rows: dict[bytes, RecordRow],
    stored_before: AsyncCursor[Any],
    extract: Extract,
    context: Context,
    memory: Memory,
    generation: int = 0,
) -> Written:
    """Writes records and what they say, in the caller's transaction, which has entered the graph. stored_before: what `look_up`
    asked for. generation: of the tenant's graph."""
    known = memory.of(lease.tenant_id, generation)
    seen = {key.bytes: Seen(*facts) for key, *facts in await stored_before.fetchall()}
    changed = {key: row for key, row in rows.items() if not (key in seen and seen[key].current)}
    graph = graph_rows(
        changed.values(), extract, context, known.ids, told=known.told, mentioned=known.mentioned, merged=known.merged
    )
    for row, _ in graph.rejected:
        del changed[row.id]
    entities: Counter[str] = Counter()
    revised = [row for key, row in changed.items() if key in seen]
    added = [row for key, row in changed.items() if key not in seen] if revised else list(changed.values())
    if added:
        await _add_records(db, lease, added, graph)
    if revised:
        await _revise_records(db, lease, revised, graph, seen)
    if graph.aliases or graph.addresses:
        # Before any entity row is locked: whoever merges holds the tenant's merge lock first.
        await db.execute("SELECT pg_advisory_xact_lock(hashtextextended('merge ' || %s, 0))", [lease.tenant_id])
    new_entities = sorted(graph.entities.values())
    if new_entities:
        entities += await _write_entities(db, lease, new_entities)
    if graph.aliases:
        entities.subtract(await _merge(db, lease, graph.aliases))
    if graph.addresses:
        await _write_addresses(db, lease, graph.addresses)
    if revised:
        doubts = withdrawn([_version(row, seen[row.id], graph) for row in revised], extract, context, known.ids)
        if doubts:
            await mark(db, lease.tenant_id, doubts)

    def remember() -> None:
        known.told.update(graph.told)
        known.mentioned.update(
            {entity.id: (entity.kind, entity.name) for entity in new_entities if entity.as_of is None}
        )
        known.merged.update(graph.aliases)

    return Written(
        stored=sum(1 for key in changed if not (key in seen and seen[key].own)),
        unchanged=sum(1 for found in seen.values() if found.current and not found.own),
        entities=entities,
        relationships=_new_statements(added, revised, graph, seen),
        rejected=[Rejected(row.external_id, row.record.payload, why, row.occurred_at) for row, why in graph.rejected],
        remember=remember,
    )


async def enter_graph(db: Connection, tenant_id: str) -> None:
    """Keeps out who takes things out of the tenant's graph until the transaction ends; any number may add to it at once."""
    await db.execute("SELECT pg_advisory_xact_lock_shared(hashtextextended('graph ' || %s, 0))", [tenant_id])


async def look_up(db: Connection, lease: Lease, rows: dict[bytes, RecordRow]) -> AsyncCursor[tuple[Any, ...]]:
    """Asks for the id and the fields of `Seen` of the rows that exist."""
    return await db.execute(
        """
        SELECT r.id, same.current, r.job_id = %(job)s, r.content_hash, r.entity_id,
               CASE WHEN NOT same.current THEN r.link_kinds END, CASE WHEN NOT same.current THEN r.link_ids END,
               CASE WHEN NOT same.current THEN r.payload::text END
        FROM unnest(%(ids)s, %(hashes)s, %(times)s) AS u(id, hash, occurred_at)
        JOIN historical_sync_syncrecord r ON r.id = u.id
        CROSS JOIN LATERAL (SELECT r.content_hash = u.hash OR r.occurred_at > u.occurred_at AS current) AS same
        """,
        {
            "job": lease.job_id,
            "ids": pg.uuids(list(rows)),
            "hashes": pg.uuids([row.hash for row in rows.values()]),
            "times": pg.timestamps([row.occurred_at for row in rows.values()]),
        },
        binary=True,
    )


async def _hold(db: Connection, lease: Lease) -> AsyncCursor[tuple[Any, ...]]:
    """Locks the chunk if the lease is still ours, and asks for the fields of `Held`."""
    return await db.execute(
        """
        SELECT progress, weight, records_processed + records_skipped + records_quarantined, records_quarantined, quarantine_forgiven,
               COALESCE((SELECT number FROM historical_sync_graphgeneration WHERE tenant_id = %s), 0)
        FROM historical_sync_syncchunk WHERE id = %s AND lease = %s AND status = 'running' FOR UPDATE
        """,
        [lease.tenant_id, lease.chunk_id, lease.token],
    )


async def _held(cursor: AsyncCursor[Any]) -> Held:
    """The chunk that `_hold` locked. Raises LeaseLost when it did not."""
    row = await cursor.fetchone()
    if row is None:
        raise LeaseLost
    return Held(*row)


def _too_many(held: Held, mapped: int, quarantined: int) -> str:
    """Why the chunk must fail, in words; "" when its records' shape is as expected."""
    bad = held.quarantined + quarantined - held.forgiven
    seen = held.seen + mapped + quarantined - held.forgiven
    if bad <= QUARANTINE_FLOOR or bad <= QUARANTINE_SHARE * seen:
        return ""
    return f"{bad:,} of {seen:,} records could not be mapped; they are in quarantine"


async def _add_records(db: Connection, lease: Lease, rows: Sequence[RecordRow], graph: GraphRows) -> None:
    """Writes records that are new. Should another chunk store the same one at the same moment, the key refuses the second one's, and
    its transaction is made again."""
    await db.execute(
        """
        INSERT INTO historical_sync_syncrecord (id, tenant_id, connection_id, job_id, stream, partition, external_id, occurred_at,
            entity_id, link_kinds, link_ids, payload, content_hash)
        SELECT u.id, %(tenant)s, %(connection)s, %(job)s, %(stream)s, %(partition)s, u.external_id, u.occurred_at,
               u.entity_id, u.link_kinds, (%(link_ids)s)[u.first:u.last], u.payload, u.hash
        FROM unnest(%(ids)s, %(external_ids)s, %(times)s, %(entities)s, %(link_kinds)s, %(firsts)s, %(lasts)s, %(payloads)s, %(hashes)s)
            AS u(id, external_id, occurred_at, entity_id, link_kinds, first, last, payload, hash)
        """,
        _columns(lease, rows, graph)
        | {
            "tenant": lease.tenant_id,
            "connection": lease.connection_id,
            "stream": lease.stream,
            "partition": lease.partition,
            "external_ids": pg.texts([r.external_id for r in rows]),
        },
    )


async def _revise_records(
    db: Connection, lease: Lease, rows: Sequence[RecordRow], graph: GraphRows, seen: Mapping[bytes, Seen]
) -> None:
    """Writes records anew that were stored before. Raises SerializationFailure when one is not as it was when it was looked up."""
    answer = await db.execute(
        """
        UPDATE historical_sync_syncrecord r
        SET job_id = %(job)s, occurred_at = u.occurred_at, entity_id = u.entity_id, link_kinds = u.link_kinds,
            link_ids = (%(link_ids)s)[u.first:u.last], payload = u.payload, content_hash = u.hash, stored_at = now()
        FROM unnest(%(ids)s, %(times)s, %(entities)s, %(link_kinds)s, %(firsts)s, %(lasts)s, %(payloads)s, %(hashes)s, %(known)s)
            AS u(id, occurred_at, entity_id, link_kinds, first, last, payload, hash, known)
        WHERE r.id = u.id AND r.content_hash = u.known RETURNING 1
        """,
        _columns(lease, rows, graph) | {"known": pg.uuids([seen[row.id].hash.bytes for row in rows])},
    )
    if len(await answer.fetchall()) < len(rows):
        raise errors.SerializationFailure("a record was written by another chunk meanwhile")


def _columns(lease: Lease, rows: Sequence[RecordRow], graph: GraphRows) -> dict[str, Any]:
    links = [graph.links.get(row.id, NO_LINKS) for row in rows]
    lasts = list(accumulate([len(link.ids) for link in links]))
    return {
        "job": lease.job_id,
        "ids": pg.uuids([r.id for r in rows]),
        "times": pg.timestamps([r.occurred_at for r in rows]),
        "entities": pg.uuids([graph.subjects[r.id] for r in rows]),
        "link_kinds": pg.words([link.kinds for link in links]),
        "link_ids": pg.uuids([key for link in links for key in link.ids]),
        "firsts": pg.integers([1, *[last + 1 for last in lasts[:-1]]]),
        "lasts": pg.integers(lasts),
        "payloads": pg.jsons([r.document for r in rows]),
        "hashes": pg.uuids([r.hash for r in rows]),
    }


def _version(row: RecordRow, before: Seen, graph: GraphRows) -> Version:
    now = {graph.subjects[row.id], *graph.links.get(row.id, NO_LINKS).ids}
    return Version(before.payload or "null", row.record.payload, before.ends() - now)


def _new_statements(
    added: Sequence[RecordRow], revised: Sequence[RecordRow], graph: GraphRows, seen: Mapping[bytes, Seen]
) -> Counter[str]:
    """How many statements nobody had made before, by kind."""
    counts: Counter[str] = Counter()
    rows = Counter(graph.links[row.id].kinds for row in added if row.id in graph.links)
    for kinds, times in rows.items():
        for kind in kinds.split():
            counts[kind.removeprefix("^")] += times
    for row in revised:
        kinds, ids = graph.links.get(row.id, NO_LINKS)
        before = seen[row.id]
        same_subject = before.subject is not None and before.subject.bytes == graph.subjects[row.id]
        known = before.statements() if same_subject else set()
        counts.update(
            kind.removeprefix("^") for kind, other in zip(kinds.split(), ids, strict=True) if (kind, other) not in known
        )
    return counts


async def _write_entities(db: Connection, lease: Lease, rows: Sequence[Any]) -> Counter[str]:
    """Writes entities in the order of their ids (no deadlocks); returns how many are new, by kind.

    A mention never changes what records of the entity's own say, and of mentions the one that says most is kept
    (`identity.name_rank`). A record of the entity's own counts when it is newer; equal times are decided by the record's id. So
    any order of pages ends in the same graph.
    """
    answer = await db.execute(
        f"""
        WITH written AS (
            INSERT INTO historical_sync_entity AS e (id, tenant_id, kind, key, name, properties, as_of, record_id)
            SELECT u.id, %(tenant)s, u.kind, u.key, u.name, u.properties, u.as_of, u.record_id
            FROM unnest(%(ids)s, %(kinds)s, %(keys)s, %(names)s, %(properties)s, %(times)s, %(records)s)
                AS u(id, kind, key, name, properties, as_of, record_id)
            WHERE u.as_of IS NOT NULL OR NOT EXISTS (
                SELECT FROM historical_sync_entity x
                WHERE x.id = u.id AND (x.as_of IS NOT NULL OR {NAME_RANK.format(e="x")} >= {NAME_RANK.format(e="u")}))
            ON CONFLICT (id) DO UPDATE
            SET kind = excluded.kind, name = excluded.name, properties = excluded.properties,
                as_of = excluded.as_of, record_id = excluded.record_id
            WHERE CASE
                WHEN excluded.as_of IS NOT NULL
                THEN e.as_of IS NULL OR (e.as_of, e.record_id) <= (excluded.as_of, excluded.record_id)
                ELSE e.as_of IS NULL AND {NAME_RANK.format(e="e")} < {NAME_RANK.format(e="excluded")} END
            RETURNING kind, xmax = 0 AS fresh
        )
        SELECT kind, count(*) FROM written WHERE fresh GROUP BY kind
        """,  # noqa: S608 - an expression of this project's own
        {
            "tenant": lease.tenant_id,
            "ids": pg.uuids([e.id for e in rows]),
            "kinds": pg.words([e.kind for e in rows]),
            "keys": pg.texts([e.key for e in rows]),
            "names": pg.texts([e.name for e in rows]),
            "properties": pg.jsonbs([e.properties for e in rows]),
            "times": pg.timestamps([e.as_of for e in rows]),
            "records": pg.nullable_uuids([e.record for e in rows]),
        },
    )
    return Counter(dict(await answer.fetchall()))


async def _merge(db: Connection, lease: Lease, aliases: Mapping[tuple[bytes, bytes], bool]) -> Counter[str]:
    """Makes the given keys mean the same thing; returns how many entities stopped standing for themselves, by kind.

    The keys of one thing form a group; the group is stood for by its least key (`identity.key_rank`), whoever tells of it first.
    A key without proof (a handle) leads to the least of the groups that use it and never joins two of them.
    The caller holds the tenant's merge lock and has written the entities.
    """
    answer = await db.execute(
        """
        INSERT INTO historical_sync_entityalias AS a (tenant_id, alias_id, entity_id, proof)
        SELECT %(tenant)s, * FROM unnest(%(aliases)s, %(entities)s, %(proofs)s::bool[])
        ON CONFLICT (alias_id, entity_id) DO UPDATE SET proof = true WHERE excluded.proof AND NOT a.proof
        RETURNING alias_id, entity_id
        """,
        {
            "tenant": lease.tenant_id,
            "aliases": pg.uuids([alias for alias, _ in aliases]),
            "entities": pg.uuids([node for _, node in aliases]),
            "proofs": list(aliases.values()),
        },
    )
    # Whoever held the lock before may have told of the same: what was there is led where it should be.
    news = {(alias.bytes, node.bytes) for alias, node in await answer.fetchall()}
    joined = [pair for pair, proof in aliases.items() if proof and pair in news]
    counts, roots = await _join(db, joined) if joined else (Counter(), [])
    handles = {alias for (alias, node), proof in aliases.items() if not proof and (alias, node) in news}
    if handles or roots:
        counts += await lead_handles(db, handles, roots)
    return counts


async def _join(db: Connection, pairs: Sequence[tuple[bytes, bytes]]) -> tuple[Counter[str], list[bytes]]:
    """Joins the groups of each two keys; returns how many stopped standing for themselves, by kind, and what they are now."""
    answer = await db.execute(
        """
        SELECT e.id, e.kind, e.key, e.merged_into FROM historical_sync_entity e
        WHERE e.id = ANY(%(ids)s)
           OR e.id IN (SELECT merged_into FROM historical_sync_entity WHERE id = ANY(%(ids)s) AND merged_into IS NOT NULL)
        """,
        {"ids": pg.uuids(list({node for pair in pairs for node in pair}))},
    )
    known = {key.bytes: (kind, text, into.bytes if into else None) for key, kind, text, into in await answer.fetchall()}
    parent = {node: into or node for node, (_, _, into) in known.items()}

    def root(node: bytes) -> bytes:
        while parent[node] != node:
            node = parent[node]
        return node

    for alias, node in pairs:
        if (a := root(alias)) != (b := root(node)):
            first, other = sorted((a, b), key=lambda group: key_rank(known[group][1]))
            parent[other] = first
    changed = sorted(node for node, (_, _, into) in known.items() if root(node) != (into or node))
    if not changed:
        return Counter(), []
    await db.execute(
        """
        UPDATE historical_sync_entity e SET merged_into = u.root
        FROM unnest(%(changed)s, %(roots)s) AS u(id, root)
        WHERE e.id = u.id OR e.merged_into = u.id
        """,
        {"changed": pg.uuids(changed), "roots": pg.uuids([root(n) for n in changed])},
    )
    gone = Counter(known[node][0] for node in changed if known[node][2] is None)
    return gone, sorted({root(node) for node in changed})


async def lead_handles(db: Connection, handles: Iterable[bytes], roots: Sequence[bytes]) -> Counter[str]:
    """Points handles, these and those of the groups' members, to the least group that uses them; how many did not lead anywhere
    before, by kind."""
    answer = await db.execute(
        f"""
        WITH handle AS (
            SELECT unnest(%(handles)s) AS id
            UNION
            SELECT a.alias_id FROM historical_sync_entityalias a
            WHERE NOT a.proof AND a.entity_id IN (
                SELECT id FROM historical_sync_entity WHERE id = ANY(%(roots)s) OR merged_into = ANY(%(roots)s))
        ),
        best AS (
            SELECT DISTINCT ON (a.alias_id) a.alias_id, root.id AS root
            FROM handle JOIN historical_sync_entityalias a ON a.alias_id = handle.id AND NOT a.proof
            JOIN historical_sync_entity e ON e.id = a.entity_id
            JOIN historical_sync_entity root ON root.id = COALESCE(e.merged_into, e.id)
            ORDER BY a.alias_id, {KEY_RANK.format(e="root")}
        ),
        moved AS (
            UPDATE historical_sync_entity h SET merged_into = best.root FROM best
            WHERE h.id = best.alias_id AND h.merged_into IS DISTINCT FROM best.root
        )
        SELECT h.id, h.kind, h.merged_into IS NULL FROM historical_sync_entity h JOIN best ON best.alias_id = h.id
        WHERE h.merged_into IS DISTINCT FROM best.root
        """,  # noqa: S608 - an expression of this project's own
        {"handles": pg.uuids(list(handles)), "roots": pg.uuids(roots)},
    )
    moved = await answer.fetchall()
    if moved:
        await lead_addresses(db, within=[key.bytes for key, _, _ in moved])
    return Counter(kind for _, kind, led_nowhere in moved if led_nowhere)


async def _write_addresses(db: Connection, lease: Lease, addresses: Mapping[bytes, tuple[str, bytes]]) -> None:
    """Keeps addresses, and where they lead if that is known. The caller holds the tenant's merge lock: who tells where a handle
    leads either sees them, or has been seen."""
    answer = await db.execute(
        """
        INSERT INTO historical_sync_address (id, tenant_id, key, within_id)
        SELECT u.id, %(tenant)s, u.key, u.within FROM unnest(%(ids)s, %(keys)s, %(within)s) AS u(id, key, within)
        ON CONFLICT DO NOTHING RETURNING id
        """,
        {
            "tenant": lease.tenant_id,
            "ids": pg.uuids(list(addresses)),
            "keys": pg.texts([key for key, _ in addresses.values()]),
            "within": pg.uuids([within for _, within in addresses.values()]),
        },
    )
    if news := [key.bytes for (key,) in await answer.fetchall()]:
        await lead_addresses(db, these=news)


async def lead_addresses(db: Connection, *, these: Sequence[bytes] = (), within: Sequence[bytes] = ()) -> None:
    """Points these addresses, and those of what lies `within` the handles, to the keys that they mean now."""
    answer = await db.execute(
        """
        SELECT a.id, a.tenant_id, a.key, a.leads_to, container.key FROM historical_sync_address a
        LEFT JOIN historical_sync_entity handle ON handle.id = a.within_id
        LEFT JOIN historical_sync_entity container ON container.id = handle.merged_into
        WHERE a.id = ANY(%s) OR a.within_id = ANY(%s)
        """,
        [pg.uuids(these), pg.uuids(within)],
    )
    moved: dict[bytes, bytes | None] = {}
    for address, tenant, key, before, container in await answer.fetchall():
        meant = located(key, container) if container else None
        now = entity_id(tenant.bytes, meant) if meant else None
        if now != (before.bytes if before else None):
            moved[address.bytes] = now
    if moved:
        await db.execute(
            """
            UPDATE historical_sync_address a SET leads_to = u.leads_to FROM unnest(%s, %s) AS u(id, leads_to) WHERE a.id = u.id
            """,
            [pg.uuids(list(moved)), pg.nullable_uuids(list(moved.values()))],
        )


async def _quarantine(db: Connection, lease: Lease, rejected: Sequence[Rejected]) -> int:
    """Keeps what could not be mapped, once a job; returns how many are new."""
    kept = 0
    for row in rejected:
        document = any_document(row.payload)
        answer = await db.execute(
            """
            INSERT INTO historical_sync_quarantinedrecord
                (id, tenant_id, job_id, chunk_id, stream, external_id, reason, fingerprint, sealed_payload, occurred_at)
            VALUES (gen_random_uuid(), %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1
            """,
            [
                lease.tenant_id,
                lease.job_id,
                lease.chunk_id,
                lease.stream,
                row.external_id[:512].replace("\0", "\ufffd"),
                row.reason[:2000].replace("\0", "\ufffd"),
                UUID(bytes=content_hash(document)),
                encrypt_document(document),
                row.occurred_at,
            ],
        )
        kept += len(await answer.fetchall())
    return kept


async def _advance(
    db: Connection,
    lease: Lease,
    batch: Pages,
    held: Held,
    written: Written,
    quarantined: int,
    phase: str,
    too_many: str,
) -> AsyncCursor[tuple[Any, ...]]:
    """Moves the chunk's cursor and every counter; last in the transaction, as it locks the job's row. Asks for `Saved`'s control,
    job_status and exhausted."""
    stored, unchanged = written.stored, written.unchanged
    entities, relationships = written.entities, written.relationships
    done = batch.done and not too_many
    progress = held.progress if too_many else 1.0 if done else max(held.progress, min(batch.progress, 0.99))
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
        "work": (progress - held.progress) * held.weight,
        "stored": stored,
        "unchanged": unchanged,
        "quarantined": quarantined,
        "entities": sum(entities.values()),
        "relationships": sum(relationships.values()),
        "entities_by_kind": Jsonb({k: n for k, n in entities.items() if n}),
        "relationships_by_kind": Jsonb({k: n for k, n in relationships.items() if n}),
        "phase": phase[:200],
        "done": done,
        "stay": bool(too_many),
        "new": stored + unchanged + quarantined > 0,
        "whole": batch.whole,
        "pace_seconds": PACE_SECONDS,
    }
    await db.execute(
        """
        UPDATE historical_sync_syncchunk
        SET cursor = CASE WHEN %(stay)s THEN cursor ELSE %(cursor)s END,
            position = CASE WHEN %(stay)s THEN position ELSE COALESCE(%(position)s, position) END,
            pages = pages + %(pages)s, progress = %(progress)s,
            restarts = CASE WHEN %(new)s THEN 0 ELSE restarts END,
            records_processed = records_processed + %(stored)s, records_skipped = records_skipped + %(unchanged)s,
            records_quarantined = records_quarantined + %(quarantined)s, attempts = 0, error_code = '', error_message = '',
            status = CASE WHEN %(done)s THEN 'completed' ELSE status END,
            lease = CASE WHEN %(done)s THEN NULL ELSE lease END,
            lease_until = CASE WHEN %(done)s THEN NULL ELSE clock_timestamp() + make_interval(secs => %(lease_seconds)s) END,
            completed_at = CASE WHEN %(done)s THEN clock_timestamp() END
        WHERE id = %(chunk)s
        """,
        values,
    )
    if done:
        # Up to the watermark of the job's start only; what was read whole has no beginning (see `coverage.py`).
        await db.execute(
            """
            INSERT INTO historical_sync_coverage AS c (id, tenant_id, connection_id, stream, partition, ranges)
            SELECT gen_random_uuid(), %(tenant)s, %(connection)s, %(stream)s, %(partition)s,
                   tstzmultirange(tstzrange(CASE WHEN NOT %(whole)s THEN chunk.since END, span.until))
            FROM historical_sync_syncchunk chunk
            JOIN historical_sync_historicalsyncjob job ON job.id = chunk.job_id
            CROSS JOIN LATERAL (SELECT COALESCE(job.watermark, job.created_at) AS mark) AS settled
            CROSS JOIN LATERAL (
                SELECT CASE WHEN %(whole)s THEN mark ELSE LEAST(chunk.until, mark) END AS until
            ) AS span
            WHERE chunk.id = %(chunk)s AND (%(whole)s OR chunk.since < span.until)
            ON CONFLICT (connection_id, stream, partition) DO UPDATE SET ranges = c.ranges + excluded.ranges
            """,
            values,
        )
    return await db.execute(
        """
        UPDATE historical_sync_historicalsyncjob
        SET records_processed = records_processed + %(stored)s, records_skipped = records_skipped + %(unchanged)s,
            records_quarantined = records_quarantined + %(quarantined)s,
            entities_extracted = entities_extracted + %(entities)s,
            relationships_extracted = relationships_extracted + %(relationships)s,
            entities_by_kind = CASE WHEN %(entities_by_kind)s = '{}'::jsonb THEN entities_by_kind
                ELSE atom_add_counts(entities_by_kind, %(entities_by_kind)s) END,
            relationships_by_kind = CASE WHEN %(relationships_by_kind)s = '{}'::jsonb THEN relationships_by_kind
                ELSE atom_add_counts(relationships_by_kind, %(relationships_by_kind)s) END,
            completed_chunks = completed_chunks + CASE WHEN %(done)s THEN 1 ELSE 0 END,
            progress = progress + %(work)s, revision = revision + 1, attempts = 0, waiting_until = NULL, phase_detail = %(phase)s,
            last_page_at = clock_timestamp(),
            earlier_pace_at = CASE WHEN pace_at IS NULL THEN clock_timestamp()
                WHEN pace_at < clock_timestamp() - make_interval(secs => %(pace_seconds)s) THEN pace_at ELSE earlier_pace_at END,
            earlier_pace_progress = CASE WHEN pace_at IS NULL THEN progress + %(work)s
                WHEN pace_at < clock_timestamp() - make_interval(secs => %(pace_seconds)s) THEN pace_progress
                ELSE earlier_pace_progress END,
            earlier_pace_records = CASE WHEN pace_at IS NULL THEN records_processed + records_skipped + %(stored)s + %(unchanged)s
                WHEN pace_at < clock_timestamp() - make_interval(secs => %(pace_seconds)s) THEN pace_records
                ELSE earlier_pace_records END,
            pace_progress = CASE WHEN pace_at IS NULL OR pace_at < clock_timestamp() - make_interval(secs => %(pace_seconds)s)
                THEN progress + %(work)s ELSE pace_progress END,
            pace_records = CASE WHEN pace_at IS NULL OR pace_at < clock_timestamp() - make_interval(secs => %(pace_seconds)s)
                THEN records_processed + records_skipped + %(stored)s + %(unchanged)s ELSE pace_records END,
            pace_at = CASE WHEN pace_at IS NULL OR pace_at < clock_timestamp() - make_interval(secs => %(pace_seconds)s)
                THEN clock_timestamp() ELSE pace_at END
        WHERE id = %(job)s
        RETURNING control, status, COALESCE(records_processed >= records_allowance, false)
        """,
        values,
    )
