"""Authentication and permission of the REST API: a session (with CSRF) or `Authorization: Api-Key ...`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from atom.access import Actor, Right, actor_for_key
from atom.tenancy import enter_tenant, scope_kept

if TYPE_CHECKING:
    from rest_framework.views import APIView


class KeyUser:
    """What `request.user` is for a program."""

    is_authenticated = True
    is_active = True
    pk = None

    def __init__(self, actor: Actor) -> None:
        self.actor = actor


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Api-Key PREFIX.SECRET`."""

    def authenticate(self, request: Request) -> tuple[Any, Actor] | None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "api-key":
            return None
        actor = actor_for_key(key.strip())
        if actor is None:
            raise AuthenticationFailed("This API key is wrong, revoked or expired.")
        return KeyUser(actor), actor

    def authenticate_header(self, request: Request) -> str:
        return "Api-Key"


class TenantSessionAuthentication(SessionAuthentication):
    """The signed-in user, in the tenant that the session holds. Unsafe methods need the CSRF token."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        found = super().authenticate(request)
        if found is None:
            return None
        return found[0], getattr(request._request, "actor", None)


class HasTenant(BasePermission):
    """Signed in, member of a tenant, and with the right that the view's `rights` names for the action (default: view)."""

    message = "Your role in this workspace does not allow this."

    def has_permission(self, request: Request, view: APIView) -> bool:
        actor = request.auth
        if not isinstance(actor, Actor):
            return False
        rights: dict[str, Right] = getattr(view, "rights", {})
        return actor.may(rights.get(getattr(view, "action", "") or "", Right.VIEW))


def caller(request: Request) -> Actor:
    """Who asks; views that `HasTenant` guards may rely on it."""
    assert isinstance(request.auth, Actor), "HasTenant lets nobody else in"
    return request.auth


class TenantRateThrottle(SimpleRateThrottle):
    """The API's own rate limit, per tenant: so many requests a period, counted from the start of each.

    The framework's own keeps the time of every request of the period in one cached list, which is read and written by each.
    """

    scope = "tenant"
    # As the framework makes them of the rate; None: no limit.
    num_requests: int | None
    duration: int | None

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        actor = request.auth
        return f"api-rate:{actor.tenant.id}" if isinstance(actor, Actor) else None

    def allow_request(self, request: Request, view: APIView) -> bool:
        name = self.get_cache_key(request, view)
        if name is None or not self.num_requests or not self.duration:
            return True
        period, self.passed = divmod(self.timer(), self.duration)
        key = f"{name}:{period:.0f}"
        try:
            number = self.cache.incr(key)
        except ValueError:  # the period's first; of several at once, one adds it and all count
            self.cache.add(key, 0, self.duration)
            number = self.cache.incr(key)
        return bool(number <= self.num_requests)

    def wait(self) -> float:
        """Seconds until the next period begins."""
        return float((self.duration or 0) - self.passed)


class TenantScoped:
    """Mixin for API views: the handler runs in the scope of the caller's tenant, however they authenticated."""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        with scope_kept():
            return super().dispatch(request, *args, **kwargs)  # type: ignore[misc]

    def perform_authentication(self, request: Request) -> None:
        super().perform_authentication(request)  # type: ignore[misc]
        if isinstance(request.auth, Actor):
            enter_tenant(request.auth.tenant.id)


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the API's schema describes keys."""

    target_class = ApiKeyAuthentication
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Api-Key PREFIX.SECRET"}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = TenantSessionAuthentication
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}
