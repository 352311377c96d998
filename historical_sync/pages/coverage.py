"""What of each connection's history is in, missing or failed; and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from atom.access import Actor, Right
from atom.errors import Refused
from atom.middleware import actor_of
from atom.plans import cheapest
from atom.views import tenant_required
from atom.words import span
from historical_sync import actions, coverage
from historical_sync.coverage import Held
from historical_sync.models import HistoricalSyncJob
from historical_sync.pages.coveragemap import MOST_GAPS, Gap, Row, coverage_map, gaps
from historical_sync.pages.integrations import marks_of, reach_of
from integrations.connect import connections_of
from integrations.models import Connection, ConnectionStatus
from integrations.providers import PROVIDERS

PAGE = 10


@dataclass
class Panel:
    """One connection. since, until: of its calendar. absent: streams that were never asked for. earlier: where to extend to.

    limit: why it can't go further back; "" when it can.
    """

    connection: Connection
    rows: list[Row]
    since: datetime | None
    until: datetime
    missing: bool
    failed: bool
    absent: list[str] = field(default_factory=list)
    active: HistoricalSyncJob | None = None
    earlier: str = ""
    limit: str = ""

    @property
    def is_connected(self) -> bool:
        return self.connection.status == ConnectionStatus.CONNECTED

    @property
    def needs_reconnect(self) -> bool:
        return self.connection.status == ConnectionStatus.REAUTH_REQUIRED


@require_GET
@tenant_required()
def overview(request: HttpRequest) -> HttpResponse:
    """Every connection with a calendar a stream: `?q=&page=`."""
    actor = actor_of(request)
    query = request.GET.get("q", "").strip()[:100]
    known = (
        connections_of(actor.tenant)
        .filter(provider_slug__in=PROVIDERS)
        .order_by("provider_slug", "account_label", "id")
    )
    wanted = [
        connection for connection in known
        if all(word in f"{connection.provider_name} {connection.account_label}".lower() for word in query.lower().split())
        and (connection.status != ConnectionStatus.DISCONNECTED or connection.last_success_at is not None)
    ]  # fmt: skip
    page = Paginator(wanted, PAGE).get_page(request.GET.get("page"))
    panels = _panels(actor, list(page))
    context = {"panels": panels, "page": page, "query": query}
    fragment = getattr(request, "htmx", False) and request.htmx.target == "coverage-list"  # type: ignore[attr-defined]
    return render(
        request, "historical_sync/_coverage_list.html" if fragment else "historical_sync/coverage.html", context
    )


@require_GET
@tenant_required()
def of_connection(request: HttpRequest, connection_id: UUID) -> HttpResponse:
    """One connection's calendar with its partitions and a table of what is missing: `?open=` a stream, `?q=` a partition's name."""
    actor = actor_of(request)
    connection = _connection(actor, connection_id)
    query = request.GET.get("q", "").strip()[:100]
    opened = request.GET.getlist("open")[:20]
    held = coverage.of_connection(connection)
    if query and not opened:
        opened = list(
            {part.stream for part in held if part.partition and query.lower() in part.partition_label.lower()}
        )
    [panel] = _panels(actor, [connection], {connection.id: held}, opened, query)
    missing = gaps(held)
    context: dict[str, Any] = {
        "panel": panel,
        "query": query,
        "opened": opened,
        "gaps": [(gap, _places(gap)) for gap in missing[:MOST_GAPS]],
        "more_gaps": max(len(missing) - MOST_GAPS, 0),
        "partitioned": any(row.partitions > 1 for row in panel.rows),
    }
    fragment = getattr(request, "htmx", False) and request.htmx.target == "coverage-connection"  # type: ignore[attr-defined]
    name = "_coverage_connection" if fragment else "coverage_connection"
    return render(request, f"historical_sync/{name}.html", context)


@require_POST
@tenant_required(Right.OPERATE)
def repair(request: HttpRequest, connection_id: UUID) -> HttpResponse:
    """Imports what is missing, and goes to that import."""
    actor = actor_of(request)
    connection = _connection(actor, connection_id)
    try:
        job = actions.repair_gaps(actor, connection)
    except Refused as error:
        messages.error(request, error.detail)
        return redirect("coverage-connection", connection_id=connection.id)
    return redirect("job", job_id=job.id)


def _panels(
    actor: Actor,
    connections: Sequence[Connection],
    held: dict[UUID, list[Held]] | None = None,
    opened: Iterable[str] = (),
    search: str = "",
) -> list[Panel]:
    now = timezone.now()
    of_each = held if held is not None else coverage.of_connections(connections)
    jobs = actions.jobs_of(actor.tenant).active().filter(connection__in=connections)
    active = {job.connection_id: job for job in jobs}
    panels = []
    for connection in connections:
        parts = of_each[connection.id]
        spans = [window for part in parts for window in (*part.covered, *part.missing)]
        since = min((window.since for window in spans), default=None)
        asked = {part.stream for part in parts}
        panel = Panel(
            connection,
            coverage_map(parts, since, now, list(opened), search) if since else [],
            since,
            now,
            any(part.missing for part in parts),
            any(part.failed for part in parts),
            [stream.label for stream in connection.provider.streams if stream.name not in asked] if parts else [],
            active.get(connection.id),
        )
        if since is not None:
            panel.earlier, panel.limit = _further_back(actor, since, now)
        panels.append(panel)
    return panels


def _further_back(actor: Actor, since: datetime, now: datetime) -> tuple[str, str]:
    """(a day to extend to, "") as the plan allows; ("", why not) at the plan's end. Both are "" when all there is was asked for."""
    wanted = next((mark for mark, _ in marks_of(now) if mark < since - timedelta(days=2)), None)
    if wanted is None:
        return "", ""
    history = actor.tenant.limits.history
    if history is None or wanted >= now - history:
        return wanted.date().isoformat(), ""
    edge = reach_of(history, now)
    if edge < since - timedelta(days=2):
        return edge.date().isoformat(), ""
    more = cheapest(lambda plan: plan.history is None or plan.history > history)
    way_on = ""
    if more is not None:
        way_on = f" The {more.name} plan reaches {span(more.history) + ' back' if more.history else 'back to the beginning'}."
    return "", f"Your {actor.tenant.limits.name} plan reaches {span(history)} back.{way_on}"


def _places(gap: Gap) -> str:
    """acme/web; acme/web, acme/app and 12 more"""
    if len(gap.places) <= 3:
        return ", ".join(gap.places)
    return f"{', '.join(gap.places[:2])} and {len(gap.places) - 2:,} more"


def _connection(actor: Actor, connection_id: UUID) -> Connection:
    connection: Connection = get_object_or_404(
        connections_of(actor.tenant), id=connection_id, provider_slug__in=PROVIDERS
    )
    return connection
