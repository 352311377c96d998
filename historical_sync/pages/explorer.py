"""What came in: the tenant's entities and what links them."""

from __future__ import annotations

from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET

from atom.access import Right
from atom.middleware import actor_of
from atom.views import tenant_required
from historical_sync import graph, searching
from historical_sync.models import DataRemoval, Entity, SyncRecord
from integrations.connect import connections_of

PAGE = 50


@require_GET
@tenant_required()
def entities(request: HttpRequest) -> HttpResponse:
    """Search by name or by a whole key, filter by kind and by the connection that brought it: `?q=&kind=&source=&after=`."""
    actor = actor_of(request)
    query, kind = request.GET.get("q", "").strip()[:100], request.GET.get("kind", "").replace("\0", "")[:40]
    kinds = graph.kinds_of(actor.tenant)
    sources = list(connections_of(actor.tenant))
    source = next((row for row in sources if str(row.id) == request.GET.get("source")), None)
    narrowed = (query, kind, source.id if source else None)
    try:
        found = graph.search(
            actor.tenant, *narrowed, after=request.GET.get("after", "").replace("\0", "")[:100], limit=PAGE + 1
        )
    except ValueError:
        found = graph.search(actor.tenant, *narrowed, limit=PAGE + 1)
    if ":" in query and not (kind or source) and (thing := graph.thing_called(actor.tenant, query)):
        found = [thing]
    more = len(found) > PAGE
    context = {
        "entities": found[:PAGE],
        "more": more,
        "query": query,
        "kind": kind,
        "kinds": kinds,
        "sources": sources,
        "source": source,
        "removals": DataRemoval.objects.filter(tenant=actor.tenant, completed_at=None).select_related("connection"),
        "total": sum(kinds.values()),
        "behind": bool(query) and searching.is_behind(actor.tenant),
    }
    target = str(request.htmx.target) if getattr(request, "htmx", False) else ""  # type: ignore[attr-defined]
    name = {"entities-list": "_entities", "explorer": "_explorer"}.get(target, "entities")
    return render(request, f"historical_sync/{name}.html", context)


@require_GET
@tenant_required()
def entity(request: HttpRequest, entity_id: UUID) -> HttpResponse:
    """One entity: its properties, its links, and the records it comes from."""
    actor = actor_of(request)
    found = Entity.objects.filter(tenant=actor.tenant, id=entity_id).first()
    if found is None:
        raise Http404
    if found.merged_into is not None:
        return redirect("entity", entity_id=found.merged_into)
    origins = graph.whole(actor.tenant, [found])[found.id]
    around = graph.neighbourhood(actor.tenant, found)
    records = SyncRecord.objects.filter(tenant=actor.tenant, id__in=set(origins.values())).select_related("connection")
    origin = {record.id: record.connection for record in records}
    context = {
        "entity": found,
        "properties": [
            (name, value, origin.get(origins.get(name, found.id))) for name, value in found.properties.items()
        ],
        "tools": {row.provider_slug for row in origin.values()},
        "may_read_payloads": actor.may(Right.OPERATE),
        "most_links": graph.MOST_LINKS,
        **around,
    }
    return render(request, "historical_sync/entity.html", context)
