"""Records to rows: what a batch of pages says, deduplicated, with computed ids. Pure, and the hot path of an import."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple, cast

import orjson

from historical_sync.identity import content_hash, entity_id, name_rank, placeholder, record_id
from historical_sync.pgarrays import instant
from integrations.errors import UNMAPPABLE, RecordRejected
from integrations.providers.base import JSON, Clock, Context, Entity, Extract, Graph, Record
from integrations.providers.links import linked

LONGEST_EXTERNAL_ID = 512  # characters; the columns' sizes
LONGEST_KEY = 600


Mappable = tuple[bytes, bytes, int]  # a row's id, document and moment: all that its graph depends on


class RecordRow(NamedTuple):
    """A record ready to be stored, without its tree of objects. `id` and `hash`: 16 bytes. document: its JSON. moment: its time, as
    `pgarrays.instant` counts."""

    id: bytes
    document: bytes
    moment: int
    hash: bytes
    external_id: str
    occurred_at: datetime

    @property
    def payload(self) -> JSON:
        found: JSON = orjson.loads(self.document)
        return found


class EntityRow(NamedTuple):
    """An entity ready to be stored. as_of, an instant, and record: None when it was only mentioned."""

    id: bytes
    kind: str
    key: str
    name: str
    properties: bytes
    as_of: int | None
    record: bytes | None


# A named tuple's own constructor takes twice the time.
_record_row = cast(
    "Callable[[tuple[bytes, bytes, int, bytes, str, datetime]], RecordRow]", partial(tuple.__new__, RecordRow)
)
_entity_row = cast(
    "Callable[[tuple[bytes, str, str, str, bytes, int | None, bytes | None]], EntityRow]",
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
    of what it lies in). rejected: ids of records, and why.
    """

    entities: dict[bytes, EntityRow] = field(default_factory=dict)
    said: dict[bytes, Said] = field(default_factory=dict)
    aliases: dict[tuple[bytes, bytes], bool] = field(default_factory=dict)
    addresses: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)
    told: list[Entity] = field(default_factory=list)
    rejected: list[tuple[bytes, str]] = field(default_factory=list)


def record_rows(records: Iterable[Record], connection: bytes, stream: str) -> tuple[list[RecordRow], list[Rejected]]:
    """The records as rows, in order, and those that can't be rows and of which no later one is."""
    rows: list[RecordRow] = []
    bad: list[tuple[int, Rejected]] = []
    for external_id, occurred_at, payload in records:
        try:
            # orjson's own keeps the buffer that it was written in, seven times the size of such a record.
            document = memoryview(orjson.dumps(payload)).tobytes()
            key, moment = record_id(connection, stream, external_id), instant(occurred_at)
        except (*UNMAPPABLE, RecursionError) as error:
            why = f"unexpected shape: {type(error).__name__}: {error}"
            bad.append((len(rows), Rejected(str(external_id), payload, why, occurred_at)))
            continue
        rows.append(_record_row((key, document, moment, content_hash(document), external_id, occurred_at)))
    return rows, _without_later_ones(bad, rows) if bad else []


def _without_later_ones(bad: Iterable[tuple[int, Rejected]], good: Iterable[RecordRow]) -> list[Rejected]:
    """Those of which no good row comes later. bad: with the number of good rows before each."""
    last = {row.external_id: number for number, row in enumerate(good)}
    return [row for number, row in bad if last.get(row.external_id, -1) < number]


def newest(rows: Iterable[RecordRow], clock: Clock = Clock.UPDATED) -> dict[bytes, RecordRow]:
    """The rows by id; of two with the same id the newer stays, the later one when both are as old, or a row's time says nothing of its
    age."""
    by_time = clock is not Clock.EVENT
    found: dict[bytes, RecordRow] = {}
    for row in rows:
        key = row[0]
        if key not in found or not by_time or found[key].moment <= row.moment:
            found[key] = row
    return found


def sound(rows: Iterable[RecordRow], extract: Extract, context: Context) -> tuple[list[RecordRow], list[Rejected]]:
    """The rows that can be stored, and those that can't and of which no later one can, with the reason. Slow: for a batch that was
    refused as a whole."""
    good: list[RecordRow] = []
    bad: list[tuple[int, Rejected]] = []
    for row in rows:
        reason = _unsound(row, extract, context)
        if reason:
            bad.append((len(good), Rejected(row.external_id, row.payload, reason, row.occurred_at)))
        else:
            good.append(row)
    return good, _without_later_ones(bad, good)


def _unsound(row: RecordRow, extract: Extract, context: Context) -> str:
    if not row.external_id or len(row.external_id) > LONGEST_EXTERNAL_ID:
        return f"its id is empty or longer than {LONGEST_EXTERNAL_ID} characters"
    try:
        said = extract(row.payload, context)
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
    rows: Iterable[Mappable],
    extract: Extract,
    context: Context,
    ids: Ids,
    *,
    told: Container[Entity] = (),
    mentioned: Mapping[bytes, tuple[str, str]] = _NOTHING,
    merged: Container[tuple[bytes, bytes]] = (),
    read_at: int | None = None,
) -> GraphRows:
    """What `rows` say. A record that extract can't map is in `rejected`, and nothing of it elsewhere.

    told: mentions that need not be heard again. mentioned, merged: entities, as (kind, name), and aliases that need not be told
    again. read_at: the instant as of which the rows count, if not of their own times.
    """
    graph = GraphRows()
    entities, aliases = graph.entities, graph.aliases
    slug = context.namespace.partition("@")[0]
    for record, document, moment in rows:
        try:
            said = extract(orjson.loads(document), context)
            elsewhere = linked(document, slug)
            if elsewhere:
                said.refer("mentions", elsewhere)
            ends = [ids[key] for key in said.ends]
            subject = ids[said.own]
        except RecordRejected as error:
            graph.rejected.append((record, str(error)))
            continue
        except UNMAPPABLE as error:
            graph.rejected.append((record, f"unexpected shape: {type(error).__name__}: {error}"))
            continue
        graph.said[record] = _said(subject, said.kinds, ends)
        if elsewhere:
            graph.addresses |= {ids[key]: (key, ids[within]) for key, within in elsewhere.items() if within is not None}
        for entity in said.entities:
            kind, text, name, properties, named, handles = entity
            if properties is not None:
                key = ids[text]
                _keep_newest(entities, key, entity, record, moment + said.later if read_at is None else read_at)
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


def _keep_newest(entities: dict[bytes, EntityRow], key: bytes, entity: Entity, record: bytes, moment: int) -> None:
    if key in entities:
        earlier = entities[key]
        if earlier.as_of is not None and (earlier.as_of, earlier.record or b"") > (moment, record):
            return
    kind, text, name, properties, _, _ = entity
    entities[key] = _entity_row((key, kind, text, name, orjson.dumps(properties), moment, record))
