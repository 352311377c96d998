"""What programs read by the API: which accounts are connected, and what came in through them as it was sent."""

from __future__ import annotations

import itertools
import json
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from atom.models import ApiKey
from atom.tenancy import tenant_scope
from historical_sync import graph
from historical_sync.identity import record_id
from historical_sync.models import SyncRecord
from tests.graphs import NOW, make_connection


def program(tenant: Any, role: str = "member") -> Client:
    with tenant_scope(tenant.id):
        _, key = ApiKey.objects.create_key(tenant=tenant, role=role, name="test")
    return Client(raise_request_exception=False, headers={"Authorization": f"Api-Key {key}"})


@pytest.fixture
def acme(cast: SimpleNamespace) -> SimpleNamespace:
    """A program of Acme's, its GitHub connection, and one of Globex's."""
    with tenant_scope(cast.acme.id):
        ours = make_connection(cast.acme)
    with tenant_scope(cast.globex.id):
        theirs = make_connection(cast.globex)
    return SimpleNamespace(tenant=cast.acme, cast=cast, api=program(cast.acme), connection=ours, theirs=theirs)


def stored(connection: Any, number: int, stream: str = "issues", payload: Any = None, **fields: Any) -> SyncRecord:
    """A record whose id is the number."""
    with tenant_scope(connection.tenant_id):
        return SyncRecord.objects.create(
            id=uuid.UUID(int=number), tenant=connection.tenant, connection=connection, stream=stream, external_id=str(number),
            occurred_at=NOW, payload=payload or {"number": number}, content_hash=uuid.uuid4(), **{"job_id": uuid.uuid4()} | fields,
        )  # fmt: skip


def pages(api: Client, path: str, **query: Any) -> list[list[int]]:
    """The records of each page to the end, by number."""
    found: list[list[int]] = []
    cursor = ""
    for _ in range(50):
        reply = api.get(path, {**query, "cursor": cursor} if cursor else query)
        assert reply.status_code == 200, reply.content
        body = reply.json()
        found.append([row["payload"]["number"] for row in body["results"]])
        cursor = body["next"]
        if cursor is None:
            return found
    raise AssertionError("the list has no end")


def records_path(connection: Any) -> str:
    return f"/api/connections/{connection.id}/records"


# -- connections ----------------------------------------------------------------------------------------------------------


def test_a_program_finds_what_it_can_start_imports_of(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        acme.connection.last_success_at = timezone.now()
        acme.connection.only = ["77"]
        acme.connection.save()
        slack = make_connection(acme.tenant, "slack")
    body = acme.api.get("/api/connections").json()
    assert (body["count"], body["next"], body["previous"]) == (2, None, None)
    assert [row["id"] for row in body["results"]] == [str(acme.connection.id), str(slack.id)]
    one = body["results"][0]
    assert one == acme.api.get(f"/api/connections/{acme.connection.id}").json()
    assert (one["integration_id"], one["account"], one["status"]) == ("github", "acme-github", "connected")
    assert (one["last_error"], one["access_ends_at"], one["only"]) == (None, None, ["77"])
    assert one["last_success_at"]
    names = [stream["name"] for stream in one["streams"]]
    started = acme.api.post(
        f"/api/integrations/{one['id']}/historical-sync/start", json.dumps({"streams": names}), "application/json"
    )
    assert started.json()["job"]["streams"] == names


def test_it_is_told_what_a_grant_does_not_allow(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        hubspot = make_connection(acme.tenant, "hubspot")
        hubspot.scopes = ["crm.objects.contacts.read"]
        hubspot.save()
    streams = {row["name"]: row for row in acme.api.get(f"/api/connections/{hubspot.id}").json()["streams"]}
    assert streams["contacts"] == {"name": "contacts", "label": "Contacts", "missing_permissions": []}
    assert streams["deals"]["missing_permissions"] == ["crm.objects.deals.read"]


def test_connections_are_filtered_by_provider_and_status(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        lost = make_connection(acme.tenant)
        lost.status, lost.last_error = "reauth_required", "GitHub does not take the token any more."
        lost.save()
        make_connection(acme.tenant, "slack")

    def ids(**query: str) -> set[str]:
        return {row["id"] for row in acme.api.get("/api/connections", query).json()["results"]}

    assert ids(integration_id="github") == {str(acme.connection.id), str(lost.id)}
    assert ids(integration_id="github", status="reauth_required") == {str(lost.id)}
    assert acme.api.get(f"/api/connections/{lost.id}").json()["last_error"] == lost.last_error
    for query in ({"integration_id": "gitlab"}, {"status": "broken"}, {"page_size": "0"}):
        assert acme.api.get("/api/connections", query).status_code == 400, query


def test_nothing_that_opens_a_connection_is_told(acme: SimpleNamespace) -> None:
    told = acme.api.get("/api/connections").content.decode()
    for secret in ("secret-access-token", "secret-refresh-token", "credentials"):
        assert secret not in told


def test_a_connection_of_a_provider_that_is_no_more_is_none(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        gone = make_connection(acme.tenant, "myspace")
    assert [row["id"] for row in acme.api.get("/api/connections").json()["results"]] == [str(acme.connection.id)]
    for path in (f"/api/connections/{gone.id}", f"/api/connections/{gone.id}/partitions"):
        assert acme.api.get(path).status_code == 404, path


# -- records --------------------------------------------------------------------------------------------------------------


def test_records_are_read_as_they_were_sent_and_each_once(acme: SimpleNamespace) -> None:
    for number in range(1, 8):
        stored(acme.connection, number)
    assert pages(acme.api, records_path(acme.connection), page_size=3) == [[1, 2, 3], [4, 5, 6], [7]]
    assert pages(acme.api, records_path(acme.connection)) == [list(range(1, 8))]


def test_a_record_tells_what_it_is_and_where_it_comes_from(acme: SimpleNamespace) -> None:
    thing = uuid.uuid4()
    sent = {"number": 1, "title": "Zoë \U0001f600", "nested": {"list": [1, None, 1.5]}}
    row = stored(acme.connection, 1, payload=sent, entity_id=thing, partition="77")
    one = acme.api.get(f"/api/records/{row.id}").json()
    assert one == acme.api.get(records_path(acme.connection)).json()["results"][0]
    assert one["payload"] == sent
    assert {name: one[name] for name in ("id", "integration_id", "connection_id", "stream", "external_id")} == {
        "id": str(row.id), "integration_id": "github", "connection_id": str(acme.connection.id), "stream": "issues", "external_id": "1",
    }  # fmt: skip
    assert (one["partition"], one["entity_id"], one["job_id"]) == ("77", str(thing), str(row.job_id))
    assert one["occurred_at"] == "2026-10-20T12:00:00Z"
    assert one["stored_at"]


def test_records_of_one_stream_are_found_among_many_others(
    acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "PASSED_OVER", 4)
    for number in range(1, 13):
        stored(acme.connection, number, "comments" if number in (2, 11, 12) else "issues")
    found = pages(acme.api, records_path(acme.connection), stream="comments", page_size=2)
    assert list(itertools.chain(*found)) == [2, 11, 12]
    assert [] in found, "a page may be empty without being the last"
    assert pages(acme.api, records_path(acme.connection), stream="commits")[-1] == []


def test_what_an_import_wrote_is_found_among_all_that_is_here(
    acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that keeps a copy had to read everything again after each import."""
    monkeypatch.setattr(graph, "PASSED_OVER", 4)
    first, second = uuid.uuid4(), uuid.uuid4()
    for number in range(1, 13):
        stored(
            acme.connection, number, "comments" if number == 8 else "issues", job_id=second if number in (3, 7, 8, 12) else first
        )  # fmt: skip
    stored(acme.theirs, 20, job_id=second)
    path = records_path(acme.connection)
    assert list(itertools.chain(*pages(acme.api, path, job=second))) == [3, 7, 8, 12]
    assert list(itertools.chain(*pages(acme.api, path, job=second, page_size=1))) == [3, 7, 8, 12]
    assert list(itertools.chain(*pages(acme.api, path, job=second, stream="issues"))) == [3, 7, 12]
    assert list(itertools.chain(*pages(acme.api, path, job=uuid.uuid4()))) == []
    assert acme.api.get(path, {"job": "7"}).status_code == 400


def test_what_is_gone_is_found_among_all_that_is_here(acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "PASSED_OVER", 4)
    for number in range(1, 13):
        stored(acme.connection, number, gone_at=NOW if number in (2, 3, 11) else None)
    stored(acme.theirs, 20, gone_at=NOW)
    path = records_path(acme.connection)
    assert list(itertools.chain(*pages(acme.api, path, gone="true"))) == [2, 3, 11]
    assert list(itertools.chain(*pages(acme.api, path, gone="true", page_size=1))) == [2, 3, 11]
    assert list(itertools.chain(*pages(acme.api, path, gone="true", stream="commits"))) == []
    assert list(itertools.chain(*pages(acme.api, path, gone="false"))) == list(range(1, 13))


@pytest.mark.parametrize(("name", "value"), [("job", "0" * 32), ("gone", "true")])
def test_who_names_a_record_narrows_no_list(acme: SimpleNamespace, name: str, value: str) -> None:
    query = {"stream": "issues", "external_id": "7", name: value}
    refused = acme.api.get(records_path(acme.connection), query)
    assert (refused.status_code, refused.json()["errors"][0]["attr"]) == (400, name)


def test_a_record_is_found_by_the_id_that_its_provider_gives_it(
    acme: SimpleNamespace, django_assert_max_num_queries: Any
) -> None:
    """A program that has an issue's number had to read all of the connection's records to come to it."""
    with tenant_scope(acme.tenant.id):
        other = make_connection(acme.tenant)
    for connection in (acme.connection, other, acme.theirs):
        for stream, external_id in (
            ("issues", "77#42"),
            ("comments", "77#42"),
            ("issues", " odd\u00a0id "),
            ("issues", "7"),
        ):
            with tenant_scope(connection.tenant_id):
                SyncRecord.objects.create(
                    id=uuid.UUID(bytes=record_id(connection.id.bytes, stream, external_id)), tenant=connection.tenant,
                    connection=connection, job_id=uuid.uuid4(), stream=stream, external_id=external_id, occurred_at=NOW,
                    payload={"of": str(connection.id)}, content_hash=uuid.uuid4(),
                )  # fmt: skip
    path = records_path(acme.connection)
    for stream, external_id in (("issues", "77#42"), ("comments", "77#42"), ("issues", " odd\u00a0id ")):
        with django_assert_max_num_queries(8):
            reply = acme.api.get(path, {"stream": stream, "external_id": external_id})
        body = reply.json()
        assert (reply.status_code, body["next"], len(body["results"])) == (200, None, 1), body
        [row] = body["results"]
        assert (row["stream"], row["external_id"]) == (stream, external_id)
        assert row["payload"] == {"of": str(acme.connection.id)}
        assert row == acme.api.get(f"/api/records/{row['id']}").json()
    for stream, external_id in (
        ("issues", "77#43"),
        ("commits", "77#42"),
        ("issues", ""),
        ("issues", "\0"),
        ("issues", "x" * 512),
    ):
        reply = acme.api.get(path, {"stream": stream, "external_id": external_id})
        assert (reply.status_code, reply.json()) == (200, {"next": None, "results": []}), (stream, external_id)
    assert acme.api.get(records_path(acme.theirs), {"stream": "issues", "external_id": "7"}).status_code == 404


@pytest.mark.parametrize(
    ("query", "attr"),
    [
        ({"external_id": "7"}, "stream"),
        ({"external_id": "7", "stream": ""}, "stream"),
        ({"external_id": "x" * 513, "stream": "issues"}, "external_id"),
    ],
)
def test_an_external_id_is_one_of_a_stream(acme: SimpleNamespace, query: dict[str, str], attr: str) -> None:
    reply = acme.api.get(records_path(acme.connection), query)
    assert (reply.status_code, reply.json()["errors"][0]["attr"]) == (400, attr)


def test_large_records_come_in_smaller_pages(acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MOST_PAYLOAD", 1000)
    for number, size in enumerate((100, 600, 600, 5000, 100), 1):
        stored(acme.connection, number, payload={"number": number, "text": "x" * size})
    assert pages(acme.api, records_path(acme.connection)) == [[1, 2], [3], [4], [5]]


def test_records_of_others_are_not_there(acme: SimpleNamespace) -> None:
    theirs = stored(acme.theirs, 1)
    with tenant_scope(acme.tenant.id):
        other = make_connection(acme.tenant, "slack")
    stored(other, 2)
    assert pages(acme.api, records_path(acme.connection)) == [[]]
    for path in (
        records_path(acme.theirs),
        f"/api/records/{theirs.id}",
        "/api/records/7",
        "/api/connections/7/records",
    ):
        assert acme.api.get(path).status_code == 404, path


def test_who_only_looks_reads_no_records(acme: SimpleNamespace) -> None:
    """As on an entity's page: what was received may hold more than what is shown of it."""
    row = stored(acme.connection, 1)
    viewer = program(acme.tenant, "viewer")
    for path in (records_path(acme.connection), f"/api/records/{row.id}"):
        assert viewer.get(path).status_code == 403, path
    assert viewer.get("/api/connections").status_code == 200


@pytest.mark.parametrize(
    "query", [{"cursor": "x"}, {"cursor": "MQ=="}, {"page_size": "201"}, {"stream": "x" * 61}, {"gone": "x"}]
)
def test_bad_questions_are_refused(acme: SimpleNamespace, query: dict[str, str]) -> None:
    reply = acme.api.get(records_path(acme.connection), query)
    assert reply.status_code == 400
    assert reply.json()["errors"][0]["attr"] == next(iter(query))


def test_a_page_takes_few_queries(acme: SimpleNamespace, django_assert_max_num_queries: Any) -> None:
    for number in range(1, 60):
        stored(acme.connection, number)
    with django_assert_max_num_queries(8):
        assert len(acme.api.get(records_path(acme.connection), {"page_size": 50}).json()["results"]) == 50
