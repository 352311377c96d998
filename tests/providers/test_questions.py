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
from integrations.providers.salesforce import SALESFORCE
from tests.conftest import Sandbox, leads_to
from tests.graphs import make_connection

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
    consent = httpx2.post(leads_to(away), data={"answer": "allow", "account": "northwind-dev"})
    back = dict(parse_qsl(urlsplit(consent.headers["location"]).query))
    assert client.get("/integrations/github/callback", back).status_code == 302
    with tenant_scope(live_cast.acme.id):
        connection = Connection.objects.get()
        assert connection.facts == {"place": "acme", "kind": "live"}
        assert connection.scopes == ["repo"]


@pytest.mark.parametrize(
    ("answer", "host"),
    [
        ("", "login.salesforce.com"),
        ("test.salesforce.com", "test.salesforce.com"),
        ("acme.my.salesforce.com", "acme.my.salesforce.com"),
        ("acme--uat.sandbox.my.salesforce.com", "acme--uat.sandbox.my.salesforce.com"),
    ],
)
def test_a_salesforce_org_signs_in_at_its_own_host_for_good(
    monkeypatch: pytest.MonkeyPatch, answer: str, host: str
) -> None:
    monkeypatch.setenv("ATOM_PROVIDER_SALESFORCE_CLIENT_ID", "id")
    monkeypatch.setenv("ATOM_PROVIDER_SALESFORCE_CLIENT_SECRET", "secret")
    found = configured(SALESFORCE, checked_answers(SALESFORCE, {"login_host": answer}))
    assert found is not None
    assert (found.auth_url, found.token_url) == (f"https://{host}", f"https://{host}/services/oauth2/token")


def test_an_address_that_the_operator_gives_needs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CLIENT_ID", "id"), ("CLIENT_SECRET", "secret"), ("AUTH_URL", "https://gateway.test")):
        monkeypatch.setenv(f"ATOM_PROVIDER_ZENDESK_{name}", value)
    found = configured(PROVIDERS["zendesk"], {})
    assert found is not None
    assert found.auth_url == "https://gateway.test"


@pytest.mark.parametrize(
    "answer",
    [
        "evil.test", "salesforce.com.evil.test", "evil.test/login.salesforce.com", "login.salesforce.com@evil.test", "127.0.0.1",
        "login.salesforce.com:8443", "login.salesforce.com/x", "acme.my.salesforce.com.", "login.salesforce.com\nx", "evil#.my.salesforce.com",
    ],
)  # fmt: skip
def test_salesforce_signs_in_at_no_other_host(answer: str) -> None:
    with pytest.raises(InvalidInput):
        checked_answers(SALESFORCE, {"login_host": answer})
    assert SALESFORCE.auth_root(SALESFORCE.auth_url, {"login_host": answer}) == SALESFORCE.auth_url


def test_who_may_choose_is_asked_before_the_trip_and_not_twice(
    monkeypatch: pytest.MonkeyPatch, cast: SimpleNamespace, signed_in: Any
) -> None:
    monkeypatch.setenv("ATOM_PROVIDER_SALESFORCE_CLIENT_ID", "id")
    monkeypatch.setenv("ATOM_PROVIDER_SALESFORCE_CLIENT_SECRET", "secret")
    client = signed_in(cast.alice)
    page = client.post("/integrations/salesforce/connect")
    assert page.status_code == 200
    assert 'value="login.salesforce.com"' in page.content.decode()
    away = client.post("/integrations/salesforce/connect", {"login_host": "test.salesforce.com"})
    assert leads_to(away).startswith("https://test.salesforce.com/services/oauth2/authorize?")
    page = client.post("/integrations/salesforce/connect", {"login_host": "evil.test"})
    assert page.status_code == 400
    with tenant_scope(cast.acme.id):
        row = make_connection(cast.acme, "salesforce")
        Connection.objects.update(facts={"login_host": "acme.my.salesforce.com"}, status="reauth_required")
    card = client.get("/integrations").content.decode()
    assert f'name="connection" value="{row.id}"' in card
    again = client.post("/integrations/salesforce/connect", {"connection": str(row.id)})
    assert leads_to(again).startswith("https://acme.my.salesforce.com/")
    stranger = signed_in(cast.charlie).post("/integrations/salesforce/connect", {"connection": str(row.id)})
    assert stranger.status_code == 200, "another tenant's answers are nobody's"


def test_the_form_for_tokens_asks_too(
    live_cast: SimpleNamespace, sandbox: Sandbox, asking: None, signed_in: Any
) -> None:
    client = signed_in(live_cast.alice)
    assert "Your subdomain" in client.get("/integrations/github/token").content.decode()
    reply = client.post("/integrations/github/token", {"token": "ghp_x"})
    assert reply.status_code == 400
    assert "needs to know: Your subdomain" in reply.content.decode()
