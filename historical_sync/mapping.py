"""From a batch's records to columns of what they say, ready for PostgreSQL. Pure but for what it remembers to be stored.

It needs no database and no Django, so that a process of its own can do it (`mapping_process.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import NamedTuple

from historical_sync import pgarrays as pg
from historical_sync.extraction import EntityRow, Mappable, RecordRow, Said, graph_rows
from historical_sync.groups import leads_of_new
from historical_sync.memory import Memory
from integrations.providers.base import Context, Extract

Columns = dict[str, pg.BinaryArray]  # by the name of the statement's parameter


@dataclass(frozen=True, slots=True)
class Where:
    """Whose records are mapped. generation: of the tenant's graph. read_at: as in `extraction.graph_rows`."""

    tenant_id: str
    generation: int
    stream: str
    context: Context
    read_at: int | None = None


class Mapped(NamedTuple):
    """What a batch says.

    added, revised: columns of what the records that are new, and those that were stored before, say, in the order in which they came
    and without those that are rejected; None where there are none. statements: of the new ones, by kind. said: of the revised ones, by
    record id. entities: columns, None where there are none. leads: of which entities the batch's keys are others, for those that turn out to be
    new. aliases, addresses, rejected: as in `GraphRows`.
    """

    added: Columns | None
    revised: Columns | None
    statements: Counter[str]
    said: dict[bytes, Said]
    entities: Columns | None
    leads: dict[bytes, bytes]
    aliases: dict[tuple[bytes, bytes], bool]
    addresses: dict[bytes, tuple[str, bytes]]
    rejected: list[tuple[bytes, str]]


class Mapper:
    """Maps in the worker's process. memory: what the worker knows to be stored."""

    def __init__(self) -> None:
        self.memory = Memory()

    async def map(
        self, rows: Sequence[RecordRow], revised: Collection[bytes], where: Where, extract: Extract
    ) -> tuple[Mapped, Callable[[], None]]:
        """What `map_rows` returns."""
        return map_rows([row[:3] for row in rows], revised, where, extract, self.memory)

    def forget(self, tenant_id: str) -> None:
        """What was remembered of the tenant may not be so."""
        self.memory.forget(tenant_id)

    def forget_all(self) -> None:
        """The same of every tenant."""
        self.memory.forget_all()


def map_rows(
    rows: Sequence[Mappable],
    revised: Collection[bytes],
    where: Where,
    extract: Extract,
    memory: Memory,
) -> tuple[Mapped, Callable[[], None]]:
    """What `rows` say. revised: ids of those that are stored already. Call what comes with it once all that is committed: it need not be
    told again then."""
    known = memory.of(where.tenant_id, where.generation)
    graph = graph_rows(
        rows,
        extract,
        where.context,
        known.ids,
        told=known.told,
        mentioned=known.mentioned,
        merged=known.merged,
        read_at=where.read_at,
    )
    entities = sorted(graph.entities.values())

    def remember() -> None:
        known.told.update(graph.told)
        known.mentioned.update({entity.id: (entity.kind, entity.name) for entity in entities if entity.as_of is None})
        known.merged.update(graph.aliases)

    again = {key: graph.said[key] for key in graph.said if key in revised} if revised else {}
    added = [said for key, said in graph.said.items() if key not in again] if again else list(graph.said.values())
    leads = leads_of_new(graph.aliases, graph.entities)
    mapped = Mapped(
        added=_said_columns(added) if added else None,
        revised=_said_columns(again.values()) if again else None,
        statements=_statements(added),
        said=again,
        entities=_entity_columns(entities, leads) if entities else None,
        leads=leads,
        aliases=graph.aliases,
        addresses=graph.addresses,
        rejected=graph.rejected,
    )
    return mapped, remember


def _said_columns(rows: Iterable[Said]) -> Columns:
    subjects, kinds, ends = zip(*rows, strict=True)
    lasts = list(accumulate(map(len, ends)))
    return {
        "entities": pg.uuids(subjects),
        "link_kinds": pg.words(kinds),
        "link_ids": pg.uuids(list(chain.from_iterable(ends))),
        "firsts": pg.integers([1, *[last + 1 for last in lasts[:-1]]]),
        "lasts": pg.integers(lasts),
    }


def _statements(rows: Iterable[Said]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for kinds, times in Counter([said.kinds for said in rows]).items():
        for kind in kinds.split():
            counts[kind.removeprefix("^")] += times
    return counts


def _entity_columns(rows: Sequence[EntityRow], leads: Mapping[bytes, bytes]) -> Columns:
    ids, kinds, keys, names, properties, instants, records = zip(*rows, strict=True)
    return {
        "ids": pg.uuids(ids),
        "kinds": pg.words(kinds),
        "keys": pg.texts(keys),
        "names": pg.texts(names),
        "properties": pg.jsonbs(properties),
        "times": pg.instants(instants),
        "records": pg.nullable_uuids(records),
        "leads_to": pg.nullable_uuids([leads.get(key) for key in ids]),
    }
