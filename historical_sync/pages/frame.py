"""What the frame of every page shows of imports, and what changes on pages while they are open."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from django.views.decorators.http import require_GET

from atom.access import Right
from atom.middleware import actor_of
from atom.views import bad_request, tenant_required
from historical_sync.live import job_context, of_late, running_jobs, since
from historical_sync.pages.integrations import go

# The header's links: (words, URL name, names of the pages that belong to it).
NAVIGATION = (
    ("Integrations", "integrations", ("integrations", "import")),
    ("Imports", "jobs", ("jobs", "job", "job-cancel")),
    ("Schedules", "schedules", ("schedules", "schedule")),
    ("Coverage", "coverage", ("coverage", "coverage-connection")),
    ("Explorer", "entities", ("entities", "entity")),
    ("Analytics", "analytics", ("analytics",)),
)
RECENT = timedelta(seconds=30)  # how far back a page that does not say since when is told of what stopped


def running(request: HttpRequest) -> dict[str, Any]:
    """Context processor: the header's links and its small running indicator."""
    actor = getattr(request, "actor", None)
    if actor is None:
        return {}
    return {"navigation": NAVIGATION, "running_jobs": SimpleLazyObject(lambda: running_jobs(actor.tenant.id))}


@require_GET
@tenant_required()
def live(request: HttpRequest) -> HttpResponse:
    """What `/ws/pages` and `/ws/notifications` would have said of late: for pages whose socket is down.

    ?since=: when the page was made (ISO 8601, with its zone): it knows what had stopped by then. ?workspace=: the page's, which
    another tab may have left meanwhile.
    """
    actor = actor_of(request)
    if request.GET.get("workspace", str(actor.tenant.id)) != str(actor.tenant.id):
        return go(request, reverse("integrations"))
    try:
        ended_since = since(request.GET["since"]) if "since" in request.GET else timezone.now() - RECENT
    except ValueError:
        return bad_request(request)  # the exception would be logged with its traceback, as if it were one of ours
    may = actor.may(Right.OPERATE)
    parts: list[str] = []
    running = running_jobs(actor.tenant.id)
    for job in of_late(actor.tenant.id, ended_since):
        context = job_context(job, may) | {"running_jobs": running}
        parts.append(render_to_string("historical_sync/_changed.html", context))
        if job.stopped_lately:  # type: ignore[attr-defined] # of `of_late`
            parts.append(render_to_string("historical_sync/_toast.html", context))
    parts.append(render_to_string("historical_sync/_indicator.html", {"running_jobs": running}))
    return HttpResponse("".join(parts))
