"""What programs read of a connection's coverage: what is in, missing and failed, by stream and part."""

from __future__ import annotations

import json
import time
import uuid
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection as database
from django.test.utils import CaptureQueriesContext
from psycopg.types.multirange import TimestamptzMultirange
from psycopg.types.range import Range

from atom.tenancy import tenant_scope
from historical_sync import coverage_api, states
from historical_sync.models import Coverage, HistoricalSyncJob, SyncChunk
from tests.graphs import make_connection
from tests.test_coverage_pages import imported
from tests.test_job_details_api import every, program


@pytest.fixture
def acme(cast: SimpleNamespace) -> SimpleNamespace:
    """A program of Acme's that may only look, and a connection."""
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
    return SimpleNamespace(
        tenant=cast.acme, cast=cast, api=program(cast.acme, "viewer"), connection=connection, path=path(connection)
    )


def path(connection: Any) -> str:
    return f"/api/connections/{connection.id}/coverage"


def seconds(span: Any) -> float:
    return (datetime.fromisoformat(span["until"]) - datetime.fromisoformat(span["since"])).total_seconds()


def divided(job: HistoricalSyncJob, number: int, windows: int, **fields: Any) -> None:
    """Parts of an import of issues, each in so many windows of an hour."""
    values = {"tenant": job.tenant, "job": job, "stream": "issues", "status": states.CHUNK_FAILED} | fields
    hour = timedelta(hours=1)
    SyncChunk.objects.bulk_create(
        SyncChunk(
            ordinal=n, partition=f"p{n}", partition_label=f"acme/p{n:05}", since=job.start_date + window * hour,
            until=job.start_date + (window + 1) * hour, error_code="provider_error", error_message=f"GitHub is down {window % 2}",
            **values,
        )
        for n in range(number) for window in range(windows)
    )  # fmt: skip
    if values["status"] == states.CHUNK_COMPLETED:
        Coverage.objects.bulk_create(
            Coverage(
                tenant=job.tenant, connection=job.connection, stream="issues", partition=f"p{n}",
                ranges=TimestamptzMultirange([Range(job.start_date, job.start_date + windows * hour)]),
            )
            for n in range(number)
        )  # fmt: skip


def test_a_program_is_told_what_is_in_missing_and_failed(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        imported(acme.connection)
    [[part]] = every(acme.api, acme.path)
    assert {name: part[name] for name in ("stream", "partition", "partition_label")} == {
        "stream": "issues", "partition": "1", "partition_label": "acme/1",
    }  # fmt: skip
    [covered], [missing], [failed] = part["covered"], part["missing"], part["failed"]
    assert covered["until"] == missing["since"] == failed["since"]
    assert abs(seconds(covered) - 30 * 86_400) < 1
    assert abs(seconds(missing) - (10 * 86_400 - 3_600)) < 1
    assert (failed["until"], failed["code"], failed["message"]) == (
        missing["until"], "provider_error", "GitHub does not allow it"
    )  # fmt: skip


def test_a_connection_without_imports_has_nothing_in_and_lacks_nothing(acme: SimpleNamespace) -> None:
    assert every(acme.api, acme.path) == [[]]


def test_parts_are_paged_in_the_order_of_the_page_and_narrowed(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        job = imported(acme.connection, gap=False)
        HistoricalSyncJob.objects.filter(id=job.id).update(streams=["comments", "issues"])
        divided(job, 6, 2)
        divided(job, 3, 1, stream="comments", status=states.CHUNK_COMPLETED)
    parts = [part for page in every(acme.api, acme.path, page_size=4) for part in page]
    places = [(part["stream"], part["partition_label"]) for part in parts]
    issues = [("issues", name) for name in ("acme/1", *(f"acme/p{n:05}" for n in range(6)))]
    comments = [("comments", f"acme/p{n:05}") for n in range(3)]
    assert places == issues + comments, "as the provider has its streams"
    assert [len(page) for page in every(acme.api, acme.path, page_size=4)] == [4, 4, 2]
    assert [len(page) for page in every(acme.api, acme.path, page_size=5)] == [5, 5], "the last page is known for it"
    [of_comments] = every(acme.api, acme.path, stream="comments")
    assert [part["stream"] for part in of_comments] == ["comments"] * 3
    assert every(acme.api, acme.path, stream="commits") == [[]]
    [lacking] = every(acme.api, acme.path, stream="issues", missing="true")
    assert [part["partition"] for part in lacking] == [part["partition"] for part in parts if part["missing"] and part["stream"] == "issues"]  # fmt: skip
    assert len(lacking) == 6
    [whole] = every(acme.api, acme.path, missing="false")
    assert len(whole) == 10, "all of them"


def test_failures_that_touch_and_are_alike_are_one_span(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        job = imported(acme.connection)
        divided(job, 1, 4)
        SyncChunk.objects.filter(partition="p0").update(error_message="GitHub is down")
        SyncChunk.objects.filter(partition="p0", since=job.start_date + timedelta(hours=2)).update(error_message="Odd")
    part = next(part for part in every(acme.api, acme.path)[0] if part["partition"] == "p0")
    assert [(span["message"], seconds(span)) for span in part["failed"]] == [
        ("GitHub is down", 7_200), ("Odd", 3_600), ("GitHub is down", 3_600)
    ]  # fmt: skip


def test_parts_of_many_spans_come_in_smaller_pages(acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_api, "MOST_SPANS", 30)
    with tenant_scope(acme.tenant.id):
        divided(imported(acme.connection), 5, 20)
    pages = every(acme.api, acme.path)
    assert sorted(part["partition"] for page in pages for part in page) == ["1", *(f"p{n}" for n in range(5))]
    assert all(len(page) < 4 for page in pages)


def test_thousands_of_parts_are_quick(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        job = imported(acme.connection)
        divided(job, 4_000, 1, status=states.CHUNK_COMPLETED)
        divided(imported(acme.connection), 25, 400)
    cursor_of, taken = "", []
    for _ in range(4):
        began = time.monotonic()
        with CaptureQueriesContext(database) as queries:
            reply = acme.api.get(acme.path, {"page_size": 200, "cursor": cursor_of})
        taken.append(time.monotonic() - began)
        body = reply.json()
        assert 0 < len(body["results"]) <= 200
        assert len(queries) <= 10, [one["sql"][:150] for one in queries]
        assert len(reply.content) < 1024 * 1024
        cursor_of = body["next"]
    assert min(taken) < 2, taken


def test_coverage_of_others_is_not_there(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.tenant.id):
        imported(acme.connection)
        gone = make_connection(acme.tenant, "myspace")
    assert program(acme.cast.globex, "owner").get(acme.path).status_code == 404
    for odd in ("7", uuid.uuid4(), gone.id):
        assert acme.api.get(path(SimpleNamespace(id=odd))).status_code == 404
    assert acme.api.post(acme.path).status_code == 405


@pytest.mark.parametrize(
    "query",
    [
        {"cursor": "x"}, {"cursor": "MQ=="}, {"cursor": "bm9uZQAxADE="}, {"page_size": "201"}, {"stream": "x" * 61},
        {"missing": "perhaps"},
    ],
)  # fmt: skip
def test_bad_questions_are_refused(acme: SimpleNamespace, query: dict[str, str]) -> None:
    reply = acme.api.get(acme.path, query)
    assert (reply.status_code, reply.json()["errors"][0]["attr"]) == (400, next(iter(query)))
    assert json.loads(reply.content)["errors"][0]["code"] == "invalid"
