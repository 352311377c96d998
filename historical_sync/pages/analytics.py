"""Analytics: what came in, from where, how fast, what failed, and how much of the plan is used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db.models import Count, Max, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from atom.access import Actor
from atom.middleware import actor_of
from atom.views import tenant_required
from historical_sync import actions, allowance, states
from historical_sync.models import HistoricalSyncJob
from historical_sync.pages.charts import Chart, buckets, stacked
from historical_sync.totals import DailyTotals
from integrations.providers import PROVIDERS

# ?range= -> words, days, days of a bar
RANGES = {"30d": ("30 days", 30, 1), "90d": ("90 days", 90, 3), "12m": ("12 months", 364, 14)}
COLOURS = ("chart-1", "chart-2", "chart-3", "chart-4")  # the rest share one
MOST_FAILURES = 8
COUNTS = ("completed", "failed", "cancelled", "records", "unchanged", "quarantined", "seconds")


@dataclass
class Totals:
    """What ended in a span of time; and of unfinished jobs what they brought so far, on today."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    records: int = 0
    unchanged: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    read: int = 0  # records, new or unchanged, in those seconds

    def add(self, row: dict[str, Any]) -> None:
        if "seconds" in row:
            self.read += row["records"] + row["unchanged"]
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + (row.get(name) or 0))

    @property
    def jobs(self) -> int:
        return self.completed + self.failed + self.cancelled

    @property
    def success(self) -> int | None:
        """Percent of the imports that were not cancelled; 100 only when none failed. None without any."""
        tried = self.completed + self.failed
        return None if not tried else 100 if not self.failed else min(99, int(100 * self.completed / tried))

    @property
    def pace(self) -> float | None:
        """Records read in a second of the imports that ended."""
        return self.read / self.seconds if self.seconds >= 1 else None


@require_GET
@tenant_required()
def analytics(request: HttpRequest) -> HttpResponse:
    """`?range=30d|90d|12m`, by the day (UTC) that imports ended."""
    actor = actor_of(request)
    chosen = request.GET.get("range", "")
    chosen = chosen if chosen in RANGES else "30d"
    words, days, step = RANGES[chosen]
    now = timezone.now()
    today = now.astimezone(UTC).date()
    spans = buckets(today - timedelta(days=days - 1), today, step)
    rows = [*_ended(actor, spans[0][0]), *_unfinished(actor, today)]
    whole = Totals()
    by_provider: dict[str, Totals] = {}
    for row in rows:
        whole.add(row)
        by_provider.setdefault(row["provider"], Totals()).add(row)
    order = sorted(by_provider, key=lambda slug: (-by_provider[slug].records, slug))
    limit = actor.tenant.limits.records_a_month
    used = allowance.records_this_month(actor.tenant, now)
    context = {
        "chosen": chosen,
        "ranges": [(key, label) for key, (label, _, _) in RANGES.items()],
        "words": words,
        "whole": whole,
        "records": _by_provider(rows, spans, order),
        "jobs": _by_outcome(rows, spans),
        "pace": _pace(rows, spans),
        "providers": [(_name(slug), PROVIDERS.get(slug), by_provider[slug]) for slug in order],
        "most": max((by_provider[slug].records for slug in order), default=0),
        "failures": _failures(actor, spans[0][0]),
        "used": used,
        "limit": limit,
        "used_share": min(100, round(100 * used / limit)) if limit else 0,
        "anything": bool(whole.jobs or whole.records),
    }
    fragment = getattr(request, "htmx", False) and request.htmx.target == "analytics"  # type: ignore[attr-defined]
    return render(request, "historical_sync/_analytics.html" if fragment else "historical_sync/analytics.html", context)


def _ended(actor: Actor, since: date) -> list[dict[str, Any]]:
    found = DailyTotals.objects.filter(tenant=actor.tenant, day__gte=since).order_by()
    grouped: Any = found.values("day", "connection__provider_slug").annotate(**{f"sum_{n}": Sum(n) for n in COUNTS})
    return [
        {"day": row["day"], "provider": row["connection__provider_slug"], **{n: row[f"sum_{n}"] for n in COUNTS}}
        for row in grouped
    ]


def _unfinished(actor: Actor, today: date) -> list[dict[str, Any]]:
    jobs = actions.jobs_of(actor.tenant).active().select_related("connection")
    return [
        {
            "day": today, "provider": job.connection.provider_slug, "records": job.records_processed,
            "unchanged": job.records_skipped, "quarantined": job.records_quarantined,
        }
        for job in jobs
    ]  # fmt: skip


def _place(day: date, spans: list[tuple[date, date]]) -> int:
    return min(max((day - spans[0][0]).days // ((spans[0][1] - spans[0][0]).days + 1), 0), len(spans) - 1)


def _by_provider(rows: Iterable[dict[str, Any]], spans: list[tuple[date, date]], order: list[str]) -> Chart:
    tones = {slug: COLOURS[i] if i < len(COLOURS) else "" for i, slug in enumerate(order)}
    series = [(slug, _name(slug), tones[slug]) for slug in order if tones[slug]]
    if len(order) > len(COLOURS):
        series.append(("", "Others", "chart-rest"))
    values = {key: [0.0] * len(spans) for key, _, _ in series}
    for row in rows:
        values[row["provider"] if tones[row["provider"]] else ""][_place(row["day"], spans)] += row["records"]
    return stacked(spans, series, values)


def _by_outcome(rows: Iterable[dict[str, Any]], spans: list[tuple[date, date]]) -> Chart:
    series = [("completed", "Completed", "good"), ("failed", "Failed", "bad"), ("cancelled", "Cancelled", "neutral")]
    values = {key: [0.0] * len(spans) for key, _, _ in series}
    for row in rows:
        for key in values:
            values[key][_place(row["day"], spans)] += row.get(key) or 0
    return stacked(spans, series, values)


def _pace(rows: Iterable[dict[str, Any]], spans: list[tuple[date, date]]) -> Chart:
    sums = [Totals() for _ in spans]
    for row in rows:
        if row.get("seconds"):
            sums[_place(row["day"], spans)].add(row)
    return stacked(spans, [("pace", "Records a second", "chart-2")], {"pace": [one.pace or 0.0 for one in sums]})


def _failures(actor: Actor, since: date) -> list[dict[str, Any]]:
    """Why imports failed, the most frequent reason first, in the words of one of them."""
    beginning = datetime.combine(since, time(), UTC)
    failed = HistoricalSyncJob.objects.of(actor.tenant).filter(status=states.FAILED, completed_at__gte=beginning)
    grouped = (
        failed.order_by()
        .values("connection__provider_slug", "last_error_code")
        .annotate(times=Count("id"), last=Max("completed_at"), words=Max("last_error_message"))
        .order_by("-times", "-last")[:MOST_FAILURES]
    )
    return [
        {**row, "name": _name(row["connection__provider_slug"]), "provider": PROVIDERS.get(row["connection__provider_slug"])}
        for row in grouped
    ]  # fmt: skip


def _name(slug: str) -> str:
    known = PROVIDERS.get(slug)
    return known.name if known else slug
