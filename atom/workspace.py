"""The settings pages: members, API keys, plan and usage, audit log. For owners and admins."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import date
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.core.mail import send_mail
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from atom import accounts, audit, members, tries
from atom.access import RIGHTS, Actor, Right
from atom.errors import Refused
from atom.middleware import actor_of
from atom.models import ApiKey, Membership, Role, User
from atom.plans import PLANS
from atom.sessions import show_next, shown_once
from atom.views import refusal, tenant_required

log = logging.getLogger(__name__)

PAGE = 50
ROLE_WORDS = {
    Role.OWNER: "everything, other owners too",
    Role.ADMIN: "everything but what concerns owners",
    Role.MEMBER: "connect tools and run imports",
    Role.VIEWER: "see everything, change nothing",
}
# What the plan's page says of use, filled in by the package that knows: (actor) -> records this month, connections.
usage: Callable[[Actor], tuple[int, int]] = lambda actor: (0, 0)  # noqa: E731


@require_http_methods(["GET", "POST"])
@tenant_required(Right.MANAGE)
def general(request: HttpRequest) -> HttpResponse:
    """The workspace's name, and its plan beside what is used of it."""
    actor = actor_of(request)
    errors: dict[str, str] = {}
    if request.method == "POST":
        try:
            members.rename(actor, request.POST.get("name", ""))
        except Refused as error:
            errors = {error.attr or "": error.detail}
        else:
            messages.success(request, "The name is saved.")
            return redirect("settings")
    records, connections = usage(actor)
    plan = actor.tenant.limits
    context = {
        "name": request.POST.get("name", actor.tenant.name),
        "errors": errors,
        "plan": plan,
        "plans": PLANS.values(),
        "records": records,
        "records_share": min(100, round(100 * records / plan.records_a_month)) if plan.records_a_month else 0,
        "connections": connections,
        "connections_share": min(100, round(100 * connections / plan.connections)) if plan.connections else 0,
    }
    return render(request, "workspace/general.html", context, status=400 if errors else 200)


@require_http_methods(["GET", "POST"])
@tenant_required(Right.MANAGE)
def people(request: HttpRequest) -> HttpResponse:
    """Members (GET); an invitation by e-mail (POST)."""
    actor = actor_of(request)
    errors: dict[str, str] = {}
    status = 200
    if request.method == "POST":
        try:
            made = members.invite(actor, request.POST.get("email", ""), request.POST.get("role", ""))
        except Refused as error:
            errors, status = {error.attr or "": error.detail}, error.status_code
        else:
            _write_to(request, actor, made.user)
            return redirect("settings-members")
    context = {
        "members": members.members_of(actor.tenant),
        "roles": _roles(actor),
        "role_words": [(Role(role).label, words) for role, words in ROLE_WORDS.items()],
        "errors": errors,
        "given": {"email": request.POST.get("email", ""), "role": request.POST.get("role") or Role.MEMBER},
    }
    return render(request, "workspace/members.html", context, status=status)


@require_http_methods(["GET", "POST"])
@tenant_required(Right.MANAGE)
def member(request: HttpRequest, membership_id: UUID) -> HttpResponse:
    """Asks whether to remove a member, saying what goes on without them (GET).

    POST, `action`: role (with `role`), remove (as `_remove` has it), or link (sends the invitation again).
    """
    actor = actor_of(request)
    found = Membership.objects.filter(tenant=actor.tenant, id=membership_id).select_related("user", "tenant").first()
    if found is None:
        raise Http404
    if request.method == "GET":
        if found.role == Role.OWNER and actor.role != Role.OWNER:
            return refusal(request, "Not removed", members.BY_AN_OWNER)
        return _ask_to_remove(request, found)
    action = request.POST.get("action", "")
    role = found.role
    try:
        if action == "role":
            role = members.change_role(actor, found.id, request.POST.get("role", "")).role
            if role == found.role:
                messages.info(request, f"{found.user} has this role already.")
            else:
                messages.success(request, f"{found.user} has the role {Role(role).label} now.")
        elif action == "remove":
            _remove(request, actor, found)
            role = ""
            messages.success(request, f"{found.user} is no member any more.")
        elif action == "link" and not found.user.has_come and found.user.is_active:
            _write_to(request, actor, found.user)
        else:
            messages.error(request, "Nothing was changed.")
    except Membership.DoesNotExist:  # somebody else removed them meanwhile
        raise Http404 from None
    except Refused as error:
        messages.error(request, error.detail)
        return redirect("settings-members")
    # Whoever removed or demoted themselves may not see the members any more.
    mine = found.user_id == getattr(actor.user, "id", None)
    return redirect("home" if mine and Right.MANAGE not in RIGHTS.get(role, ()) else "settings-members")


@require_http_methods(["GET", "POST"])
@tenant_required()
def leave(request: HttpRequest) -> HttpResponse:
    """Asks whoever it is whether to leave the workspace, saying what goes on without them (GET); ends their membership (POST)."""
    actor = actor_of(request)
    mine = get_object_or_404(Membership.objects.select_related("user", "tenant"), tenant=actor.tenant, user=actor.user)
    if request.method == "GET":
        return _ask_to_remove(request, mine)
    try:
        _remove(request, actor, mine)
    except Refused as error:
        messages.error(request, error.detail)
        return redirect("settings-leave")
    messages.success(request, f"You are no member of {actor.tenant} any more.")
    return redirect("home")


def _ask_to_remove(request: HttpRequest, member: Membership) -> HttpResponse:
    template = "workspace/_remove.html" if getattr(request, "htmx", False) else "workspace/remove.html"
    return render(request, template, {"member": member, "left": members.left_by(member)})


def _remove(request: HttpRequest, actor: Actor, member: Membership) -> None:
    """With each `key` to revoke and `connection` to disconnect. Raises Refused."""
    keys, connections = request.POST.getlist("key"), request.POST.getlist("connection")
    _, honoured = members.remove(actor, member.id, keys=keys, connections=connections)
    for words in honoured:
        messages.warning(request, words)


@require_http_methods(["GET", "POST"])
@tenant_required(Right.MANAGE)
def keys(request: HttpRequest) -> HttpResponse:
    """API keys (GET); a new one, whose secret the page that follows shows once (POST)."""
    actor = actor_of(request)
    errors: dict[str, str] = {}
    status = 200
    if request.method == "POST":
        try:
            made, secret = members.create_key(
                actor, request.POST.get("name", ""), request.POST.get("role", ""), request.POST.get("days", "")
            )
        except Refused as error:
            errors, status = {error.attr or "": error.detail}, error.status_code
        else:
            show_next(request, actor.tenant, "keys", made.name, secret)
            return redirect("settings-keys")
    given = request.POST
    whose, secret = shown_once(request, actor.tenant, "keys")
    context = {
        "keys": members.keys_of(actor.tenant)[: members.MOST_KEYS * 2],
        "roles": _roles(actor),
        "lives": members.KEY_LIVES.items(),
        "secret_of": f"API key {whose}",
        "secret": secret,
        "errors": errors,
        "given": {
            "name": given.get("name", ""),
            "role": given.get("role", Role.MEMBER),
            "days": given.get("days", "90"),
        },
        "now": timezone.now(),
    }
    return render(request, "workspace/keys.html", context, status=status)


@require_POST
@tenant_required(Right.MANAGE)
def revoke_key(request: HttpRequest, prefix: str) -> HttpResponse:
    actor = actor_of(request)
    try:
        key = members.revoke_key(actor, prefix.replace("\0", ""))
    except ApiKey.DoesNotExist:
        raise Http404 from None
    except Refused as error:
        messages.error(request, error.detail)
    else:
        messages.success(request, f"{key.name} is revoked: programs that use it are turned away from now on.")
    return redirect("settings-keys")


@require_GET
@tenant_required(Right.MANAGE)
def audit_log(request: HttpRequest) -> HttpResponse:
    """Who did what, newest first: `?area=&person=&since=&until=&page=`."""
    actor = actor_of(request)
    chosen = _asked_of_the_log(request)
    page = Paginator(audit.found(actor.tenant, **chosen), PAGE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "lines": [(event, audit.PHRASES.get(event.action, event.action)) for event in page],
        "chosen": chosen,
        "query": urlencode({name: value for name, value in chosen.items() if value}),
        "areas": audit.WORDS,
        "members": members.members_of(actor.tenant),
        "most": audit.MOST_LINES,
    }
    return render(request, "workspace/audit.html", context)


@require_GET
@tenant_required(Right.MANAGE)
def audit_file(request: HttpRequest) -> StreamingHttpResponse:
    """The same as a file, by the same address: `?area=&person=&since=&until=`."""
    tenant = actor_of(request).tenant
    found = audit.found(tenant, **_asked_of_the_log(request))
    response = StreamingHttpResponse(audit.as_csv(tenant, found), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="audit-log-{tenant.slug}.csv"'
    return response


def _asked_of_the_log(request: HttpRequest) -> dict[str, Any]:
    """For `audit.found`; what is none of the choices is none."""
    area = request.GET.get("area", "")
    return {
        "area": area if area in audit.WORDS else "",
        "person": request.GET.get("person", "").replace("\0", "").strip()[:254],
        "since": _day(request, "since"),
        "until": _day(request, "until"),
    }


def _day(request: HttpRequest, name: str) -> date | None:
    try:
        return date.fromisoformat(request.GET.get(name, ""))
    except ValueError:
        return None


def _roles(actor: Actor) -> list[tuple[str, str]]:
    return [(role, label) for role, label in Role.choices if role != Role.OWNER or actor.role == Role.OWNER]


def _write_to(request: HttpRequest, actor: Actor, user: User) -> None:
    """Sends the invitation and says so; a mail server that does not answer is no reason to undo it."""
    new = not user.has_come and settings.PASSWORDS
    if not settings.SENDS_MAIL:
        ask = " Ask whoever runs it for a password for them." if new else " Tell them yourself."
        messages.warning(request, f"{user} is a member now, but this Atom sends no e-mail.{ask}")
        return
    if tries.of_an_invitation(request, user.email).one_too_many():
        messages.error(
            request, f"{user} is a member, but was written to often enough. Wait five minutes and try again."
        )
        return
    root = accounts.root(request)
    address = accounts.link_for(user, "set-password", root) if new else root + reverse("home")
    context = {
        "actor": actor,
        "new": new,
        "address": address,
        "days": accounts.days(),
        "sign_in": root + reverse("home"),
        "single_sign_on": settings.OIDC_NAME if settings.OIDC_ISSUER and not user.has_come else "",
    }
    words = render_to_string("workspace/invitation.txt", context)
    subject = " ".join(f"{actor.label} invites you to {actor.tenant}".split())
    try:
        send_mail(subject, words, None, [user.email])
    except OSError as error:
        log.warning("an invitation could not be sent: %s", error)
        messages.error(request, f"{user} is a member, but the e-mail could not be sent. Try again later.")
    else:
        messages.success(
            request,
            f"{user} is a member now and was written to." if not new else f"An invitation is on its way to {user}.",
        )
