"""Schedules: how often each connection is synced, when next, and what became of the last run."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import Exists, OuterRef
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from atom.access import Actor, Right
from atom.errors import Refused
from atom.middleware import actor_of
from atom.views import refusal, tenant_required
from atom.words import uncapfirst
from historical_sync import actions, coverage
from historical_sync.models import SyncSchedule
from historical_sync.schedules import (
    DAYS,
    HOURS,
    INTERVALS,
    choose,
    in_words,
    plan_refusal,
    schedules_of,
    takes_hour,
    takes_weekday,
)
from integrations.connect import connections_of
from integrations.models import Connection, ConnectionQuerySet, ConnectionStatus

DEFAULT = "1d"
_CHOICE = {interval: choice for choice, (_, interval) in INTERVALS.items()}


@require_GET
@tenant_required()
def schedules(request: HttpRequest) -> HttpResponse:
    """Every connection with its schedule."""
    actor = actor_of(request)
    known = {schedule.connection_id: schedule for schedule in schedules_of(actor.tenant).select_related("last_job")}
    connections = _connections(actor).live().order_by("provider_slug", "account_label", "id")
    locked = plan_refusal(actor.tenant)
    context = {
        "rows": [_row(actor, connection, known.get(connection.id), locked) for connection in connections],
        "locked": locked,
    }
    fragment = getattr(request, "htmx", False) and request.htmx.target == "schedules"  # type: ignore[attr-defined]
    return render(request, "historical_sync/_schedules.html" if fragment else "historical_sync/schedules.html", context)


@require_POST
@tenant_required(Right.OPERATE)
def schedule(request: HttpRequest, connection_id: UUID) -> HttpResponse:
    """Sets a connection's schedule: `interval`, `hour` and `weekday` of intervals that take one, and `enabled` when it is on. htmx gets the row."""
    actor = actor_of(request)
    connection = get_object_or_404(_connections(actor), id=connection_id)
    htmx = getattr(request, "htmx", False)
    try:
        given = request.POST
        chosen = choose(
            actor,
            connection,
            given.get("interval", ""),
            hour=given.get("hour", ""),
            weekday=given.get("weekday", ""),
            enabled="enabled" in given,
        )
    except Refused as error:
        if htmx:
            return refusal(request, "Not scheduled", error.detail, 200)
        messages.error(request, error.detail)
        return redirect("schedules")
    if htmx:
        return render(
            request,
            "historical_sync/_schedule.html",
            {"row": _row(actor, connection, chosen, plan_refusal(actor.tenant))},
        )
    messages.success(request, f"{connection}: {uncapfirst(_words(chosen))}.")
    return redirect("schedules")


def _connections(actor: Actor) -> ConnectionQuerySet:
    """The tenant's, each with `begun`: something of it is here, and `importing`: an import of it is not over."""
    active = actions.jobs_of(actor.tenant).active().filter(connection=OuterRef("pk"))
    return connections_of(actor.tenant).annotate(begun=coverage.begun(), importing=Exists(active))


def _row(actor: Actor, connection: Connection, known: SyncSchedule | None, locked: str) -> dict[str, Any]:
    on = known is not None and known.enabled
    interval = known.interval if known is not None else INTERVALS[DEFAULT][1]
    is_connected = connection.status == ConnectionStatus.CONNECTED
    return {
        "connection": connection,
        "schedule": known,
        "on": on,
        "words": _words(known),
        "interval": _CHOICE.get(interval, ""),
        "intervals": [(choice, words) for choice, (words, _) in INTERVALS.items()],
        "hours": HOURS if takes_hour(interval) else {},
        "hour": known.hour if known is not None else None,
        "weekdays": DAYS if takes_weekday(interval) else {},
        "weekday": known.weekday if known is not None else None,
        "paused": not is_connected,
        # What is on may be turned off on any plan.
        "may_change": actor.may(Right.OPERATE) and (on or not locked),
        "may_sync": actor.may(Right.OPERATE) and is_connected and connection.begun and not connection.importing,  # type: ignore[attr-defined]
    }


def _words(known: SyncSchedule | None) -> str:
    if known is None or not known.enabled:
        return "Off"
    choice = _CHOICE.get(known.interval)
    return in_words(choice, known.hour, known.weekday) if choice else f"Every {known.interval}"
