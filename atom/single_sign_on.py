"""Signing in by the company's own identity provider. Accounts are made here alone; the issuer says who somebody is.

At the first sign-in the account is found by the address that the issuer vouches for, and from then on by the issuer's own name for the
person, whatever their address becomes. See docs/decisions/0013-single-sign-on.md.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from functools import wraps

from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.backends import ModelBackend
from django.contrib.sessions.backends.base import UpdateError
from django.db import IntegrityError, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from atom import accounts, oidc, sign_ins, tries
from atom.models import Identity, User
from atom.views import BY_ISSUER, door, own_address

log = logging.getLogger(__name__)

LIFETIME = 600  # seconds from here to the issuer and back
LASTS = timedelta(hours=12)  # a session; then the issuer is asked again
MOST_TRIPS = 5  # open at once in one session
_SESSION_KEY = "single_sign_on"
BACKEND = "atom.single_sign_on.Backend"
NOT_BEGUN = "This sign-in was not begun in this browser, took too long or was used already. Try again."


class Backend(ModelBackend):
    """Of sessions that the issuer opened: they end when it is taken out of the settings. It knows no password."""

    def authenticate(self, request: HttpRequest | None, *args: object, **kwargs: object) -> None:
        return None


class NotLetIn(Exception):
    """The issuer knows them, and they may not enter. In words."""


@never_cache
@require_POST
def begin(request: HttpRequest) -> HttpResponse:
    """Sends the browser to the issuer."""
    _check_configured()
    target = own_address(request, request.POST.get("next", ""))
    if request.user.is_authenticated:
        return HttpResponseRedirect(target)
    if tries.to_single_sign_on(request).one_too_many():
        return tries.refused(door(request, target, error=tries.TOO_MANY))
    return _leave(request, target)


def led_again(view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """The sign-in page's view. A browser whose last session began by the issuer is sent there in its place, and mostly comes back at once.

    Just once, as the issuer may keep whoever it does not know any more: who comes here again chooses the way. And not who signed out.
    """

    @never_cache
    @wraps(view)
    def led(request: HttpRequest) -> HttpResponse:
        again = request.method == "GET" and settings.OIDC_ISSUER and request.COOKIES.get(BY_ISSUER)
        if not again or request.user.is_authenticated or tries.to_single_sign_on(request).one_too_many():
            return view(request)
        response = _leave(request, own_address(request, request.GET.get("next", "")))
        response.delete_cookie(BY_ISSUER)
        return response

    return led


def _leave(request: HttpRequest, target: str) -> HttpResponse:
    try:
        to, trip = oidc.begin(accounts.root(request) + reverse("single-sign-on-return"))
    except oidc.Problem as problem:
        return door(request, target, error=str(problem), status=problem.status)
    now = time.time()
    trips = [one for one in request.session.get(_SESSION_KEY, []) if one["at"] > now - LIFETIME]
    trips.append({"trip": list(trip), "next": target if len(target) < 4096 else "/", "at": now})
    request.session[_SESSION_KEY] = trips[-MOST_TRIPS:]
    # Not a redirect, to which browsers apply this page's form-action.
    return render(request, "account/leaving.html", {"name": settings.OIDC_NAME, "to": to})


@never_cache
@require_GET
def back(request: HttpRequest) -> HttpResponse:
    """The browser's return from the issuer."""
    _check_configured()
    found = _trip(request, request.GET.get("state", ""))
    if found is None:
        return door(request, own_address(request, ""), error=NOT_BEGUN, status=400)
    trip, target = found
    name = settings.OIDC_NAME
    code = request.GET.get("code", "")
    try:
        if request.GET.get("iss", settings.OIDC_ISSUER) != settings.OIDC_ISSUER:
            raise oidc.Problem(NOT_BEGUN, 400)
        if request.GET.get("error"):
            raise oidc.Problem(f"{name} did not let you sign in.", 400)
        if not code or len(code) > 4096:
            raise oidc.Problem(f"{name} sent no usable code. Try again.", 400)
        person = oidc.finish(trip, code)
        enter(request, person)
        tries.to_single_sign_on(request).forgive()  # whole companies come from one address
    except oidc.Problem as problem:
        return door(request, target, error=str(problem), status=problem.status)
    except NotLetIn as refused:
        return door(request, target, error=str(refused), status=403)
    response = HttpResponseRedirect(target)
    response.set_cookie(
        BY_ISSUER, "1", max_age=settings.SESSION_COOKIE_AGE, secure=request.is_secure(), httponly=True, samesite="Lax"
    )
    return response


def enter(request: HttpRequest, person: oidc.Person) -> None:
    """Signs in whom the account belongs to. Raises NotLetIn."""
    issuer, name = settings.OIDC_ISSUER, settings.OIDC_NAME
    known = Identity.objects.filter(issuer=issuer, subject=person.subject).select_related("user").first()
    user = known.user if known else _first_time(request, person)
    how = f"with {name}"
    if not user.is_active:
        sign_ins.failed(request, user.email, f"{how}: the account is closed")
        raise NotLetIn("This account was closed by the operator.")
    try:
        with transaction.atomic():
            if known is None:
                Identity.objects.create(user=user, issuer=issuer, subject=person.subject)
                how += ", for the first time"
            login(request, user, backend=BACKEND)
            # At that time, whatever is done until then: who is closed at the issuer is closed here by then.
            request.session.set_expiry(timezone.now() + LASTS)
            sign_ins.signed_in(request, user, how)
    except IntegrityError:  # they, or somebody else as them, came by two browsers at once
        raise NotLetIn("Somebody signed in to this account at the same moment. Try again.") from None


def _first_time(request: HttpRequest, person: oidc.Person) -> User:
    name = settings.OIDC_NAME
    if not person.address:
        log.warning("signing in with %s: the issuer vouches for no e-mail address of %.80s", name, person.subject)
        raise NotLetIn(f"{name} does not vouch for your e-mail address. Ask whoever runs this Atom.")
    user = User.objects.filter(email=person.address).first()
    if user is None:
        sign_ins.failed(request, person.address, f"with {name}")
        raise NotLetIn(f"There is no account for {person.address} here. Ask somebody for an invitation.")
    if Identity.objects.filter(user=user, issuer=settings.OIDC_ISSUER).exists():
        sign_ins.failed(request, user.email, f"with {name}: as somebody else of the same address")
        raise NotLetIn(
            f"Somebody else at {name} signed in as {person.address} before. Ask whoever runs this Atom to let them go."
        )
    return user


def _trip(request: HttpRequest, state: str) -> tuple[oidc.Trip, str] | None:
    """The one of this session that the state names, which serves once, and where it leads."""
    trips = request.session.get(_SESSION_KEY, [])
    found = next((one for one in trips if constant_time_compare(one["trip"][0], state)), None)
    if found is None:
        return None
    request.session[_SESSION_KEY] = [one for one in trips if one is not found]
    try:
        # Now, and not at the end of the request: the same address once more finds it used while the issuer is still asked.
        request.session.save()
    except UpdateError:  # signed out in another tab meanwhile
        return None
    return (oidc.Trip(*found["trip"]), found["next"]) if found["at"] > time.time() - LIFETIME else None


def _check_configured() -> None:
    if not settings.OIDC_ISSUER:
        raise Http404
