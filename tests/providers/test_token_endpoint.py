"""How a token endpoint is asked: where it lives, in what format, who says it is the client, and what its refusals mean."""

from __future__ import annotations

import base64
import dataclasses
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

import orjson
import pytest

from integrations.errors import Misconfigured, ReauthRequired, Throttled, Unavailable
from integrations.gateway import configured, exchange_code
from integrations.grants import read_token
from integrations.providers import PROVIDERS
from integrations.providers.base import OAuth, Provider
from integrations.providers.salesforce import SALESFORCE
from integrations.providers.slack import SLACK


class Endpoint:
    """A token endpoint that keeps what it was asked and answers as told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.status, self.answer = 200, {"access_token": "granted"}
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                content = orjson.dumps(endpoint.answer)
                self.send_response(endpoint.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


@pytest.fixture(autouse=True)
def _client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOM_PROVIDER_SALESFORCE_CLIENT_ID", "our-id")
    monkeypatch.setenv("ATOM_PROVIDER_SALESFORCE_CLIENT_SECRET", "our-secret")


def provider(root: str, **facts: Any) -> Provider:
    return dataclasses.replace(
        SALESFORCE,
        auth_url="https://sign-in.example",
        oauth=OAuth("/authorize", "/token", ("read",), token_root=root, **facts),
    )


def exchange(asked: Provider) -> Any:
    config = configured(asked)
    assert config is not None
    return exchange_code(config, asked, code="c0de", verifier="v" * 43, redirect_uri="https://atom.test/back")


def test_the_token_endpoint_may_live_on_another_host_than_the_consent_page(endpoint: Endpoint) -> None:
    assert exchange(provider(endpoint.root))["access_token"] == "granted"
    path, headers, body = endpoint.asked[0]
    assert path == "/token"
    assert headers["content-type"] == "application/x-www-form-urlencoded;charset=UTF-8"
    sent = dict(parse_qsl(body.decode()))
    assert sent | {"client_id": "our-id", "client_secret": "our-secret", "code": "c0de"} == sent


def test_an_address_set_for_the_deployment_holds_for_the_token_endpoint_too(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOM_PROVIDER_SALESFORCE_AUTH_URL", f"{endpoint.root}/gateway/")
    assert exchange(provider("https://token.example"))["access_token"] == "granted"
    assert endpoint.asked[0][0] == "/gateway/token"


@pytest.mark.parametrize(
    ("slug", "given", "consent", "token"),
    [
        (
            "stripe", "https://marketplace.stripe.com/oauth/v2/chnlink_61Ab",
            "https://marketplace.stripe.com/oauth/v2/chnlink_61Ab/authorize", "https://api.stripe.com/v1/oauth/token",
        ),
        (
            "microsoft365", "https://login.microsoftonline.com/8c1d",
            "https://login.microsoftonline.com/8c1d/oauth2/v2.0/authorize", "https://login.microsoftonline.com/8c1d/oauth2/v2.0/token",
        ),
        ("stripe", "", "https://marketplace.stripe.com/oauth/v2/authorize", "https://api.stripe.com/v1/oauth/token"),
    ],
)  # fmt: skip
def test_an_address_on_the_vendors_own_host_is_another_page_of_consent_and_no_other_token_endpoint(
    monkeypatch: pytest.MonkeyPatch, slug: str, given: str, consent: str, token: str
) -> None:
    """A Stripe App that is not published yet has a page of its own; one of Microsoft's organizations has both."""
    for name, value in (("CLIENT_ID", "our-id"), ("CLIENT_SECRET", "our-secret"), ("AUTH_URL", given)):
        monkeypatch.setenv(f"ATOM_PROVIDER_{slug.upper()}_{name}", value)
    found, oauth = configured(PROVIDERS[slug]), PROVIDERS[slug].oauth
    assert found is not None
    assert oauth is not None
    assert (found.auth_url + oauth.authorize_path, found.token_url) == (consent, token)


def test_json_is_sent_where_the_vendor_takes_json(endpoint: Endpoint) -> None:
    exchange(provider(endpoint.root, token_json=True))
    _, headers, body = endpoint.asked[0]
    assert headers["content-type"] == "application/json"
    sent = orjson.loads(body)
    assert sent == {
        "grant_type": "authorization_code",
        "code": "c0de",
        "code_verifier": "v" * 43,
        "redirect_uri": "https://atom.test/back",
        "client_id": "our-id",
        "client_secret": "our-secret",
    }


def test_the_client_can_say_who_it_is_in_the_header(endpoint: Endpoint) -> None:
    for as_json in (False, True):
        exchange(provider(endpoint.root, client_basic=True, token_json=as_json))
        _, headers, body = endpoint.asked[-1]
        assert headers["authorization"] == "Basic " + base64.b64encode(b"our-id:our-secret").decode()
        assert b"our-secret" not in body
        assert b"c0de" in body


def test_what_goes_with_every_request_goes_with_those_for_tokens(endpoint: Endpoint) -> None:
    """Notion's reference has its version required of them, too."""
    asked = dataclasses.replace(provider(endpoint.root), headers={"Notion-Version": "2025-09-03", "Accept": "text/csv"})
    exchange(asked)
    _, headers, _ = endpoint.asked[0]
    assert (headers["notion-version"], headers["accept"]) == ("2025-09-03", "application/json")


@pytest.mark.parametrize(
    ("status", "answer", "error"),
    [
        (400, {"error": "invalid_grant"}, ReauthRequired),
        (403, {"error": "unauthorized_client", "error_description": "refresh_token is invalid"}, ReauthRequired),
        (400, {"status": "BAD_REFRESH_TOKEN", "message": "missing or invalid refresh token"}, ReauthRequired),
        (400, {"object": "error", "status": 400, "code": "invalid_grant", "message": "no"}, ReauthRequired),
        (401, {"object": "error", "status": 401, "code": "invalid_client", "message": "no"}, Misconfigured),
        (401, {"error": "invalid_client"}, Misconfigured),
        (401, {"error": "access_denied"}, Misconfigured),
        (429, {"message": "slow down"}, Throttled),
        (503, {"error": "invalid_grant"}, Unavailable),
    ],
)
def test_a_refusal_says_who_has_to_act(
    endpoint: Endpoint, status: int, answer: dict[str, Any], error: type[Exception]
) -> None:
    endpoint.status, endpoint.answer = status, answer
    with pytest.raises(error) as caught:
        exchange(provider(endpoint.root, client_errors=frozenset({"access_denied"})))
    assert "our-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "status", "answer"),
    [
        (SALESFORCE, 400, {"error": "unknown_error", "error_description": "retry your request"}),
        (SALESFORCE, 400, {"error": "invalid_grant", "error_description": "token request is already being processed"}),
        (SALESFORCE, 400, {"error": "invalid_grant", "error_description": "login rate exceeded"}),
        (SLACK, 200, {"ok": False, "error": "internal_error"}),
        (SLACK, 200, {"ok": False, "error": "ratelimited"}),
        (SLACK, 200, {"ok": False, "error": "org_login_required"}),
    ],
)
def test_a_bad_moment_of_the_vendor_ends_no_grant_and_blames_no_client(
    asked: Provider, status: int, answer: dict[str, Any]
) -> None:
    with pytest.raises(Unavailable):
        read_token(asked, status, {}, orjson.dumps(answer))
    dead = {
        **answer,
        "error": "invalid_refresh_token" if asked is SLACK else "invalid_grant",
        "error_description": "expired access/refresh token",
    }
    with pytest.raises(ReauthRequired):
        read_token(asked, status, {}, orjson.dumps(dead))
