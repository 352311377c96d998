"""What a provider has to know before connecting: asked, checked, and remembered with the connection."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest

from atom.errors import InvalidInput
from atom.tenancy import tenant_scope
from integrations.connect import checked_answers
from integrations.gateway import configured
from integrations.models import Connection
from integrations.providers import PROVIDERS
from integrations.providers.base import Question
from integrations.providers.github import GITHUB
from tests.conftest import Sandbox

ASKING = dataclasses.replace(
    GITHUB,
    asks=(
        Question("place", "Your subdomain", "Letters and digits, as in acme.example.com.", r"[a-z0-9]{1,30}"),
        Question("kind", "Kind", "Live or test.", "live|test", default="live"),
    ),
    auth_root=lambda auth_url, facts: f"https://{facts.get('place', 'nowhere')}.example.com",
)


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROVIDERS, "github", ASKING)


def test_answers_are_checked_and_defaults_taken() -> None:
    assert checked_answers(ASKING, {"place": " acme ", "other": "x"}) == {"place": "acme", "kind": "live"}
    for wrong in ({}, {"place": ""}, {"place": "a.b"}, {"place": "evil.test/x"}, {"place": "acme", "kind": "x"}):
        with pytest.raises(InvalidInput):
            checked_answers(ASKING, wrong)


def test_the_address_of_consent_follows_from_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOM_PROVIDER_GITHUB_CLIENT_ID", "id")
    monkeypatch.setenv("ATOM_PROVIDER_GITHUB_CLIENT_SECRET", "secret")
    found = configured(ASKING, {"place": "acme"})
    assert found is not None
    assert found.auth_url == "https://acme.example.com"
    assert found.token_url == "https://acme.example.com/login/oauth/access_token"
    monkeypatch.setenv("ATOM_PROVIDER_GITHUB_AUTH_URL", "https://gateway.test/")
    found = configured(ASKING, {"place": "acme"})
    assert found is not None
    assert found.auth_url == "https://gateway.test"


def test_who_connects_is_asked_first_and_the_answer_is_kept(
    live_cast: SimpleNamespace, sandbox: Sandbox, asking: None, signed_in: Any
) -> None:
    client = signed_in(live_cast.alice)
    page = client.post("/integrations/github/connect")
    assert page.status_code == 200
    assert "Your subdomain" in page.content.decode()
    page = client.post("/integrations/github/connect", {"place": "not one"})
    assert page.status_code == 400
    assert "Letters and digits" in page.content.decode()
    away = client.post("/integrations/github/connect", {"place": "acme"})
    assert away.status_code == 302
    consent = httpx2.post(away["Location"], data={"answer": "allow", "account": "northwind-dev"})
    back = dict(parse_qsl(urlsplit(consent.headers["location"]).query))
    assert client.get("/integrations/github/callback", back).status_code == 302
    with tenant_scope(live_cast.acme.id):
        connection = Connection.objects.get()
        assert connection.facts == {"place": "acme", "kind": "live"}
        assert set(connection.scopes) == {"repo", "read:org", "read:user", "user:email"}


def test_the_form_for_tokens_asks_too(
    live_cast: SimpleNamespace, sandbox: Sandbox, asking: None, signed_in: Any
) -> None:
    client = signed_in(live_cast.alice)
    assert "Your subdomain" in client.get("/integrations/github/token").content.decode()
    reply = client.post("/integrations/github/token", {"token": "ghp_x"})
    assert reply.status_code == 400
    assert "needs to know: Your subdomain" in reply.content.decode()
