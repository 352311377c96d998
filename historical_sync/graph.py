"""Reading the tenant's graph. A thing that goes by several keys is one entity: keys that were merged are followed here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.core.cache import cache
from django.db import connection as database
from django.db import models
from django.db.models import Count
from django.db.models.expressions import RawSQL

from atom.models import Tenant
from historical_sync.identity import entity_id, name_rank, record_id
from historical_sync.models import Address, Entity, Statement, SyncRecord
from integrations.models import Connection

MOST_LINKS = 200
MOST_RECORDS = 20
LOOKED_THROUGH = 5_000  # records for a page of one kind of statements: there is no index of these
PASSED_OVER = 20_000  # records for a page of one stream's, or of one job's: nor of these
STATED_AT_ONCE = 500  # of these, whose statements are read
MOST_PAYLOAD = 4 * 1024 * 1024  # bytes of JSON in a page of records, beside the first
COUNTS_KEPT = 60  # seconds

Place = tuple[UUID, UUID, int]  # of a statement: connection, record, position
BEGINNING: Place = (UUID(int=0), UUID(int=0), 0)


def entities_of(tenant: Tenant) -> models.QuerySet[Entity]:
    """The tenant's entities, each thing once."""
    return Entity.objects.filter(tenant=tenant, merged_into=None)


def get_entity(tenant: Tenant, entity_id: UUID | str) -> Entity | None:
    """The tenant's entity, by the id of any of its keys; None for another tenant's as for none."""
    try:
        found = Entity.objects.filter(tenant=tenant, id=UUID(str(entity_id))).first()
    except ValueError:
        return None
    if found is not None and found.merged_into is not None:
        return Entity.objects.filter(tenant=tenant, id=found.merged_into).first()
    return found


def things(tenant: Tenant, keys: Iterable[UUID]) -> dict[UUID, Entity]:
    """What the keys stand for, by key, with best names; without those that have not arrived."""
    keys = list(keys)
    means = dict(Address.objects.filter(tenant=tenant, id__in=keys).values_list("id", "leads_to"))
    rows = {row.id: row for row in Entity.objects.filter(tenant=tenant, id__in=[*keys, *filter(None, means.values())])}
    roots = {row.merged_into or row.id for row in rows.values()}
    stands = {row.id: row for row in Entity.objects.filter(tenant=tenant, id__in=roots)}
    whole(tenant, list(stands.values()))
    found = {key: stands[root] for key, row in rows.items() if (root := row.merged_into or row.id) in stands}
    return found | {address: found[key] for address, key in means.items() if key in found}


def thing_called(tenant: Tenant, key: str) -> Entity | None:
    """What the tenant knows by the key, whichever of the thing's keys it is."""
    computed = UUID(bytes=entity_id(tenant.id.bytes, key))
    return things(tenant, [computed]).get(computed)


def _with_addresses(tenant: Tenant, keys: list[UUID]) -> list[UUID]:
    """The keys, and the ids of the addresses that lead to them: all that statements about them may have at their ends."""
    return [*keys, *Address.objects.filter(tenant=tenant, leads_to__in=keys).values_list("id", flat=True)]


def kinds_of(tenant: Tenant) -> dict[str, int]:
    """How many entities there are of each kind, most first; counted once a minute at most."""
    key = f"entity-kinds:{tenant.id}"
    found: dict[str, int] | None = cache.get(key)
    if found is None:
        rows = entities_of(tenant).values("kind").annotate(n=Count("id")).order_by("-n", "kind")
        found = {row["kind"]: row["n"] for row in rows}
        # While little is there it is counted soon, and a page that shows less than its list has would be odd.
        cache.set(key, found, COUNTS_KEPT if sum(found.values()) > 10_000 else 1)
    return found


def search(
    tenant: Tenant, query: str, kind: str = "", source: UUID | None = None, *, after: str = "", limit: int = 50
) -> list[Entity]:
    """Entities with all words of the query in a name, by kind; with their best names.

    source: a connection that brought a record about them; what its records merely mention is not found by it. after: "kind id",
    of the entity that the page before ended with.
    Raises ValueError for an `after` that is none.
    """
    after_kind, _, after_id = after.partition(" ")
    words = [_escaped(word) for word in query.replace("\0", " ").split()[:5]]
    # Fewer than three letters make no trigram, but the beginning of a word does.
    first = [f"{word}%" if len(word) < 3 else f"%{word}%" for word in words]
    later = [f"% {word}%" if len(word) < 3 else f"%{word}%" for word in words]
    # As an array, which is made once. A set may be made anew for each of the tenant's entities, where PostgreSQL takes these for few.
    found_by_name = RawSQL(
        "historical_sync_entity.id = ANY(ARRAY(SELECT atom_find_entities(%s, %s::text[], %s::text[], %s, %s, %s, %s, %s)))",
        [tenant.id, first, later, kind, source, after_kind, UUID(after_id) if after else None, limit],
        output_field=models.BooleanField(),
    )
    found = list(Entity.objects.filter(found_by_name, tenant=tenant).order_by("kind", "id"))
    whole(tenant, found)
    return found


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def whole(tenant: Tenant, entities: Sequence[Entity]) -> dict[UUID, dict[str, UUID]]:
    """Gives entities, in memory, the names and properties of all keys that were merged into them; the newest counts.

    Returns for each the record that each property comes from.
    """
    members: dict[UUID, list[Entity]] = {entity.id: [entity] for entity in entities}
    for member in Entity.objects.filter(tenant=tenant, merged_into__in=list(members)):
        assert member.merged_into is not None
        members[member.merged_into].append(member)
    origins: dict[UUID, dict[str, UUID]] = {}
    for entity in entities:
        told = [member for member in members[entity.id] if member.as_of is not None]
        told.sort(key=lambda member: (member.as_of, str(member.record_id)))
        mentions = sorted(members[entity.id], key=lambda member: name_rank(member.key, member.kind, member.name))
        best = (told or mentions)[-1]
        entity.name, entity.as_of = best.name, best.as_of
        entity.properties = {name: value for member in told for name, value in member.properties.items()}
        origins[entity.id] = {
            name: member.record_id for member in told if member.record_id for name in member.properties
        }
    return origins


def neighbourhood(tenant: Tenant, entity: Entity) -> dict[str, Any]:
    """links: (words, other entity or None when it has not arrived); records: where it comes from; keys: its other names."""
    keys = list(Entity.objects.filter(tenant=tenant, merged_into=entity.id).values_list("id", "key"))
    ids = [entity.id, *[key_id for key_id, _ in keys]]
    ends = _with_addresses(tenant, ids)
    with database.cursor() as cursor:
        cursor.execute("SELECT atom_records_linking(%s, %s, %s)", [tenant.id, ends, MOST_LINKS])
        linking = [row[0] for row in cursor.fetchall()]
    said = SyncRecord.objects.filter(tenant=tenant).only("id", "connection_id", "entity_id", "link_kinds", "link_ids")
    statements = {
        (s.kind, s.source_id, s.target_id)
        for part in (said.filter(entity_id__in=ids)[:MOST_LINKS], said.filter(id__in=linking))
        for record in part
        for s in record.statements()
        if s.source_id in ends or s.target_id in ends
    }
    others = things(tenant, {end for _, source, target in statements for end in (source, target)})
    links: dict[tuple[str, bool], dict[UUID, Entity]] = {}
    for kind, source, target in statements:
        outward = source in ids
        other = others.get(target if outward else source)
        if other is not None:
            links.setdefault((kind, outward), {})[other.id] = other
    records = (
        SyncRecord.objects.filter(tenant=tenant, entity_id__in=ids)
        .select_related("connection")
        .order_by("-occurred_at")
    )
    return {
        "links": [
            {"kind": kind, "outward": outward, "others": sorted(found.values(), key=lambda e: e.name)}
            for (kind, outward), found in sorted(links.items())
        ],
        "records": list(records[:MOST_RECORDS]),
        "keys": [key for _, key in keys],
    }


def links_of(
    tenant: Tenant, entity: Entity | None, kind: str = "", *, after: Place = BEGINNING, limit: int = 50
) -> tuple[list[Statement], Place | None]:
    """At most `limit` statements of the tenant's records, about any key of the entity if one is given, from behind `after` on:
    connection by connection, in the order of the records. And the place that the next page begins behind, None at the end.

    A page may be short, or empty, without being the last: it holds what LOOKED_THROUGH records say of it.
    """
    keys: list[UUID] = []
    if entity is not None:
        keys = [entity.id, *Entity.objects.filter(tenant=tenant, merged_into=entity.id).values_list("id", flat=True)]
        keys = _with_addresses(tenant, keys)
    ends = set(keys)
    rows = SyncRecord.objects.filter(tenant=tenant).only("id", "connection_id", "entity_id", "link_kinds", "link_ids")
    found: list[Statement] = []
    place, left = after, LOOKED_THROUGH
    while left > 0:
        # As many as the page holds are enough where each says something that is asked for: besides the one that tells of more, that which
        # the page before ended with, of which all may have been said.
        most = left if kind or left < LOOKED_THROUGH else min(limit + 2, left)
        looked = _records_from(tenant, place, keys, most)
        ids = [key for _, key, kinds in looked if (kind in kinds.replace("^", "").split() if kind else kinds)]
        for first in range(0, len(ids), STATED_AT_ONCE):
            found += [
                s
                for record in rows.filter(id__in=ids[first : first + STATED_AT_ONCE]).order_by("connection_id", "id")
                for s in record.statements()
                if s.place > place
                and (not kind or s.kind == kind)
                and (not ends or s.source_id in ends or s.target_id in ends)
            ]
            if len(found) > limit:
                return found[:limit], found[limit - 1].place
        if len(looked) < most:
            return found, None
        connection_id, record_id, kinds = looked[-1]
        place, left = (connection_id, record_id, len(kinds.split())), left - len(looked)
    return found, place


def records_of(
    tenant: Tenant,
    connection: Connection,
    stream: str = "",
    job: UUID | None = None,
    *,
    gone: bool = False,
    after: UUID | None = None,
    limit: int = 50,
) -> tuple[list[SyncRecord], UUID | None]:
    """At most `limit` records that came in through the connection, in the order of their ids, from behind `after` on; and the id that the
    next page begins behind, None at the end. job: those that it wrote last. gone: those that are gone from their provider.

    A page may be short, or empty, without being the last: narrowed it holds what PASSED_OVER records have of it, and what is
    large comes in pages of MOST_PAYLOAD.
    """
    rows = SyncRecord.objects.filter(tenant=tenant, connection=connection).order_by("id")
    if after is not None:
        rows = rows.filter(id__gt=after)
    chosen, end = rows, None
    if stream or job or gone:
        end = rows.values_list("id", flat=True)[PASSED_OVER - 1 : PASSED_OVER].first()
        chosen = chosen.filter(id__lte=end) if end else chosen
        chosen = chosen.filter(stream=stream) if stream else chosen
        chosen = chosen.filter(job_id=job) if job else chosen
        chosen = chosen.filter(gone_at__isnull=False) if gone else chosen
    ids = list(chosen.values_list("id", flat=True)[:limit])
    if len(ids) == limit:
        end = ids[-1]
    chosen = SyncRecord.objects.filter(tenant=tenant, id__in=ids).order_by("id")
    size = 0
    for number, (key, length) in enumerate(chosen.values_list("id", RawSQL("octet_length(payload::text)", ()))):
        size += length
        if number and size > MOST_PAYLOAD:
            ids = [other for other in ids if other < key]
            end = ids[-1]
            break
    return list(chosen.filter(id__in=ids).select_related("connection")), end


def record_called(tenant: Tenant, connection: Connection, stream: str, external_id: str) -> SyncRecord | None:
    """The stream's record by the id that its provider gives it."""
    computed = UUID(bytes=record_id(connection.id.bytes, stream, external_id))
    rows = SyncRecord.objects.filter(tenant=tenant, connection=connection, id=computed)
    return rows.select_related("connection").first()


def _records_from(tenant: Tenant, place: Place, keys: Sequence[UUID], most: int) -> list[tuple[UUID, UUID, str]]:
    """(connection, id, what kinds of statements) of records, of those about one of the keys if there are any: connection by connection and
    in their order, from that of `place` on."""
    rows = SyncRecord.objects.filter(tenant=tenant).order_by("connection_id", "id")
    facts = rows.values_list("connection_id", "id", "link_kinds")
    connections = Connection.objects.filter(tenant=tenant, id__gte=place[0]).order_by("id")
    looked: list[tuple[UUID, UUID, str]] = []
    for connection_id in connections.values_list("id", flat=True):
        first = place[1] if connection_id == place[0] else UUID(int=0)
        if keys:
            # From this one on through all that follow. It is one that there is: along its records what many speak of is soon met.
            about = RawSQL(
                "historical_sync_syncrecord.id = ANY(ARRAY(SELECT atom_records_about(%s, %s, %s, %s, %s)))",
                [tenant.id, list(keys), connection_id, first, most],
                output_field=models.BooleanField(),
            )
            return list(facts.filter(about))
        looked += facts.filter(connection_id=connection_id, id__gte=first)[: most - len(looked)]
        if len(looked) == most:
            break
    return looked
