"""Records to rows: what a batch of pages says, deduplicated, with computed ids. Pure, and the hot path of an import."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple, cast

import orjson

from historical_sync.identity import content_hash, entity_id, name_rank, placeholder, record_id
from integrations.errors import UNMAPPABLE, RecordRejected
from integrations.providers.base import Clock, Context, Entity, Extract, Graph, Record
from integrations.providers.links import linked

LONGEST_EXTERNAL_ID = 512  # characters; the columns' sizes
LONGEST_KEY = 600


class RecordRow(NamedTuple):
    """A record ready to be stored. `id` and `hash`: 16 bytes."""

    id: bytes
    document: bytes
    hash: bytes
    record: Record

    @property
    def external_id(self) -> str:
        return self.record.external_id

    @property
    def occurred_at(self) -> datetime:
        return self.record.occurred_at


class EntityRow(NamedTuple):
    """An entity ready to be stored. as_of, record: None when it was only mentioned."""

    id: bytes
    kind: str
    key: str
    name: str
    properties: bytes
    as_of: datetime | None
    record: bytes | None


# A named tuple's own constructor takes twice the time.
_record_row = cast("Callable[[tuple[bytes, bytes, bytes, Record]], RecordRow]", partial(tuple.__new__, RecordRow))
_entity_row = cast(
    "Callable[[tuple[bytes, str, str, str, bytes, datetime | None, bytes | None]], EntityRow]",
    partial(tuple.__new__, EntityRow),
)


class Rejected(NamedTuple):
    """A row that goes into quarantine."""

    external_id: str
    payload: object
    reason: str
    occurred_at: datetime | None = None  # None: could not be read


class Said(NamedTuple):
    """What a record says, as `SyncRecord` holds it. subject: id of the entity that it is about. kinds: of its statements, in a row;
    ends: ids of their other ends, at the same places."""

    subject: bytes
    kinds: str
    ends: list[bytes]


@dataclass(slots=True)
class GraphRows:
    """What a batch adds to the graph.

    said: by record id. aliases: (alias id, id of the entity that has it) -> proof: with it both are one thing, without it the alias
    only leads there; the alias is among the entities. told: the mentions among the entities. addresses: id -> (key, id of the handle
    of what it lies in).
    """

    entities: dict[bytes, EntityRow] = field(default_factory=dict)
    said: dict[bytes, Said] = field(default_factory=dict)
    aliases: dict[tuple[bytes, bytes], bool] = field(default_factory=dict)
    addresses: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)
    told: list[Entity] = field(default_factory=list)
    rejected: list[tuple[RecordRow, str]] = field(default_factory=list)


def record_rows(
    records: Iterable[Record], connection: bytes, stream: str, clock: Clock = Clock.UPDATED
) -> dict[bytes, RecordRow]:
    """The records by id; of two with the same id the newer stays, the later one when both are as old, or a row's time says
    nothing of its age."""
    by_time = clock is not Clock.EVENT
    rows: dict[bytes, RecordRow] = {}
    for record in records:
        external_id, occurred_at, payload = record
        document = orjson.dumps(payload)
        key = record_id(connection, stream, external_id)
        if key not in rows or not by_time or rows[key].occurred_at <= occurred_at:
            rows[key] = _record_row((key, document, content_hash(document), record))
    return rows


def sound(records: Iterable[Record], extract: Extract, context: Context) -> tuple[list[Record], list[Rejected]]:
    """The records that can be stored, and those that can't and of which no later one can, with the reason. Slow: for a batch that was
    refused as a whole."""
    good: list[Record] = []
    bad: list[tuple[int, Rejected]] = []
    last: dict[str, int] = {}  # of the good ones with the same id
    for number, record in enumerate(records):
        reason = _unsound(record, extract, context)
        if reason:
            bad.append((number, Rejected(str(record.external_id), record.payload, reason, record.occurred_at)))
        else:
            good.append(record)
            last[record.external_id] = number
    return good, [row for number, row in bad if last.get(row.external_id, -1) < number]


def _unsound(record: Record, extract: Extract, context: Context) -> str:
    if not record.external_id or len(record.external_id) > LONGEST_EXTERNAL_ID:
        return f"its id is empty or longer than {LONGEST_EXTERNAL_ID} characters"
    try:
        orjson.dumps(record.payload)
        said = extract(record.payload, context)
        for entity in said.entities:
            orjson.dumps(entity.properties)
    except RecordRejected as error:
        return str(error)
    except Exception as error:
        return f"unexpected shape: {type(error).__name__}: {error}"
    keys = [key for e in said.entities for key in (e.key, *e.aliases, *e.handles)]
    keys += said.ends
    if any(not isinstance(key, str) or len(key) > LONGEST_KEY for key in keys):
        return f"it names a thing by a key of more than {LONGEST_KEY} characters"
    if any(not isinstance(e.name, str) for e in said.entities):
        return "it names a thing by something that is no text"
    return ""


def any_document(payload: object) -> bytes:
    """JSON of whatever a provider sent, as near as JSON comes to it."""
    try:
        return orjson.dumps(payload, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        pass
    try:
        return json.dumps(payload, default=str).encode()  # whole numbers of any size, deeper nesting
    except (TypeError, ValueError, RecursionError):
        return orjson.dumps("(nested too deeply to be kept)")


class Ids(dict[str, bytes]):
    """Entity ids of one tenant by key, remembered: the same people, labels and repositories come up again and again."""

    LIMIT = 20_000

    def __init__(self, tenant: bytes) -> None:
        self.tenant = tenant

    def __missing__(self, key: str) -> bytes:
        if len(self) >= self.LIMIT:
            self.clear()
        found = self[key] = entity_id(self.tenant, key)
        return found


_NOTHING: Mapping[bytes, tuple[str, str]] = {}


def graph_rows(
    rows: Iterable[RecordRow],
    extract: Extract,
    context: Context,
    ids: Ids,
    *,
    told: Container[Entity] = (),
    mentioned: Mapping[bytes, tuple[str, str]] = _NOTHING,
    merged: Container[tuple[bytes, bytes]] = (),
    read_at: datetime | None = None,
) -> GraphRows:
    """What `rows` say. A record that extract can't map is in `rejected`, and nothing of it elsewhere.

    told: mentions that need not be heard again. mentioned, merged: entities, as (kind, name), and aliases that need not be told
    again. read_at: as of when the rows count, if not of their own times.
    """
    graph = GraphRows()
    entities, aliases = graph.entities, graph.aliases
    slug = context.namespace.partition("@")[0]
    for row in rows:
        record, document, _, (_, _, payload) = row
        try:
            said = extract(payload, context)
            elsewhere = linked(document, slug)
            if elsewhere:
                said.refer("mentions", elsewhere)
            ends = [ids[key] for key in said.ends]
            subject = ids[said.own]
        except RecordRejected as error:
            graph.rejected.append((row, str(error)))
            continue
        except UNMAPPABLE as error:
            graph.rejected.append((row, f"unexpected shape: {type(error).__name__}: {error}"))
            continue
        graph.said[record] = _said(subject, said.kinds, ends)
        if elsewhere:
            graph.addresses |= {ids[key]: (key, ids[within]) for key, within in elsewhere.items() if within is not None}
        for entity in said.entities:
            kind, text, name, properties, named, handles = entity
            if properties is not None:
                key = ids[text]
                _keep_newest(entities, key, entity, row, read_at or time_of_word(row.occurred_at, said))
            elif entity in told:
                continue
            else:
                key = ids[text]
                graph.told.append(entity)
                _mention(entities, key, kind, text, name, mentioned)
            if not (named or handles):
                continue
            for proof, others in ((True, named), (False, handles)):
                for other in others:
                    if (pair := (ids[other], key)) not in merged:
                        aliases[pair] = proof
                        _mention(entities, pair[0], kind, other, placeholder(other), mentioned)
    return graph


def _said(subject: bytes, kinds: list[str], ends: list[bytes]) -> Said:
    if len(set(ends)) < len(ends):  # most often every other end is another one, and so every statement
        once = dict.fromkeys(zip(kinds, ends, strict=True))
        kinds, ends = [kind for kind, _ in once], [end for _, end in once]
    return Said(subject, " ".join(kinds), ends)


_NEVER = datetime.min.replace(tzinfo=UTC)


def _mention(
    entities: dict[bytes, EntityRow],
    key: bytes,
    kind: str,
    text: str,
    name: str,
    mentioned: Mapping[bytes, tuple[str, str]],
) -> None:
    """Tells of an entity without a record of its own, unless as much is known of it."""
    known: tuple[str, str] | None = mentioned.get(key)
    if known == (kind, name):
        return
    row = entities.get(key)
    if row is not None:
        if row.as_of is not None:
            return
        known = (row.kind, row.name)
    if known is None or name_rank(text, *known) < name_rank(text, kind, name):
        entities[key] = EntityRow(key, kind, text, name, b"{}", None, None)


def time_of_word(occurred_at: datetime, said: Graph) -> datetime:
    """The time by which a record's word of its own entity is compared with that of others."""
    return occurred_at + timedelta(microseconds=said.later) if said.later else occurred_at


def _keep_newest(
    entities: dict[bytes, EntityRow], key: bytes, entity: Entity, row: RecordRow, moment: datetime
) -> None:
    if key in entities:
        earlier = entities[key]
        if (earlier.as_of or _NEVER, earlier.record or b"") > (moment, row.id):
            return
    kind, text, name, properties, _, _ = entity
    entities[key] = _entity_row((key, kind, text, name, orjson.dumps(properties), moment, row.id))
