"""Connecting and disconnecting by program: as the pages and the command do it, with the same checks, and no word of the token."""

from __future__ import annotations

import json
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connections
from django.test import Client

from atom import turns
from atom.models import AuditEvent
from atom.tenancy import across_tenants, tenant_scope
from historical_sync.models import DataRemoval, HistoricalSyncJob
from integrations import connect
from integrations.models import Connection
from tests.conftest import Sandbox, connected, sandbox_token
from tests.graphs import make_connection, make_job
from tests.test_api import Api
from tests.test_connect import is_accepted

pytestmark = pytest.mark.django_db

SECRET = "not-accepted"


@pytest.fixture
def program(cast: SimpleNamespace, sandbox: Sandbox, settings: Any) -> SimpleNamespace:
    """A program of Acme's, and what it sends to connect GitHub's stand-in as a server of its own."""
    settings.ALLOW_PRIVATE_HOSTS = True
    api, other = Api(cast.acme), Api(cast.globex)
    body = {"integration_id": "github", "token": sandbox_token(), "base_url": f"{sandbox.root}/github"}
    return SimpleNamespace(cast=cast, api=api, other=other, body=body, sandbox=sandbox)


def post(api: Api, path: str, body: Any = None, **headers: str) -> Any:
    data = b"" if body is None else json.dumps(body).encode()
    return api.client.post(f"/api/connections{path}", data, "application/json", headers=headers)


def stored() -> list[Connection]:
    with across_tenants("a test looks"):
        return list(Connection.objects.order_by("created_at"))


def log(tenant: Any) -> list[tuple[str, str]]:
    with tenant_scope(tenant.id):
        return list(AuditEvent.objects.filter(tenant=tenant).order_by("id").values_list("actor", "action"))


def test_a_program_connects_by_a_token(program: SimpleNamespace) -> None:
    reply = post(program.api, "", program.body | {"label": "Ours", "only": ["northwind-dev/infra"]})
    assert reply.status_code == 201, reply.content
    (row,) = stored()
    shown = reply.json()
    assert shown == program.api.client.get(f"/api/connections/{row.id}").json()
    assert (shown["id"], shown["integration_id"], shown["account"]) == (str(row.id), "github", "Ours")
    assert (shown["status"], shown["only"]) == ("connected", ["70000004"])
    assert (row.tenant_id, row.by_oauth, row.created_by) == (program.cast.acme.id, False, None)
    assert row.credentials["access_token"] == program.body["token"]
    # The same account once more: a new token for it, and what was chosen of it stays.
    again = post(program.api, "", program.body)
    assert (again.status_code, again.json()["id"], again.json()["only"]) == (200, str(row.id), ["70000004"])
    assert log(program.cast.acme) == [
        ("API key test", "connection.connected"),
        ("API key test", "connection.reconnected"),
    ]
    for text in (reply.content.decode(), again.content.decode()):
        assert program.body["token"] not in text


def test_what_a_tool_asks_before_connecting_is_answered_by_facts(
    program: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def note(*args: Any, **options: Any) -> Any:
        given.update(options)
        raise connect.InvalidInput("invalid", "Not this one.", "token")

    monkeypatch.setattr("integrations.api.connect_with_token", note)
    body = {"integration_id": "zendesk", "token": "t", "facts": {"subdomain": "acme"}}
    assert post(program.api, "", body).status_code == 400
    assert given["facts"] == {"subdomain": "acme"}
    assert given.get("private_host_allowed", False) is False, "which operators alone may"


def test_what_a_tool_does_not_ask_is_refused_with_what_it_asks(program: SimpleNamespace) -> None:
    body = {"integration_id": "zendesk", "token": "t", "facts": {"subdomain": "acme", "sudomain": "acme"}}
    [error] = post(program.api, "", body).json()["errors"]
    assert error["detail"] == "Zendesk does not ask for 'sudomain'; it asks for subdomain."


@pytest.mark.parametrize(
    ("change", "status", "code", "attr"),
    [
        ({"integration_id": "myspace"}, 400, "invalid", "integration_id"),
        ({"integration_id": None}, 400, "null", "integration_id"),
        ({"integration_id": "salesforce", "base_url": ""}, 400, "invalid", "token"),
        ({"token": SECRET}, 400, "invalid", "token"),
        ({"token": f"two {SECRET}"}, 400, "invalid", "token"),
        ({"token": SECRET * 400}, 400, "max_length", "token"),
        ({"token": [SECRET]}, 400, "invalid", "token"),
        ({"token": ""}, 400, "blank", "token"),
        ({"base_url": "ftp://example.com"}, 400, "invalid", "base_url"),
        ({"integration_id": "notion"}, 400, "invalid", "base_url"),
        ({"only": ["northwind-dev/nothing"]}, 400, "invalid", "only"),
        ({"only": []}, 400, "empty", "only"),
        ({"only": "infra"}, 400, "not_a_list", "only"),
        ({"facts": ["a"]}, 400, "not_a_dict", "facts"),
        ({"facts": {"sudomain": "acme"}}, 400, "invalid", "facts"),
        ({"facts": {"\ud800" * 200: "acme"}}, 400, "invalid", "facts"),
        ({"private_host_allowed": True}, 400, "invalid", "private_host_allowed"),
    ],
)
def test_what_can_not_be_connected_is_refused_at_its_field(
    program: SimpleNamespace, change: dict[str, Any], status: int, code: str, attr: str
) -> None:
    reply = post(program.api, "", program.body | change)
    assert reply.status_code == status, reply.content
    assert (reply.json()["errors"][0]["code"], reply.json()["errors"][0]["attr"]) == (code, attr)
    assert SECRET not in reply.content.decode()
    assert stored() == []


def test_an_address_in_a_private_network_is_refused(program: SimpleNamespace, settings: Any) -> None:
    settings.ALLOW_PRIVATE_HOSTS = False
    reply = post(program.api, "", program.body)
    assert (reply.status_code, reply.json()["errors"][0]["attr"]) == (400, "base_url")


def test_the_plan_bounds_how_many(program: SimpleNamespace) -> None:
    with tenant_scope(program.cast.globex.id):
        for slug in ("slack", "notion", "linear", "asana", "hubspot"):
            make_connection(program.cast.globex, slug)
    reply = post(program.other, "", program.body)
    assert (reply.status_code, reply.json()["errors"][0]["code"]) == (403, "plan_feature")
    assert "token" not in reply.json()["errors"][0]["detail"]


@pytest.mark.django_db(transaction=True)
def test_a_workspace_whose_tools_do_not_answer_leaves_others_their_turn(
    live_cast: SimpleNamespace, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen requests are answered at once, of all workspaces together."""
    settings.ALLOW_PRIVATE_HOSTS = True
    monkeypatch.setattr(connect, "IDENTIFY_TIMEOUT", 4.0)
    ours, theirs = Api(live_cast.acme), Api(live_cast.globex)
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent, ThreadPoolExecutor(20) as at_once:
        silent.settimeout(10)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/github"
        body = {"integration_id": "github", "token": sandbox_token(), "base_url": address}

        def ask(api: Api) -> Any:
            try:
                return post(api, "", body)
            finally:
                connections.close_all()

        waiting = [at_once.submit(ask, ours) for _ in range(turns.AT_ONCE)]
        taken = [silent.accept() for _ in waiting]
        one_more = ask(ours)
        assert (one_more.status_code, one_more.json()["errors"][0]["code"]) == (429, "throttled")
        assert one_more["Retry-After"] == "5"
        assert ask(theirs).status_code == 400, "who is not refused waits, and is told that it takes too long"
        assert {one.result().status_code for one in waiting} == {400}
        assert ask(ours).status_code == 400, "it has its turns again"
        for conversation, _ in taken:
            conversation.close()


def test_who_may_not_connect_does_neither(program: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(program.cast.acme.id):
        row = make_connection(program.cast.acme)
    viewer = Api(program.cast.acme, "viewer")
    assert [
        post(viewer, path, body).status_code for path, body in (("", program.body), (f"/{row.id}/disconnect", {}))
    ] == [403, 403]
    assert post(program.other, f"/{row.id}/disconnect", {}).status_code == 404
    assert post(program.api, "/no-such/disconnect", {}).status_code == 404
    client = Client(enforce_csrf_checks=True)
    client.force_login(program.cast.bob)
    assert client.post("/api/connections", program.body, "application/json").status_code == 403
    assert client.post(f"/api/connections/{row.id}/disconnect", {}, "application/json").status_code == 403
    assert [one.status for one in stored()] == ["connected"]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    "where", ["integrations.connect._store", "integrations.connect.check_room", "integrations.api.connect_with_token"]
)
def test_a_failure_of_ours_shows_the_token_to_nobody(
    program: SimpleNamespace,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    debug: bool,
    where: str,
) -> None:
    """Nor does Django's page for who develops, which shows the variables of every function that was under way."""

    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("broken on purpose")

    settings.DEBUG = debug
    monkeypatch.setattr(where, broken)
    with caplog.at_level(logging.DEBUG):
        reply = post(program.api, "", program.body, accept="*/*")
    assert reply.status_code == 500
    text = reply.content.decode()
    assert ("broken on purpose" in text) is debug, "the page is looked at where there is one"
    assert (program.body["token"] in text, program.body["token"] in caplog.text) == (False, False)


def test_a_program_disconnects_and_the_data_stays(program: SimpleNamespace) -> None:
    row = connected(program.cast.acme, "github", program.sandbox.root)
    token = row.credentials["access_token"]
    with tenant_scope(program.cast.acme.id):
        job = make_job(row)
    reply = post(program.api, f"/{row.id}/disconnect")
    assert (reply.status_code, reply.json()["id"], reply.json()["status"]) == (200, str(row.id), "disconnected")
    assert reply.json()["not_revoked"] is None
    assert not is_accepted(program.sandbox, "github", token)
    with tenant_scope(program.cast.acme.id):
        assert HistoricalSyncJob.objects.get(id=job.id).status == "cancelled"
        assert not DataRemoval.objects.exists()
    assert post(program.api, f"/{row.id}/disconnect", {"delete_data": False}).status_code == 200, "the answer was lost"
    assert log(program.cast.acme)[1:] == [("API key test", "connection.disconnected")]


def test_a_program_disconnects_and_has_the_data_deleted(program: SimpleNamespace) -> None:
    with tenant_scope(program.cast.acme.id):
        row = make_connection(program.cast.acme)
    for wrong in ({"delete_data": "perhaps"}, {"delete": True}):
        assert post(program.api, f"/{row.id}/disconnect", wrong).status_code == 400
    assert stored()[0].status == "connected"
    # Also of one that was disconnected before. The provider knows no such token.
    reply = post(program.api, f"/{row.id}/disconnect", {})
    assert (reply.status_code, "422" in reply.json()["not_revoked"]) == (200, True), reply.content
    assert post(program.api, f"/{row.id}/disconnect", {"delete_data": True}).status_code == 200
    with tenant_scope(program.cast.acme.id):
        assert DataRemoval.objects.get(connection=row).created_by_label == "API key test"
