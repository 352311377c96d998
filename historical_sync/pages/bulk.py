"""Several imports at once: one range and one estimate for all that were chosen, and what waits for room."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import trigger_client_event

from atom.access import Actor, Right
from atom.errors import Refused
from atom.middleware import actor_of
from atom.plans import ACTIVE_JOBS
from atom.views import refusal, tenant_required
from atom.words import plural
from historical_sync import actions, queueing
from historical_sync.estimating import RangeEstimate, estimates, together
from historical_sync.models import HistoricalSyncJob
from historical_sync.pages.integrations import choice_of, go, range_of
from integrations.connect import connections_of
from integrations.models import Connection

MOST = 50  # connections at once


@require_http_methods(["GET", "POST"])
@tenant_required(Right.OPERATE)
def sync_selected(request: HttpRequest) -> HttpResponse:
    """The offer for the chosen connections (GET `?connection=&connection=`) and its answer (POST)."""
    actor = actor_of(request)
    given = request.POST if request.method == "POST" else request.GET
    chosen = _chosen(actor, given)
    too_many = len(set(given.getlist("connection"))) > MOST
    if not chosen or too_many:
        words = f"Choose at most {MOST} connections at once." if too_many else "Choose at least one connection first."
        if getattr(request, "htmx", False):
            return refusal(request, "Not started", words, 200)
        messages.error(request, words)
        return redirect("integrations")
    if request.method == "GET":
        return _dialog(request, actor, chosen, {})
    try:
        start, end, _ = choice_of(request)
    except Refused as error:
        return _dialog(request, actor, chosen, {error.attr or "": error.detail})
    started = waiting = 0
    for connection in chosen:
        try:
            made = queueing.start_or_queue(actor, connection, start=start, end=end)
        except Refused as error:
            if error.attr is not None:  # the range is off, for this one as for the others
                return _dialog(request, actor, chosen, {error.attr: error.detail})
            messages.error(request, f"{connection}: {error.detail}")
            continue
        if isinstance(made, HistoricalSyncJob):
            started += 1
        else:
            waiting += 1
    said = [f"{plural(started, 'import,imports')} started"] if started else []
    if waiting:
        said.append(
            f"{plural(waiting, 'waits,wait')} for room and will start by {'itself' if waiting == 1 else 'themselves'}"
        )
    if said:
        messages.success(request, f"{'; '.join(said)}.")
    return go(request, reverse("jobs") if said else reverse("integrations"))


def _chosen(actor: Actor, given: QueryDict) -> list[Connection]:
    """The connections that are named, in the cards' order. Another tenant's, and one that is none, is not found."""
    try:
        ids = {UUID(value) for value in given.getlist("connection")[:MOST]}
    except ValueError:
        raise Http404 from None
    found = list(
        connections_of(actor.tenant).live().filter(id__in=ids).order_by("provider_slug", "account_label", "id")
    )
    if len(found) != len(ids):
        raise Http404
    return found


def _dialog(request: HttpRequest, actor: Actor, chosen: list[Connection], errors: dict[str, str]) -> HttpResponse:
    room = max(0, ACTIVE_JOBS - actions.jobs_of(actor.tenant).active().count())
    context = range_of(request, actor) | {
        "chosen": chosen,
        "errors": errors,
        "waits": max(0, len(chosen) - room),
        "limit": ACTIVE_JOBS,
    }
    htmx = getattr(request, "htmx", False)
    template = "historical_sync/_bulk.html" if htmx else "historical_sync/bulk.html"
    return render(request, template, context, status=400 if errors and not htmx else 200)


@require_GET
@tenant_required(Right.OPERATE)
def estimate_selected(request: HttpRequest) -> HttpResponse:
    """What the choice would bring: for all together, and for each."""
    actor = actor_of(request)
    chosen = _chosen(actor, request.GET)
    context: dict[str, Any] = {}
    try:
        start, end, _ = choice_of(request)
        found = estimates(actor, chosen, start=start, end=end)
    except Refused as error:
        context["problem"] = error.detail
    else:
        good = [one for one in found if isinstance(one, RangeEstimate)]
        # The range is off: that is not said once for each.
        problems = {one.detail for one in found if isinstance(one, Refused) and one.attr is not None}
        if problems:
            context["problem"] = " ".join(sorted(problems))
        else:
            context["estimate"] = together(good, ACTIVE_JOBS)
            context["unknown"] = sum(one.records is None for one in good)
            context["rows"] = [
                (connection, one, one.detail if isinstance(one, Refused) else "")
                for connection, one in zip(chosen, found, strict=True)
            ]
    return render(request, "historical_sync/_bulk_estimate.html", context)


@require_GET
@tenant_required()
def queued(request: HttpRequest, queued_id: UUID) -> HttpResponse:
    """What waits, as cards and the list of imports show it; nothing when it does not wait any more."""
    found = queueing.waiting_of(actor_of(request).tenant).filter(id=queued_id).select_related("connection").first()
    return render(request, "historical_sync/_queued.html", {"queued": found}) if found else HttpResponse("")


@require_POST
@tenant_required(Right.OPERATE)
def take_back(request: HttpRequest, queued_id: UUID) -> HttpResponse:
    """What waits does not start."""
    if not queueing.take_back(actor_of(request).tenant, queued_id):
        raise Http404
    words = "It was taken back and will not start."
    if getattr(request, "htmx", False):
        return trigger_client_event(HttpResponse(""), "said", {"value": words})
    messages.success(request, words)
    return redirect("jobs")
