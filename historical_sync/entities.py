"""Entities in the database: what records say of them, whichever comes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from historical_sync.database import Connection
from historical_sync.identity import NAME_RANK
from historical_sync.pgarrays import BinaryArray


async def write_entities(
    db: Connection, tenant_id: str, columns: Mapping[str, BinaryArray]
) -> tuple[Counter[str], list[bytes]]:
    """Writes entities in the order of their ids (no deadlocks): columns as in `Mapped.entities`. Returns how many new ones stand for
    themselves, by kind, and the ids of those new ones that are keys of another from the start.

    A mention never changes what records of the entity's own say, and of mentions the one that says most is kept
    (`identity.name_rank`). A record of the entity's own counts when it is newer; equal times are decided by the record's id. So
    any order of pages ends in the same graph.
    """
    answer = await db.execute(
        f"""
        WITH written AS (
            INSERT INTO historical_sync_entity AS e (id, tenant_id, kind, key, name, properties, as_of, record_id, merged_into)
            SELECT u.id, %(tenant)s, u.kind, u.key, u.name, u.properties, u.as_of, u.record_id,
                   CASE WHEN u.leads_to IS NOT NULL THEN COALESCE(
                       (SELECT COALESCE(one.merged_into, one.id) FROM historical_sync_entity one WHERE one.id = u.leads_to), u.leads_to) END
            FROM unnest(%(ids)s, %(kinds)s, %(keys)s, %(names)s, %(properties)s, %(times)s, %(records)s, %(leads_to)s)
                AS u(id, kind, key, name, properties, as_of, record_id, leads_to)
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
            RETURNING id, kind, merged_into, xmax = 0 AS fresh
        )
        SELECT kind, count(*) FILTER (WHERE merged_into IS NULL), array_agg(id) FILTER (WHERE merged_into IS NOT NULL)
        FROM written WHERE fresh GROUP BY kind
        """,  # noqa: S608 - an expression of this project's own
        {"tenant": tenant_id, **columns},
        binary=True,
    )
    found = await answer.fetchall()
    return Counter({kind: n for kind, n, _ in found}), [key.bytes for _, _, keys in found for key in keys or ()]
