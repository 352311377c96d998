"""Who may open a socket: the same people and programs as may ask the API."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

from channels.security.websocket import WebsocketDenier
from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest
from django.http.request import split_domain_port, validate_host
from django.utils.http import is_same_domain

from atom.access import SESSION_TENANT, Actor, actor_for_key, actor_for_user
from atom.tenancy import across_tenants


def same_origin(application: Any) -> Any:
    """ASGI middleware that refuses browsers on other sites' pages. Programs send no Origin; browsers always do."""
    refuse = WebsocketDenier()

    async def run(scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None or _is_ours(origin.decode("latin-1"), headers.get(b"host", b"").decode("latin-1")):
            await application(scope, receive, send)
        else:
            await refuse(scope, receive, send)

    return run


def _is_ours(origin: str, host: str) -> bool:
    """As for forms: the host that was asked, port included, or one that the operator trusts. Behind a proxy that ends TLS the scheme
    is not known here."""
    try:
        parts = urlsplit(origin)
        at = f"{parts.scheme}://{parts.netloc}".lower()
        trusted = [*settings.CSRF_TRUSTED_ORIGINS, *([settings.PUBLIC_URL] if settings.PUBLIC_URL else [])]
        if any(_matches(parts.scheme, parts.hostname or "", at, urlsplit(one)) for one in trusted):
            return True
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or parts.netloc.lower() != host.lower():
        return False
    return validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS)


def _matches(scheme: str, hostname: str, origin: str, trusted: SplitResult) -> bool:
    if "*" in trusted.netloc:
        return scheme == trusted.scheme and is_same_domain(hostname, trusted.netloc.lstrip("*"))
    return origin == f"{trusted.scheme}://{trusted.netloc}".lower()


def actor_of_scope(scope: Any, *, again: bool = False) -> Actor | None:
    """The actor behind a socket: by API key, or by session in the session's tenant. Reads the database.

    again: the session may have ended since the socket opened, or its user's account.
    """
    headers = dict(scope.get("headers") or [])
    authorization = headers.get(b"authorization", b"").decode("latin-1")
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() == "api-key":
        return actor_for_key(key.strip())
    session, user = scope.get("session"), scope.get("user")
    if again and session is not None:
        session = import_module(settings.SESSION_ENGINE).SessionStore(session.session_key)
        with across_tenants("who is asking"):
            user = get_user(cast(HttpRequest, SimpleNamespace(session=session)))
    return actor_for_user(user, session.get(SESSION_TENANT) if session is not None else None)
