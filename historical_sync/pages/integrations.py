"""The integrations page: what can be connected, what is, and the offer to import its history."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import OuterRef, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from atom.access import Actor, Right
from atom.errors import InvalidInput, Refused
from atom.middleware import actor_of
from atom.plans import PLANS
from atom.views import refusal, tenant_required
from atom.words import span
from historical_sync import actions, admission, coverage, states
from historical_sync.automation import QueuedStart
from historical_sync.estimating import estimate
from historical_sync.live import job_context
from historical_sync.models import HistoricalSyncJob, SyncSchedule
from historical_sync.moments import moment
from historical_sync.queueing import waiting_of
from historical_sync.schedules import schedules_of
from integrations import gateway
from integrations.connect import connections_of, get_connection
from integrations.health import Health, health_of
from integrations.models import Connection, ConnectionStatus
from integrations.oauth import redirect_uri
from integrations.providers import PROVIDERS
from integrations.providers.base import Provider

NOT_ON_CARDS = (states.COMPLETED, states.CANCELLED)
PRESETS = ((1, "1 month"), (3, "3 months"), (6, "6 months"), (12, "12 months"), (0, "All"))
EVERYTHING = datetime(2005, 1, 1, tzinfo=UTC)  # where "All" begins


@dataclass
class Account:
    """One connection on a card. `shown`: its latest job, when that runs, failed, or completed without a part. `begun`: something is here."""

    connection: Connection
    health: Health
    records: int = 0
    last_sync: datetime | None = None
    begun: bool = False
    shown: dict[str, Any] | None = None
    schedule: SyncSchedule | None = None
    queued: QueuedStart | None = None


@dataclass
class Card:
    """One provider: what it brings and the accounts that are connected."""

    provider: Provider
    configured: bool
    sandbox: bool
    variables: tuple[str, str]
    callback: str
    accounts: list[Account] = field(default_factory=list)


@require_GET
@tenant_required()
def integrations(request: HttpRequest) -> HttpResponse:
    """Cards by category; `?q=` searches, `?connected=` is the connection that was just made."""
    actor = actor_of(request)
    query = request.GET.get("q", "").strip()[:100]
    categories: dict[str, list[Card]] = {}
    for card in _cards(request):
        provider = card.provider
        text = f"{provider.name} {provider.category} {provider.summary} {' '.join(provider.brings)}".lower()
        if all(word in text for word in query.lower().split()):
            categories.setdefault(provider.category, []).append(card)
    selectable = any(card.accounts for cards in categories.values() for card in cards)
    context = {
        "categories": categories,
        "query": query,
        "selectable": selectable,
        "prompt_for": _to_prompt(actor, request.GET.get("connected", "")),
    }
    if getattr(request, "htmx", False) and request.htmx.target == "cards":  # type: ignore[attr-defined]
        return render(request, "historical_sync/_cards.html", context)
    return render(request, "historical_sync/integrations.html", context)


def _cards(request: HttpRequest) -> list[Card]:
    actor, cards = actor_of(request), {}
    for provider in PROVIDERS.values():
        config = gateway.configured(provider)
        cards[provider.slug] = Card(
            provider,
            config is not None,
            config is not None and config.sandbox,
            gateway.needed_variables(provider),
            redirect_uri(request, provider),
        )
    jobs = actions.jobs_of(actor.tenant)
    newest = HistoricalSyncJob.objects.filter(connection=OuterRef("pk")).order_by("-created_at").values("pk")[:1]
    live = connections_of(actor.tenant).live()
    connections = list(live.annotate(newest_job=Subquery(newest), begun=coverage.begun()))
    brought = coverage.brought(connections)
    wanted = [connection.newest_job for connection in connections]
    latest = {
        job.connection_id: job
        for job in jobs.with_names().filter(id__in=wanted)
        if job.status not in NOT_ON_CARDS or (job.status == states.COMPLETED and job.failed_chunks)
    }
    scheduled = {schedule.connection_id: schedule for schedule in schedules_of(actor.tenant).filter(enabled=True)}
    queued = {one.connection_id: one for one in waiting_of(actor.tenant).select_related("connection")}
    now = timezone.now()
    for connection in connections:
        card = cards.get(connection.provider_slug)
        if card is None:
            continue
        records, last = brought.get(connection.id, (0, None))
        job = latest.get(connection.id)
        shown = job_context(job, actor.may(Right.OPERATE)) if job is not None else None
        health = health_of(connection, now)
        account = Account(connection, health, records, last, connection.begun, shown)
        account.schedule, account.queued = scheduled.get(connection.id), queued.get(connection.id)
        card.accounts.append(account)
    return list(cards.values())


def _to_prompt(actor: Actor, given: str) -> Connection | None:
    """The connection whose offer shall open by itself: just connected, and not offered before."""
    try:
        connection = get_connection(actor.tenant, UUID(given))
    except (ValueError, Connection.DoesNotExist):
        return None
    fresh = connection.prompted_at is None and connection.status == ConnectionStatus.CONNECTED
    return connection if fresh and actor.may(Right.OPERATE) else None


@require_http_methods(["GET", "POST"])
@tenant_required(Right.OPERATE)
def import_history(request: HttpRequest, connection_id: UUID) -> HttpResponse:
    """The offer to import (GET) and its answer (POST). A dialog for htmx, a page without."""
    actor = actor_of(request)
    connection = get_object_or_404(connections_of(actor.tenant), id=connection_id)
    if connection.status != ConnectionStatus.CONNECTED:
        messages.error(request, f"Reconnect {connection} first.")
        return go(request, reverse("integrations"))
    if request.method == "GET":
        if connection.prompted_at is None:
            connections_of(actor.tenant).filter(id=connection.id).update(prompted_at=timezone.now())
        return _prompt(request, actor, connection, {})
    try:
        start, end, streams = choice_of(request)
        job = actions.start_sync(
            actor, connection, start=start, end=end, streams=streams, full="full" in request.POST,
            trigger="prompt" if request.POST.get("prompt") else "manual",
        )  # fmt: skip
    except Refused as error:
        return _prompt(request, actor, connection, {error.attr or "": error.detail}, status=error.status_code)
    return go(request, reverse("job", args=[job.id]))


def _prompt(
    request: HttpRequest, actor: Actor, connection: Connection, errors: dict[str, str], status: int = 200
) -> HttpResponse:
    given = request.POST if request.method == "POST" else request.GET
    chosen = given.getlist("streams")
    if not chosen and request.method == "GET":
        chosen = [stream.name for stream in connection.provider.streams]
    context = range_of(request, actor) | {
        "connection": connection,
        "streams": [(stream, stream.name in chosen) for stream in connection.provider.streams],
        "errors": errors,
        "off": any(name in errors for name in ("start_date", "end_date", "streams")),  # no estimate until it is mended
        "prompt": given.get("prompt", ""),
        "full": "full" in given,
        "something_is_here": bool(coverage.ledger(connection)),
        "finds_deleted": any(stream.gone is not None for stream in connection.provider.streams),
    }
    template = "historical_sync/_prompt.html" if getattr(request, "htmx", False) else "historical_sync/prompt.html"
    # htmx swaps the answer to a refused form in place, so the dialog stays with what was typed.
    return render(request, template, context, status=200 if status < 400 or getattr(request, "htmx", False) else status)


def range_of(request: HttpRequest, actor: Actor) -> dict[str, Any]:
    """What `_range.html` shows: the range that was given, or else the default one, and what else a dialog offers."""
    now = timezone.now()
    given = request.POST if request.method == "POST" else request.GET
    presets = _presets(actor, now)
    return {
        "presets": presets,
        "locked": _locked_words(actor, presets),
        "start": given.get("start") or admission.default_start(actor.tenant, now).date().isoformat(),
        "end": given.get("end") or now.date().isoformat(),
        "today": now.date().isoformat(),
    }


def marks_of(now: datetime) -> list[tuple[datetime, str]]:
    """(beginning, label) of each preset, the latest first."""
    return [(admission.months_back(now, months) if months else EVERYTHING, label) for months, label in PRESETS]


def reach_of(history: timedelta, now: datetime) -> datetime:
    """Where a plan's depth ends by the calendar, as marks do: plans have days to spare, so that 3 years of any length fit in."""
    return admission.months_back(now, round(history.days / 30.5))


def _presets(actor: Actor, now: datetime) -> list[dict[str, Any]]:
    """The ranges that a dialog offers: label, since (ISO date), locked by the plan, and the first plan that has it."""
    history = actor.tenant.limits.history
    earliest = None if history is None else now - history - admission.DEPTH_GRACE
    marks = marks_of(now)
    # As far as the plan reaches is a range that people want, unless one of the others comes close to it.
    if earliest is not None and history is not None:
        open_to = min((since for since, _ in marks if since >= earliest), default=now)
        if open_to - earliest > timedelta(days=7):
            marks = sorted([*marks, (reach_of(history, now), span(history))], reverse=True)
    presets = []
    for since, label in marks:
        plan = next(
            (p for p in PLANS.values() if p.history is None or since >= now - p.history - admission.DEPTH_GRACE), None
        )
        locked = earliest is not None and since < earliest
        presets.append(
            {"label": label, "since": since.date().isoformat(), "locked": locked, "plan": plan.name if plan else ""}
        )
    return presets


def _locked_words(actor: Actor, presets: list[dict[str, Any]]) -> str:
    """What the plan locks of the presets and which plan does not; "" when it locks nothing."""
    plan = actor.tenant.limits
    locked = [preset for preset in presets if preset["locked"]]
    if plan.history is None or not locked:
        return ""
    ways_on: dict[str, list[str]] = {}
    for preset in locked:
        ways_on.setdefault(preset["plan"], []).append(preset["label"])
    offers = "; ".join(f"{' and '.join(labels)} with the {name} plan" for name, labels in ways_on.items() if name)
    return f"Your {plan.name} plan reaches {span(plan.history)} back." + (f" {offers}." if offers else "")


def choice_of(request: HttpRequest) -> tuple[datetime | None, datetime | None, list[str] | None]:
    """The range and streams that the form holds. Raises InvalidInput at the field."""
    given = request.POST if request.method == "POST" else request.GET
    found: dict[str, datetime | None] = {}
    for name, attr in (("start", "start_date"), ("end", "end_date")):
        value = given.get(name, "").strip()
        try:
            found[name] = moment(value, end=name == "end") if value else None
        except ValueError:
            raise InvalidInput("invalid", "This is not a date.", attr) from None
    end = found["end"]
    # Today's end is in the future; it means now.
    if end is not None and timezone.now() < end <= timezone.now() + timedelta(days=1):
        end = None
    return found["start"], end, given.getlist("streams")


@require_POST
@tenant_required(Right.OPERATE)
def sync_new(request: HttpRequest, connection_id: UUID) -> HttpResponse:
    """Imports what is new, and goes to that import. `back`: the page to return to without scripts when it is refused."""
    actor = actor_of(request)
    connection = get_object_or_404(connections_of(actor.tenant), id=connection_id)
    try:
        job = actions.start_incremental(actor, connection)
    except Refused as error:
        if getattr(request, "htmx", False):
            return refusal(request, "Not started", error.detail, 200)
        messages.error(request, error.detail)
        return redirect("schedules" if request.POST.get("back") == "schedules" else "integrations")
    return go(request, reverse("job", args=[job.id]))


@require_GET
@tenant_required(Right.OPERATE)
def import_estimate(request: HttpRequest, connection_id: UUID) -> HttpResponse:
    """What the choice in the dialog would bring: records, provider calls, time."""
    actor = actor_of(request)
    connection = get_object_or_404(connections_of(actor.tenant), id=connection_id)
    context: dict[str, Any] = {"connection": connection}
    try:
        start, end, streams = choice_of(request)
        context["estimate"] = estimate(
            actor, connection, start=start, end=end, streams=streams, full="full" in request.GET
        )
    except Refused as error:
        context["problem"] = error.detail
    return render(request, "historical_sync/_estimate.html", context)


def go(request: HttpRequest, address: str) -> HttpResponse:
    """Sends the browser to a page, from a form or from htmx."""
    if getattr(request, "htmx", False):
        response = HttpResponse(status=204)
        response["HX-Redirect"] = address
        return response
    return redirect(address)
