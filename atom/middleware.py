"""The request: what its bodies are read as, its tenant, and what nobody can be asked for in the admin."""

from __future__ import annotations

from collections.abc import Callable

from django.core.exceptions import BadRequest, ValidationError
from django.db import DataError
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from atom.access import SESSION_TENANT, Actor, actor_for_user
from atom.tenancy import across_tenants, tenant_scope


class Utf8Middleware:
    """Bodies are UTF-8, as JSON is by its definition and forms of ours are, whatever charset a request names.

    A caller could name one of Python's that takes minutes for what the settings let through (punycode), signed in or not.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        # Only then: setting it reads the address's parameters, of which the views refuse too many in their own shape.
        if request.encoding is not None:
            request.encoding = "utf-8"
        return self.get_response(request)


class TenantMiddleware:
    """Sets `request.actor` (None when signed out or without a membership) and works in its tenant's scope. `request.began`: when.

    The admin is the deployment's staff: it works across tenants. API keys set their scope in `atom.api_auth`.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path.startswith("/admin/"):
            request.actor = None  # type: ignore[attr-defined]
            if request.user.is_authenticated and request.user.is_staff:
                with across_tenants("staff in the admin"):
                    return self.rendered(self.get_response(request))
            return self.get_response(request)
        # Before anything is read: what changes from now on may be missing in the answer.
        request.began = timezone.now()  # type: ignore[attr-defined]
        # Session, user and memberships in one scope: the connection is set once for all three.
        with across_tenants("who is asking"):
            user = request.user
            actor = actor_for_user(user, request.session.get(SESSION_TENANT)) if user.is_authenticated else None
        request.actor = actor  # type: ignore[attr-defined]
        if actor is None:
            return self.get_response(request)
        with tenant_scope(actor.tenant.id):
            return self.rendered(self.get_response(request))

    @staticmethod
    def rendered(response: HttpResponse) -> HttpResponse:
        # A template response may still hold lazy queries; they belong in the scope.
        if hasattr(response, "is_rendered") and not response.is_rendered:
            response.render()  # type: ignore[attr-defined]
        return response


class AdminQuestionMiddleware:
    """A page of the admin that is asked for with a value that no column can hold answers 400: Django hands it on as it came.

    Of a GET alone: what is posted goes through forms, so there the same error is a bug. The log has its traceback, as it may be one
    here, too.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        asked = request.path.startswith("/admin/") and request.method in ("GET", "HEAD")
        if asked and isinstance(exception, DataError | ValueError | OverflowError | ValidationError):
            raise BadRequest("No column can hold this") from exception


def actor_of(request: HttpRequest) -> Actor:
    """The signed-in actor; views behind `atom.views.tenant_required` may rely on it."""
    actor = getattr(request, "actor", None)
    assert isinstance(actor, Actor)
    return actor
