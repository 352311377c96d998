"""Signing in and out, the current workspace, and error pages."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.contrib import admin
from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.views import redirect_to_login
from django.db import DatabaseError, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from atom import sign_ins, tries
from atom.access import SESSION_TENANT, Right
from atom.db import away
from atom.errors import UNAVAILABLE, UNAVAILABLE_WORDS
from atom.middleware import actor_of
from atom.models import User

View = Callable[..., HttpResponseBase]

APPEARANCE = "appearance"  # the cookie; it has to be there before the first paint, so it is no row of a table
APPEARANCES = {"": "System", "light": "Light", "dark": "Dark"}

BY_ISSUER = (
    "by_issuer"  # the cookie of a browser whose session the company's identity provider began, until it signs out
)


def tenant_required(right: Right = Right.VIEW, *, from_any_workspace: bool = False) -> Callable[[View], View]:
    """Only for members of a tenant whose role has `right`: others are sent to sign in, or told that they may not (403).

    What a page asks for that was made for another workspace than the session's is refused (409), before anything is done: another
    tab may have left it meanwhile. from_any_workspace: not here.

    No browser keeps the answer: a page that Back showed again would tell once more what had ended since it was made, and tell it to
    whoever is at the browser after its reader signed out.
    """

    def decorate(view: View) -> View:
        @never_cache
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            actor = getattr(request, "actor", None)
            if not request.user.is_authenticated:
                if getattr(request, "htmx", False):
                    # A fragment can't hold the sign-in page: htmx goes there as a whole.
                    response = HttpResponse(status=401)
                    response["HX-Redirect"] = _sign_in_and_back(request)
                    return response
                return redirect_to_login(request.get_full_path() if request.method == "GET" else "/integrations")
            if actor is None:
                words = (
                    f"{request.user.get_username()} is not a member of any workspace. Ask somebody for an invitation."
                )
                return refusal(request, "No workspace", words, way_out=True)
            asked_in = workspace_of_page(request)
            if not from_any_workspace and asked_in not in (None, str(actor.tenant.id)):
                name = next((f", {tenant}" for tenant in actor.tenants if str(tenant.id) == asked_in), "")
                words = (
                    f"This page is of another workspace{name}, and this browser is in {actor.tenant} by now. "
                    "Nothing was done. Reload it."
                )
                return refusal(request, "Another workspace", words, 409)
            if not actor.may(right):
                words = (
                    f"Your role in {actor.tenant} ({actor.role}) does not allow this. An owner or admin can change it."
                )
                return refusal(request, "Not allowed", words)
            return view(request, *args, **kwargs)

        guarded.right = right  # type: ignore[attr-defined]
        return guarded

    return decorate


def workspace_of_page(request: HttpRequest) -> str | None:
    """The id of the workspace that the asking page says it was made for: its forms in a hidden field, htmx in a header as well.

    None where nothing says so.
    """
    return request.POST.get("workspace") or request.headers.get("X-Workspace")


def _sign_in_and_back(request: HttpRequest) -> str:
    """Where htmx goes to sign in, and from there back to the page (not the fragment) that the person is on."""
    try:
        current = urlsplit(request.headers.get("HX-Current-URL", ""))
    except ValueError:  # whatever was sent there
        current = urlsplit("")
    back = current.path + (f"?{current.query}" if current.query else "")
    return f"{reverse(settings.LOGIN_URL)}?{urlencode({'next': back or settings.LOGIN_REDIRECT_URL})}"


def refusal(request: HttpRequest, title: str, words: str, status: int = 403, *, way_out: bool = False) -> HttpResponse:
    """A page, or for htmx a toast, that says why not. way_out: with a way to sign in as somebody else."""
    if getattr(request, "htmx", False):
        response = render(request, "_refused.html", {"title": title, "words": words}, status=status)
        response["X-Fragments"] = "1"
        return response
    return render(request, "error.html", {"title": title, "words": words, "way_out": way_out}, status=status)


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    return redirect(settings.LOGIN_REDIRECT_URL)


@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """E-mail and password; rate limited by account and by address, without telling which of the two was wrong."""
    target = own_address(request, request.POST.get("next") or request.GET.get("next") or "")
    if request.user.is_authenticated:
        return HttpResponseRedirect(target)
    if request.method == "POST":
        if not settings.PASSWORDS:
            return door(request, target, error="Nobody signs in with a password here.", status=403)
        email = request.POST.get("email", "").strip().lower()[:254]
        password = request.POST.get("password", "")[: settings.LONGEST_PASSWORD]
        tried = tries.to_sign_in(request, email)
        if tried.one_too_many():
            return tries.refused(door(request, target, email=email, error=tries.TOO_MANY))
        possible = email and password and "\0" not in email  # which the database takes in no text
        user = authenticate(request, username=email, password=password) if possible else None
        if user is None:
            if possible:
                sign_ins.failed(request, email)
            words = "This e-mail address and password do not match."
            return door(request, target, email=email, error=words, status=400)
        tried.forgive()
        assert isinstance(user, User)
        with transaction.atomic():
            login(request, user)
            sign_ins.signed_in(request, user)
        return HttpResponseRedirect(target)
    return door(request, target)


def own_address(request: HttpRequest, target: str) -> str:
    """Where somebody who signs in goes on to: what was asked for, if it is an address of ours."""
    own = url_has_allowed_host_and_scheme(target, {request.get_host()}, require_https=request.is_secure())
    return target if own else settings.LOGIN_REDIRECT_URL


def door(request: HttpRequest, target: str, *, email: str = "", error: str = "", status: int = 200) -> HttpResponse:
    """The page to sign in at."""
    context = {
        "next": target,
        "email": email,
        "error": error,
        "passwords": settings.PASSWORDS,
        "single_sign_on": settings.OIDC_NAME if settings.OIDC_ISSUER else "",
    }
    return render(request, "sign_in.html", context, status=status)


@never_cache
@sensitive_post_parameters("password")
def admin_sign_in(request: HttpRequest) -> HttpResponse:
    """The admin's own form, with the limits of the site's; the site's page where there are no passwords."""
    if not settings.PASSWORDS:
        if request.user.is_authenticated and not request.user.is_staff:
            return refusal(request, "Not allowed", "The admin is for the staff of this deployment.", way_out=True)
        return redirect_to_login(own_address(request, request.GET.get("next") or reverse("admin:index")))
    if request.method != "POST":
        return admin.site.login(request)
    # As the form reads it: full-width letters, and many others, are letters to it.
    email = unicodedata.normalize("NFKC", request.POST.get("username", "").strip()).lower()[:254]
    tried = tries.to_sign_in(request, email)
    if tried.one_too_many():
        return tries.refused(refusal(request, "Too many tries", "Wait five minutes and try again.", 429))
    with transaction.atomic():
        response = admin.site.login(request)
        if response.status_code == 302:
            tried.forgive()
            assert isinstance(request.user, User)
            sign_ins.signed_in(request, request.user, sign_ins.IN_THE_ADMIN)
        elif email and request.POST.get("password") and "\0" not in email:
            sign_ins.failed(request, email, sign_ins.IN_THE_ADMIN)
    return response


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    user = request.user
    with transaction.atomic():
        logout(request)
        if isinstance(user, User):
            sign_ins.signed_out(request, user)
    response = redirect("sign-in")
    response.delete_cookie(BY_ISSUER)
    return response


@require_POST
def admin_sign_out(request: HttpRequest) -> HttpResponse:
    """The admin's own page."""
    user = request.user
    with transaction.atomic():
        response = admin.site.logout(request)
        if isinstance(user, User):
            sign_ins.signed_out(request, user, sign_ins.IN_THE_ADMIN)
    response.delete_cookie(BY_ISSUER)
    return response


@require_POST
@tenant_required(from_any_workspace=True)
def switch_tenant(request: HttpRequest) -> HttpResponse:
    """Makes another of the user's tenants the session's; one that is not theirs does not exist."""
    wanted = request.POST.get("tenant", "")
    if not any(str(tenant.id) == wanted for tenant in actor_of(request).tenants):
        raise Http404
    request.session[SESSION_TENANT] = wanted
    return redirect(settings.LOGIN_REDIRECT_URL)


@require_POST
def appearance(request: HttpRequest) -> HttpResponse:
    """Light, dark, or as the system has it, in this browser."""
    chosen = request.POST.get("appearance", "")
    back = request.headers.get("Referer", "")
    if not url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure()):
        back = settings.LOGIN_REDIRECT_URL
    response = redirect(back)
    if chosen and chosen in APPEARANCES:
        response.set_cookie(
            APPEARANCE, chosen, max_age=365 * 86_400, secure=request.is_secure(), httponly=True, samesite="Lax"
        )
    else:
        response.delete_cookie(APPEARANCE)
    return response


def _error(request: HttpRequest, status: int, code: str, title: str, words: str) -> HttpResponse:
    if request.path.startswith("/api/"):
        kind = "server_error" if status >= 500 else "client_error"
        return JsonResponse({"type": kind, "errors": [{"code": code, "detail": words, "attr": None}]}, status=status)
    try:
        return refusal(request, title, words, status)
    except DatabaseError:
        # The page's frame asks who is signed in, and the database is away.
        return HttpResponse(f"{title}. {words}\n", status=status, content_type="text/plain")


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _error(request, 400, "invalid", "Bad request", "The request could not be understood.")


def permission_denied(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _error(request, 403, "permission_denied", "Not allowed", "You may not do this.")


def csrf_failed(request: HttpRequest, reason: str = "") -> HttpResponse:
    words = "This page was open for too long, or cookies are switched off. Reload it and try again."
    if not getattr(request, "htmx", False):
        # This answer, loaded again, would send the same form again.
        words = (
            "The page before was open for too long, you signed in or out in another tab meanwhile, or cookies are switched off. "
            "Go back, load that page anew and try again."
        )
    return _error(request, 403, "permission_denied", "Please try again", words)


def method_refused(get_response: Callable[[HttpRequest], HttpResponse]) -> View:
    """Middleware: in words what Django refuses with an empty page, as where the address of a form is opened from the history."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if response.status_code != 405 or response.content:
            return response
        words = "This address only takes what a page of Atom sends to it. Nothing was done."
        told = _error(request, 405, "method_not_allowed", "Nothing to show", words)
        told["Allow"] = response["Allow"]
        return told

    return middleware


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _error(request, 404, "not_found", "Not here", "There is nothing at this address, or it is not yours to see.")


def server_error(request: HttpRequest) -> HttpResponse:
    """A bug; or that the database is away, which passes."""
    if away.why_away(sys.exception()):
        request.actor = None  # type: ignore[attr-defined] # what the page's frame shows of them would ask the database, and wait
        told = _error(request, 503, UNAVAILABLE, "Back in a moment", UNAVAILABLE_WORDS)
        told["Retry-After"] = str(away.AGAIN_AFTER)
        return told
    words = "Something went wrong on our side. It has been noted; try again in a moment."
    return _error(request, 500, "error", "Something broke", words)
