"""Records to rows: what a batch of pages says, deduplicated, with computed ids. Pure, and the hot path of an import."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import orjson

from historical_sync.identity import content_hash, entity_id, record_id
from integrations.errors import RecordRejected
from integrations.providers.base import Context, Entity, Extract, Record


class RecordRow(NamedTuple):
    """A record ready to be stored. `id` and `hash`: 16 bytes."""

    id: bytes
    external_id: str
    occurred_at: datetime
    document: bytes
    hash: bytes
    record: Record


class EntityRow(NamedTuple):
    """An entity ready to be stored. as_of, record: None when it was only mentioned."""

    id: bytes
    kind: str
    key: str
    name: str
    properties: bytes
    as_of: datetime | None
    record: bytes | None


class Rejected(NamedTuple):
    """A row that goes into quarantine."""

    external_id: str
    payload: object
    reason: str


@dataclass(slots=True)
class Statements:
    """Rows of the relationship table, as columns: each is one record's statement that `source` is `kind` to `target`."""

    records: list[bytes] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    sources: list[bytes] = field(default_factory=list)
    targets: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class GraphRows:
    """What a batch adds to the graph.

    added: statements of records that are new; revised: those of records that were stored before, perhaps with other statements.
    aliases: (alias id, id of the entity that has it) -> (alias key, kind, proof): with proof both are one thing, without it the
    alias only leads there. subjects: record id -> id of the entity that the record is about.
    """

    entities: dict[bytes, EntityRow] = field(default_factory=dict)
    added: Statements = field(default_factory=Statements)
    revised: Statements = field(default_factory=Statements)
    aliases: dict[tuple[bytes, bytes], tuple[str, str, bool]] = field(default_factory=dict)
    subjects: dict[bytes, bytes] = field(default_factory=dict)
    rejected: list[tuple[RecordRow, str]] = field(default_factory=list)


def record_rows(records: Iterable[Record], connection: bytes, stream: str) -> dict[bytes, RecordRow]:
    """The records by id; of two with the same id the newer stays, the later one when both are as old."""
    rows: dict[bytes, RecordRow] = {}
    for record in records:
        document = orjson.dumps(record.payload)
        key = record_id(connection, stream, record.external_id)
        row = RecordRow(key, record.external_id, record.occurred_at, document, content_hash(document), record)
        earlier = rows.get(key)
        if earlier is None or earlier.occurred_at <= row.occurred_at:
            rows[key] = row
    return rows


class Ids(dict[str, bytes]):
    """Entity ids of one tenant by key, remembered: the same people, labels and repositories come up again and again."""

    LIMIT = 100_000

    def __init__(self, tenant: bytes) -> None:
        self.tenant = tenant

    def __missing__(self, key: str) -> bytes:
        if len(self) >= self.LIMIT:
            self.clear()
        found = self[key] = entity_id(self.tenant, key)
        return found


def graph_rows(
    rows: Iterable[RecordRow],
    extract: Extract,
    context: Context,
    ids: Ids,
    *,
    stored: Container[bytes] = (),
    mentioned: Container[bytes] = (),
    merged: Container[tuple[bytes, bytes]] = (),
) -> GraphRows:
    """What `rows` say. A record that extract can't map is in `rejected`, and nothing of it elsewhere.

    stored: ids of records that have been stored before. mentioned, merged: entities and aliases that need not be told again.
    """
    graph = GraphRows()
    entities, aliases = graph.entities, graph.aliases
    for row in rows:
        try:
            said = extract(row.record.payload, context)
        except RecordRejected as error:
            graph.rejected.append((row, str(error)))
            continue
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            graph.rejected.append((row, f"unexpected shape: {type(error).__name__}: {error}"))
            continue
        record = row.id
        graph.subjects[record] = ids[said.entities[0].key]
        for entity in said.entities:
            key = ids[entity.key]
            if entity.properties is not None:
                _keep_newest(entities, key, entity, row)
            elif key not in mentioned and key not in entities:
                entities[key] = EntityRow(key, entity.kind, entity.key, entity.name, b"{}", None, None)
            for alias in entity.aliases:
                if (pair := (ids[alias], key)) not in merged:
                    aliases[pair] = (alias, entity.kind, True)
            for handle in entity.handles:
                if (pair := (ids[handle], key)) not in merged:
                    aliases[pair] = (handle, entity.kind, False)
        statements = graph.revised if record in stored else graph.added
        for kind, source, target in dict.fromkeys(said.relationships):
            statements.records.append(record)
            statements.kinds.append(kind)
            statements.sources.append(ids[source])
            statements.targets.append(ids[target])
    return graph


_NEVER = datetime.min.replace(tzinfo=UTC)


def _keep_newest(entities: dict[bytes, EntityRow], key: bytes, entity: Entity, row: RecordRow) -> None:
    earlier = entities.get(key)
    if earlier is not None and (earlier.as_of or _NEVER, earlier.record or b"") > (row.occurred_at, row.id):
        return
    entities[key] = EntityRow(
        key, entity.kind, entity.key, entity.name, orjson.dumps(entity.properties), row.occurred_at, row.id
    )
