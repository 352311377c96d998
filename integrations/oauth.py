"""OAuth 2 authorization code with state and PKCE: the trip of a browser to the provider and back."""

from __future__ import annotations

import hashlib
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlencode

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils.crypto import constant_time_compare

from atom.middleware import actor_of
from integrations.gateway import ProviderConfig
from integrations.providers.base import Provider

LIFETIME = 600  # seconds that a trip may take
MOST_TRIPS = 5  # open at once in one session
_SESSION_KEY = "oauth_trips"


class BadState(Exception):
    """The return does not belong to a trip that this session began: wrong, used, too late, or another tenant's."""


def redirect_uri(request: HttpRequest, provider: Provider) -> str:
    """Where the provider sends the browser back to."""
    path = reverse("connect-callback", args=[provider.slug])
    return settings.PUBLIC_URL + path if settings.PUBLIC_URL else request.build_absolute_uri(path)


class Trip(NamedTuple):
    """What a trip began with. answers: to what the provider asks before connecting. reconnects: a connection's id, or ""."""

    verifier: str
    redirect_uri: str
    answers: Mapping[str, str]
    reconnects: str


def begin(
    request: HttpRequest,
    provider: Provider,
    config: ProviderConfig,
    answers: Mapping[str, str] | None = None,
    reconnects: str = "",
) -> str:
    """Begins a trip; returns the provider's address to send the browser to. reconnects: id of the connection that it is for."""
    assert provider.oauth is not None
    state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
    trips = [trip for trip in request.session.get(_SESSION_KEY, []) if trip["at"] > time.time() - LIFETIME]
    trips.append(
        {
            "state": state,
            "verifier": verifier,
            "provider": provider.slug,
            "tenant": str(actor_of(request).tenant.id),
            "at": time.time(),
            "redirect_uri": redirect_uri(request, provider),
            "answers": dict(answers or {}),
            "reconnects": reconnects,
        }
    )
    request.session[_SESSION_KEY] = trips[-MOST_TRIPS:]
    query = authorize_query(provider, config.client_id, redirect_uri(request, provider), state, verifier)
    return f"{config.auth_url}{provider.oauth.authorize_path}?{urlencode(query)}"


def authorize_query(provider: Provider, client_id: str, redirect_uri: str, state: str, verifier: str) -> dict[str, str]:
    """What the provider's page of consent is asked."""
    oauth = provider.oauth
    assert oauth is not None
    query = {"response_type": "code", "client_id": client_id, "redirect_uri": redirect_uri, "state": state}
    if oauth.scopes:
        query["scope"] = oauth.scope_separator.join(oauth.scopes)
    if oauth.pkce:
        query |= {"code_challenge": code_challenge(verifier), "code_challenge_method": "S256"}
    return {**query, **oauth.extra_authorize}


def code_challenge(verifier: str) -> str:
    """RFC 7636's S256: what the provider is told of the verifier at first."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def finish(request: HttpRequest, provider: Provider) -> Trip:
    """Ends the trip that the request's state names. Each state serves once. Raises BadState."""
    given = request.GET.get("state", "")
    trips = request.session.get(_SESSION_KEY, [])
    found = next((trip for trip in trips if given and constant_time_compare(trip["state"], given)), None)
    if found is None:
        raise BadState
    request.session[_SESSION_KEY] = [trip for trip in trips if trip is not found]
    if (
        found["provider"] != provider.slug
        or found["tenant"] != str(actor_of(request).tenant.id)
        or found["at"] < time.time() - LIFETIME
    ):
        raise BadState
    return Trip(found["verifier"], found["redirect_uri"], found.get("answers", {}), found.get("reconnects", ""))
