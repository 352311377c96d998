"""The REST API, as its contract says: every path, field and code, by real requests."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.conf import settings as project
from django.db import connections, transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.test import Client
from django.utils import timezone

from atom import plans
from atom.models import ApiKey, Tenant
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import allowance, states
from historical_sync.admission import months_back
from historical_sync.models import Coverage, DataRemoval, HistoricalSyncJob, JobEvent, SyncChunk
from integrations.narrowing import MOST_NAMES
from tests.conftest import wait_for
from tests.graphs import had, imported, make_connection, make_job

FIELDS = {
    "id", "integration_id", "connection_id", "status", "control", "pause_reason", "kind", "trigger", "start_date", "end_date",
    "streams", "total_chunks", "completed_chunks", "failed_chunks", "total_records_estimate", "estimate_quality",
    "records_processed", "records_skipped", "records_quarantined", "entities_extracted", "relationships_extracted",
    "entities_by_kind", "relationships_by_kind", "progress_percentage", "records_per_second", "estimated_seconds_remaining",
    "waiting_until", "last_error", "retry_count", "created_at", "started_at", "completed_at", "created_by", "can",
}  # fmt: skip


class Api:
    """A program with a key of a tenant."""

    def __init__(self, tenant: Tenant, role: str = "member") -> None:
        with tenant_scope(tenant.id):
            _, key = ApiKey.objects.create_key(tenant=tenant, role=role, name="test")
        self.client = Client(raise_request_exception=False, headers={"Authorization": f"Api-Key {key}"})

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(f"/api/integrations/{path}", query)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.client.post(
            f"/api/integrations/{path}", data, "application/json", headers={k.replace("_", "-"): v for k, v in headers.items()}
        )  # fmt: skip

    def start(self, integration: Any, body: Any = None, **headers: str) -> Any:
        return self.post(f"{integration}/historical-sync/start", body, **headers)


@pytest.fixture
def acme(cast: SimpleNamespace) -> SimpleNamespace:
    """A program of Acme's, and a GitHub connection."""
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
    return SimpleNamespace(tenant=cast.acme, cast=cast, api=Api(cast.acme), connection=connection)


def trace() -> tuple[int, int, int]:
    """What a refused request must not have changed."""
    with across_tenants("a test looks"):
        from procrastinate.contrib.django.models import ProcrastinateJob

        return HistoricalSyncJob.objects.count(), JobEvent.objects.count(), ProcrastinateJob.objects.count()


def refused(reply: Any, status: int, code: str, attr: str | None = None) -> str:
    """Asserts the contract's error shape; the words for people."""
    body = reply.json()
    assert (reply.status_code, body["errors"][0]["code"], body["errors"][0]["attr"]) == (status, code, attr), body
    assert set(body) == {"type", "errors"}
    assert body["type"] in ("client_error", "validation_error")
    assert all(set(error) == {"code", "detail", "attr"} for error in body["errors"])
    assert body["errors"][0]["detail"]
    return str(body["errors"][0]["detail"])


# -- start ----------------------------------------------------------------------------------------------------------------


def test_start_answers_with_the_job_and_queues_it(acme: SimpleNamespace) -> None:
    before = trace()
    reply = acme.api.start("github")
    assert reply.status_code == 202
    body = reply.json()
    assert set(body) == {"job_id", "job"}
    job = body["job"]
    assert set(job) == FIELDS
    assert job["id"] == body["job_id"]
    assert (job["status"], job["control"], job["pause_reason"], job["trigger"]) == ("pending", "none", None, "api")
    assert (job["integration_id"], job["connection_id"]) == ("github", str(acme.connection.id))
    assert job["created_by"] == "API key test"
    assert job["can"] == {"cancel": True, "pause": True, "resume": False}
    assert job["streams"] == [stream.name for stream in acme.connection.provider.streams]
    assert trace() == (before[0] + 1, before[1] + 1, before[2] + 1)


def test_the_default_range_is_three_months_back_from_now(acme: SimpleNamespace) -> None:
    job = acme.api.start("github").json()["job"]
    since, until = datetime.fromisoformat(job["start_date"]), datetime.fromisoformat(job["end_date"])
    assert abs((until - timezone.now()).total_seconds()) < 60
    assert since == months_back(until, 3).replace(hour=0, minute=0, second=0, microsecond=0)


def test_imports_without_a_date_begin_where_the_offer_does_and_where_each_other_did(
    acme: SimpleNamespace, signed_in: Any
) -> None:
    from django.core.management import call_command

    starts = []
    with time_machine.travel(datetime(2026, 10, 1, 8, 30, tzinfo=UTC), tick=False) as clock:
        offer = signed_in(acme.cast.bob).get(f"/connections/{acme.connection.id}/import").content.decode()
        assert 'name="start" value="2026-07-01"' in offer
        for hours in (0, 1, 14):
            clock.shift(timedelta(hours=hours))
            job = acme.api.start("github").json()["job"]
            starts.append(job["start_date"])
            acme.api.post(f"historical-sync/jobs/{job['id']}/cancel")
        call_command("sync_history", str(acme.connection.id))
        with tenant_scope(acme.tenant.id):
            starts.append(f"{HistoricalSyncJob.objects.latest('created_at').start_date:%Y-%m-%dT%H:%M:%SZ}")
    assert starts == ["2026-07-01T00:00:00Z"] * 4


@pytest.mark.parametrize("days", [None, 7, 90, 92, 366])
@pytest.mark.parametrize(
    "at", ["2026-10-01T23:59:59.9+00:00", "2026-05-31T00:00:00+00:00", "2024-02-29T12:00:00+00:00"]
)
def test_no_plan_refuses_its_own_default(
    acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, days: int | None, at: str
) -> None:
    history = timedelta(days=days) if days else None
    monkeypatch.setitem(plans.PLANS, acme.tenant.plan, replace(plans.PLANS[acme.tenant.plan], history=history))
    with time_machine.travel(datetime.fromisoformat(at), tick=False):
        reply = acme.api.start("github")
        assert reply.status_code == 202, reply.json()
        job = reply.json()["job"]
        since, until = datetime.fromisoformat(job["start_date"]), datetime.fromisoformat(job["end_date"])
        assert since.time() == datetime.min.time()
        if days:
            assert timedelta() <= until - since < timedelta(days=days + 1)


@pytest.mark.parametrize(
    ("start", "end", "since", "until"),
    [
        ("2026-01-31", "2026-02-28", "2026-01-31T00:00:00Z", "2026-03-01T00:00:00Z"),
        ("2026-01-31T09:30:00", "2026-02-28T00:00:00Z", "2026-01-31T09:30:00Z", "2026-02-28T00:00:00Z"),
        ("2026-01-31T09:30:00+02:00", "2026-02-28", "2026-01-31T07:30:00Z", "2026-03-01T00:00:00Z"),
        ("2024-02-29", "2024-02-29", "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z"),
    ],
)
def test_dates_are_whole_days_and_date_times_are_exact(
    acme: SimpleNamespace, start: str, end: str, since: str, until: str
) -> None:
    job = acme.api.start("github", {"start_date": start, "end_date": end}).json()["job"]
    assert (job["start_date"], job["end_date"]) == (since, until)


def test_today_as_the_end_means_now(acme: SimpleNamespace) -> None:
    job = acme.api.start("github", {"end_date": timezone.now().date().isoformat()}).json()["job"]
    assert datetime.fromisoformat(job["end_date"]) <= timezone.now()


def test_streams_are_chosen_by_name_and_kept_in_the_providers_order(acme: SimpleNamespace) -> None:
    job = acme.api.start("github", {"streams": ["pull_requests", "issues", "issues"]}).json()["job"]
    assert job["streams"] == ["issues", "pull_requests"]


def test_a_connection_is_named_by_slug_by_id_or_in_the_body(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        second = make_connection(acme.tenant)
    assert refused(acme.api.start("github"), 400, "connection_required", "connection_id")
    by_body = acme.api.start("github", {"connection_id": str(second.id)})
    assert by_body.json()["job"]["connection_id"] == str(second.id)
    by_path = acme.api.start(acme.connection.id)
    assert by_path.json()["job"]["connection_id"] == str(acme.connection.id)
    assert refused(
        acme.api.start(second.id, {"connection_id": str(acme.connection.id)}), 400, "invalid", "connection_id"
    )


def test_the_tenant_comes_from_the_key_and_from_nothing_else(acme: SimpleNamespace) -> None:
    charlie = Api(acme.cast.globex, "owner")
    refused(charlie.start(acme.connection.id), 404, "not_found")
    refused(charlie.start("github", {"connection_id": str(acme.connection.id)}), 400, "invalid", "connection_id")
    refused(charlie.start("github"), 404, "not_found")
    refused(charlie.start("github", {"tenant": str(acme.tenant.id)}), 400, "invalid", "tenant")
    assert trace()[0] == 0


# -- what is new, what is missing -----------------------------------------------------------------------------------------


@pytest.fixture
def begun(cast: SimpleNamespace) -> SimpleNamespace:
    """A program of Acme's, and a GitHub connection with the issues of a month, up to yesterday and but for a day in the middle."""
    with tenant_scope(cast.acme.id):
        connection = imported(cast.acme)
        have = Coverage.objects.get(connection=connection)
        (whole,) = have.ranges
        job = make_job(
            connection, status="completed", start_date=whole.lower, completed_at=timezone.now(), watermark=whole.upper
        )
        SyncChunk.objects.create(
            tenant=cast.acme, job=job, ordinal=0, stream="issues", partition="1", since=whole.lower, until=whole.upper,
            status="completed",
        )  # fmt: skip
        hole = whole.lower + timedelta(days=10), whole.lower + timedelta(days=11)
        have.ranges = [DateTimeTZRange(whole.lower, hole[0]), DateTimeTZRange(hole[1], whole.upper)]
        have.partition = "1"
        have.save()
    return SimpleNamespace(
        tenant=cast.acme, cast=cast, api=Api(cast.acme), connection=connection, upto=whole.upper, hole=hole
    )


def test_a_program_asks_for_what_is_new(begun: SimpleNamespace) -> None:
    before = trace()
    reply = begun.api.start("github", {"kind": "incremental"})
    assert reply.status_code == 202, reply.json()
    job = reply.json()["job"]
    assert (job["kind"], job["trigger"], job["created_by"]) == ("incremental", "api", "API key test")
    assert (job["streams"], datetime.fromisoformat(job["start_date"])) == (["issues"], begun.upto)
    assert timezone.now() - datetime.fromisoformat(job["end_date"]) < timedelta(minutes=1)
    assert trace() == (before[0] + 1, before[1] + 1, before[2] + 1)


def test_a_program_asks_for_what_is_missing_until_nothing_is(begun: SimpleNamespace) -> None:
    job = begun.api.start(begun.connection.id, {"kind": "repair"}).json()["job"]
    assert (job["kind"], job["trigger"], job["streams"]) == ("repair", "api", ["issues"])
    assert (datetime.fromisoformat(job["start_date"]), datetime.fromisoformat(job["end_date"])) == begun.hole
    begun.api.post(f"historical-sync/jobs/{job['id']}/cancel")
    with tenant_scope(begun.tenant.id):
        Coverage.objects.update(ranges=[DateTimeTZRange(begun.upto - timedelta(days=40), begun.upto)])
    before = trace()
    assert "Nothing is missing" in refused(begun.api.start("github", {"kind": "repair"}), 409, "invalid_state")
    assert trace() == before


def test_an_import_of_a_range_is_what_a_start_means_without_a_kind(begun: SimpleNamespace) -> None:
    job = begun.api.start("github").json()["job"]
    begun.api.post(f"historical-sync/jobs/{job['id']}/cancel")
    named = begun.api.start("github", {"kind": "historical", "start_date": "2026-10-01", "streams": ["commits"]})
    assert [job["kind"], named.json()["job"]["kind"]] == ["historical"] * 2
    assert (named.json()["job"]["start_date"], named.json()["job"]["streams"]) == ("2026-10-01T00:00:00Z", ["commits"])


@pytest.mark.parametrize("kind", ["incremental", "repair"])
def test_what_finds_out_itself_what_to_bring_is_not_told(begun: SimpleNamespace, kind: str) -> None:
    before = trace()
    for name, value in {
        "start_date": "2026-10-01",
        "end_date": "2026-10-02",
        "streams": ["issues"],
        "full": True,
    }.items():
        assert kind in refused(begun.api.start("github", {"kind": kind, name: value}), 400, "invalid", name)
    both = begun.api.start("github", {"kind": kind, "start_date": "2026-10-01", "streams": ["issues"]}).json()
    assert {error["attr"] for error in both["errors"]} == {"start_date", "streams"}
    assert trace() == before
    # What says the same as its absence is what clients that were generated send.
    assert begun.api.start("github", {"kind": kind, "full": False}).status_code == 202


def test_of_what_was_never_imported_nothing_is_new_and_nothing_missing(acme: SimpleNamespace) -> None:
    before = trace()
    words = refused(acme.api.start("github", {"kind": "incremental"}), 409, "invalid_state")
    assert words == "Nothing of GitHub (acme-github) has been imported yet. Import its history first."
    assert "Nothing is missing" in refused(acme.api.start("github", {"kind": "repair"}), 409, "invalid_state")
    assert trace() == before


@pytest.mark.parametrize("kind", ["incremental", "repair"])
def test_why_nothing_can_start_comes_before_that_there_is_nothing_to_go_on_from(
    acme: SimpleNamespace, kind: str
) -> None:
    """While the first import was under way it was said that nothing had been imported, and that this should be done first."""
    first = acme.api.start("github").json()["job_id"]
    refused(acme.api.start("github", {"kind": kind}), 409, "job_already_active")
    acme.api.post(f"historical-sync/jobs/{first}/cancel")
    with tenant_scope(acme.tenant.id):
        type(acme.connection).objects.filter(id=acme.connection.id).update(status="reauth_required")
    refused(acme.api.start("github", {"kind": kind}), 409, "connection_reauth_required")


@pytest.mark.parametrize("kind", ["incremental", "repair"])
def test_what_is_new_or_missing_starts_once_by_the_rules_of_every_start(begun: SimpleNamespace, kind: str) -> None:
    asked = {"kind": kind}
    charlie, viewer = Api(begun.cast.globex, "owner"), Api(begun.tenant, "viewer")
    refused(charlie.start(begun.connection.id, asked), 404, "not_found")
    refused(charlie.start("github", asked), 404, "not_found")
    refused(viewer.start("github", asked), 403, "permission_denied")
    with tenant_scope(begun.tenant.id):
        busy = [make_job(make_connection(begun.tenant, "linear")) for _ in range(3)]
    assert int(begun.api.start("github", asked)["Retry-After"]) > 0
    refused(begun.api.start("github", asked), 429, "too_many_concurrent_jobs")
    begun.api.post(f"historical-sync/jobs/{busy[0].id}/cancel")
    plan(begun.tenant, "free")
    with tenant_scope(begun.tenant.id):
        had(begun.connection, 10_000)
    refused(begun.api.start("github", asked), 403, "plan_records_exhausted")
    plan(begun.tenant, "team")

    first = begun.api.start("github", asked, Idempotency_Key="monday")
    after = trace()
    assert first.json()["job"]["kind"] == kind
    again = begun.api.start("github", asked, Idempotency_Key="monday")
    assert (again.status_code, again.json()["job_id"]) == (202, first.json()["job_id"])
    refused(begun.api.start("github", asked, Idempotency_Key="tuesday"), 409, "job_already_active")
    assert trace() == after


def test_what_is_new_is_asked_for_no_further_back_than_the_plan_goes(begun: SimpleNamespace) -> None:
    plan(begun.tenant, "free")
    year_ago = timezone.now() - timedelta(days=365)
    with tenant_scope(begun.tenant.id):
        Coverage.objects.update(ranges=[DateTimeTZRange(year_ago - timedelta(days=30), year_ago)])
    job = begun.api.start("github", {"kind": "incremental"}).json()["job"]
    history = plans.PLANS["free"].history
    assert history is not None
    assert abs(timezone.now() - history - datetime.fromisoformat(job["start_date"])) < timedelta(minutes=1)


# -- Idempotency-Key ------------------------------------------------------------------------------------------------------


def test_the_same_key_gives_the_same_job(acme: SimpleNamespace) -> None:
    first = acme.api.start("github", {"streams": ["issues"]}, Idempotency_Key="monday")
    after = trace()
    again = acme.api.start("github", {"streams": ["commits"]}, Idempotency_Key="monday")
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["job_id"] == first.json()["job_id"]
    assert trace() == after
    refused(acme.api.start("github", {}, Idempotency_Key="tuesday"), 409, "job_already_active")


def test_the_same_key_gives_the_same_job_when_the_provider_has_got_a_second_account(acme: SimpleNamespace) -> None:
    first = acme.api.start("github", {}, Idempotency_Key="monday")
    with tenant_scope(acme.tenant.id):
        make_connection(acme.tenant)
    again = acme.api.start("github", {}, Idempotency_Key="monday")
    assert (again.status_code, again.json()["job_id"]) == (202, first.json()["job_id"])
    refused(acme.api.start("github", {}, Idempotency_Key="tuesday"), 400, "connection_required", "connection_id")


@pytest.mark.parametrize("action", ["pause", "cancel"])
def test_what_is_asked_twice_of_a_running_job_is_answered_twice(acme: SimpleNamespace, action: str) -> None:
    with tenant_scope(acme.tenant.id):
        job = make_job(acme.connection, status="running", control=action)
    before = trace()
    reply = acme.api.post(f"historical-sync/jobs/{job.id}/{action}")
    assert (reply.status_code, reply.json()["control"]) == (202, action)
    assert trace() == before


def test_more_parameters_than_anybody_needs_are_refused(acme: SimpleNamespace) -> None:
    reply = acme.api.client.get("/api/integrations/github/historical-sync/jobs?" + "&" * 10_200)
    assert refused(reply, 400, "parse_error")


def test_a_key_means_nothing_to_another_tenant(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.cast.globex.id):
        make_connection(acme.cast.globex)
    first = acme.api.start("github", {}, Idempotency_Key="monday").json()["job_id"]
    other = Api(acme.cast.globex, "owner").start("github", {}, Idempotency_Key="monday").json()["job_id"]
    assert first != other


@pytest.mark.parametrize("key", ["x" * 201, "a\tb", "é\x85x"])
def test_a_key_that_is_none_is_refused(acme: SimpleNamespace, key: str) -> None:
    refused(acme.api.start("github", {}, Idempotency_Key=key), 400, "invalid", "Idempotency-Key")
    assert trace()[0] == 0


# -- bad input ------------------------------------------------------------------------------------------------------------

# Names of tests must be the same in every process that collects them: nothing of here and now.
NOBODY = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
BAD: list[tuple[Any, int, str, str | None]] = [
    ({"start_date": "yesterday"}, 400, "invalid", "start_date"),
    ({"start_date": ""}, 400, "invalid", "start_date"),
    ({"start_date": None}, 400, "null", "start_date"),
    ({"start_date": 20260101}, 400, "invalid", "start_date"),
    ({"start_date": True}, 400, "invalid", "start_date"),
    ({"start_date": ["2026-01-01"]}, 400, "invalid", "start_date"),
    ({"start_date": "2026-02-30"}, 400, "invalid", "start_date"),
    ({"start_date": "2026-13-01"}, 400, "invalid", "start_date"),
    ({"start_date": "0001-01-01T00:00:00+14:00"}, 400, "invalid", "start_date"),
    ({"start_date": "2026-01-01T25:00:00"}, 400, "invalid", "start_date"),
    ({"start_date": "1970-01-01"}, 400, "invalid", "start_date"),
    ({"end_date": "0001-01-01"}, 400, "invalid", "end_date"),
    ({"end_date": "1980-01-01"}, 400, "invalid", "end_date"),
    ({"\ud800": 1}, 400, "invalid", "?"),
    ({"start_date": "2026-01-01\x00"}, 400, "invalid", "start_date"),
    ({"end_date": "soon"}, 400, "invalid", "end_date"),
    ({"start_date": "0001-01-01T00:00:00+14:00"}, 400, "invalid", "start_date"),
    ({"start_date": "2026-02-01", "end_date": "2026-01-01"}, 400, "start_after_end", "start_date"),
    ({"start_date": "2026-02-01T10:00:00Z", "end_date": "2026-02-01T10:00:00Z"}, 400, "start_after_end", "start_date"),
    ({"start_date": "2190-01-01T00:00:00Z"}, 400, "range_in_future", "start_date"),
    ({"end_date": "2190-01-01T00:00:00Z"}, 400, "range_in_future", "end_date"),
    ({"end_date": "9999-12-31"}, 400, "range_in_future", "end_date"),
    ({"start_date": "9999-12-31T23:59:59-14:00"}, 400, "range_in_future", "start_date"),
    ({"streams": ["issues", "unicorns"]}, 400, "unknown_stream", "streams"),
    ({"streams": ["Issues"]}, 400, "unknown_stream", "streams"),
    ({"streams": []}, 400, "invalid", "streams"),
    ({"streams": "issues"}, 400, "not_a_list", "streams"),
    ({"streams": [""]}, 400, "blank", "streams.0"),
    ({"streams": [{"name": "issues"}]}, 400, "invalid", "streams.0"),
    ({"streams": ["issues\x00"]}, 400, "null_characters_not_allowed", "streams.0"),
    ({"streams": ["issues"] * 101}, 400, "max_length", "streams"),
    ({"streams": ["i" * 61]}, 400, "max_length", "streams.0"),
    ({"connection_id": "1"}, 400, "invalid", "connection_id"),
    ({"connection_id": NOBODY}, 400, "invalid", "connection_id"),
    ({"full": "perhaps"}, 400, "invalid", "full"),
    ({"full": None}, 400, "null", "full"),
    ({"since": "2026-01-01"}, 400, "invalid", "since"),
    ({"kind": "newest"}, 400, "invalid_choice", "kind"),
    ({"kind": ""}, 400, "invalid_choice", "kind"),
    ({"kind": None}, 400, "null", "kind"),
    ({"kind": ["repair"]}, 400, "invalid_choice", "kind"),
    ({"id": 1, "status": "completed"}, 400, "invalid", "id"),
    ([], 400, "invalid", "non_field_errors"),
    ("start", 400, "invalid", "non_field_errors"),
    (b"{", 400, "parse_error", None),
    (b"\xff\xfe", 400, "parse_error", None),
    (b'{"full": NaN}', 400, "parse_error", None),
    (b"[" * 100_000, 400, "parse_error", None),
    (b'{"a": "' + b"x" * (1024 * 1024) + b'"}', 413, "too_large", None),
]


@pytest.mark.parametrize(("body", "status", "code", "attr"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_is_refused_at_its_field_and_leaves_no_trace(
    acme: SimpleNamespace, body: Any, status: int, code: str, attr: str | None
) -> None:
    before = trace()
    refused(acme.api.start("github", body), status, code, attr)
    assert trace() == before


def test_a_body_of_a_hundred_thousand_faults_is_told_of_some(acme: SimpleNamespace) -> None:
    """Each takes a tenth of a millisecond and makes the answer longer: a body of a megabyte took half a minute, and seven back."""
    unknown = acme.api.start("github", {f"{number:x}": 1 for number in range(1000)}).json()["errors"]
    assert len(unknown) == 20
    refused(acme.api.start("github", {"streams": [""] * 1000}), 400, "max_length", "streams")
    path = f"/api/connections/{acme.connection.id}/partitions"
    only = acme.api.client.post(path, {"only": [""] * (MOST_NAMES + 1)}, "application/json")
    refused(only, 400, "max_length", "only")


def test_what_is_no_json_is_refused(acme: SimpleNamespace) -> None:
    path = "/api/integrations/github/historical-sync/start"
    refused(acme.api.client.post(path, {"full": "true"}), 415, "unsupported_media_type")
    refused(acme.api.client.get(path), 405, "method_not_allowed")
    refused(acme.api.client.delete(path), 405, "method_not_allowed")


@pytest.mark.parametrize("integration", ["myspace", "GitHub", "%00", "..", NOBODY, "1" * 300])
def test_an_integration_that_is_not_there_is_not_found(acme: SimpleNamespace, integration: str) -> None:
    refused(acme.api.start(integration), 404, "not_found")
    refused(acme.api.get(f"{integration}/historical-sync/jobs"), 404, "not_found")


@pytest.mark.parametrize("action", ["", "/cancel", "/pause", "/resume"])
@pytest.mark.parametrize("job_id", ["1", "%00", "None", NOBODY, "1" * 300])
def test_a_job_that_is_not_there_is_not_found(acme: SimpleNamespace, job_id: str, action: str) -> None:
    path = f"historical-sync/jobs/{job_id}{action}"
    refused(acme.api.post(path) if action else acme.api.get(path), 404, "not_found")


def test_addresses_of_the_api_that_do_not_exist_answer_in_its_shape(acme: SimpleNamespace) -> None:
    for path in ("historical-sync/jobs/", "github/historical-sync/start/", "github/historical-sync/nothing", "x/y/z"):
        refused(acme.api.get(path), 404, "not_found")


@pytest.mark.parametrize("key", ["", "nonsense", "a.b", "x" * 500, "é.é"])
def test_a_key_that_is_wrong_is_not_authenticated(acme: SimpleNamespace, key: str) -> None:
    client = Client(headers={"Authorization": f"Api-Key {key}"})
    reply = client.get("/api/integrations/github/historical-sync/jobs")
    assert reply.status_code == 401
    assert reply.json()["errors"][0]["code"] in ("authentication_failed", "not_authenticated")
    assert reply["WWW-Authenticate"] == "Api-Key"


def test_a_viewer_may_look_and_nothing_else(acme: SimpleNamespace) -> None:
    viewer = Api(acme.tenant, "viewer")
    job = acme.api.start("github").json()["job_id"]
    seen = viewer.get(f"historical-sync/jobs/{job}").json()
    assert seen["can"] == {"cancel": False, "pause": False, "resume": False}
    refused(viewer.start("github"), 403, "permission_denied")
    for action in ("cancel", "pause", "resume"):
        refused(viewer.post(f"historical-sync/jobs/{job}/{action}"), 403, "permission_denied")


# -- limits ---------------------------------------------------------------------------------------------------------------


def plan(tenant: Tenant, slug: str) -> None:
    tenant.plan = slug
    tenant.save()


def test_a_fourth_active_job_is_too_many_and_says_when_to_come_back(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        ids = [make_connection(acme.tenant).id for _ in range(4)]
        jobs = [acme.api.start(i).json()["job_id"] for i in ids[:3]]
    before = trace()
    reply = acme.api.start(ids[3])
    assert "3" in refused(reply, 429, "too_many_concurrent_jobs")
    assert int(reply["Retry-After"]) > 0
    assert trace() == before
    # A paused one still counts, an ended one does not.
    acme.api.post(f"historical-sync/jobs/{jobs[0]}/pause")
    refused(acme.api.start(ids[3]), 429, "too_many_concurrent_jobs")
    assert acme.api.post(f"historical-sync/jobs/{jobs[0]}/cancel").status_code == 202
    assert acme.api.start(ids[3]).status_code == 202


def test_another_tenants_jobs_do_not_count(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        for _ in range(3):
            make_job(make_connection(acme.tenant), status="running")
    refused(acme.api.start(acme.connection.id), 429, "too_many_concurrent_jobs")
    with tenant_scope(acme.cast.globex.id):
        make_connection(acme.cast.globex)
    assert Api(acme.cast.globex).start("github").status_code == 202


def test_one_job_a_connection(acme: SimpleNamespace) -> None:
    first = acme.api.start("github").json()["job_id"]
    refused(acme.api.start("github"), 409, "job_already_active")
    acme.api.post(f"historical-sync/jobs/{first}/cancel")
    assert acme.api.start("github").status_code == 202


def test_a_connection_without_access_must_be_reconnected_first(acme: SimpleNamespace) -> None:
    for status in ("reauth_required", "disconnected"):
        with tenant_scope(acme.tenant.id):
            type(acme.connection).objects.filter(id=acme.connection.id).update(status=status)
        refused(acme.api.start("github"), 409, "connection_reauth_required")
        refused(acme.api.start(acme.connection.id), 409, "connection_reauth_required")


def test_the_plan_bounds_how_far_back_and_says_which_reaches_further(acme: SimpleNamespace) -> None:
    plan(acme.tenant, "free")
    half_a_year = (timezone.now() - timedelta(days=180)).date().isoformat()
    words = refused(acme.api.start("github", {"start_date": half_a_year}), 403, "plan_history_depth", "start_date")
    assert words == "History older than 3 months is not part of the Free plan. The Solo plan includes it."
    four_years = (timezone.now() - timedelta(days=1500)).date().isoformat()
    words = refused(acme.api.start("github", {"start_date": four_years}), 403, "plan_history_depth", "start_date")
    assert "Enterprise" in words
    assert trace()[0] == 0
    assert acme.api.start("github").status_code == 202, "the default range is part of every plan"


@pytest.mark.parametrize(
    ("zone", "there"),
    [("America/Los_Angeles", (2026, 11, 30, 15, 55)), ("America/Los_Angeles", (2026, 11, 30, 23, 55)),
     ("Pacific/Pago_Pago", (2026, 11, 30, 23, 55)), ("Pacific/Auckland", (2026, 11, 30, 0, 5))],
)  # fmt: skip
def test_three_months_by_the_callers_calendar_are_part_of_a_plan_of_three_months(
    acme: SimpleNamespace, zone: str, there: tuple[int, ...]
) -> None:
    """In the Americas it is the day before for the whole evening, and three months before 30 November are 92 days."""
    plan(acme.tenant, "free")
    with time_machine.travel(datetime(*there, tzinfo=ZoneInfo(zone))):
        found = acme.api.start("github", {"start_date": "2026-08-30"})
    assert found.status_code == 202, found.json()


@pytest.mark.parametrize("days", [1, 30, 80])
def test_a_range_without_a_beginning_that_ended_a_while_ago_is_part_of_every_plan(
    acme: SimpleNamespace, days: int
) -> None:
    plan(acme.tenant, "free")
    now = timezone.now()
    found = acme.api.start("github", {"end_date": (now - timedelta(days=days)).isoformat()})
    assert found.status_code == 202, found.json()
    job = acme.api.get(f"historical-sync/jobs/{found.json()['job_id']}").json()
    assert now - datetime.fromisoformat(job["start_date"]) < timedelta(days=93)


def test_a_range_that_ended_before_the_plan_begins_is_refused_as_such(acme: SimpleNamespace) -> None:
    plan(acme.tenant, "free")
    end = (timezone.now() - timedelta(days=120)).isoformat()
    refused(acme.api.start("github", {"end_date": end}), 403, "plan_history_depth", "start_date")


def test_what_was_removed_since_is_not_resumed(acme: SimpleNamespace) -> None:
    """The job would end complete without what its parts had brought."""
    now = timezone.now()
    with tenant_scope(acme.tenant.id):
        job = make_job(
            acme.connection, status="failed", planned=True, completed_at=now, created_at=now - timedelta(hours=1)
        )
        removal = DataRemoval.objects.create(connection=acme.connection, tenant=acme.tenant, completed_at=now)
    words = refused(acme.api.post(f"historical-sync/jobs/{job.id}/resume"), 409, "invalid_state")
    assert "Start a new import" in words
    with tenant_scope(acme.tenant.id):
        DataRemoval.objects.filter(pk=removal.pk).update(completed_at=now - timedelta(days=1))
    assert acme.api.post(f"historical-sync/jobs/{job.id}/resume").status_code == 202


def test_what_failed_before_it_had_parts_is_resumed_however_long_ago(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        job = make_job(acme.connection, status="failed", completed_at=timezone.now(), parts_forgotten=True)
    assert acme.api.post(f"historical-sync/jobs/{job.id}/resume").status_code == 202


def test_the_plan_bounds_the_records_of_a_month(acme: SimpleNamespace) -> None:
    plan(acme.tenant, "free")
    with tenant_scope(acme.tenant.id):
        had(acme.connection, 10_000)
    words = refused(acme.api.start("github"), 403, "plan_records_exhausted")
    assert "Free" in words
    assert "Solo" in words
    with tenant_scope(acme.tenant.id):
        had(acme.connection, 9_999)
    assert acme.api.start("github").status_code == 202


def test_what_was_had_in_an_earlier_month_counts_for_that_one(acme: SimpleNamespace) -> None:
    plan(acme.tenant, "free")
    with tenant_scope(acme.tenant.id):
        job = make_job(
            acme.connection, status="paused", pause_reason="plan", planned=True, records_processed=10_000,
            created_at=timezone.now() - timedelta(days=40),
        )  # fmt: skip
        had(acme.connection, 10_000, timezone.now() - timedelta(days=40))
        other = make_connection(acme.tenant)
        assert allowance.records_this_month(acme.tenant, timezone.now()) == 0
    assert acme.api.post(f"historical-sync/jobs/{job.id}/resume").status_code == 202
    with tenant_scope(acme.tenant.id):
        had(acme.connection, 4_000)
        had(other, 6_000)
        assert allowance.records_this_month(acme.tenant, timezone.now()) == 10_000
        HistoricalSyncJob.objects.filter(id=job.id).update(status="paused", pause_reason="plan")
    refused(acme.api.post(f"historical-sync/jobs/{job.id}/resume"), 403, "plan_records_exhausted")
    refused(acme.api.start(other.id), 403, "plan_records_exhausted")


def test_a_downgrade_lets_what_runs_go_on_and_stops_what_is_new(acme: SimpleNamespace) -> None:
    year = {"start_date": (timezone.now() - timedelta(days=300)).date().isoformat()}
    job = acme.api.start("github", year).json()["job_id"]
    plan(acme.tenant, "free")
    with tenant_scope(acme.tenant.id):
        second = make_connection(acme.tenant)
    assert acme.api.get(f"historical-sync/jobs/{job}").json()["status"] == "pending"
    refused(acme.api.start(second.id, year), 403, "plan_history_depth", "start_date")
    # It may be paused and resumed: it was promised.
    assert acme.api.post(f"historical-sync/jobs/{job}/pause").json()["status"] == "paused"
    assert acme.api.post(f"historical-sync/jobs/{job}/resume").json()["status"] == "pending"


def test_schedules_are_not_part_of_every_plan(acme: SimpleNamespace) -> None:
    from atom.access import system_actor
    from atom.errors import Refused
    from historical_sync import actions

    plan(acme.tenant, "free")
    with tenant_scope(acme.tenant.id), pytest.raises(Refused, match="Solo") as error:
        actions.start_sync(system_actor(acme.tenant, "schedule"), acme.connection, trigger="schedule")
    assert (error.value.code, error.value.status_code) == ("plan_feature", 403)


def test_the_apis_own_limit_says_when_to_come_back(acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from atom.api_auth import TenantRateThrottle

    monkeypatch.setattr(TenantRateThrottle, "THROTTLE_RATES", {"tenant": "3/min"})
    other = Api(acme.cast.globex)
    path = "github/historical-sync/jobs"
    with time_machine.travel(timezone.now().replace(second=20, microsecond=0), tick=False) as clock:
        assert [acme.api.get(path).status_code for _ in range(3)] == [200] * 3
        reply = acme.api.get(path)
        refused(reply, 429, "throttled")
        assert int(reply["Retry-After"]) == 40
        assert other.get(path).status_code == 200
        clock.shift(39)
        assert acme.api.get(path).status_code == 429
        clock.shift(1)
        assert acme.api.get(path).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_twenty_starts_at_once_give_three_jobs(live_cast: SimpleNamespace) -> None:
    with tenant_scope(live_cast.acme.id):
        ids = [make_connection(live_cast.acme).id for _ in range(20)]
    api = Api(live_cast.acme)
    replies: list[Any] = []
    gate = threading.Barrier(20)

    def start(connection_id: Any) -> None:
        try:
            gate.wait(20)
            replies.append(api.start(connection_id))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=start, args=(i,)) for i in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(reply.status_code for reply in replies) == [202] * 3 + [429] * 17
    for reply in replies:
        if reply.status_code == 429:
            refused(reply, 429, "too_many_concurrent_jobs")
            assert int(reply["Retry-After"]) > 0
    with tenant_scope(live_cast.acme.id):
        assert HistoricalSyncJob.objects.active().count() == 3


@pytest.mark.django_db(transaction=True)
def test_a_start_waits_for_who_is_disconnecting(live_cast: SimpleNamespace) -> None:
    with tenant_scope(live_cast.acme.id):
        connection = make_connection(live_cast.acme)
    api = Api(live_cast.acme)
    replies: list[Any] = []

    def start() -> None:
        try:
            replies.append(api.start(connection.id))
        finally:
            connections.close_all()

    thread = threading.Thread(target=start)
    with tenant_scope(live_cast.acme.id), transaction.atomic():
        row = type(connection).objects.select_for_update().get(id=connection.id)
        row.status = "disconnected"
        row.save()
        thread.start()
        wait_for(somebody_waits_for_a_lock)
    thread.join(20)
    refused(replies[0], 409, "connection_reauth_required")
    with tenant_scope(live_cast.acme.id):
        assert not HistoricalSyncJob.objects.exists()


def somebody_waits_for_a_lock() -> bool:
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        return bool(cursor.fetchone()[0])


@pytest.mark.django_db(transaction=True)
def test_one_key_used_ten_times_at_once_gives_one_job(live_cast: SimpleNamespace) -> None:
    with tenant_scope(live_cast.acme.id):
        make_connection(live_cast.acme)
    api = Api(live_cast.acme)
    replies: list[Any] = []
    gate = threading.Barrier(10)

    def start() -> None:
        try:
            gate.wait(20)
            replies.append(api.start("github", {}, Idempotency_Key="once"))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=start) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {reply.status_code for reply in replies} == {202}
    assert len({reply.json()["job_id"] for reply in replies}) == 1


# -- looking --------------------------------------------------------------------------------------------------------------


def test_the_list_is_paged_newest_first(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        now = timezone.now()
        made = [
            make_job(acme.connection, status="completed", completed_at=now, created_at=now - timedelta(minutes=n))
            for n in range(7)
        ]
    first = acme.api.get("github/historical-sync/jobs", page_size=3)
    assert first.status_code == 200
    body = first.json()
    assert set(body) == {"count", "next", "previous", "results"}
    assert (body["count"], body["previous"]) == (7, None)
    assert [job["id"] for job in body["results"]] == [str(job.id) for job in made[:3]]
    assert all(set(job) == FIELDS for job in body["results"])
    second = acme.api.client.get(body["next"]).json()
    assert [job["id"] for job in second["results"]] == [str(job.id) for job in made[3:6]]
    last = acme.api.client.get(second["next"]).json()
    assert (len(last["results"]), last["next"]) == (1, None)
    assert [job["id"] for job in acme.api.get("github/historical-sync/jobs").json()["results"]] == [
        str(j.id) for j in made
    ]


def test_the_list_is_filtered_by_status_and_by_integration(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        now = timezone.now()
        for status in states.FINISHED:
            make_job(acme.connection, status=status, completed_at=now)
        other = make_connection(acme.tenant, "salesforce")
        make_job(other, status="completed", completed_at=now)
    for status in states.STATUSES:
        found = acme.api.get("github/historical-sync/jobs", status=status).json()
        assert [job["status"] for job in found["results"]] == [status] * (status in states.FINISHED)
    assert acme.api.get("salesforce/historical-sync/jobs").json()["count"] == 1
    assert acme.api.get(f"{other.id}/historical-sync/jobs").json()["count"] == 1
    assert acme.api.get(f"{acme.connection.id}/historical-sync/jobs").json()["count"] == 3


def test_imports_of_all_connections_are_one_list(acme: SimpleNamespace, django_assert_max_num_queries: Any) -> None:
    """A program that looks after a workspace asked for those of each connection."""
    now = timezone.now()
    with tenant_scope(acme.tenant.id):
        slack = make_connection(acme.tenant, "slack")
        made = [
            make_job(
                (acme.connection, slack)[number % 2], status=status, kind=("historical", "incremental", "repair")[number % 3],
                completed_at=now if status in states.FINISHED else None, created_at=now - timedelta(days=number),
            )
            for number, status in enumerate(("running", "failed", "completed", "cancelled", "failed", "completed"))
        ]  # fmt: skip
    with tenant_scope(acme.cast.globex.id):
        make_job(make_connection(acme.cast.globex))

    def found(path: str = "historical-sync/jobs", **query: Any) -> list[int]:
        body = acme.api.get(path, **query).json()
        assert body["count"] == len(body["results"]), body
        return [[str(job.id) for job in made].index(row["id"]) for row in body["results"]]

    with django_assert_max_num_queries(12):
        body = acme.api.get("historical-sync/jobs", page_size=4).json()
    assert (body["count"], body["previous"], set(body["results"][0])) == (6, None, FIELDS)
    assert [row["id"] for row in body["results"]] == [str(job.id) for job in made[:4]]
    assert len(acme.api.client.get(body["next"]).json()["results"]) == 2
    assert found() == [0, 1, 2, 3, 4, 5]
    assert found(integration_id="slack") == [1, 3, 5]
    assert found(connection_id=str(slack.id)) == [1, 3, 5]
    assert found(status="failed") == [1, 4]
    assert found(status=["failed", "cancelled"], connection_id=str(slack.id)) == [1, 3]
    assert found(status="") == [0, 1, 2, 3, 4, 5]
    assert found(kind="repair") == [2, 5]
    assert found(created_after=made[2].created_at.isoformat(), created_before=made[0].created_at.isoformat()) == [1, 2]
    assert found(created_before=(now - timedelta(days=3)).date().isoformat()) == [4, 5]
    # The contract's own list takes the same.
    assert found("slack/historical-sync/jobs", status=["failed", "completed"]) == [1, 5]
    assert found(f"{acme.connection.id}/historical-sync/jobs", kind="incremental") == [4]
    # Of nobody that there is: nothing, as for a provider without a connection.
    assert found(integration_id="stripe") == []


@pytest.mark.parametrize("path", ["historical-sync/jobs", "github/historical-sync/jobs"])
@pytest.mark.parametrize(
    ("query", "status", "code", "attr"),
    [
        ({"status": ["failed", "sleeping"]}, 400, "invalid_choice", "status"),
        ({"kind": "whole"}, 400, "invalid_choice", "kind"),
        ({"created_after": "yesterday"}, 400, "invalid", "created_after"),
        ({"created_after": "2026-01-31\0"}, 400, None, "created_after"),
        ({"created_before": "0001-01-01T00:00:00+14:00"}, 400, "invalid", "created_before"),
        ({"page": "99"}, 404, "not_found", None),
    ],
)
def test_a_filter_that_is_none_is_refused(
    acme: SimpleNamespace, path: str, query: dict[str, Any], status: int, code: str | None, attr: str | None
) -> None:
    body = acme.api.get(path, **query)
    refused(body, status, code or body.json()["errors"][0]["code"], attr)


def test_a_list_of_what_is_not_ours_is_not_there(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.cast.globex.id):
        theirs = make_connection(acme.cast.globex)
    for query, status, code, attr in (
        ({"connection_id": str(theirs.id)}, 404, "not_found", None),
        ({"connection_id": NOBODY}, 404, "not_found", None),
        ({"connection_id": "7"}, 400, "invalid", "connection_id"),
        ({"integration_id": "myspace"}, 400, "invalid_choice", "integration_id"),
    ):
        refused(acme.api.get("historical-sync/jobs", **query), status, code, attr)


def test_the_list_of_a_tenant_is_its_own(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        make_job(acme.connection)
    assert Api(acme.cast.globex).get("github/historical-sync/jobs").json()["count"] == 0
    refused(Api(acme.cast.globex).get(f"{acme.connection.id}/historical-sync/jobs"), 404, "not_found")


@pytest.mark.parametrize(
    ("query", "status", "code", "attr"),
    [
        ({"status": "sleeping"}, 400, "invalid_choice", "status"),
        ({"page": "0"}, 404, "not_found", None),
        ({"page": "99"}, 404, "not_found", None),
        ({"page": "two"}, 404, "not_found", None),
        *(
            ({"page_size": size}, 400, "invalid", "page_size")
            for size in ("0", "-1", "two", "", "1.5", "²", "9" * 5000)
        ),
    ],
)
def test_a_list_that_is_not_there_is_refused(
    acme: SimpleNamespace, query: dict[str, str], status: int, code: str, attr: str | None
) -> None:
    refused(acme.api.get("github/historical-sync/jobs", **query), status, code, attr)


def test_a_page_has_no_more_than_a_hundred(acme: SimpleNamespace, django_assert_max_num_queries: Any) -> None:
    with tenant_scope(acme.tenant.id):
        now = timezone.now()
        for _ in range(101):
            make_job(acme.connection, status="completed", completed_at=now)
    with django_assert_max_num_queries(12):
        body = acme.api.get("github/historical-sync/jobs", page_size=5000).json()
    assert (body["count"], len(body["results"])) == (101, 100)


def test_a_job_shows_what_it_did_and_what_went_wrong(acme: SimpleNamespace) -> None:
    now = timezone.now()
    with tenant_scope(acme.tenant.id):
        job = make_job(
            acme.connection, status="failed", completed_at=now, started_at=now, failed_chunks=1, total_chunks=4,
            last_error_code="provider_access_denied", last_error_message="GitHub does not let us.", progress=3, progress_total=4,
            entities_by_kind={"person": 2, "issue": 0}, entities_extracted=2, records_processed=3,
        )  # fmt: skip
    body = acme.api.get(f"historical-sync/jobs/{job.id}").json()
    assert set(body) == FIELDS
    assert body["last_error"] == {"code": "provider_access_denied", "message": "GitHub does not let us."}
    assert body["entities_by_kind"] == {"person": 2}
    assert body["progress_percentage"] == 75
    assert body["can"] == {"cancel": False, "pause": False, "resume": True}


def test_the_kinds_of_a_job_that_joined_people_add_up_to_its_entities(acme: SimpleNamespace) -> None:
    """People whom earlier imports brought turned out to be one: of them the tenant has fewer than before."""
    with tenant_scope(acme.tenant.id):
        job = make_job(
            acme.connection, status="running", entities_by_kind={"person": -4, "issue": 9}, entities_extracted=5
        )
    body = acme.api.get(f"historical-sync/jobs/{job.id}").json()
    assert body["entities_by_kind"] == {"issue": 9}
    assert body["entities_extracted"] == 9


# -- pause, cancel, resume ------------------------------------------------------------------------------------------------

ALLOWED: dict[str, Callable[[str], bool]] = {
    "cancel": lambda status: status in states.ACTIVE,
    "pause": lambda status: status in states.WORKABLE,
    "resume": lambda status: status in ("paused", "failed"),
}


@pytest.mark.parametrize("status", states.STATUSES)
@pytest.mark.parametrize("action", sorted(ALLOWED))
def test_an_action_is_taken_exactly_when_the_contract_says(acme: SimpleNamespace, action: str, status: str) -> None:
    with tenant_scope(acme.tenant.id):
        job = make_job(
            acme.connection,
            status=status,
            pause_reason="user" if status == "paused" else "",
            completed_at=timezone.now() if status in states.FINISHED else None,
        )
    before = trace()
    reply = acme.api.post(f"historical-sync/jobs/{job.id}/{action}")
    if ALLOWED[action](status):
        assert reply.status_code == 202
        body = reply.json()
        assert set(body) == FIELDS
        assert body["status"] == {"cancel": "cancelled", "pause": "paused", "resume": "pending"}[action]
        with tenant_scope(acme.tenant.id):
            assert "API key test" in set(JobEvent.objects.filter(job=job).values_list("actor", flat=True))
    else:
        assert status in refused(reply, 409, "invalid_state")
        assert trace() == before
        with tenant_scope(acme.tenant.id):
            job.refresh_from_db()
        assert job.status == status


def test_a_failed_job_is_not_resumed_over_another_of_its_connection(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        failed = make_job(acme.connection, status="failed", completed_at=timezone.now())
        make_job(acme.connection, status="running")
    refused(acme.api.post(f"historical-sync/jobs/{failed.id}/resume"), 409, "job_already_active")


def test_a_failed_job_needs_room_to_be_resumed_and_a_paused_one_has_its_own(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        failed = make_job(acme.connection, status="failed", completed_at=timezone.now())
        paused = make_job(make_connection(acme.tenant), status="paused", pause_reason="user")
        for _ in range(2):
            make_job(make_connection(acme.tenant), status="running")
    refused(acme.api.post(f"historical-sync/jobs/{failed.id}/resume"), 429, "too_many_concurrent_jobs")
    assert acme.api.post(f"historical-sync/jobs/{paused.id}/resume").status_code == 202


def test_a_session_needs_its_csrf_token(acme: SimpleNamespace) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(acme.cast.alice)
    path = "/api/integrations/github/historical-sync/start"
    refused(client.post(path, "{}", "application/json"), 403, "permission_denied")
    client.get("/integrations")
    token = client.cookies["csrftoken"].value
    reply = client.post(path, "{}", "application/json", headers={"X-CSRFToken": token})
    assert reply.status_code == 202
    assert reply.json()["job"]["created_by"] == "Alice"


def test_a_failure_of_ours_tells_nothing_of_the_inside(acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from historical_sync import actions

    def broken(*args: Any) -> None:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(actions, "get_job", broken)
    reply = acme.api.get(f"historical-sync/jobs/{uuid.uuid4()}")
    assert reply.status_code == 500
    assert "42" not in reply.content.decode()
    assert reply.json()["type"] == "server_error"
    assert project.DEBUG is False
