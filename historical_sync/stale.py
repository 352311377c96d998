"""What records said of entities and no longer say, and the marks that have those entities looked at anew (`tidying.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import orjson

from historical_sync import pgarrays as pg
from historical_sync.database import Connection
from historical_sync.extraction import Ids, RecordRow, time_of_word
from integrations.errors import UNMAPPABLE
from integrations.providers.base import Context, Extract, Graph

# Entity id -> the aliases that may have lost their witness; None: any of them.
Doubts = dict[bytes, set[bytes] | None]


@dataclass(slots=True)
class _Said:
    """What one record says of one entity."""

    is_own: bool = False
    names: set[tuple[str, str]] = field(default_factory=set)
    aliases: set[tuple[str, bool]] = field(default_factory=set)


def _said(graph: Graph) -> dict[str, _Said]:
    found: dict[str, _Said] = {}
    for entity in graph.entities:
        said = found.setdefault(entity.key, _Said())
        if entity.properties is not None:
            said.is_own = True
        else:
            said.names.add((entity.kind, entity.name))
        said.aliases |= {(alias, True) for alias in entity.aliases} | {(handle, False) for handle in entity.handles}
    return found


class Version(NamedTuple):
    """An update of a record. before, was_at: its JSON and its time as they were; gone: what it spoke of, and speaks of no more."""

    before: str
    was_at: datetime
    now: RecordRow
    gone: set[bytes]


def withdrawn(versions: Iterable[Version], extract: Extract, context: Context, ids: Ids) -> Doubts:
    """What updates took back.

    What a record spoke of without its former JSON saying so is in doubt altogether: it was mapped otherwise then. And a record whose
    word has become older may have been the newest of its entity.
    """
    doubts: Doubts = {}
    for version in versions:
        explained: dict[str, _Said] = {}
        graph = extract(version.now.payload, context)
        still, moment, before = _said(graph), time_of_word(version.now.occurred_at, graph), version.was_at
        with suppress(*UNMAPPABLE):
            graph = extract(orjson.loads(version.before), context)
            explained, before = _said(graph), time_of_word(before, graph)
        for key, was in explained.items():
            now = still.get(key, _Said())
            lost = {ids[alias] for alias, _ in was.aliases - now.aliases}
            older = was.is_own and moment < before
            if lost or older or key not in still or (not now.is_own and (was.is_own or was.names - now.names)):
                _doubt(doubts, ids[key], lost)
        known = {ids[key] for key in explained}
        for end in version.gone:
            _doubt(doubts, end, set() if end in known else None)
    return doubts


def _doubt(doubts: Doubts, entity: bytes, aliases: set[bytes] | None) -> None:
    before = doubts.get(entity, set())
    doubts[entity] = None if aliases is None or before is None else before | aliases


async def mark(db: Connection, tenant_id: str, doubts: Mapping[bytes, Iterable[bytes] | None]) -> None:
    """Has the entities looked at anew."""
    rows = [(entity, alias) for entity, aliases in doubts.items() for alias in (*(aliases or ()), None)]
    await db.execute(
        """
        INSERT INTO historical_sync_staleentity AS s (tenant_id, entity_id, aliases)
        SELECT %(tenant)s, u.entity, CASE WHEN u.entity = ANY(%(wholly)s) THEN NULL ELSE array_remove(array_agg(u.alias), NULL) END
        FROM unnest(%(entities)s, %(aliases)s) AS u(entity, alias) GROUP BY u.entity ORDER BY u.entity
        ON CONFLICT (entity_id) DO UPDATE SET aliases =
            -- Any of them stays any of them: NULL || a list would be that list alone.
            CASE WHEN s.aliases IS NULL OR excluded.aliases IS NULL THEN NULL ELSE s.aliases || excluded.aliases END
        """,
        {
            "tenant": tenant_id,
            "entities": pg.uuids([entity for entity, _ in rows]),
            "aliases": pg.nullable_uuids([alias for _, alias in rows]),
            "wholly": pg.uuids([entity for entity, aliases in doubts.items() if aliases is None]),
        },
    )
