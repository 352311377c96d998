"""Imports: the table, one job's page, and what a person does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from atom.access import Actor, Right
from atom.errors import Refused
from atom.middleware import actor_of
from atom.views import refusal, tenant_required
from historical_sync import actions, queueing, states
from historical_sync.live import job_context
from historical_sync.models import HistoricalSyncJob, JobEvent, SyncChunk
from historical_sync.pages.chunkmap import FIELDS, ChunkFacts, chunk_map
from integrations.connect import connections_of
from integrations.providers import PROVIDERS

PAGE = 25
SORTS = {"newest": "-created_at", "oldest": "created_at", "records": "-records_processed", "status": "status"}
MOST_EVENTS = 100
MOST_READ = 400  # events that those lines are made of
MOST_QUARANTINED = 50


@require_GET
@tenant_required()
def jobs(request: HttpRequest) -> HttpResponse:
    """The table of imports: `?status=&integration=&sort=&page=`."""
    actor = actor_of(request)
    chosen = {
        "status": _one_of(request, "status", states.STATUSES),
        "integration": _one_of(request, "integration", tuple(PROVIDERS)),
        "sort": _one_of(request, "sort", tuple(SORTS)) or "newest",
    }
    found = actions.jobs_of(actor.tenant).with_names()
    if chosen["status"]:
        found = found.filter(status=chosen["status"])
    if chosen["integration"]:
        found = found.filter(connection__provider_slug=chosen["integration"])
    page = Paginator(found.order_by(SORTS[chosen["sort"]], "-created_at", "id"), PAGE).get_page(request.GET.get("page"))
    may = actor.may(Right.OPERATE)
    connected = connections_of(actor.tenant).values_list("provider_slug", flat=True).distinct()
    filtered = bool(chosen["status"] or chosen["integration"])
    query = urlencode({name: value for name, value in chosen.items() if value and value != "newest"})
    context = {
        "rows": [job_context(job, may) for job in page],
        "page": page,
        "waiting": list(queueing.waiting_of(actor.tenant).select_related("connection")),
        "query": query,
        "chosen": chosen,
        "filtered": filtered,
        "grows": not filtered and chosen["sort"] == "newest" and page.number == 1,
        "statuses": states.STATUSES,
        "integrations": [PROVIDERS[slug] for slug in sorted(set(connected)) if slug in PROVIDERS],
        "sorts": {"newest": "Newest first", "oldest": "Oldest first", "records": "Most records", "status": "By status"},
    }
    fragment = getattr(request, "htmx", False) and request.htmx.target == "jobs-table"  # type: ignore[attr-defined]
    return render(request, "historical_sync/_jobs_table.html" if fragment else "historical_sync/jobs.html", context)


def _one_of(request: HttpRequest, name: str, choices: Sequence[str]) -> str:
    value = request.GET.get(name, "")
    return value if value in choices else ""


@require_GET
@tenant_required()
def job(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """The monitor, the map of chunks, the timeline, and what went into quarantine."""
    actor = actor_of(request)
    found = _job(actor, job_id)
    context = job_context(found, actor.may(Right.OPERATE)) | job_details(found, request.GET.getlist("open"))
    return render(request, "historical_sync/job.html", context)


@require_GET
@tenant_required()
def job_live(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """The monitor alone: what the socket sends, for pages whose socket is down."""
    actor = actor_of(request)
    return render(request, "historical_sync/_job_live.html", job_context(_job(actor, job_id), actor.may(Right.OPERATE)))


@require_GET
@tenant_required()
def job_detail(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Map, timeline and quarantine: asked for again when the job changed. `?open=`: streams whose partitions show."""
    actor = actor_of(request)
    found = _job(actor, job_id)
    context = job_context(found, actor.may(Right.OPERATE)) | job_details(found, request.GET.getlist("open"))
    return render(request, "historical_sync/_job_details.html", context)


@dataclass(slots=True)
class Happening:
    """One line of the timeline: an event, or the same one several times; `at` is the last time.

    words: what is told of it, but for the streams whose parts it befell.
    """

    event: JobEvent
    words: str
    streams: list[str]
    times: int = 1

    @property
    def detail(self) -> str:
        """GitHub is down; Issues: GitHub is down; Issues, Commits and 4 more: GitHub is down"""
        if not self.streams:
            return self.words
        named = ", ".join(self.streams)
        if len(self.streams) > 3:
            named = f"{', '.join(self.streams[:2])} and {len(self.streams) - 2} more"
        return f"{named}: {self.words}"


def _timeline(events: Iterable[JobEvent], labels: Iterable[str]) -> list[Happening]:
    """Newest first, as the events are. In a run of events of one kind those with the same words are one line: parts are worked on
    side by side, and what befalls them all comes in turns. labels: of streams, which a detail may begin with."""
    known = list(labels)
    lines: list[Happening] = []
    for _, run in groupby(events, key=lambda event: (event.kind, event.actor)):
        same: dict[str, Happening] = {}
        for event in run:
            stream, _, words = event.detail.partition(": ")
            if stream not in known:
                stream, words = "", event.detail
            line = same.get(words)
            if line is None:
                same[words] = Happening(event, words, [stream] if stream else [])
                continue
            line.times += 1
            if stream and stream not in line.streams:
                line.streams.append(stream)
        for line in same.values():
            line.streams.sort(key=known.index)
        lines += same.values()
    return lines


def job_details(job: HistoricalSyncJob, opened: Sequence[str] = ()) -> dict[str, Any]:
    """What the job's page shows below the monitor. `opened`: streams whose partitions show on the map."""
    events = job.events.filter(tenant_id=job.tenant_id).order_by("-at")[:MOST_READ]
    kept = job.quarantine.filter(tenant_id=job.tenant_id, replayed_at=None).defer("sealed_payload")
    quarantine = list(kept[:MOST_QUARANTINED])
    chunks = SyncChunk.objects.filter(tenant_id=job.tenant_id, job=job).exclude(status=states.CHUNK_SPLIT)
    labels = {stream.name: stream.label for stream in job.connection.provider.streams}
    facts = map(ChunkFacts._make, chunks.order_by("since").values_list(*FIELDS))
    return {
        "map": chunk_map(facts, job.start_date, job.end_date, labels, opened),
        "timeline": _timeline(events, labels.values())[:MOST_EVENTS],
        "quarantine": quarantine,
        "more_aside": job.records_quarantined - len(quarantine) if len(quarantine) == MOST_QUARANTINED else 0,
        "streams": labels,
        "finished": job.status in states.FINISHED,
    }


@require_http_methods(["GET", "POST"])
@tenant_required(Right.OPERATE)
def cancel(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Asks whether to cancel, saying what is kept (GET); cancels (POST)."""
    if request.method == "POST":
        return _act(request, job_id, actions.cancel)
    context = {"job": _job(actor_of(request), job_id)}
    return render(
        request,
        "historical_sync/_cancel.html" if getattr(request, "htmx", False) else "historical_sync/cancel.html",
        context,
    )


@require_POST
@tenant_required(Right.OPERATE)
def pause(request: HttpRequest, job_id: UUID) -> HttpResponse:
    return _act(request, job_id, actions.pause)


@require_POST
@tenant_required(Right.OPERATE)
def resume(request: HttpRequest, job_id: UUID) -> HttpResponse:
    return _act(request, job_id, actions.resume)


@require_POST
@tenant_required(Right.OPERATE)
def replay(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Tries the records that were kept aside again; says what came of it, as a toast or, without scripts, as a notice."""
    actor = actor_of(request)
    found = _job(actor, job_id)
    try:
        done = actions.replay_quarantine(actor, found, actions.REPLAY_SECONDS)
    except Refused as error:
        return _refused(request, found, error)
    if not getattr(request, "htmx", False):
        (messages.warning if done.left else messages.success)(request, f"{done.words()}.")
        return redirect("job", job_id=found.id)
    found = _job(actor, job_id)
    context = job_context(found, actor.may(Right.OPERATE)) | job_details(found)
    response = render(request, "historical_sync/_replayed.html", context | {"done": done, "once": uuid4()})
    response["X-Fragments"] = "1"
    return response


def _refused(request: HttpRequest, job: HistoricalSyncJob, error: Refused) -> HttpResponse:
    if getattr(request, "htmx", False):
        return refusal(request, "Not now", error.detail, 200)
    messages.error(request, error.detail)
    return redirect("job", job_id=job.id)


def _act(
    request: HttpRequest, job_id: UUID, action: Callable[[Actor, HistoricalSyncJob], HistoricalSyncJob]
) -> HttpResponse:
    """Does it; htmx gets the fragments that changed, a browser without scripts goes to the job's page."""
    actor = actor_of(request)
    found = _job(actor, job_id)
    try:
        found = action(actor, found)
    except Refused as error:
        return _refused(request, found, error)
    if getattr(request, "htmx", False):
        response = render(request, "historical_sync/_acted.html", job_context(found, actor.may(Right.OPERATE)))
        response["X-Fragments"] = "1"
        return response
    return redirect(reverse("job", args=[found.id]))


def _job(actor: Actor, job_id: UUID) -> HistoricalSyncJob:
    try:
        return actions.get_job(actor.tenant, job_id)
    except HistoricalSyncJob.DoesNotExist:
        raise Http404 from None
