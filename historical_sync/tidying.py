"""Takes out of the graph exactly what nobody says any more: what only one connection brought, or only a former version of a record.

The graph is a function of the records, so what is left is found from what is left of them:

    records of the connection go, with their statements (`removing.py`); every entity that they spoke of is stale, and so is one of which
    an updated record no longer says all that it said (`stale.py`)
    -> stale entities of which no record is left go, hundreds at a time
    -> the remaining records of the others are mapped again: they say whether it is there, what it is called and by which keys
    -> the groups of keys that lost a key or a reason to be one are made anew

All of it in transactions of a bounded size that keep out who adds to the graph for as long as each takes. They can end anywhere:
what is stale stays so until it has been looked at. The road not taken: a row for every mention of every entity would say the
same without mapping again, and double what an import writes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from historical_sync import pgarrays as pg
from historical_sync.database import Connection, Pool, retried, tenant_transaction
from historical_sync.extraction import Ids, time_of_word
from historical_sync.groups import joined_by
from historical_sync.identity import name_rank, placeholder
from historical_sync.merging import lead_addresses, lead_handles
from historical_sync.models import HistoricalSyncJob
from historical_sync.stale import mark
from integrations import gateway, providers
from integrations.errors import UNMAPPABLE
from integrations.providers.base import Context, Entity, Graph, Partition, Provider

STALE_AT_ONCE = 500
ENTITIES_AT_ONCE = 50  # of these, whose remaining records are mapped again
WITNESSES_AT_ONCE = 200

Read = Callable[[Connection, "Witness"], Awaitable[Graph | None]]


@dataclass(frozen=True, slots=True)
class Witness:
    """A record that may speak of a stale entity."""

    id: UUID
    connection_id: UUID
    stream: str
    partition: str
    occurred_at: datetime
    payload: Any
    stored_at: datetime
    gone_at: datetime | None = None


async def tidy(
    pool: Pool, tenant_id: str, read: Read | None = None, give_way: Callable[[], Awaitable[bool]] | None = None
) -> bool:
    """Finds all of the tenant's stale entities anew. read: maps a record; for tests. give_way: whether to leave off after some; False
    when it did."""
    read = read or Reader()
    while await _rebuild(pool, tenant_id, read):
        if give_way is not None and await give_way():
            return False
    return True


async def alone(db: Connection, tenant_id: str) -> None:
    """Waits for who adds to the tenant's graph, and keeps others out until the transaction ends."""
    await db.execute("SELECT pg_advisory_xact_lock(hashtextextended('graph ' || %s, 0))", [tenant_id])


async def new_generation(db: Connection, tenant_id: str) -> None:
    """Voids what workers remember of the tenant's graph."""
    await db.execute(
        """
        INSERT INTO historical_sync_graphgeneration AS g (tenant_id, number) VALUES (%s, 1)
        ON CONFLICT (tenant_id) DO UPDATE SET number = g.number + 1
        """,
        [tenant_id],
    )


@retried
async def _rebuild(pool: Pool, tenant_id: str, read: Read) -> bool:
    """Finds some stale entities anew; False when there were none."""
    async with tenant_transaction(pool, tenant_id, "remove") as cursor:
        db = cursor.connection
        await alone(db, tenant_id)
        found = await db.execute(
            "SELECT entity_id, aliases FROM historical_sync_staleentity WHERE tenant_id = %s LIMIT %s",
            [tenant_id, STALE_AT_ONCE],
        )
        stale = dict(await found.fetchall())
        if not stale:
            return False
        spoken_of = await _spoken_of(db, tenant_id, list(stale))
        silent = [key for key in stale if key not in spoken_of]
        silent += await _silent_aliases(db, tenant_id, silent)
        heard = sorted(spoken_of)[:ENTITIES_AT_ONCE]
        await db.execute("DELETE FROM historical_sync_staleentity WHERE entity_id = ANY(%s)", [[*silent, *heard]])
        groups, doomed = await _fall_silent(db, tenant_id, silent)
        changed = bool(groups or doomed)
        ids = Ids(UUID(tenant_id).bytes)
        for key in heard:
            if (lost := await _look_again(db, tenant_id, key, stale[key], ids, read, doomed)) is not None:
                groups |= lost
                changed = True
        if changed:
            await _regroup(db, groups, doomed)
            await new_generation(db, tenant_id)
        await db.execute(
            """
            DELETE FROM historical_sync_address a
            WHERE id = ANY(%s) AND NOT EXISTS (SELECT FROM atom_records_linking(%s, ARRAY[a.id], 1))
            """,
            [[*silent, *heard], tenant_id],
        )
    return True


async def _spoken_of(db: Connection, tenant_id: str, entities: Sequence[UUID]) -> set[UUID]:
    """Those of the entities that a record is about or says something of."""
    found = await db.execute(
        "SELECT DISTINCT entity_id FROM historical_sync_syncrecord WHERE entity_id = ANY(%s)", [entities]
    )
    about = {key for (key,) in await found.fetchall()}
    found = await db.execute(
        """
        SELECT r.link_ids FROM atom_records_linking(%s, %s::uuid[], %s) AS speaks(id)
        JOIN historical_sync_syncrecord r ON r.id = speaks.id
        """,
        [tenant_id, entities, STALE_AT_ONCE],
    )
    links = [ends for (ends,) in await found.fetchall()]
    if len(links) < STALE_AT_ONCE:
        return about | {key for ends in links for key in ends}.intersection(entities)
    # Some of them are spoken of by more records than are worth reading.
    found = await db.execute(
        """
        SELECT key FROM unnest(%s::uuid[]) AS key WHERE EXISTS (SELECT FROM atom_records_linking(%s, ARRAY[key], 1))
        """,
        [entities, tenant_id],
    )
    return about | {key for (key,) in await found.fetchall()}


async def _silent_aliases(db: Connection, tenant_id: str, entities: Sequence[UUID]) -> list[UUID]:
    """Other keys of the entities of which no record speaks either: they go with them."""
    found = await db.execute(
        "SELECT DISTINCT alias_id FROM historical_sync_entityalias WHERE entity_id = ANY(%(ids)s) AND NOT alias_id = ANY(%(ids)s)",
        {"ids": entities},
    )
    aliases = [alias for (alias,) in await found.fetchall()]
    spoken_of = await _spoken_of(db, tenant_id, aliases) if aliases else set()
    return [alias for alias in aliases if alias not in spoken_of]


async def _fall_silent(db: Connection, tenant_id: str, entities: Sequence[UUID]) -> tuple[set[UUID], list[UUID]]:
    """Writes that no record speaks of the entities any more: they are what others call by these keys, or nothing. Returns the groups
    to make anew, by what stands for them, and those that are to go."""
    found = await db.execute(
        "SELECT id, key, COALESCE(merged_into, id) FROM historical_sync_entity WHERE id = ANY(%s)", [entities]
    )
    there = {key: (text, group) for key, text, group in await found.fetchall()}
    found = await db.execute(
        "DELETE FROM historical_sync_entityalias WHERE entity_id = ANY(%s) RETURNING alias_id, entity_id", [list(there)]
    )
    lost = await found.fetchall()
    groups = {there[key][1] for _, key in lost}
    aliases = list({alias for alias, _ in lost})
    groups |= await _groups_of(db, aliases)
    await mark(db, tenant_id, dict.fromkeys(alias.bytes for alias in aliases if alias not in there))
    evidence: dict[UUID, Evidence] = {}
    for key, of_kind in await _called(db, list(there)):
        evidence.setdefault(key, Evidence()).call(there[key][0], of_kind)
    for key, mentions in evidence.items():
        await _write(db, key, mentions)
    doomed = [key for key in there if key not in evidence]
    return groups | {there[key][1] for key in doomed}, doomed


async def _groups_of(db: Connection, keys: Sequence[UUID]) -> set[UUID]:
    """What stands for the keys."""
    found = await db.execute("SELECT COALESCE(merged_into, id) FROM historical_sync_entity WHERE id = ANY(%s)", [keys])
    return {group for (group,) in await found.fetchall()}


async def _called(db: Connection, keys: Sequence[UUID]) -> list[tuple[Any, ...]]:
    """Each key that others are called by as well, with their kind: who says that speaks of it, too."""
    found = await db.execute(
        """
        SELECT a.alias_id, e.kind FROM historical_sync_entityalias a JOIN historical_sync_entity e ON e.id = a.entity_id
        WHERE a.alias_id = ANY(%s)
        """,
        [keys],
    )
    return await found.fetchall()


@dataclass(slots=True)
class Evidence:
    """What records say of one entity. own: (as of, record, kind, name, properties); name: (kind, name) of the best mention. is_there: own
    is the word of a record that is not gone, which counts more than that of any that is."""

    own: tuple[datetime, UUID, str, str, Any] | None = None
    name: tuple[str, str] | None = None
    aliases: set[tuple[UUID, bool]] = field(default_factory=set)
    is_there: bool = False

    def hear(self, entity: Entity, witness: Witness, moment: datetime, ids: Ids) -> None:
        if entity.properties is not None:
            own = (moment, witness.id, entity.kind, entity.name, entity.properties)
            is_there = witness.gone_at is None
            if self.own is None or (self.is_there, *self.own[:2]) <= (is_there, *own[:2]):
                self.own, self.is_there = own, is_there
        else:
            self.mention(entity.key, entity.kind, entity.name)
        self.aliases |= {(UUID(bytes=ids[alias]), True) for alias in entity.aliases}
        self.aliases |= {(UUID(bytes=ids[handle]), False) for handle in entity.handles}

    def says_all_of(self, other: Evidence) -> bool:
        if other.own is not None:
            same = self.own is not None and self.own[:2] == other.own[:2]
            return self.is_there and same and other.aliases <= self.aliases
        return self.name == other.name and other.aliases <= self.aliases

    def call(self, key: str, kind: str) -> None:
        """Somebody of that kind is said to go by that key, too."""
        self.mention(key, kind, placeholder(key))

    def mention(self, key: str, kind: str, name: str) -> None:
        if self.name is None or name_rank(key, *self.name) < name_rank(key, kind, name):
            self.name = (kind, name)


async def _look_again(
    db: Connection,
    tenant_id: str,
    entity_id: UUID,
    aliases: list[UUID] | None,
    ids: Ids,
    read: Read,
    doomed: list[UUID],
) -> set[UUID] | None:
    """Writes what the remaining records say of the entity; adds it to `doomed` if they say nothing. Returns the groups to make
    anew, by what stands for them; None if all is as it was.

    aliases: those in doubt, None for all of the entity's.
    """
    found = await db.execute(
        "SELECT kind, key, name, properties, as_of, record_id, merged_into FROM historical_sync_entity WHERE id = %s",
        [entity_id],
    )
    row = await found.fetchone()
    if row is None:
        return None
    kind, key, name, properties, as_of, record_id, merged_into = row
    found = await db.execute(
        """
        SELECT alias_id, proof FROM historical_sync_entityalias
        WHERE entity_id = %(entity)s AND (%(aliases)s::uuid[] IS NULL OR alias_id = ANY(%(aliases)s))
        """,
        {"entity": entity_id, "aliases": aliases},
    )
    own = None if as_of is None else (as_of, record_id, kind, name, properties)
    stored = Evidence(own, (kind, name), set(await found.fetchall()))
    evidence = await _hear(db, tenant_id, entity_id, key, stored, ids, read)
    if evidence is None:
        return None
    groups: set[UUID] = set()
    if lost := [alias for alias, _ in stored.aliases - evidence.aliases]:
        await db.execute(
            "DELETE FROM historical_sync_entityalias WHERE entity_id = %s AND alias_id = ANY(%s)", [entity_id, lost]
        )
        await mark(db, tenant_id, dict.fromkeys(alias.bytes for alias in lost))
        groups = await _groups_of(db, [entity_id, *lost])
    if evidence.own is None and evidence.name is None:
        doomed.append(entity_id)
        return groups | {merged_into or entity_id}
    await _write(db, entity_id, evidence)
    return groups


async def _hear(
    db: Connection,
    tenant_id: str,
    entity_id: UUID,
    key: str,
    stored: Evidence,
    ids: Ids,
    read: Read,
) -> Evidence | None:
    """What the remaining records say of the entity; None if that is all that is `stored` of it.

    What is kept is the greatest of all that was ever said: once somebody still says it, the others need not be heard.
    """
    evidence = Evidence()
    for _, of_kind in await _called(db, [entity_id]):
        evidence.call(key, of_kind)
    async with aclosing(_witnesses(db, tenant_id, entity_id, stored.own and stored.own[1])) as witnesses:
        async for witness in witnesses:
            graph = await read(db, witness)
            moment = time_of_word(witness.occurred_at, graph) if graph else witness.occurred_at
            for entity in graph.entities if graph else ():
                if ids[entity.key] == entity_id.bytes:
                    evidence.hear(entity, witness, moment, ids)
            if evidence.says_all_of(stored):
                return None
    return evidence


async def _write(db: Connection, entity_id: UUID, evidence: Evidence) -> None:
    """The entity as what is left says it is."""
    if evidence.own is not None:
        moment, record, kind, name, properties = evidence.own
        values = [kind, name, pg.jsonbs([orjson.dumps(properties)]), moment, record]
    else:
        assert evidence.name is not None, "somebody speaks of it"
        values = [*evidence.name, pg.jsonbs([b"{}"]), None, None]
    await db.execute(
        """
        UPDATE historical_sync_entity SET kind = %s, name = %s, properties = (%s)[1], as_of = %s, record_id = %s WHERE id = %s
        """,
        [*values, entity_id],
    )


async def _witnesses(db: Connection, tenant_id: str, entity_id: UUID, first: UUID | None) -> AsyncGenerator[Witness]:
    """The records that are about the entity or say something of it, `first` before all others.

    Some are asked for before all are, which come again then: mostly the first one says it.
    """
    columns = "r.id, r.connection_id, r.stream, r.partition, r.occurred_at, r.payload, r.stored_at, r.gone_at"
    if first is not None:
        found = await db.execute(
            f"SELECT {columns} FROM historical_sync_syncrecord r WHERE r.id = %s",  # noqa: S608
            [first],
        )
        for row in await found.fetchall():
            yield Witness(*row)
    for most in (WITNESSES_AT_ONCE, None):
        came = 0
        async with db.cursor("witnesses") as found:
            await found.execute(
                f"""
                (SELECT {columns} FROM historical_sync_syncrecord r WHERE r.entity_id = %(entity)s LIMIT %(most)s::int)
                UNION ALL
                SELECT {columns} FROM atom_records_linking(%(tenant)s, ARRAY[%(entity)s], %(most)s::int) AS speaks(id)
                JOIN historical_sync_syncrecord r ON r.id = speaks.id
                """,  # noqa: S608 - names of this function's own
                {"entity": entity_id, "tenant": tenant_id, "most": most},
            )
            while rows := await found.fetchmany(WITNESSES_AT_ONCE):
                came += len(rows)
                for row in rows:
                    yield Witness(*row)
        if came < WITNESSES_AT_ONCE:
            return


async def _regroup(db: Connection, groups: set[UUID], doomed: Sequence[UUID]) -> None:
    """Takes the doomed out and finds anew which of the groups' remaining keys are one thing."""
    found = await db.execute(
        """
        SELECT e.id, e.key, e.merged_into,
               EXISTS (SELECT FROM historical_sync_entityalias a WHERE a.alias_id = e.id AND NOT a.proof)
        FROM historical_sync_entity e WHERE (id = ANY(%(groups)s) OR merged_into = ANY(%(groups)s)) AND NOT id = ANY(%(doomed)s)
        """,
        {"groups": list(groups), "doomed": list(doomed)},
    )
    rows = await found.fetchall()
    await db.execute("DELETE FROM historical_sync_entity WHERE id = ANY(%s)", [list(doomed)])
    keys = {key: text for key, text, _, _ in rows}
    found = await db.execute(
        "SELECT alias_id, entity_id FROM historical_sync_entityalias WHERE proof AND alias_id = ANY(%(keys)s) AND entity_id = ANY(%(keys)s)",
        {"keys": list(keys)},
    )
    stands = joined_by(await found.fetchall(), {key: key for key in keys}, keys)
    now = {key: None if root == key else root for key, root in stands.items()}
    changed = [key for key, _, into, _ in rows if into != now[key]]
    await db.execute(
        """
        UPDATE historical_sync_entity e SET merged_into = u.root FROM unnest(%s::uuid[], %s::uuid[]) AS u(id, root)
        WHERE e.id = u.id
        """,
        [changed, [now[key] for key in changed]],
    )
    handles = [key.bytes for key, _, _, is_handle in rows if is_handle]
    await lead_handles(db, handles, [root.bytes for root in stands.values()])
    await lead_addresses(db, within=[key.bytes for key in [*keys, *doomed]])


class Reader:
    """Maps stored records again, each as its stream did: calling it gives the record's graph, None if it can't be mapped.

    It asks over the connection that it is called with: a second one of the pool, while the first one holds the tenant's graph, may
    be waited for by those who wait for the graph.
    """

    def __init__(self) -> None:
        self.accounts: dict[UUID, tuple[Provider, str, dict[tuple[str, str], Partition]]] = {}

    async def __call__(self, db: Connection, witness: Witness) -> Graph | None:
        provider, namespace, partitions = await self._account(db, witness.connection_id)
        partition = partitions.get((witness.stream, witness.partition), Partition(witness.partition))
        try:
            stream = provider.stream(witness.stream)
            said = stream.extract(witness.payload, Context(namespace, partition))
        except UNMAPPABLE:
            return None
        if stream.as_read:
            said.later = (witness.stored_at - witness.occurred_at) // timedelta(microseconds=1)
        own = said.entities[0]
        if witness.gone_at is not None and own.properties is not None:
            said.entities[0] = own._replace(properties={**own.properties, "deleted": True})
        return said

    async def _account(
        self, db: Connection, connection_id: UUID
    ) -> tuple[Provider, str, dict[tuple[str, str], Partition]]:
        if connection_id not in self.accounts:
            found = await db.execute(
                "SELECT provider, base_url, external_account_id FROM integrations_connection WHERE id = %s",
                [connection_id],
            )
            row = await found.fetchone()
            if row is None:
                raise LookupError(f"records of a connection that is not there: {connection_id}")
            found = await db.execute(
                f"""
                SELECT DISTINCT ON (c.stream, c.partition) c.stream, c.partition, c.partition_label, c.partition_facts
                FROM historical_sync_syncchunk c JOIN {HistoricalSyncJob._meta.db_table} job ON job.id = c.job_id
                WHERE job.connection_id = %s ORDER BY c.stream, c.partition, job.created_at DESC
                """,  # noqa: S608 - a table's name
                [connection_id],
            )
            parts = {
                (stream, key): Partition(key, label, facts) for stream, key, label, facts in await found.fetchall()
            }
            provider = providers.get(row[0])
            self.accounts[connection_id] = (provider, gateway.namespace(provider, row[1], row[2]), parts)
        return self.accounts[connection_id]
