"""Who may open a socket: the same people and programs as may ask the API."""

from __future__ import annotations

from typing import Any
from urllib.parse import ParseResult

from channels.security.websocket import OriginValidator
from django.conf import settings

from atom.access import SESSION_TENANT, Actor, actor_for_key, actor_for_user


class SameOrigin(OriginValidator):  # type: ignore[misc]
    """Refuses browsers on other sites' pages. Programs send no Origin; browsers always do."""

    def __init__(self, application: Any) -> None:
        super().__init__(application, settings.ALLOWED_HOSTS)

    def valid_origin(self, parsed_origin: ParseResult | None) -> bool:
        return parsed_origin is None or bool(self.validate_origin(parsed_origin))


def actor_of_scope(scope: Any) -> Actor | None:
    """The actor behind a socket: by API key, or by session in the session's tenant. Reads the database."""
    headers = dict(scope.get("headers") or [])
    authorization = headers.get(b"authorization", b"").decode("latin-1")
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() == "api-key":
        return actor_for_key(key.strip())
    session = scope.get("session")
    return actor_for_user(scope.get("user"), session.get(SESSION_TENANT) if session is not None else None)
