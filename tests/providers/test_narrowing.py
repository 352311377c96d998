"""A connection that is narrowed to some repositories: by the command line, by the API, and what an import then brings."""

from __future__ import annotations

import io
import json
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from atom.access import system_actor
from atom.errors import InvalidInput, Refused
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import coverage
from historical_sync.actions import pause, resume, start_incremental, start_sync
from historical_sync.models import SyncChunk, SyncRecord
from integrations.models import Connection
from integrations.narrowing import narrow, parts_of
from tests.conftest import Sandbox, Worker, connected, until, wait_for

NAMES = ["northwind-dev/storefront", "northwind-dev/infra"]
KEYS = ["70000000", "70000004"]


def connect(root: str, *more: str) -> dict[str, Any]:
    out = io.StringIO()
    call_command(
        "connect", "github", "--tenant", "acme", "--token", "ghp_sandbox", "--base-url", f"{root}/github", "--json",
        *more, stdout=out,
    )  # fmt: skip
    return dict(json.loads(out.getvalue()))


def test_connecting_takes_names_or_keys(live_cast: SimpleNamespace, sandbox: Sandbox) -> None:
    assert connect(sandbox.root)["only"] is None
    assert connect(sandbox.root, "--only", ",".join(NAMES))["only"] == KEYS
    assert connect(sandbox.root, "--only", "70000004, Northwind-Dev/Storefront")["only"] == KEYS[::-1]
    # A reconnect that says nothing of it leaves it as it was.
    assert connect(sandbox.root)["only"] == KEYS[::-1]


def test_a_name_that_is_none_connects_nothing(live_cast: SimpleNamespace, sandbox: Sandbox) -> None:
    with pytest.raises(CommandError) as caught:
        connect(sandbox.root, "--only", "northwind-dev/storefront,contoso-labs/storefront")
    assert caught.value.returncode == 2
    assert "contoso-labs/storefront" in str(caught.value)
    assert "repositories" in str(caught.value)
    with across_tenants("looking"):
        assert not Connection.objects.exists()


def test_the_api_lists_and_chooses(live_cast: SimpleNamespace, sandbox: Sandbox, signed_in: Any) -> None:
    connection = connected(live_cast.acme, "github", sandbox.root)
    client, path = signed_in(live_cast.bob), f"/api/connections/{connection.id}/partitions"
    body = client.get(path).json()
    assert (body["label"], body["only"]) == ("Repositories", None)
    assert {part["label"] for part in body["partitions"]} >= set(NAMES)
    assert all(part["imported"] for part in body["partitions"])
    body = client.post(path, {"only": NAMES}, content_type="application/json").json()
    assert body["only"] == KEYS
    assert [part["label"] for part in body["partitions"] if part["imported"]] == sorted(NAMES)
    for wrong in ([], ["nowhere"], "storefront", [1, {}]):
        reply = client.post(path, {"only": wrong}, content_type="application/json")
        assert reply.status_code == 400
        assert reply.json()["errors"][0]["attr"].startswith("only")
    reply = client.post(path, {"only": None, "onyl": NAMES}, content_type="application/json")
    assert (reply.status_code, reply.json()["errors"][0]["attr"]) == (400, "onyl")
    assert client.get(path).json()["only"] == KEYS
    assert client.post(path, {"only": None}, content_type="application/json").json()["only"] is None
    assert signed_in(live_cast.vera).get(path).status_code == 200
    assert signed_in(live_cast.charlie).get(path).status_code == 404
    client.post(path, {"only": NAMES}, content_type="application/json")
    sandbox.control(error_every=1)
    for reply in (
        client.get(path),
        client.post(path, {"only": NAMES[:1]}, content_type="application/json"),
        client.post(path, {"only": None}, content_type="application/json"),
    ):
        assert (reply.status_code, reply.json()["errors"][0]["code"]) == (409, "provider_unavailable")
    sandbox.control(reset=True)
    assert client.get(path).json()["only"] == KEYS, "what was refused changed nothing"


@pytest.mark.parametrize(
    ("provider", "denied", "words"),
    [
        ("github", "github.contoso-guild", "GitHub lists nothing of contoso-guild, where it asks for single sign-on"),
        ("jira", "jira.northwind", "Jira"),
    ],
)
def test_the_dialog_says_of_what_the_provider_lists_nothing(
    live_cast: SimpleNamespace, sandbox: Sandbox, signed_in: Any, provider: str, denied: str, words: str
) -> None:
    connection = connected(live_cast.acme, provider, sandbox.root)
    client, path = signed_in(live_cast.bob), f"/connections/{connection.id}/parts"
    assert "notice warn" not in client.get(path).content.decode()
    sandbox.control(deny=[denied])
    dialog = client.get(path, headers={"HX-Request": "true"}).content.decode()
    assert 'name="only"' in dialog
    assert words in dialog.partition("notice warn")[2].partition("</p>")[0]


def test_who_waits_for_the_list_is_told_of_a_limit_at_once(live_cast: SimpleNamespace, sandbox: Sandbox) -> None:
    connection = connected(live_cast.acme, "slack", sandbox.root)
    sandbox.control(page_size=1, rate_limit_every=4, retry_after=20)
    began = time.monotonic()
    with tenant_scope(live_cast.acme.id), pytest.raises(Refused, match="slow down") as caught:
        parts_of(connection)
    assert caught.value.code == "provider_throttled"
    assert time.monotonic() - began < 5


def test_a_provider_without_partitions_can_not_be_narrowed(live_cast: SimpleNamespace, sandbox: Sandbox) -> None:
    connection = connected(live_cast.acme, "salesforce", sandbox.root)
    with tenant_scope(live_cast.acme.id), pytest.raises(InvalidInput) as caught:
        narrow(system_actor(live_cast.acme, "a test"), connection, ["x"])
    assert "Salesforce" in caught.value.detail


def test_an_import_brings_the_chosen_parts_only(live_cast: SimpleNamespace, sandbox: Sandbox, worker: Worker) -> None:
    connection = connected(live_cast.acme, "github", sandbox.root)
    actor = system_actor(live_cast.acme, "a test")
    with tenant_scope(live_cast.acme.id):
        connection = narrow(actor, connection, [NAMES[1]])
        job = start_sync(actor, connection)
    until(job, "completed")
    with tenant_scope(live_cast.acme.id):
        chunks = SyncChunk.objects.filter(job=job)
        assert set(chunks.exclude(stream="repositories").values_list("partition", flat=True)) == {KEYS[1]}
        rows = SyncRecord.objects.filter(connection=connection)
        assert set(rows.filter(stream="repositories").values_list("external_id", flat=True)) == {KEYS[1]}
        assert rows.filter(stream="issues").exists()
        for payload in rows.filter(stream="issues").values_list("payload", flat=True)[:20]:
            assert payload["repository_url"].endswith(NAMES[1])
        wait_for(lambda: (connection.refresh_from_db(), connection.last_success_at)[1])


def test_an_import_tells_of_organizations_that_leave_out_what_they_have(
    live_cast: SimpleNamespace, sandbox: Sandbox, worker: Worker
) -> None:
    """GitHub lists nothing of those that ask for a single sign-on which this access has not been through; somebody may be in one that has
    nothing to do with the company, so the import does not fail for it."""
    connection = connected(live_cast.acme, "github", sandbox.root)
    sandbox.control(deny=["github.contoso-guild"])
    with tenant_scope(live_cast.acme.id):
        job = start_sync(system_actor(live_cast.acme, "a test"), connection)
    assert until(job, "completed", "failed").status == "completed"
    with tenant_scope(live_cast.acme.id):
        (told,) = job.events.filter(kind="left_out").values_list("detail", flat=True)
    assert "GitHub lists nothing of contoso-guild" in told
    assert "single sign-on" in told


@pytest.mark.parametrize(("gone", "told"), [(False, 0), (True, 1)])
def test_an_import_of_chosen_parts_tells_of_what_is_left_out_only_where_one_is_not_there(
    live_cast: SimpleNamespace, sandbox: Sandbox, worker: Worker, gone: bool, told: int
) -> None:
    connection = connected(live_cast.acme, "github", sandbox.root)
    sandbox.control(deny=["github.contoso-guild"])
    with tenant_scope(live_cast.acme.id):
        Connection.objects.filter(id=connection.id).update(only=[KEYS[1], *(["9100001"] if gone else [])])
        job = start_sync(system_actor(live_cast.acme, "a test"), connection, streams=["issues"])
    assert until(job, "completed", "failed").status == "completed"
    with tenant_scope(live_cast.acme.id):
        assert job.events.filter(kind="left_out").count() == told


def test_what_is_chosen_later_comes_in_where_it_was_sorted_out_before(
    live_cast: SimpleNamespace, sandbox: Sandbox, worker: Worker
) -> None:
    """Slack lists files of all channels at once: what was imported says nothing of the channels that were not chosen then."""
    connection = connected(live_cast.acme, "slack", sandbox.root)
    actor = system_actor(live_cast.acme, "a test")

    def files() -> int:
        return SyncRecord.objects.filter(connection=connection, stream="files").count()

    with tenant_scope(live_cast.acme.id):
        connection = narrow(actor, connection, [parts_of(connection)[0].label])
        start = timezone.now() - timedelta(days=700)
        until(start_sync(actor, connection, start=start, streams=["channels", "files"]), "completed")
        of_one = files()
        connection = narrow(actor, connection, None)
        assert [part.stream for part in coverage.of_connection(connection) if part.missing] == ["files"]
        until(start_incremental(actor, connection), "completed")
        assert not [part for part in coverage.of_connection(connection) if part.missing]
        other = connected(live_cast.acme, "slack", sandbox.root, account="2")
        until(start_sync(actor, other, start=start, streams=["files"]), "completed")
        assert of_one < files() == SyncRecord.objects.filter(connection=other, stream="files").count()
        # To bring less takes nothing back.
        narrow(actor, connection, [parts_of(connection)[0].label])
        assert not [part for part in coverage.of_connection(connection) if part.missing]


@pytest.fixture
def first_channel_only(live_cast: SimpleNamespace, sandbox: Sandbox) -> Connection:
    """Slack's, of which only the first of its channels is imported."""
    connection = connected(live_cast.acme, "slack", sandbox.root)
    with tenant_scope(live_cast.acme.id):
        return narrow(system_actor(live_cast.acme, "a test"), connection, [parts_of(connection)[0].label])


def test_a_part_that_is_half_read_begins_anew_once_more_is_chosen(
    live_cast: SimpleNamespace, sandbox: Sandbox, worker: Worker, first_channel_only: Connection
) -> None:
    connection = first_channel_only
    actor = system_actor(live_cast.acme, "a test")
    with tenant_scope(live_cast.acme.id):
        start = timezone.now() - timedelta(days=700)
        sandbox.control(latency_ms=100, page_size=2)
        job = start_sync(actor, connection, start=start, streams=["files"])
        begun = SyncChunk.objects.filter(job=job, pages__gt=4).exclude(cursor=None)
        wait_for(begun.exists)
        pause(actor, job)
        until(job, "paused")
        assert begun.filter(status="pending").exists()
        sandbox.control(latency_ms=0)
        connection = narrow(actor, connection, None)
        resume(actor, job)
        until(job, "completed")
        other = connected(live_cast.acme, "slack", sandbox.root, account="2")
        until(start_sync(actor, other, start=start, streams=["files"]), "completed")
        files = SyncRecord.objects.filter(stream="files")
        assert files.filter(connection=connection).count() == files.filter(connection=other).count()


def test_what_is_sorted_out_while_more_is_chosen_does_not_count_as_imported(
    live_cast: SimpleNamespace, sandbox: Sandbox, worker: Worker, first_channel_only: Connection
) -> None:
    connection = first_channel_only
    actor = system_actor(live_cast.acme, "a test")
    with tenant_scope(live_cast.acme.id):
        sandbox.control(latency_ms=700)
        job = start_sync(actor, connection, streams=["files"])
        wait_for(lambda: SyncChunk.objects.filter(job=job, status="running").exists())
        Connection.objects.filter(id=connection.id).update(only=None)
        until(job, "completed")
        assert [part.stream for part in coverage.of_connection(connection) if part.missing] == ["files"]
        until(start_sync(actor, connection, streams=["channels"]), "completed")
        until(start_incremental(actor, connection), "completed")
        assert not [part for part in coverage.of_connection(connection) if part.missing]
