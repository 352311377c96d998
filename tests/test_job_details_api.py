"""What programs read of an import that went wrong, and do about it: timeline, failed parts, what was kept aside and its replay."""

from __future__ import annotations

import json
import time
import uuid
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from atom.models import ApiKey
from atom.tenancy import tenant_scope
from historical_sync import actions, admission, states
from historical_sync.models import DataRemoval, HistoricalSyncJob, JobEvent, QuarantinedRecord, SyncChunk, SyncRecord
from tests.faults.stage import database_url
from tests.graphs import make_connection, make_job
from tests.test_replay_page import GOOD, kept_aside

READERS = ("events", "failures", "quarantined")


def program(tenant: Any, role: str = "member") -> Client:
    with tenant_scope(tenant.id):
        _, key = ApiKey.objects.create_key(tenant=tenant, role=role, name="test")
    return Client(raise_request_exception=False, headers={"Authorization": f"Api-Key {key}"})


@pytest.fixture
def acme(cast: SimpleNamespace) -> SimpleNamespace:
    return failed_import(cast)


def failed_import(cast: SimpleNamespace) -> SimpleNamespace:
    """A program of Acme's that may only look, and an import that failed."""
    with tenant_scope(cast.acme.id):
        now = timezone.now()
        job = make_job(make_connection(cast.acme), status=states.FAILED, completed_at=now, planned=True)
    return SimpleNamespace(tenant=cast.acme, cast=cast, api=program(cast.acme, "viewer"), job=job)


def path(job: Any, what: str) -> str:
    return f"/api/integrations/historical-sync/jobs/{job.id}/{what}"


def every(api: Client, address: str, **query: Any) -> list[list[dict[str, Any]]]:
    """The results of each page to the end."""
    found: list[list[dict[str, Any]]] = []
    cursor = ""
    for _ in range(100):
        reply = api.get(address, {**query, "cursor": cursor} if cursor else query)
        assert reply.status_code == 200, reply.content
        body = reply.json()
        assert set(body) == {"next", "results"}
        found.append(body["results"])
        cursor = body["next"]
        if cursor is None:
            return found
    raise AssertionError("the list has no end")


def chunks(job: HistoricalSyncJob, number: int, **fields: Any) -> list[SyncChunk]:
    """Parts of the job, each of a partition of its own."""
    values = {
        "tenant": job.tenant, "job": job, "stream": "issues", "since": job.start_date, "until": job.end_date,
        "status": states.CHUNK_FAILED, "error_code": "provider_error", "error_message": "GitHub is down", "attempts": 5,
        "completed_at": timezone.now(),
    } | fields  # fmt: skip
    return SyncChunk.objects.bulk_create(
        SyncChunk(ordinal=n // 2, partition=str(n), partition_label=f"acme/{n}", **values) for n in range(number)
    )


def aside(job: HistoricalSyncJob, number: int, **fields: Any) -> list[QuarantinedRecord]:
    [chunk] = chunks(job, 1, status=states.CHUNK_COMPLETED, error_code="", error_message="")
    now = timezone.now()
    values = {
        "tenant": job.tenant, "connection": job.connection, "job": job, "chunk": chunk, "stream": "issues",
        "sealed_payload": b"sealed", "reason": "odd",
    } | fields  # fmt: skip
    # Several came at the same moment, as those of one page do.
    return QuarantinedRecord.objects.bulk_create(
        QuarantinedRecord(external_id=str(n), fingerprint=uuid.uuid4(), created_at=now - timedelta(minutes=n // 3), **values)
        for n in range(number)
    )  # fmt: skip


def test_the_timeline_is_read_newest_first(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        now = timezone.now()
        JobEvent.objects.bulk_create(
            JobEvent(tenant=acme.tenant, job=acme.job, at=now - timedelta(seconds=n // 3), actor="Alice", kind="resumed", detail=str(n))
            for n in range(8)
        )  # fmt: skip
        other = make_job(acme.job.connection, status=states.COMPLETED, completed_at=now)
        JobEvent.objects.create(tenant=acme.tenant, job=other, actor="Bob", kind="started")
    pages = every(acme.api, path(acme.job, "events"), page_size=3)
    assert [len(page) for page in pages] == [3, 3, 2]
    rows = [row for page in pages for row in page]
    assert {row["detail"] for row in rows} == {str(n) for n in range(8)}
    assert [row["at"] for row in rows] == sorted((row["at"] for row in rows), reverse=True)
    assert set(rows[0]) == {"id", "at", "actor", "kind", "detail"}
    assert (rows[0]["actor"], rows[0]["kind"]) == ("Alice", "resumed")


def test_an_event_that_comes_meanwhile_moves_no_page(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        for n in range(4):
            actions.record_event(acme.job, "Alice", "resumed", str(n))
    first = acme.api.get(path(acme.job, "events"), {"page_size": 2}).json()
    with tenant_scope(acme.tenant.id):
        actions.record_event(acme.job, "Alice", "resumed", "meanwhile")
    second = acme.api.get(path(acme.job, "events"), {"page_size": 2, "cursor": first["next"]}).json()
    assert [row["detail"] for row in (*first["results"], *second["results"])] == ["3", "2", "1", "0"]


def test_failed_parts_say_what_they_are_and_why(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        chunks(acme.job, 5)
        chunks(acme.job, 3, stream="comments", status=states.CHUNK_COMPLETED, error_code="", error_message="")
    pages = every(acme.api, path(acme.job, "failures"), page_size=2)
    assert [len(page) for page in pages] == [2, 2, 1]
    rows = [row for page in pages for row in page]
    assert sorted(row["partition"] for row in rows) == list("01234")
    row = next(row for row in rows if row["partition"] == "3")
    assert row.pop("failed_at")
    assert row == {
        "stream": "issues", "partition": "3", "partition_label": "acme/3", "since": row["since"], "until": row["until"],
        "code": "provider_error", "message": "GitHub is down", "attempts": 5,
    }  # fmt: skip
    job = acme.api.get(path(acme.job, "").rstrip("/")).json()
    assert (row["since"], row["until"]) == (job["start_date"], job["end_date"])


def test_what_was_kept_aside_says_why_and_what_it_holds_stays_sealed(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        aside(acme.job, 7)
        done = aside(make_job(acme.job.connection, status=states.COMPLETED, completed_at=timezone.now()), 1)[0]
        QuarantinedRecord.objects.filter(job=acme.job, external_id="5").update(
            replayed_at=timezone.now(), fingerprint=uuid.uuid4()
        )
        QuarantinedRecord.objects.filter(job=acme.job, external_id="6").update(
            external_id="", reason="unexpected shape: KeyError: 'user'", occurred_at=timezone.now()
        )
    for role in ("viewer", "owner"):
        pages = every(program(acme.tenant, role), path(acme.job, "quarantined"), page_size=4)
        assert [len(page) for page in pages] == [4, 2]
        rows = [row for page in pages for row in page]
        assert {row["external_id"] for row in rows} == {"0", "1", "2", "3", "4", None}
        assert [row["received_at"] for row in rows] == sorted((row["received_at"] for row in rows), reverse=True)
        fields = {
            "id",
            "stream",
            "partition",
            "partition_label",
            "external_id",
            "reason",
            "detail",
            "occurred_at",
            "received_at",
        }
        assert {frozenset(row) for row in rows} == {frozenset(fields)}
        told = json.dumps(rows)
        assert "sealed" not in told
        assert str(done.id) not in told
    plain, odd = next(row for row in rows if row["external_id"] == "0"), rows[-1]
    assert (plain["reason"], plain["detail"], plain["occurred_at"]) == ("odd", None, None)
    assert (plain["stream"], plain["partition"], plain["partition_label"]) == ("issues", "0", "acme/0")
    assert odd["reason"] == "It does not look as others of its kind do."
    assert odd["detail"] == "unexpected shape: KeyError: 'user'"
    assert odd["occurred_at"]


@pytest.mark.parametrize("what", READERS)
def test_pages_of_many_are_quick_and_take_few_queries(live_cast: SimpleNamespace, what: str) -> None:
    """Ten thousand of each: a page reads by an index what is of the job, and no payload."""
    acme = failed_import(live_cast)
    with tenant_scope(acme.tenant.id):
        other = make_job(acme.job.connection, status=states.FAILED, completed_at=timezone.now())
        for job in (acme.job, other):
            if what == "failures":
                chunks(job, 10_000)
            elif what == "quarantined":
                aside(job, 5_000)
            else:
                JobEvent.objects.bulk_create(
                    JobEvent(tenant=acme.tenant, job=job, at=timezone.now(), actor="a", kind="resumed")
                    for _ in range(10_000)
                )
    with psycopg.connect(database_url(), autocommit=True) as owner:
        owner.execute("ANALYZE historical_sync_syncchunk, historical_sync_quarantinedrecord, historical_sync_jobevent")
    cursor_of, taken = "", []
    for _ in range(5):
        began = time.monotonic()
        with CaptureQueriesContext(database) as queries:
            body = acme.api.get(path(acme.job, what), {"page_size": 200, "cursor": cursor_of}).json()
        taken.append(time.monotonic() - began)
        assert len(body["results"]) == 200
        assert len(queries) <= 8, [one["sql"][:150] for one in queries]
        [reads] = [one["sql"] for one in queries if "LIMIT 201" in one["sql"]]
        assert "sealed_payload" not in reads
        cursor_of = body["next"]
    assert min(taken) < 1, taken
    with tenant_scope(acme.tenant.id), database.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {reads}")
        plan = json.dumps(cursor.fetchone()[0])
    assert "Seq Scan" not in plan, plan


@pytest.mark.parametrize("what", READERS)
def test_what_is_of_others_is_not_there_and_bad_questions_are_refused(acme: SimpleNamespace, what: str) -> None:
    stranger = program(acme.cast.globex, "owner")
    assert stranger.get(path(acme.job, what)).status_code == 404
    for odd in ("7", uuid.uuid4()):
        assert acme.api.get(path(SimpleNamespace(id=odd), what)).status_code == 404
    assert acme.api.post(path(acme.job, what)).status_code == 405
    assert acme.api.get(path(acme.job, what)).json() == {"next": None, "results": []}
    forged = "MjAyNi0xMC0yMAAx"  # a day and a 1
    for query in ({"cursor": "x"}, {"cursor": "MQ=="}, {"cursor": forged}, {"page_size": "201"}, {"page_size": "0"}):
        reply = acme.api.get(path(acme.job, what), query)
        assert (reply.status_code, reply.json()["errors"][0]["attr"]) == (400, next(iter(query)))


# -- replay ---------------------------------------------------------------------------------------------------------------


def test_a_replay_says_what_came_of_it_and_twice_is_once(live_cast: SimpleNamespace) -> None:
    job = kept_aside(live_cast, GOOD, {"id": 8})
    api = program(live_cast.acme)
    reply = api.post(path(job, "replay"))
    body = reply.json()
    assert reply.status_code == 200, body
    assert (body["mapped"], body["left"], body["untried"]) == (1, 1, 0)
    assert (body["job"]["id"], body["job"]["records_processed"], body["job"]["records_quarantined"]) == (
        str(job.id),
        1,
        1,
    )
    again = api.post(path(job, "replay")).json()
    assert (again["mapped"], again["left"], again["job"]["records_processed"]) == (0, 1, 1)
    [[left]] = every(api, path(job, "quarantined"))
    assert left["detail"]
    with tenant_scope(live_cast.acme.id):
        assert SyncRecord.objects.filter(tenant=live_cast.acme, stream="issues").count() == 1
        assert ("API key test", "replayed") in job.events.values_list("actor", "kind")


def test_a_replay_is_for_who_operates_imports(live_cast: SimpleNamespace) -> None:
    job = kept_aside(live_cast, GOOD)
    assert program(live_cast.acme, "viewer").post(path(job, "replay")).status_code == 403
    assert program(live_cast.globex, "owner").post(path(job, "replay")).status_code == 404
    assert program(live_cast.acme).get(path(job, "replay")).status_code == 405
    with tenant_scope(live_cast.acme.id):
        assert QuarantinedRecord.objects.filter(job=job, replayed_at=None).count() == 1


def test_a_replay_that_can_not_be_is_refused(
    live_cast: SimpleNamespace, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = kept_aside(live_cast, GOOD)
    api = program(live_cast.acme)
    keys, settings.ENCRYPTION_KEYS = settings.ENCRYPTION_KEYS, [Fernet.generate_key().decode()]
    reply = api.post(path(job, "replay"))
    assert (reply.status_code, reply.json()["errors"][0]["code"]) == (409, "provider_misconfigured")
    settings.ENCRYPTION_KEYS = keys
    with monkeypatch.context() as without:
        without.setattr(admission, "PROVIDERS", {})  # and not out of the registry, whose order it would lose
        reply = api.post(path(job, "replay"))
        assert (reply.status_code, reply.json()["errors"][0]["code"]) == (409, "invalid_state")
    with tenant_scope(live_cast.acme.id):
        DataRemoval.objects.create(tenant=live_cast.acme, connection=job.connection)
    reply = api.post(path(job, "replay"))
    assert (reply.status_code, reply.json()["errors"][0]["code"]) == (409, "invalid_state")


def test_a_replay_takes_as_long_as_a_request_may(live_cast: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "REPLAY_SECONDS", 0.0)
    job = kept_aside(live_cast, GOOD, GOOD | {"id": 8})
    body = program(live_cast.acme).post(path(job, "replay")).json()
    assert (body["mapped"], body["left"], body["untried"]) == (0, 0, 2)
