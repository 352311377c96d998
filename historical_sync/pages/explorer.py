"""What came in: the tenant's entities and what links them."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET

from atom.middleware import actor_of
from atom.views import tenant_required
from historical_sync import graph
from historical_sync.models import Entity

PAGE = 50


@require_GET
@tenant_required()
def entities(request: HttpRequest) -> HttpResponse:
    """Search by name and filter by kind: `?q=&kind=&after=`."""
    actor = actor_of(request)
    query, kind = request.GET.get("q", "").strip()[:100], request.GET.get("kind", "")[:40]
    kinds = graph.kinds_of(actor.tenant)
    found = graph.search(actor.tenant, query, kind, after=request.GET.get("after", "")[:900], limit=PAGE + 1)
    more = len(found) > PAGE
    context = {
        "entities": found[:PAGE],
        "more": more,
        "query": query,
        "kind": kind,
        "kinds": kinds,
        "total": sum(kinds.values()),
    }
    fragment = getattr(request, "htmx", False) and request.htmx.target == "entities-list"  # type: ignore[attr-defined]
    return render(request, "historical_sync/_entities.html" if fragment else "historical_sync/entities.html", context)


@require_GET
@tenant_required()
def entity(request: HttpRequest, entity_id: UUID) -> HttpResponse:
    """One entity: its properties, its links, and the records it comes from."""
    actor = actor_of(request)
    found = Entity.objects.filter(Q(tenant=actor.tenant), id=entity_id).first()
    if found is None:
        raise Http404
    if found.merged_into is not None:
        return redirect("entity", entity_id=found.merged_into)
    return render(request, "historical_sync/entity.html", {"entity": found, **graph.neighbourhood(actor.tenant, found)})
