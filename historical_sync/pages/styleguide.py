"""Every component in every state on one page, from the same templates as the pages. Not in production."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.http import require_GET

from atom.middleware import actor_of
from atom.models import Tenant
from atom.views import tenant_required
from historical_sync import states
from historical_sync.automation import QueuedStart
from historical_sync.estimating import RangeEstimate
from historical_sync.live import job_context
from historical_sync.models import HistoricalSyncJob, JobEvent, SyncSchedule
from historical_sync.pages.chunkmap import ChunkFacts, chunk_map
from historical_sync.pages.jobs import Happening
from historical_sync.queueing import WAITS
from historical_sync.schedules import DAYS, HOURS, INTERVALS
from integrations.models import Connection
from integrations.providers import PROVIDERS

NOBODY = UUID(int=0)
COLOURS = (
    "bg", "surface", "raised", "hover", "line", "line-strong", "text", "muted", "accent", "accent-fill", "accent-soft",
    "good", "good-soft", "good-fill", "bad", "bad-soft", "bad-fill", "warn", "warn-soft", "warn-fill",
    "chart-1", "chart-2", "chart-3", "chart-4",
)  # fmt: skip


@require_GET
@tenant_required()
def styleguide(request: HttpRequest) -> HttpResponse:
    """Tokens, then components in each of their states."""
    if not (settings.DEBUG or settings.SANDBOX):
        raise Http404
    drawn = _Drawer(request)
    jobs = _jobs(actor_of(request).tenant)
    monitors = [
        (words, drawn("historical_sync/_job_live.html", **job_context(job, True)))
        for words, job in jobs.items()
    ]  # fmt: skip
    asking = {
        "asking": "Asking GitHub for issues of 12–19 Oct 2026",
        "asking_since": timezone.now() - timedelta(seconds=4),
    }
    context = {
        "colours": COLOURS,
        "marks": list(PROVIDERS.values()),
        "jobs": list(jobs.values()),
        "monitors": monitors,
        "asking": drawn("historical_sync/_pulse.html", **asking),
        "rows": [drawn("historical_sync/_job_row.html", **job_context(job, True)) for job in jobs.values()],
        "live": [
            drawn("historical_sync/_connection_live.html", fresh=True, **job_context(j, True)) for j in jobs.values()
        ],
        "toasts": [drawn("historical_sync/_toast.html", **job_context(job, True)) for job in _ended(jobs)],
        "details": drawn("historical_sync/_job_details.html", **job_context(jobs["Running"], True), **_details()),
        "no_details": drawn(
            "historical_sync/_job_details.html",
            map=[],
            timeline=[],
            quarantine=[],
            more_aside=0,
            streams={},
            finished=False,
        ),
        "cancel": drawn("historical_sync/_cancel.html", job=jobs["Running"]),
        "estimates": [drawn("historical_sync/_estimate.html", **given) for given in _estimates()],
        "queued": [drawn("historical_sync/_queued.html", queued=one) for one in _queued(jobs["Queued"].connection)],
        "schedules": [drawn("historical_sync/_schedule.html", row=row) for row in _schedules(jobs)],
        "now": timezone.now(),
        "long_ago": datetime(2025, 10, 12, 14, 5, tzinfo=UTC),
    }
    return render(request, "styleguide.html", context)


class _Drawer:
    """Renders fragments so that they can stand side by side: with ids of their own, and asking for nothing."""

    def __init__(self, request: HttpRequest) -> None:
        self.request = request
        self.count = 0

    def __call__(self, template: str, **context: Any) -> SafeString:
        self.count += 1
        html: str = render_to_string(template, context, self.request)
        html = re.sub(r' (?:hx-[a-z-]+|data-new-to|data-toast)="[^"]*"| autofocus', "", html)
        html = re.sub(r' (id|for|aria-labelledby|aria-describedby)="', rf' \1="guide-{self.count}-', html)
        # No landmarks: there are many of one name.
        html = html.replace("<section", '<div role="group"').replace("</section>", "</div>")
        return mark_safe(html)  # noqa: S308 - rendered by templates


def _jobs(tenant: Tenant) -> dict[str, HistoricalSyncJob]:
    now = timezone.now()
    connection = Connection(
        id=NOBODY, tenant=tenant, provider_slug="github", account_label="northwind-dev", by_oauth=True
    )
    plain: dict[str, Any] = {
        "id": NOBODY, "tenant": tenant, "connection": connection, "start_date": now - timedelta(days=92), "end_date": now,
        "created_at": now - timedelta(minutes=4), "created_by_label": "Alice", "streams": ["issues", "commits"],
    }  # fmt: skip
    begun = plain | {
        "started_at": now - timedelta(minutes=4), "planned": True, "total_chunks": 48, "completed_chunks": 20,
        "records_processed": 12_480, "records_skipped": 210, "total_records_estimate": 31_200, "estimate_quality": "about",
        "entities_extracted": 15_022, "relationships_extracted": 48_310, "progress": 41.0, "progress_total": 100.0,
        "entities_by_kind": {"issue": 4210, "pull_request": 2380, "commit": 5120, "message": 3100, "person": 182, "label": 30},
        "last_page_at": now - timedelta(seconds=1), "earlier_pace_at": now - timedelta(seconds=11),
        "earlier_pace_progress": 39.0, "earlier_pace_records": 11_900, "phase_detail": "issues of 12–19 Oct 2026",
    }  # fmt: skip
    whole = begun | {"progress": 100.0, "completed_at": now - timedelta(seconds=20), "completed_chunks": 48}
    cases: dict[str, dict[str, Any]] = {
        "Queued": plain | {"status": states.PENDING},
        "Planning": plain | {"status": states.RUNNING, "started_at": now},
        "Running": begun | {"status": states.RUNNING},
        "Waiting for a limit": begun
        | {
            "status": states.RUNNING,
            "waiting_until": now + timedelta(minutes=14),
            "last_error_code": "provider_throttled",
            "last_error_message": "GitHub's rate limit is used up",
        },
        "Waiting for an answer": begun
        | {
            "status": states.RUNNING,
            "waiting_until": now + timedelta(seconds=20),
            "last_error_code": "provider_preparing",
            "last_error_message": "Salesforce is preparing a bulk query.",
        },
        "Waiting after an error": begun
        | {
            "status": states.RUNNING,
            "waiting_until": now + timedelta(seconds=40),
            "last_error_code": "provider_unavailable",
            "last_error_message": "GitHub answered 502 Bad Gateway.",
        },
        "Nothing but errors": begun
        | {
            "status": states.RUNNING,
            "last_page_at": now - timedelta(minutes=1),
            "last_error_at": now - timedelta(seconds=5),
            "last_error_code": "provider_unavailable",
            "last_error_message": "GitHub answered 502 Bad Gateway.",
        },
        "Pausing": begun | {"status": states.RUNNING, "control": states.CONTROL_PAUSE},
        "Paused": begun | {"status": states.PAUSED, "pause_reason": "user"},
        "Access lost": begun
        | {
            "status": states.PAUSED,
            "pause_reason": "reauth_required",
            "last_error_message": "GitHub no longer accepts this grant: it was revoked.",
        },
        "Failed": begun
        | {
            "status": states.FAILED,
            "failed_chunks": 2,
            "completed_at": now,
            "records_quarantined": 3,
            "last_error_message": "GitHub does not let this grant read commits of northwind-dev/legacy-docs.",
        },
        "Completed": whole | {"status": states.COMPLETED, "records_processed": 31_204},
        "Completed, nothing new": whole
        | {"status": states.COMPLETED, "records_processed": 0, "entities_extracted": 0, "entities_by_kind": {}},
        "Completed without what is refused": whole
        | {
            "status": states.COMPLETED,
            "completed_chunks": 47,
            "failed_chunks": 1,
            "last_error_message": "Not imported: projects of 1–30 Sep 2026 (northwind: Jira does not allow it).",
        },
        "Cancelled": begun | {"status": states.CANCELLED, "completed_at": now},
    }
    return {words: HistoricalSyncJob(**fields) for words, fields in cases.items()}


def _ended(jobs: dict[str, HistoricalSyncJob]) -> list[HistoricalSyncJob]:
    return [jobs[words] for words in ("Completed", "Failed", "Access lost", "Cancelled")]


def _details() -> dict[str, Any]:
    """A map with every state of a cell, a timeline with every kind of event, and quarantine."""
    now = timezone.now()
    start, step = now - timedelta(days=92), timedelta(days=92) / 14
    chunks = [ChunkFacts("repositories", "", "", start, now, "completed", 1.0, 8, None, 7, 0)]
    for i in range(14):
        since, until = start + step * i, start + step * (i + 1)
        for name in ("storefront", "mobile-app", "infra"):
            status = "completed" if i > 6 else "running" if i in (5, 6) and name != "infra" else "pending"
            status = "failed" if (i, name) == (9, "infra") else status
            later = now + timedelta(minutes=1) if i == 4 else None
            progress = 0.4 if status == "running" else 0.0
            chunks.append(
                ChunkFacts(
                    "issues", name, f"northwind-dev/{name}", since, until, status, progress, 40, later, 40 * (i > 6), 0
                )
            )
    kinds = ("completed", "chunk_failed", "split", "retry", "resumed", "paused", "pause_requested", "started")
    events = [
        Happening(
            JobEvent(
                kind=kind,
                actor="Alice" if kind in ("started", "resumed", "pause_requested") else "Atom",
                at=now - timedelta(minutes=i),
            ),
            "GitHub answered 502 Bad Gateway." if kind == "retry" else "",
            ["Issues"] if kind == "retry" else [],
            3 if kind == "retry" else 1,
        )
        for i, kind in enumerate(kinds)
    ]
    quarantine = [
        SimpleNamespace(
            id=1,
            external_id="4711",
            stream="issues",
            why="It has no id, or no time, that can be read.",
            reason="no usable id or time: ValueError: 'yesterday'",
            created_at=now,
        )
    ]
    labels = {"repositories": "Repositories", "issues": "Issues"}
    return {
        "map": chunk_map(chunks, start, now, labels, ("issues",)),
        "timeline": events,
        "quarantine": quarantine,
        "more_aside": 0,
        "streams": labels,
        "finished": False,
    }


def _estimates() -> list[dict[str, Any]]:
    return [
        {"estimate": RangeEstimate(31_204, "exact", 330, 190.0)},
        {"estimate": RangeEstimate(31_000, "about", 330, 190.0)},
        {
            "estimate": RangeEstimate(
                193, "about", 21, 13.0, partly=True, uncounted=("Projects", "Comments", "Work logged", "Changes")
            )
        },
        {"estimate": RangeEstimate(None, "unknown", None, None)},
        {"estimate": RangeEstimate(0, "exact", 0, 0.0, covered=True)},
        {"problem": "History older than 3 months is not part of the Free plan. The Solo plan includes it."},
    ]


def _queued(connection: Connection) -> list[QueuedStart]:
    common: dict[str, Any] = {"id": NOBODY, "connection": connection, "created_by_label": "Alice"}
    return [
        QueuedStart(reason=WAITS, **common),
        QueuedStart(reason="Alice may not start imports here any more.", refused=True, **common),
    ]


def _schedules(jobs: dict[str, HistoricalSyncJob]) -> list[dict[str, Any]]:
    """A row for each thing that can be said of a schedule."""
    now = timezone.now()
    connection = jobs["Queued"].connection
    outcomes: list[tuple[str, str, HistoricalSyncJob | None]] = [
        ("", "", None),
        ("started", "", jobs["Running"]),
        ("started", "", jobs["Completed"]),
        ("started", "", jobs["Failed"]),
        ("skipped", "It is being imported already.", None),
        ("waiting", "3 imports are active already.", None),
        ("refused", "Your plan's records for this month are used up.", None),
    ]
    common = {
        "connection": connection, "interval": "1h", "intervals": [(c, words) for c, (words, _) in INTERVALS.items()],
        "words": "Every hour", "may_sync": True, "hours": {}, "hour": None, "weekdays": {}, "weekday": None,
    }  # fmt: skip
    rows = [
        common | {"on": True, "paused": False, "may_change": True, "schedule": SyncSchedule(
            next_run_at=now + timedelta(hours=1), last_run_at=now, last_result=result, last_detail=detail, last_job=job
        )}
        for result, detail, job in outcomes
    ]  # fmt: skip
    off = common | {
        "words": "Off",
        "on": False,
        "paused": False,
        "may_change": False,
        "may_sync": False,
        "schedule": None,
    }
    rows[0] |= {"interval": "7d", "hours": HOURS, "hour": 2, "weekdays": DAYS, "weekday": 0}
    return [*rows, rows[2] | {"paused": True, "may_sync": False}, off]
