"""Granting and giving up access: by OAuth against the sandbox, by token, and every way in which it must not work."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from cryptography.fernet import Fernet
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection as database
from django.test import Client
from django.utils import timezone

import integrations.disconnecting
from atom.models import Membership
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import actions
from historical_sync.models import HistoricalSyncJob
from integrations import gateway, narrowing
from integrations.errors import Misconfigured, ReauthRequired
from integrations.health import health_of
from integrations.http import Api, make_client
from integrations.models import Connection
from integrations.providers import PROVIDERS
from integrations.providers.base import Partition
from tests.conftest import connected, leads_to, sandbox_token
from tests.graphs import make_connection, make_job

pytestmark = pytest.mark.django_db


@pytest.fixture
def alice(cast: SimpleNamespace, signed_in: Any) -> Client:
    return signed_in(cast.alice)


@contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """A server that says so to whatever it is asked; its address."""

    class Says(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Says) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def to_provider(client: Client, slug: str = "github", **answers: str) -> str:
    """The provider's address that Connect sends the browser to. answers: to what the provider asks first."""
    reply = client.post(f"/integrations/{slug}/connect", answers)
    return leads_to(reply)


def consent(address: str, answer: str = "allow", account: int = 0) -> str:
    """What the person does there; the address of our callback that the browser is sent back to."""
    slug = urlsplit(address).path.split("/")[2]
    from integrations.sandbox.app import STAND_INS

    accounts = list(next(found for found in STAND_INS if found.slug == slug).accounts)
    reply = httpx2.post(address, data={"answer": answer, "account": accounts[account]})
    assert reply.status_code == 302, reply.text
    back = urlsplit(reply.headers["location"])
    return f"{back.path}?{back.query}"


def connect(client: Client, slug: str = "github", account: int = 0) -> Any:
    return client.get(consent(to_provider(client, slug), account=account))


def is_accepted(sandbox: Any, slug: str, token: str) -> bool:
    """Whether the provider still takes the token."""

    async def ask() -> bool:
        async with make_client(allow_private=True) as client:
            try:
                await PROVIDERS[slug].identify(Api(PROVIDERS[slug], f"{sandbox.root}/{slug}", client, token))
            except ReauthRequired:
                return False
            return True

    return asyncio.run(ask())


def stored() -> list[Connection]:
    with across_tenants("a test looks"):
        return list(Connection.objects.order_by("created_at"))


# -- by OAuth -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", ["github", "salesforce"])
def test_a_person_connects_by_signing_in_at_the_provider(alice: Client, cast: Any, sandbox: Any, slug: str) -> None:
    reply = connect(alice, slug)
    (row,) = stored()
    assert (reply.status_code, reply["Location"]) == (302, f"/integrations?connected={row.id}")
    assert (row.tenant_id, row.provider_slug, row.status) == (cast.acme.id, slug, "connected")
    assert (row.by_oauth, row.sandbox, row.created_by_id) == (True, True, cast.alice.id)
    assert row.account_label
    page = alice.get(reply["Location"]).content.decode()
    assert f"/connections/{row.id}/disconnect" in page
    assert "is connected." in page


@pytest.mark.parametrize("slug", sorted(slug for slug, provider in PROVIDERS.items() if provider.oauth))
def test_a_stand_ins_grant_holds_all_that_the_streams_need(alice: Client, sandbox: Any, slug: str) -> None:
    answers = {question.name: question.default or question.placeholder for question in PROVIDERS[slug].asks}
    assert alice.get(consent(to_provider(alice, slug, **answers))).status_code == 302
    (row,) = stored()
    assert health_of(row).missing == {}


def test_the_trip_carries_state_and_a_challenge_whose_answer_stays_here(alice: Client, sandbox: Any) -> None:
    asked = {name: values[0] for name, values in parse_qs(urlsplit(to_provider(alice)).query).items()}
    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == "http://testserver/integrations/github/callback"
    assert len(asked["state"]) >= 43
    assert set(asked["scope"].split()) == set(PROVIDERS["github"].oauth.scopes)
    trip = alice.session["oauth_trips"][-1]
    digest = hashlib.sha256(trip["verifier"].encode()).digest()
    assert asked["code_challenge"] == base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert trip["verifier"] not in asked.values()


def test_the_same_account_again_is_the_same_connection(alice: Client, sandbox: Any) -> None:
    connect(alice)
    connect(alice)
    (row,) = stored()
    with tenant_scope(row.tenant_id):
        Connection.objects.update(status="reauth_required", last_error="gone")
    connect(alice)
    (again,) = stored()
    assert (again.id, again.status, again.last_error) == (row.id, "connected", "")


def test_two_accounts_are_two_connections_and_two_tenants_are_apart(
    alice: Client, cast: Any, signed_in: Any, sandbox: Any
) -> None:
    connect(alice)
    connect(alice, account=1)
    connect(signed_in(cast.charlie))
    rows = stored()
    assert [row.tenant_id for row in rows] == [cast.acme.id, cast.acme.id, cast.globex.id]
    assert len({row.external_account_id for row in rows}) == 2


def test_what_was_declined_is_told_and_stores_nothing(alice: Client, sandbox: Any) -> None:
    reply = alice.get(consent(to_provider(alice), "deny"), follow=True)
    assert reply.status_code == 200
    assert "was not connected: access was declined" in reply.content.decode()
    assert stored() == []


def returned_with(back: str, state: str | None) -> str:
    path, _, query = back.partition("?")
    fields = {name: values[0] for name, values in parse_qs(query).items()} | {"state": state or ""}
    if state is None:
        del fields["state"]
    return path + "?" + str(httpx2.QueryParams(fields))


def assert_refused(reply: Any, status: int = 400) -> None:
    assert reply.status_code == status, reply.content[:300]
    assert "Not connected" in reply.content.decode()
    assert stored() == []


@pytest.mark.parametrize(
    "state", ["", "x" * 43, "é" * 43, "x" * 5000, None], ids=["empty", "wrong", "odd", "long", "missing"]
)
def test_a_return_with_a_wrong_or_missing_state_is_refused(alice: Client, sandbox: Any, state: str | None) -> None:
    back = consent(to_provider(alice))
    assert_refused(alice.get(returned_with(back, state)))


def test_a_state_serves_once(alice: Client, sandbox: Any) -> None:
    back = consent(to_provider(alice))
    assert alice.get(back).status_code == 302
    with across_tenants("a test begins again"):
        Connection.objects.all().delete()
    assert_refused(alice.get(back))


def test_a_state_serves_its_own_session_only(alice: Client, cast: Any, signed_in: Any, sandbox: Any) -> None:
    back = consent(to_provider(alice))
    for somebody in (cast.bob, cast.charlie, cast.alice):
        assert_refused(signed_in(somebody).get(back))


def test_a_state_serves_its_own_provider_only(alice: Client, sandbox: Any) -> None:
    back = consent(to_provider(alice))
    assert_refused(alice.get(back.replace("/github/", "/salesforce/")))


def test_a_state_serves_the_workspace_that_it_began_in_only(alice: Client, cast: Any, sandbox: Any) -> None:
    with tenant_scope(cast.globex.id):
        Membership.objects.create(tenant=cast.globex, user=cast.alice, role="owner")
    alice.post("/workspace", {"tenant": str(cast.acme.id)})
    back = consent(to_provider(alice))
    alice.post("/workspace", {"tenant": str(cast.globex.id)})
    assert_refused(alice.get(back))
    alice.post("/workspace", {"tenant": str(cast.acme.id)})
    assert_refused(alice.get(back))  # and it was spent


def test_a_return_that_comes_too_late_is_refused(alice: Client, sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    back = consent(to_provider(alice))
    late = time.time() + 601
    monkeypatch.setattr("integrations.oauth.time", SimpleNamespace(time=lambda: late))
    assert_refused(alice.get(back))


def test_a_return_without_a_usable_code_is_refused(alice: Client, sandbox: Any) -> None:
    for code in ("", "x" * 5000):
        state = parse_qs(urlsplit(to_provider(alice)).query)["state"][0]
        assert_refused(alice.get("/integrations/github/callback", {"state": state, "code": code}))


def test_a_code_that_the_provider_does_not_know_is_refused(alice: Client, sandbox: Any) -> None:
    for slug in ("github", "salesforce"):
        state = parse_qs(urlsplit(to_provider(alice, slug)).query)["state"][0]
        assert_refused(alice.get(f"/integrations/{slug}/callback", {"state": state, "code": "made-up"}))


def test_a_code_is_worth_nothing_without_the_verifier(alice: Client, sandbox: Any) -> None:
    back = consent(to_provider(alice))
    session = alice.session
    session["oauth_trips"] = [{**trip, "verifier": "x" * 64} for trip in session["oauth_trips"]]
    session.save()
    assert_refused(alice.get(back))


def test_a_provider_that_is_away_is_told_and_stores_nothing(
    alice: Client, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = consent(to_provider(alice))
    monkeypatch.setenv("ATOM_SANDBOX_URL", "http://127.0.0.1:9/sandbox")
    reply = alice.get(back)
    assert_refused(reply, 502)


def test_a_provider_that_does_not_answer_holds_a_request_for_so_long_only(
    alice: Client, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from integrations import connect as connecting

    monkeypatch.setattr(connecting, "IDENTIFY_TIMEOUT", 0.3)
    back = consent(to_provider(alice))
    sandbox.control(latency_ms=1500)
    reply = alice.get(back)
    assert_refused(reply, 502)
    assert b"takes too long to answer" in reply.content


def test_every_provider_at_once_can_have_client_credentials(
    alice: Client, cast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anybody has answered what some of them ask."""
    for provider in PROVIDERS.values():
        for name in gateway.needed_variables(provider):
            monkeypatch.setenv(name, "given")
    page = alice.get("/integrations")
    assert page.status_code == 200
    for slug, provider in PROVIDERS.items():
        reply = alice.post(f"/integrations/{slug}/connect")
        if provider.asks:
            assert reply.status_code == 200
            assert provider.asks[0].label in reply.content.decode()
        elif provider.oauth is not None:
            assert leads_to(reply).startswith("https://"), slug
    assert leads_to(alice.post("/integrations/zendesk/connect", {"subdomain": "acme"})).startswith(
        "https://acme.zendesk.com/"
    )


def test_as_many_parts_can_be_chosen_as_the_dialog_shows(
    alice: Client, cast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert narrowing.MOST_NAMES >= 8000, "repositories of a large company"
    many = [Partition(str(number), f"acme/{number}") for number in range(narrowing.MOST_NAMES)]
    monkeypatch.setattr("integrations.views.listed", lambda connection: narrowing.Listed(many, []))
    monkeypatch.setattr(narrowing, "parts_of", lambda connection: many)
    with tenant_scope(cast.acme.id):
        row = make_connection(cast.acme)
    chosen = {"only": [part.key for part in many]}
    for every, only in (({}, chosen["only"]), ({"all": "1"}, None)):
        reply = alice.post(f"/connections/{row.id}/parts", chosen | every)
        assert reply.status_code == 302, reply.content
        assert sorted(stored()[0].only or ()) == sorted(only or ())


def test_a_provider_without_client_credentials_names_the_variables(alice: Client, settings: Any, tmp_path: Any) -> None:
    settings.SANDBOX = False
    reply = alice.post("/integrations/github/connect")
    assert reply.status_code == 409
    text = reply.content.decode()
    assert "ATOM_PROVIDER_GITHUB_CLIENT_ID" in text
    assert "ATOM_PROVIDER_GITHUB_CLIENT_SECRET" in text
    assert "http://testserver/integrations/github/callback" in text


@pytest.mark.parametrize("public", ["", "https://atom.example.com"])
def test_where_a_provider_is_not_configured_the_callback_to_register_is_shown_with_this_deployments_host(
    alice: Client, settings: Any, public: str
) -> None:
    settings.SANDBOX, settings.PUBLIC_URL = False, public
    host = public or "http://testserver"
    card = alice.get("/integrations").content.decode().partition('id="card-salesforce"')[2].partition("</article>")[0]
    dialog = alice.get("/integrations/github/token").content.decode()
    for slug, shown in (("salesforce", card), ("github", dialog)):
        assert f"<code>{host}/integrations/{slug}/callback</code>" in shown
        assert f"<code>ATOM_PROVIDER_{slug.upper()}_CLIENT_ID</code>" in shown
        assert "docs/oauth-apps.md" in shown


def test_a_token_dialog_has_no_words_for_the_operator_where_people_can_sign_in(alice: Client, sandbox: Any) -> None:
    assert "/callback" not in alice.get("/integrations/github/token").content.decode()


def test_a_card_without_client_credentials_offers_the_token_or_says_what_is_missing(
    alice: Client, settings: Any
) -> None:
    settings.SANDBOX = False
    page = alice.get("/integrations").content.decode()
    github, salesforce = (
        page.partition(f'id="card-{slug}"')[2].partition("</article>")[0] for slug in ("github", "salesforce")
    )
    assert '<a class="button" role="button" href="/integrations/github/token"' in github, "it is the card's one action"
    assert "CLIENT_ID" not in github
    assert "ATOM_PROVIDER_SALESFORCE_CLIENT_ID" in salesforce
    assert "<button" not in salesforce
    assert "made-up data" not in page


def test_the_cards_page_says_what_sandbox_means(alice: Client, sandbox: Any) -> None:
    page = alice.get("/integrations").content.decode()
    assert "What is marked sandbox answers in the tool's place, with made-up data." in page


def test_connecting_stops_at_the_plans_number_but_reconnecting_does_not(
    cast: Any, signed_in: Any, sandbox: Any
) -> None:
    charlie = signed_in(cast.charlie)
    connect(charlie)
    connect(charlie, account=1)
    # Before anybody is asked at the provider for what is then refused here.
    reply = charlie.post("/integrations/salesforce/connect")
    assert reply.status_code == 403
    assert "Free plan includes 2 connections. The Solo plan includes more." in reply.content.decode()
    assert len(stored()) == 2
    assert connect(charlie).status_code == 302
    # Whether it is one more is known only when the provider has said whose account it is.
    assert connect(charlie, account=2).status_code == 403
    assert len(stored()) == 2


def test_who_reconnects_as_another_account_is_told_and_leaves_no_grant_that_nobody_keeps(
    cast: Any, signed_in: Any, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted: list[str] = []

    def noted(*args: Any, **given: Any) -> Any:
        token = exchange_code(*args, **given)
        granted.append(token["access_token"])
        return token

    exchange_code = gateway.exchange_code
    monkeypatch.setattr(gateway, "exchange_code", noted)
    charlie = signed_in(cast.charlie)
    connect(charlie)
    (lost,) = stored()
    with tenant_scope(cast.globex.id):
        Connection.objects.filter(id=lost.id).update(status="reauth_required")

    def reconnect(account: int) -> Any:
        address = to_provider(charlie, connection=str(lost.id))
        return charlie.get(consent(address, account=account), follow=True)

    # Where there is room it is one more.
    page = reconnect(1).content.decode()
    other = stored()[1]
    assert f"{other} is connected." in page
    still = f"{lost.account_label} still needs to be reconnected."
    assert f"You signed in as {other.account_label}; {still}" in page
    assert [row.status for row in stored()] == ["reauth_required", "connected"]

    # Where there is none it is not kept, at the provider neither.
    reply = reconnect(2)
    assert reply.status_code == 403
    assert f"{still} The Free plan includes 2 connections." in reply.content.decode()
    assert len(stored()) == 2
    assert [is_accepted(sandbox, "github", token) for token in granted] == [True, True, False]

    assert still not in reconnect(0).content.decode()
    assert [row.status for row in stored()] == ["connected", "connected"]


def test_what_the_plan_has_no_room_for_is_not_taken_from_another_workspace(
    cast: Any, signed_in: Any, sandbox: Any
) -> None:
    answers = {question.name: question.default or question.placeholder for question in PROVIDERS["google"].asks}
    alice, charlie = signed_in(cast.alice), signed_in(cast.charlie)
    alice.get(consent(to_provider(alice, "google", **answers), account=2))
    (held,) = stored()
    for account in (0, 1):
        assert charlie.get(consent(to_provider(charlie, "google", **answers), account=account)).status_code == 302
    refused = charlie.get(consent(to_provider(charlie, "google", **answers), account=2))
    assert refused.status_code == 403
    assert "still needs" not in refused.content.decode()
    assert is_accepted(sandbox, "google", held.credentials["access_token"])


def test_a_new_token_for_what_is_connected_is_taken_at_the_plans_number(
    cast: Any, signed_in: Any, own_host: str
) -> None:
    charlie = signed_in(cast.charlie)
    form = {"token": sandbox_token(), "base_url": own_host}
    assert charlie.post("/integrations/github/token", form).status_code == 302
    connect(charlie, "salesforce")
    assert len(stored()) == 2
    assert charlie.post("/integrations/github/token", form | {"token": sandbox_token("another")}).status_code == 302
    assert len(stored()) == 2


def test_the_way_back_after_signing_in_stays_on_this_site(cast: Any) -> None:
    for target in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        reply = Client().post("/sign-in", {"email": "alice@acme.test", "password": "alice", "next": target})
        assert (reply.status_code, reply["Location"]) == (302, "/integrations")


# -- tokens that end ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_an_expired_token_is_refreshed_once_whoever_needs_it_first(live_cast: Any, sandbox: Any) -> None:
    row = connected(live_cast.acme, "salesforce", sandbox.root)
    before = row.credentials
    sandbox.control(expire="salesforce")

    async def ask() -> list[str]:
        apis = [await gateway.open_api(row) for _ in range(6)]
        await asyncio.gather(*[PROVIDERS["salesforce"].identify(api) for api in apis])
        await gateway.close_clients()
        return [api.token or "" for api in apis]

    tokens = asyncio.run(ask())
    with tenant_scope(row.tenant_id):
        row.refresh_from_db()
    assert set(tokens) == {row.credentials["access_token"]}
    assert row.credentials["access_token"] != before["access_token"]
    assert row.credentials["refresh_token"]
    assert row.status == "connected"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("slug", ["google", "asana"])
@pytest.mark.parametrize("known", [None, -1, 5])
def test_a_grant_does_not_end_with_the_token_that_a_refresh_brings(
    live_cast: Any, sandbox: Any, slug: str, known: int | None
) -> None:
    """These name the refresh token once, with the consent: an hour is the new access token's, and no end of the grant.

    known: days to the end that was known before; one that has passed was none, as the grant still serves.
    """
    row = connected(live_cast.acme, slug, sandbox.root)
    ends = None if known is None else timezone.now() + timedelta(days=known)
    with tenant_scope(row.tenant_id):
        Connection.objects.update(grant_expires_at=ends)
    gateway.refresh_token(row, row.credentials["access_token"])
    with tenant_scope(row.tenant_id):
        row.refresh_from_db()
        assert row.token_expires_at is not None
        assert row.token_expires_at < timezone.now() + timedelta(hours=2)
        assert row.grant_expires_at == (ends if known == 5 else None)
        assert health_of(row).ends_soon is (known == 5)


@pytest.mark.django_db(transaction=True)
def test_a_grant_that_was_taken_back_needs_a_person(live_cast: Any, sandbox: Any) -> None:
    row = connected(live_cast.acme, "salesforce", sandbox.root)
    sandbox.control(revoke="salesforce")

    async def ask() -> None:
        try:
            await PROVIDERS["salesforce"].identify(await gateway.open_api(row))
        finally:
            await gateway.close_clients()

    with pytest.raises(ReauthRequired):
        asyncio.run(ask())
    with tenant_scope(row.tenant_id):
        row.refresh_from_db()
    assert row.status == "reauth_required"
    assert "no longer accepts" in row.last_error


def test_who_reconnects_an_account_is_asked_about_it_when_they_leave(
    alice: Client, cast: Any, signed_in: Any, sandbox: Any
) -> None:
    """It goes on by what they granted, and no longer by what the one before did."""
    bob = signed_in(cast.bob)

    def asked_about(person: Any) -> bool:
        with tenant_scope(cast.acme.id):
            mine = Membership.objects.get(tenant=cast.acme, user=person)
        page = alice.get(f"/settings/members/{mine.id}").content.decode()
        return f'name="connection" value="{stored()[0].id}"' in page

    connect(alice)
    assert (asked_about(cast.alice), asked_about(cast.bob)) == (True, False)
    connect(bob)
    assert len(stored()) == 1
    assert (asked_about(cast.alice), asked_about(cast.bob)) == (False, True)


# -- disconnecting --------------------------------------------------------------------------------------------------------


def test_what_is_started_while_a_connection_is_being_disconnected_is_cancelled_too(
    alice: Client, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(alice, "github")
    (row,) = stored()
    give_up = integrations.disconnecting._give_up

    def meanwhile(actor: Any, connection: Connection, delete_data: bool) -> None:
        make_job(connection)
        give_up(actor, connection, delete_data)

    monkeypatch.setattr(integrations.disconnecting, "_give_up", meanwhile)
    assert alice.post(f"/connections/{row.id}/disconnect").status_code == 302
    with tenant_scope(row.tenant_id):
        assert [job.status for job in HistoricalSyncJob.objects.filter(connection=row)] == ["cancelled"]


def test_an_import_that_ends_by_itself_meanwhile_is_no_hindrance_to_disconnecting(
    alice: Client, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(alice, "github")
    (row,) = stored()
    with tenant_scope(row.tenant_id):
        job = make_job(row, status="running")
    cancel = actions.cancel

    def too_late(actor: Any, running: HistoricalSyncJob) -> HistoricalSyncJob:
        HistoricalSyncJob.objects.filter(id=job.id).update(status="completed", completed_at=timezone.now())
        return cancel(actor, running)

    monkeypatch.setattr(actions, "cancel", too_late)
    assert alice.post(f"/connections/{row.id}/disconnect").status_code == 302
    assert stored()[0].status == "disconnected"


@pytest.mark.parametrize("slug", ["github", "salesforce"])
def test_disconnecting_takes_the_grant_back_and_forgets_the_tokens(alice: Client, sandbox: Any, slug: str) -> None:
    connect(alice, slug)
    (row,) = stored()
    token = row.credentials["access_token"]
    assert is_accepted(sandbox, slug, token)
    asked = alice.get(f"/connections/{row.id}/disconnect").content.decode()
    assert "Everything that came in is kept" in asked
    assert stored()[0].status == "connected", "asking changes nothing"
    with tenant_scope(row.tenant_id):
        job = make_job(row)
    assert alice.post(f"/connections/{row.id}/disconnect").status_code == 302
    (row,) = stored()
    assert (row.status, row.credentials["access_token"], row.credentials["refresh_token"]) == ("disconnected", "", "")
    assert not is_accepted(sandbox, slug, token)
    with tenant_scope(row.tenant_id):
        assert HistoricalSyncJob.objects.get(id=job.id).status == "cancelled"


@pytest.mark.parametrize("slug", ["zendesk", "google"])
def test_a_grant_whose_access_token_has_expired_is_taken_back_too(alice: Client, sandbox: Any, slug: str) -> None:
    """As most have when somebody disconnects; Zendesk's is taken back by its own access token only."""
    provider = PROVIDERS[slug]
    answers = {question.name: question.default or question.placeholder for question in provider.asks}
    alice.get(consent(to_provider(alice, slug, **answers)))
    (row,) = stored()
    refresh = row.credentials["refresh_token"]
    sandbox.control(expire=slug)
    assert alice.post(f"/connections/{row.id}/disconnect").status_code == 302
    assert stored()[0].credentials == {"access_token": "", "refresh_token": ""}
    config = gateway.configured(provider, row.facts)
    assert config is not None
    with pytest.raises(ReauthRequired):
        gateway.renewed(config, provider, refresh)
    log = sandbox.log()
    assert slug != "zendesk" or [call["status"] for call in log if call["method"] == "DELETE"] == [204]


@pytest.mark.parametrize("slug", ["linear", "notion"])
def test_a_token_that_a_worker_refreshes_while_its_import_is_cancelled_ends_too(
    alice: Client, sandbox: Any, monkeypatch: pytest.MonkeyPatch, slug: str
) -> None:
    connect(alice, slug)
    (row,) = stored()
    refreshed: list[str] = []

    def refreshes(actor: Any, connection: Connection) -> None:
        if not refreshed:
            refreshed.append(gateway.refresh_token(connection, row.credentials["access_token"]))

    monkeypatch.setattr(integrations.disconnecting, "disconnecting_hooks", [refreshes])
    alice.post(f"/connections/{row.id}/disconnect")
    assert refreshed != [row.credentials["access_token"]]
    assert not is_accepted(sandbox, slug, refreshed[0])


@pytest.mark.parametrize("slug", ["github", "google", "intercom", "salesforce"])
def test_disconnecting_leaves_another_workspace_its_access_to_the_same_account(
    alice: Client, cast: Any, signed_in: Any, sandbox: Any, slug: str
) -> None:
    answers = {question.name: question.default or question.placeholder for question in PROVIDERS[slug].asks}
    charlie = signed_in(cast.charlie)
    for client in (alice, charlie):
        assert client.get(consent(to_provider(client, slug, **answers))).status_code == 302
    acme, globex = stored()
    assert acme.external_account_id == globex.external_account_id
    token = globex.credentials["access_token"]

    told = unescape(alice.post(f"/connections/{acme.id}/disconnect", follow=True).content.decode())
    is_one_grant = slug in ("google", "intercom")
    assert (f"what {PROVIDERS[slug].name} granted is left as it is" in told) is is_one_grant
    assert not re.search("another workspace|Globex", told), "who else uses the account is none of theirs"
    assert [row.status for row in stored()] == ["disconnected", "connected"]
    assert is_accepted(sandbox, slug, token)
    told = charlie.post(f"/connections/{globex.id}/disconnect", follow=True).content.decode()
    assert "is left as it is" not in told
    assert not is_accepted(sandbox, slug, token), "nobody else goes on by it"


def test_who_disconnects_is_told_what_the_provider_goes_on_to_honour(alice: Client, cast: Any) -> None:
    with tenant_scope(cast.acme.id):
        row = make_connection(cast.acme, "github")
        Connection.objects.filter(id=row.id).update(by_oauth=False)
    page = unescape(alice.post(f"/connections/{row.id}/disconnect", follow=True).content.decode())
    assert "GitHub (acme-github) is disconnected. Its history stays." in page
    assert "GitHub (acme-github): it was connected by a token, which GitHub takes until somebody revokes it" in page


def test_the_grant_ends_though_two_workspaces_disconnect_the_account_at_once(
    alice: Client, cast: Any, signed_in: Any, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    charlie = signed_in(cast.charlie)
    for client in (alice, charlie):
        connect(client, "google")
    acme, globex = stored()
    tokens = [row.credentials["access_token"] for row in (acme, globex)]
    give_up = integrations.disconnecting._give_up

    def meanwhile(actor: Any, connection: Connection, delete_data: bool) -> None:
        """The other is given up and looks whether anybody goes on by the grant, while this one is being given up."""
        if connection.id == acme.id:
            charlie.post(f"/connections/{globex.id}/disconnect")
        give_up(actor, connection, delete_data)

    monkeypatch.setattr(integrations.disconnecting, "_give_up", meanwhile)
    alice.post(f"/connections/{acme.id}/disconnect")
    assert [row.status for row in stored()] == ["disconnected", "disconnected"]
    assert not any(is_accepted(sandbox, "google", token) for token in tokens)


def test_a_token_that_a_vendor_gave_twice_ends_with_the_last_connection_that_holds_it(
    alice: Client, cast: Any, signed_in: Any, sandbox: Any
) -> None:
    charlie = signed_in(cast.charlie)
    for client in (alice, charlie):
        connect(client, "slack")
    acme, globex = stored()
    token = acme.credentials["access_token"]
    globex.set_credentials(token)
    with tenant_scope(cast.globex.id):
        globex.save()
    alice.post(f"/connections/{acme.id}/disconnect")
    assert is_accepted(sandbox, "slack", token)
    charlie.post(f"/connections/{globex.id}/disconnect")
    assert not is_accepted(sandbox, "slack", token)


def test_tokens_are_forgotten_even_when_the_provider_is_away(
    alice: Client, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(alice)
    monkeypatch.setenv("ATOM_SANDBOX_URL", "http://127.0.0.1:9/sandbox")
    assert alice.post(f"/connections/{stored()[0].id}/disconnect").status_code == 302
    assert stored()[0].status == "disconnected"
    assert stored()[0].credentials["access_token"] == ""


def test_what_was_disconnected_with_its_data_is_offered_again_when_it_is_connected_again(
    alice: Client, cast: Any, sandbox: Any
) -> None:
    """Nothing of it is here then, as when it was first connected."""

    def offered() -> bool:
        address = connect(alice)["Location"]
        by_itself = 'hx-trigger="load delay:1s"' in alice.get(address).content.decode()
        alice.get(f"/connections/{stored()[0].id}/import")
        return by_itself

    assert offered()
    alice.post(f"/connections/{stored()[0].id}/disconnect")
    assert not offered(), "its history stayed"
    alice.post(f"/connections/{stored()[0].id}/disconnect", {"delete_data": "on"})
    assert offered()


# -- by token -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_host(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The stand-in as somebody's own GitHub on a host that may be reached."""
    monkeypatch.setattr("django.conf.settings.ALLOW_PRIVATE_HOSTS", True)
    return f"{sandbox.root}/github"


def test_a_token_is_verified_and_makes_a_connection(alice: Client, own_host: str) -> None:
    token = sandbox_token()
    reply = alice.post("/integrations/github/token", {"token": token, "base_url": own_host, "label": "Our own"})
    (row,) = stored()
    assert (reply.status_code, reply["Location"]) == (302, f"/integrations?connected={row.id}")
    assert (row.account_label, row.base_url, row.by_oauth) == ("Our own", own_host, False)
    assert row.credentials["access_token"] == token
    for path in ("/integrations", "/integrations/github/token", f"/connections/{row.id}/disconnect"):
        assert token not in alice.get(path).content.decode()


def test_the_form_without_scripts_is_a_page_and_with_htmx_a_fragment(alice: Client) -> None:
    page = alice.get("/integrations/github/token").content.decode()
    fragment = alice.get("/integrations/github/token", headers={"HX-Request": "true"}).content.decode()
    assert "<html" in page
    assert "<html" not in fragment
    assert 'name="token"' in page
    assert 'name="token"' in fragment
    assert alice.get("/integrations/salesforce/token").status_code == 404
    assert alice.get("/integrations/myspace/token").status_code == 404


def test_a_token_goes_past_the_sandbox_and_people_are_told(
    alice: Client, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no tokens of the sandbox's own to paste: who has one wants the provider itself, here another server of ours."""
    words = "a token is sent to GitHub itself and brings in real data"
    assert words in alice.get("/integrations/github/token").content.decode()
    monkeypatch.setenv("ATOM_PROVIDER_GITHUB_BASE_URL", f"{sandbox.root}/github")
    alice.post("/integrations/github/token", {"token": sandbox_token()})
    (row,) = stored()
    assert not row.sandbox
    assert gateway.api_root(row) == f"{sandbox.root}/github"
    assert "real data</span>" in alice.get("/integrations").content.decode()
    monkeypatch.setenv("ATOM_PROVIDER_GITHUB_CLIENT_ID", "id")
    monkeypatch.setenv("ATOM_PROVIDER_GITHUB_CLIENT_SECRET", "secret")
    assert words not in alice.get("/integrations/github/token").content.decode()
    assert "real data</span>" not in alice.get("/integrations").content.decode()


def test_the_form_asks_for_the_address_that_the_token_needs(alice: Client) -> None:
    jira, github = (alice.get(f"/integrations/{slug}/token").content.decode() for slug in ("jira", "github"))
    assert "Address of your site" in jira
    assert re.search(r'name="base_url"[^>]*placeholder="https://your-site.atlassian.net"[^>]* required', jira)
    assert "only if self-hosted" in github
    assert not re.search(r'name="base_url"[^>]* required', github)
    assert 'name="base_url"' not in alice.get("/integrations/slack/token").content.decode()


def test_a_token_is_on_no_page_of_errors_not_even_of_who_develops(
    alice: Client, own_host: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django's shows the variables of every function that was under way, the request's fields among them."""

    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("broken on purpose")

    settings.DEBUG = True
    monkeypatch.setattr("integrations.connect._store", broken)
    alice.raise_request_exception = False
    token = sandbox_token()
    text = alice.post("/integrations/github/token", {"token": token, "base_url": own_host}).content.decode()
    assert ("broken on purpose" in text, token in text) == (True, False)


@pytest.mark.parametrize("token", ["", "  ", "two words", "tökén", "x" * 4097, "a\x00b", "not-accepted"])
def test_a_token_that_is_none_is_refused_at_its_field(alice: Client, own_host: str, token: str) -> None:
    reply = alice.post("/integrations/github/token", {"token": token, "base_url": own_host})
    text = reply.content.decode()
    assert reply.status_code == 400
    assert 'name="token" required maxlength="4096" autocomplete="off" aria-invalid="true"' in text
    assert 'role="alert"' in text
    assert len(token) < 5 or token not in text
    assert stored() == []


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1", "https://127.0.0.1:8443/api", "http://localhost", "http://[::1]/", "http://0.0.0.0", "http://[::]",
        "http://10.0.0.1", "http://192.168.1.1", "http://172.16.0.1", "http://169.254.169.254/latest/meta-data", "http://[fe80::1]",
        "http://[fd00::1]", "http://[::ffff:127.0.0.1]", "http://[::ffff:7f00:1]", "http://[2002:7f00:1::]", "http://2130706433",
        "http://0x7f.1", "http://0177.0.0.1", "http://127.1", "http://224.0.0.1", "http://100.64.0.1", "http://[64:ff9b::7f00:1]",
        "http://[fec0::1]", "http://[::127.0.0.1]", "http://[::a00:1]", "http://[64:ff9b:1::a00:1]",
        "ftp://example.com", "file:///etc/passwd", "javascript:alert(1)", "//example.com", "example.com", "http://", "https:///x",
        "https://user:pass@8.8.8.8", "https://8.8.8.8?x=1", "https://8.8.8.8#x", "https://8.8.8.8:99999", "https://8.8.8.8:0", "https://8.8.8.8:x",
        "https://nothing.invalid", "http://a" + "b" * 500, "http://exa mple.com", "http://\x00", "http://[::1", "http://[2606:4700::%eth0]", "http://8.8\t.8.8",
    ],
)  # fmt: skip
def test_an_address_that_a_person_may_not_name_is_refused_at_its_field(
    alice: Client, base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_is_sent(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("no request may leave")

    monkeypatch.setattr("integrations.connect.make_client", nothing_is_sent)
    reply = alice.post("/integrations/github/token", {"token": "ghp_secretive", "base_url": base_url})
    assert reply.status_code == 400
    text = reply.content.decode()
    assert 'placeholder="https://github.example.com/api/v3" maxlength="500" aria-invalid="true"' in text
    assert "ghp_secretive" not in text
    assert stored() == []


@pytest.mark.parametrize(
    "who",
    [
        b'{"id": 1, "login": "a\\u0000b"}',
        b'{"id": "1\\u0000", "login": "a"}',
        b'{"id": "' + b"1" * 300 + b'", "login": "a"}',
        b'{"login": "a"}',
        b"[]",
        b"5",
        b'"Bob"',
        b"null",
        b"[" * 5000,
    ],
    ids=["NUL", "NUL in its id", "long", "no id", "list", "number", "text", "null", "deep"],
)
def test_a_server_that_is_none_of_the_providers_is_told_at_its_field(
    alice: Client, cast: Any, settings: Any, who: bytes
) -> None:
    settings.ALLOW_PRIVATE_HOSTS = True
    with saying(who) as root:
        reply = alice.post("/integrations/github/token", {"token": "ghp_x", "base_url": root})
    assert reply.status_code == 400
    assert re.search("GitHub (gave an answer that is not its own|answered with)", reply.content.decode())
    with tenant_scope(cast.acme.id):
        assert not Connection.objects.filter(tenant=cast.acme).exists()


@pytest.mark.parametrize("parts", [b'[{"id": 1}]', b"[5]", b'["text"]', b"[null]"])
def test_parts_that_are_none_are_told_where_they_are_chosen(
    alice: Client, cast: Any, settings: Any, parts: bytes
) -> None:
    settings.ALLOW_PRIVATE_HOSTS = True
    with saying(parts) as root, tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        connection.base_url, connection.sandbox = root, False
        connection.set_credentials("token")
        connection.save()
        reply = alice.get(f"/connections/{connection.id}/parts")
    assert reply.status_code == 200
    assert "GitHub gave an answer that is not its own" in reply.content.decode()


def test_a_name_that_changes_its_mind_is_caught_at_the_connection(sandbox: Any) -> None:
    """The form's check saw a public address; what the name leads to when the request leaves decides."""

    async def ask() -> None:
        async with make_client(allow_private=False) as client:
            await Api(PROVIDERS["github"], sandbox.root.replace("127.0.0.1", "localhost") + "/github", client, "t").get(
                "/user"
            )

    before = sandbox.control()["calls"]
    with pytest.raises(Misconfigured, match="private network"):
        asyncio.run(ask())
    assert sandbox.control()["calls"] == before


# -- secrets --------------------------------------------------------------------------------------------------------------


def test_credentials_are_unreadable_in_the_row(cast: Any) -> None:
    with tenant_scope(cast.acme.id):
        row = make_connection(cast.acme)
        with database.cursor() as cursor:
            cursor.execute("SELECT row_to_json(c)::text, c.credentials FROM integrations_connection c")
            text, sealed = cursor.fetchone()
    assert "secret" not in text
    assert b"secret-access-token" not in bytes(sealed)
    assert row.credentials == {"access_token": "secret-access-token", "refresh_token": "secret-refresh-token"}
    assert "secret" not in repr(row) + str(row) + repr(vars(row)).replace("sealed_credentials", "")


def test_secrets_are_in_no_log(alice: Client, sandbox: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx2", "httpcore2", "integrations", "django", "authlib"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        back = consent(to_provider(alice, "salesforce"))
        verifier = alice.session["oauth_trips"][-1]["verifier"]
        alice.get(back)
        (row,) = stored()
        secrets = [*row.credentials.values(), verifier, gateway.SANDBOX_SECRET]
        alice.post("/integrations/github/token", {"token": "ghp_secretive", "base_url": f"{sandbox.root}/github"})
        alice.post(f"/connections/{row.id}/disconnect")
    finally:
        for name in ("httpx2", "httpcore2", "integrations", "django", "authlib"):
            logging.getLogger(name).setLevel(logging.NOTSET if name != "httpx2" else logging.WARNING)
        logging.getLogger("httpcore2").setLevel(logging.WARNING)
    assert caplog.text
    for secret in (*secrets, "ghp_secretive"):
        assert len(secret) > 8
        assert secret not in caplog.text


def test_a_broken_page_tells_no_secret(alice: Client, cast: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with tenant_scope(cast.acme.id):
        make_connection(cast.acme)
    alice.raise_request_exception = False

    def broken(*args: Any, **kwargs: Any) -> None:
        token = "ghp_secretive"
        raise RuntimeError(token)

    monkeypatch.setattr("integrations.views.connect_with_token", broken)
    reply = alice.post("/integrations/github/token", {"token": "ghp_secretive"})
    assert reply.status_code == 500
    assert "secret" not in reply.content.decode()


def test_keys_are_rotated_and_it_may_be_interrupted(cast: Any, settings: Any) -> None:
    with tenant_scope(cast.acme.id):
        row = make_connection(cast.acme)
    new = Fernet.generate_key().decode()
    settings.ENCRYPTION_KEYS = [new, *settings.ENCRYPTION_KEYS]
    out = io.StringIO()
    call_command("rotate_encryption_key", stdout=out)
    call_command("rotate_encryption_key", stdout=out)
    assert "1 re-encrypted" in out.getvalue()
    settings.ENCRYPTION_KEYS = [new]
    with tenant_scope(cast.acme.id):
        row.refresh_from_db()
    assert row.credentials["access_token"] == "secret-access-token"
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    with pytest.raises(CommandError, match="No key of ATOM_ENCRYPTION_KEYS opens what is stored") as error:
        call_command("rotate_encryption_key", stdout=out)
    assert error.value.returncode == 1


def test_what_no_key_opens_keeps_nobody_else_from_the_new_one(cast: Any, settings: Any) -> None:
    old = settings.ENCRYPTION_KEYS
    with tenant_scope(cast.acme.id):
        rows = sorted((make_connection(cast.acme) for _ in range(2)), key=lambda row: row.id)
        settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode()]  # of which no backup was kept
        rows[0].set_credentials("lost", "")
        rows[0].save()
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode(), *old]
    out = io.StringIO()
    with pytest.raises(CommandError, match=f"^connection {rows[0].id}: No key of ATOM_ENCRYPTION_KEYS opens") as error:
        call_command("rotate_encryption_key", stdout=out)
    assert error.value.returncode == 1
    assert "connection: 1 re-encrypted" in out.getvalue()
    settings.ENCRYPTION_KEYS = settings.ENCRYPTION_KEYS[:1]
    with tenant_scope(cast.acme.id):
        rows[1].refresh_from_db()
    assert rows[1].credentials["access_token"] == "secret-access-token"


def test_no_provider_is_shown_a_code_of_another(alice: Client, sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    back = consent(to_provider(alice))
    asked: list[Any] = []
    monkeypatch.setattr("integrations.gateway._token_request", lambda *a, **k: asked.append(a))
    assert_refused(alice.get(back.replace("/github/", "/salesforce/")))
    assert asked == []


def test_who_gave_a_connection_up_has_no_place_kept(cast: Any, signed_in: Any, sandbox: Any) -> None:
    charlie = signed_in(cast.charlie)
    connect(charlie)
    connect(charlie, account=1)
    first = stored()[0]
    assert charlie.post(f"/connections/{first.id}/disconnect").status_code < 400
    connect(charlie, "salesforce")
    assert connect(charlie).status_code == 403
    assert [row.status for row in stored()].count("connected") == 2


def test_a_new_grant_waits_for_no_old_limit(alice: Client, cast: Any, sandbox: Any) -> None:
    connect(alice)
    with tenant_scope(cast.acme.id):
        Connection.objects.update(blocked_until=timezone.now() + timedelta(hours=5), status="reauth_required")
    connect(alice)
    assert stored()[0].blocked_until is None


def test_a_session_remembers_the_last_trips_only(alice: Client, sandbox: Any) -> None:
    for _ in range(8):
        to_provider(alice)
    assert len(alice.session["oauth_trips"]) == 5
