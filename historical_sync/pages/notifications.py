"""Who is told what: a member's e-mails, a tenant's webhooks and their log."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from atom.access import Right
from atom.errors import Refused
from atom.middleware import actor_of
from atom.models import Membership
from atom.sessions import show_next, shown_once
from atom.views import tenant_required
from historical_sync import delivering, tasks
from historical_sync import webhooks as endpoints
from historical_sync.automation import EVENTS, NotificationPreference, WebhookEndpoint
from integrations.health import WARN_AHEAD

LOGGED = 50  # deliveries on a page of the log
# What is asked before it is done to an endpoint: (action, words, question, what is lost and what is kept).
CONFIRMED = (
    ("off", "Turn off", "Turn it off?", "What is on its way is given up; the log keeps it, and it can be sent again once the endpoint is on."),
    ("renew", "New secret", "Make a new secret?", "The present one ends at once, also for what is on its way."),
    ("remove", "Remove with its log", "Remove it?", "Nothing more is sent there, and its log goes with it. Imports are not touched."),
)  # fmt: skip
CHOICES = (
    ("completed", "An import completed", "With how much came in."),
    (
        "failed",
        "An import failed",
        "With what is missing and why. Once a day while a schedule goes on failing for the same reason.",
    ),
    (
        "paused",
        "An import paused by itself",
        "Access was lost and somebody has to reconnect, or your plan's records of the month are used up.",
    ),
    ("paused_by_hand", "Somebody paused an import", "It waits until somebody resumes it."),
)
ALSO_ENDS = f" And, once, {WARN_AHEAD.days} days before access to a tool ends."


@require_http_methods(["GET", "POST"])
@tenant_required()
def notifications(request: HttpRequest) -> HttpResponse:
    """Of what the member wants e-mail in this workspace."""
    actor = actor_of(request)
    membership = Membership.objects.select_related("user").get(tenant=actor.tenant, user=actor.user)
    if request.method == "POST":
        chosen = {name: name in request.POST for name, *_ in CHOICES}
        NotificationPreference.objects.update_or_create(
            tenant=actor.tenant, membership=membership, defaults=chosen, create_defaults=chosen
        )
        messages.success(request, "Saved.")
        return redirect("notifications")
    preference = NotificationPreference.of(membership)
    also = {"failed": ALSO_ENDS} if actor.may(Right.CONNECT) else {}
    context = {
        "choices": [
            (name, words, hint + also.get(name, ""), getattr(preference, name)) for name, words, hint in CHOICES
        ],
        "sends_mail": settings.SENDS_MAIL,
    }
    return render(request, "historical_sync/notifications.html", context)


@require_http_methods(["GET", "POST"])
@tenant_required(Right.MANAGE)
def webhooks(request: HttpRequest) -> HttpResponse:
    """Endpoints and the log, `?page=` (GET); a new endpoint, whose secret the page that follows shows once (POST)."""
    if request.method == "GET":
        return _webhooks(request)
    url, events = request.POST.get("url", ""), request.POST.getlist("events")
    try:
        endpoint, secret = endpoints.add(actor_of(request), url, events)
    except Refused as error:
        return _webhooks(
            request, errors={error.attr or "": error.detail}, given={"url": url, "events": events}, status=400
        )
    show_next(request, actor_of(request).tenant, "webhooks", endpoint.url, secret)
    return redirect("webhooks")


@require_POST
@tenant_required(Right.MANAGE)
def webhook(request: HttpRequest, endpoint_id: UUID) -> HttpResponse:
    """Changes an endpoint: `action` is on, off, renew or remove."""
    actor = actor_of(request)
    found = endpoints.endpoints_of(actor.tenant).filter(id=endpoint_id).first()
    if found is None:
        raise Http404
    action = request.POST.get("action", "")
    try:
        if action == "renew":
            show_next(request, actor.tenant, "webhooks", found.url, endpoints.renew_secret(actor, endpoint_id))
        elif action == "on":
            endpoints.turn_on(actor, endpoint_id)
        elif action == "off":
            endpoints.turn_off(actor, endpoint_id)
        elif action == "remove":
            endpoints.remove(actor, endpoint_id)
            messages.success(request, f"{found.url} was removed.")
        else:
            return HttpResponse("There is no such action.", status=400, content_type="text/plain")
    except WebhookEndpoint.DoesNotExist:
        raise Http404 from None
    return redirect("webhooks")


@require_POST
@tenant_required(Right.MANAGE)
def resend(request: HttpRequest, delivery_id: UUID) -> HttpResponse:
    """Has a delivery made again."""
    tenant = actor_of(request).tenant
    if not endpoints.log_of(tenant).filter(id=delivery_id).exists():
        raise Http404
    if delivering.resend(tenant.id, delivery_id):
        tasks.tell(tenant.id)
        messages.success(request, "It is sent again.")
    else:
        messages.error(request, "The endpoint is turned off. Turn it on first.")
    return redirect("webhooks")


def _webhooks(request: HttpRequest, *, status: int = 200, **more: Any) -> HttpResponse:
    tenant = actor_of(request).tenant
    whose, secret = shown_once(request, tenant, "webhooks")
    log = endpoints.log_of(tenant).order_by("-created_at", "id")
    # What belongs to a delivery is read of the page's, not of all that come before them.
    page = Paginator(log.values_list("id", flat=True), LOGGED).get_page(request.GET.get("page"))
    shown = log.filter(id__in=list(page)).select_related("endpoint", "notice__job__connection")
    context = {
        "endpoints": endpoints.endpoints_of(tenant),
        "page": page,
        "log": shown.defer("notice__snapshot"),
        "events": EVENTS,
        "given": {"url": "", "events": EVENTS},
        "errors": {},
        "secret_of": f"The secret of {whose}",
        "secret": secret,
        "confirmed": CONFIRMED,
    } | more
    return render(request, "historical_sync/webhooks.html", context, status=status)
