"""Reading the tenant's graph. A thing that goes by several keys is one entity: keys that were merged are followed here."""

from __future__ import annotations

import contextlib
from typing import Any
from uuid import UUID

from django.db import models
from django.db.models import Count, Q

from atom.models import Tenant
from historical_sync.models import Entity, Relationship, SyncRecord

MOST_LINKS = 200
MOST_RECORDS = 20


def entities_of(tenant: Tenant) -> models.QuerySet[Entity]:
    """The tenant's entities, each thing once."""
    return Entity.objects.filter(tenant=tenant, merged_into=None)


def kinds_of(tenant: Tenant) -> dict[str, int]:
    """How many entities there are of each kind, most first."""
    rows = entities_of(tenant).values("kind").annotate(n=Count("id")).order_by("-n", "kind")
    return {row["kind"]: row["n"] for row in rows}


def search(tenant: Tenant, query: str, kind: str, *, after: str = "", limit: int = 50) -> list[Entity]:
    """Entities by name; `after`: the id and name, "id name", that the page before ended with."""
    found = entities_of(tenant)
    if kind:
        found = found.filter(kind=kind)
    for word in query.split()[:5]:
        found = found.filter(Q(name__icontains=word) | Q(key__icontains=word))
    last, _, name = after.partition(" ")
    if last:
        with contextlib.suppress(ValueError):
            found = found.filter(Q(name__gt=name) | Q(name=name, id__gt=UUID(last)))
    return list(found.order_by("name", "id")[:limit])


def neighbourhood(tenant: Tenant, entity: Entity) -> dict[str, Any]:
    """links: (words, other entity or None when it has not arrived); records: where it comes from; keys: its other names."""
    keys = list(Entity.objects.filter(tenant=tenant, merged_into=entity.id).values_list("id", "key"))
    ids = [entity.id, *[key_id for key_id, _ in keys]]
    said = Relationship.objects.filter(tenant=tenant)
    rows = {
        (r.kind, r.source_id, r.target_id)
        for part in (said.filter(source_id__in=ids), said.filter(target_id__in=ids))
        for r in part[:MOST_LINKS]
    }
    ends = {end for _, source, target in rows for end in (source, target)}
    others = {e.id: e for e in Entity.objects.filter(tenant=tenant, id__in=ends)}
    roots = {e.merged_into for e in others.values() if e.merged_into}
    others |= {e.id: e for e in Entity.objects.filter(tenant=tenant, id__in=roots)}
    links: dict[tuple[str, bool], dict[UUID, Entity]] = {}
    for kind, source, target in rows:
        outward = source in ids
        other = others.get(target if outward else source)
        if other is not None and other.merged_into:
            other = others.get(other.merged_into)
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
