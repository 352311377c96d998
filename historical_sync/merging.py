"""Groups of keys in the database (`groups.py`), where handles lead, and which things addresses mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from historical_sync import pgarrays as pg
from historical_sync.database import Connection
from historical_sync.groups import KEY_RANK, joined_by
from historical_sync.identity import entity_id
from integrations.providers.links import located


async def merge(
    db: Connection, tenant_id: str, aliases: Mapping[tuple[bytes, bytes], bool], led: Mapping[bytes, bytes]
) -> Counter[str]:
    """Makes the given keys mean the same thing; returns how many entities stopped standing for themselves, by kind.

    The keys of one thing form a group; the group is stood for by its least key (`groups.key_rank`), whoever tells of it first.
    A key without proof (a handle) leads to the least of the groups that use it and never joins two of them.
    The caller holds the tenant's merge lock and has written the entities. led: those that were new, and to what they lead already.
    """
    answer = await db.execute(
        """
        INSERT INTO historical_sync_entityalias AS a (tenant_id, alias_id, entity_id, proof)
        SELECT %(tenant)s, * FROM unnest(%(aliases)s, %(entities)s, %(proofs)s::bool[])
        ON CONFLICT (alias_id, entity_id) DO UPDATE SET proof = true WHERE excluded.proof AND NOT a.proof
        RETURNING alias_id, entity_id
        """,
        {
            "tenant": tenant_id,
            "aliases": pg.uuids([alias for alias, _ in aliases]),
            "entities": pg.uuids([node for _, node in aliases]),
            "proofs": list(aliases.values()),
        },
    )
    # Whoever held the lock before may have told of the same: what was there is led where it should be.
    news = {(alias.bytes, node.bytes) for alias, node in await answer.fetchall()}
    joined = [
        (alias, node)
        for (alias, node), proof in aliases.items()
        if proof and (alias, node) in news and led.get(alias) != node
    ]
    counts, roots = await _join(db, joined) if joined else (Counter(), [])
    handles = [pair for pair, proof in aliases.items() if not proof and pair in news]
    # What is new and has one user was written as what it leads to, and who joins groups leads theirs.
    unsettled = {alias for alias, node in handles if led.get(alias) != node}
    if unsettled or roots:
        counts += await lead_handles(db, unsettled, roots)
    if new := {alias for alias, _ in handles if alias in led}:
        await lead_addresses(db, within=list(new))
    return counts


async def _join(db: Connection, pairs: Sequence[tuple[bytes, bytes]]) -> tuple[Counter[str], list[bytes]]:
    """Joins the groups of each two keys; returns how many stopped standing for themselves, by kind, and what they are now."""
    answer = await db.execute(
        """
        WITH named AS (SELECT id, kind, key, merged_into FROM historical_sync_entity WHERE id = ANY(%(ids)s))
        SELECT * FROM named
        UNION
        SELECT root.* FROM named
        CROSS JOIN LATERAL (
            SELECT id, kind, key, merged_into FROM historical_sync_entity WHERE id = named.merged_into OFFSET 0) AS root
        """,
        {"ids": pg.uuids(list({node for pair in pairs for node in pair}))},
    )
    known = {key.bytes: (kind, text, into.bytes if into else None) for key, kind, text, into in await answer.fetchall()}
    before = {node: into or node for node, (_, _, into) in known.items()}
    now = joined_by(pairs, before, {node: text for node, (_, text, _) in known.items()})
    changed = sorted(node for node in known if now[node] != before[node])
    if not changed:
        return Counter(), []
    answer = await db.execute(
        """
        SELECT member.id, u.root FROM unnest(%(changed)s, %(roots)s) AS u(id, root)
        CROSS JOIN LATERAL (SELECT id FROM historical_sync_entity WHERE merged_into = u.id OFFSET 0) AS member
        """,
        {"changed": pg.uuids(changed), "roots": pg.uuids([now[node] for node in changed])},
    )
    moved = {node: now[node] for node in changed}
    moved |= {member.bytes: root.bytes for member, root in await answer.fetchall()}
    await db.execute(
        """
        UPDATE historical_sync_entity e SET merged_into = u.root FROM unnest(%(moved)s, %(roots)s) AS u(id, root) WHERE e.id = u.id
        """,
        {"moved": pg.uuids(list(moved)), "roots": pg.uuids(list(moved.values()))},
    )
    gone = Counter(known[node][0] for node in changed if known[node][2] is None)
    return gone, sorted({now[node] for node in changed})


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
            -- Not COALESCE: past a row-level policy PostgreSQL makes no index condition of it, and reads every tenant's entities.
            JOIN historical_sync_entity root ON root.id = CASE WHEN e.merged_into IS NULL THEN e.id ELSE e.merged_into END
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


async def write_addresses(db: Connection, tenant_id: str, addresses: Mapping[bytes, tuple[str, bytes]]) -> None:
    """Keeps addresses, and where they lead if that is known. The caller holds the tenant's merge lock: who tells where a handle
    leads either sees them, or has been seen."""
    answer = await db.execute(
        """
        INSERT INTO historical_sync_address (id, tenant_id, key, within_id)
        SELECT u.id, %(tenant)s, u.key, u.within FROM unnest(%(ids)s, %(keys)s, %(within)s) AS u(id, key, within)
        ON CONFLICT DO NOTHING RETURNING id
        """,
        {
            "tenant": tenant_id,
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
