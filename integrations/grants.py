"""What a token endpoint is asked, and what its answer means: each vendor's variant of OAuth 2 in one place. No database, no sockets."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from integrations.errors import Misconfigured, ReauthRequired, Throttled, Unavailable
from integrations.http import decode, retry_after
from integrations.providers.base import Provider

# Errors that only a person can mend; the rest of OAuth's errors mean that the client itself is wrong.
_GRANT_IS_GONE = {
    "invalid_grant",
    "bad_refresh_token",
    "bad_verification_code",
    "access_denied",
    "unauthorized_client",
    "interaction_required",
}
# Errors of the moment, which some vendors send with a status of the 400s.
_TRY_AGAIN = {"server_error", "temporarily_unavailable", "slow_down"}


def token_request(
    provider: Provider, client_id: str, client_secret: str, fields: Mapping[str, str]
) -> tuple[dict[str, str], bytes]:
    """(headers, body) of a POST to the provider's token endpoint. fields: grant_type and what belongs to it."""
    oauth = provider.oauth
    assert oauth is not None
    headers = {**provider.headers, "Accept": "application/json"}
    body = {**fields, **oauth.extra_token}
    if oauth.secret_as_user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{client_secret}:".encode()).decode()
    elif oauth.client_basic:
        # RFC 6749, 2.3.1: both parts are encoded before they are joined.
        pair = f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    else:
        body |= {"client_id": client_id, "client_secret": client_secret}
    if oauth.token_json:
        return {**headers, "Content-Type": "application/json"}, json.dumps(body).encode()
    return {**headers, "Content-Type": "application/x-www-form-urlencoded;charset=UTF-8"}, urlencode(body).encode()


def read_token(provider: Provider, status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The token endpoint's answer in RFC 6749's names.

    Raises ReauthRequired (the grant or the code is no good), Misconfigured (the client is wrong), Throttled or Unavailable.
    """
    name, oauth = provider.name, provider.oauth
    assert oauth is not None
    if status == 429:
        raise Throttled(f"{name}'s sign-in service asks to slow down.", retry_after(headers.get("retry-after")))
    if status >= 500:
        raise Unavailable(f"{name}'s sign-in service has a problem of its own ({status}).")
    try:
        given = decode(body)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise Unavailable(f"{name}'s sign-in service does not answer properly.")
    try:
        answer = dict(oauth.token_reply(given))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unavailable(f"{name}'s sign-in service does not answer properly.") from None
    if status < 300 and not answer.get("error"):
        if not isinstance(answer.get("access_token"), str) or not answer["access_token"]:
            raise Unavailable(f"{name}'s sign-in service answered without a token.")
        return answer
    # Some vendors answer in the format of their API's errors instead of OAuth's, where the status may be a number.
    told = [answer.get(name) for name in ("error", "status", "code")]
    error = next((word for word in told if isinstance(word, str) and word), str(status))[:100].lower()
    if error in _TRY_AGAIN:
        raise Unavailable(f"{name}'s sign-in service asks to come back later.")
    if error in oauth.client_errors:
        raise Misconfigured(f"{name} refuses this deployment's client credentials ({error}).")
    if error in _GRANT_IS_GONE or error in oauth.grant_errors:
        raise ReauthRequired(f"{name} no longer accepts this connection's access.")
    raise Misconfigured(f"{name} refuses this deployment's client credentials ({error}).")


def granted_scopes(token: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The scopes that a token answer says were granted; None when it does not say."""
    given = token.get("scope")
    if isinstance(given, str):
        given = given.replace(",", " ").split()
    if not isinstance(given, list) or not given:
        return None
    return tuple(dict.fromkeys(str(scope) for scope in given))
