"""Analytics: totals that equal the jobs whatever happens to these, and what is drawn from them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection as database
from django.db.models import Sum
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from atom.access import system_actor
from atom.db.base import as_owner
from atom.tenancy import across_tenants, tenant_scope
from atom.words import took
from historical_sync import actions, states
from historical_sync.models import DailyTotals, HistoricalSyncJob, SyncChunk
from historical_sync.pages.analytics import COUNTS
from historical_sync.pages.charts import buckets, nice, stacked
from integrations.models import Connection
from tests.conftest import connected, until
from tests.graphs import had, make_connection, make_job
from tests.test_replay_page import GOOD, kept_aside

NOW = datetime(2026, 10, 20, 12, tzinfo=UTC)


# -- totals ---------------------------------------------------------------------------------------------------------------


def totals() -> dict[Any, dict[str, float]]:
    """(connection, day) -> what the table says, without rows of zeros."""
    rows = {}
    for row in DailyTotals.objects.all():
        if row.completed or row.failed or row.cancelled:
            rows[row.connection_id, row.day] = {name: round(getattr(row, name), 3) for name in COUNTS}
        else:
            assert [round(getattr(row, name), 3) for name in COUNTS] == [0] * len(COUNTS)
    return rows


def counted() -> dict[Any, dict[str, float]]:
    """The same from the jobs."""
    rows: dict[Any, dict[str, float]] = {}
    for job in HistoricalSyncJob.objects.exclude(completed_at=None):
        row = rows.setdefault((job.connection_id, job.completed_at.astimezone(UTC).date()), dict.fromkeys(COUNTS, 0.0))
        row[job.status] += 1
        row["records"] += job.records_processed
        row["unchanged"] += job.records_skipped
        row["quarantined"] += job.records_quarantined
        row["seconds"] += (job.completed_at - (job.started_at or job.completed_at)).total_seconds()
        row["seconds"] -= job.idle_seconds + job.waited_seconds
    return {key: {name: round(value, 3) for name, value in row.items()} for key, row in rows.items()}


def assert_equal() -> None:
    with across_tenants("comparing the totals with the jobs"):
        assert totals() == counted()


def ended(
    connection: Connection, status: str = states.COMPLETED, at: datetime = NOW, **fields: Any
) -> HistoricalSyncJob:
    values = {
        "status": status, "completed_at": at, "started_at": at - timedelta(seconds=10), "created_at": at,
        "records_processed": 100, "records_skipped": 20, "records_quarantined": 3,
    } | fields  # fmt: skip
    return make_job(connection, **values)


def test_jobs_that_end_are_counted_on_the_day_they_ended_in_utc(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        github, slack = make_connection(cast.acme), make_connection(cast.acme, "slack")
        ended(github, at=datetime(2026, 10, 20, 23, 59, 59, tzinfo=UTC))
        ended(github, at=datetime(2026, 10, 21, 0, 0, 0, tzinfo=UTC), status=states.FAILED)
        ended(slack, at=datetime(2026, 10, 20, 3, tzinfo=UTC), status=states.CANCELLED)
        make_job(make_connection(cast.acme), records_processed=5)
    with tenant_scope(cast.globex.id):
        ended(make_connection(cast.globex))
    assert_equal()
    with tenant_scope(cast.acme.id):
        assert DailyTotals.objects.count() == 3, "another tenant's rows are not there"
        assert DailyTotals.objects.get(connection=github, day=date(2026, 10, 20)).records == 100


def test_a_job_that_is_tried_again_leaves_the_totals_until_it_ends_again(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        job = ended(make_connection(cast.acme), status=states.FAILED, at=timezone.now() - timedelta(days=2))
        SyncChunk.objects.create(
            tenant=cast.acme, job=job, ordinal=0, stream="issues", since=job.start_date, until=job.end_date,
            status=states.CHUNK_FAILED,
        )  # fmt: skip
        actions.resume(system_actor(cast.acme, "test"), job)
        assert totals() == {}
        assert_equal()
        actions.cancel(system_actor(cast.acme, "test"), job)
        job.refresh_from_db()
        assert job.status == states.CANCELLED
        [(key, row)] = totals().items()
        assert key == (job.connection_id, timezone.now().astimezone(UTC).date())
        assert (row["cancelled"], row["failed"], row["records"]) == (1, 0, 100)
    assert_equal()


def test_a_replay_moves_the_totals_of_a_job_that_ended_long_ago(live_cast: SimpleNamespace) -> None:
    job = kept_aside(live_cast, GOOD, {"id": 8})
    with tenant_scope(live_cast.acme.id):
        actions.replay_quarantine(system_actor(live_cast.acme, "test"), job)
        sums = DailyTotals.objects.aggregate(records=Sum("records"), quarantined=Sum("quarantined"))
    assert sums == {"records": 1, "quarantined": 1}
    assert_equal()


def test_a_job_that_is_paused_or_has_failed_does_not_work(cast: SimpleNamespace) -> None:
    actor = system_actor(cast.acme, "test")
    minute = timedelta(minutes=1)
    with tenant_scope(cast.acme.id):
        made = make_job(make_connection(cast.acme), status=states.RUNNING, started_at=timezone.now() - 10 * minute)
        jobs = HistoricalSyncJob.objects.filter(id=made.id)
        job = jobs.get

        def stopped(for_minutes: int) -> None:
            jobs.update(stopped_at=timezone.now() - for_minutes * minute)

        actions.pause(actor, made)
        assert job().status == states.PAUSED
        stopped(4)
        actions.resume(actor, made)
        jobs.update(status=states.RUNNING)
        assert 4 * 60 <= job().idle_seconds < 5 * 60
        assert took(job()) == "6 min"
        jobs.update(status=states.FAILED, completed_at=timezone.now())
        stopped(3)
        assert_equal()
        actions.resume(actor, made)
        assert took(job()) == "3 min", "what waits to be tried again took what it took until it failed"
        actions.pause(actor, made)
        actions.cancel(actor, made)
        assert job().status == states.CANCELLED
        assert 7 * 60 <= job().idle_seconds < 8 * 60
    assert_equal()


def test_a_job_that_waits_for_its_provider_does_not_read(cast: SimpleNamespace) -> None:
    now, minute = timezone.now(), timedelta(minutes=1)
    with tenant_scope(cast.acme.id):
        made = make_job(make_connection(cast.acme), status=states.RUNNING, started_at=now - 30 * minute)
        jobs = HistoricalSyncJob.objects.filter(id=made.id)

        def waited() -> int:
            return round(jobs.get().waited_seconds / 60)

        jobs.update(waiting_until=now + 20 * minute)
        jobs.update(waiting_since=now - 5 * minute)
        jobs.update(waiting_until=now + 40 * minute)
        assert waited() == 5, "it is longer than was thought"
        jobs.update(waiting_since=now - 2 * minute, records_processed=7)
        jobs.update(waiting_until=None)
        assert waited() == 7, "a page came in"
        jobs.update(waiting_until=now + minute)
        jobs.update(waiting_since=now - 4 * minute)
        jobs.update(status=states.PAUSED, pause_reason="user", waiting_until=None)
        assert waited() == 11
        jobs.update(status=states.PENDING, pause_reason="", waiting_until=now + 9 * minute)
        jobs.update(status=states.RUNNING, waiting_until=None)
        assert waited() == 11, "what does not run is idle, whatever it waits for"
        jobs.update(waiting_until=now + minute)
        jobs.update(waiting_since=now - 3 * minute)
        jobs.update(status=states.COMPLETED, completed_at=now, waiting_until=None)
        assert waited() == 14
        (row,) = totals().values()
        assert row["seconds"] == pytest.approx(16 * 60, abs=10)
    assert_equal()


def test_deleted_jobs_are_out_of_the_totals_and_deleted_tenants_leave_none(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        gone = ended(connection)
        ended(connection)
        gone.delete()
        assert_equal()
        assert sum(row["records"] for row in totals().values()) == 100
    with across_tenants("deleting a tenant"):
        cast.acme.delete()
        assert not DailyTotals.objects.exists()


def test_they_equal_the_jobs_after_real_imports(live_cast: SimpleNamespace, worker: Any, sandbox: Any) -> None:
    connection = connected(live_cast.acme, "github", sandbox.root)
    actor = system_actor(live_cast.acme, "test")
    with tenant_scope(live_cast.acme.id):
        first = actions.start_sync(actor, connection, streams=["issues"])
    until(first, "completed")
    with tenant_scope(live_cast.acme.id):
        again = actions.start_sync(actor, connection, streams=["issues"], full=True)
    until(again, "completed")
    assert_equal()
    with tenant_scope(live_cast.acme.id):
        assert DailyTotals.objects.aggregate(n=Sum("completed"))["n"] == 2
        assert DailyTotals.objects.aggregate(n=Sum("records"))["n"] > 0


def test_filling_them_from_jobs_that_are_there_gives_the_same(cast: SimpleNamespace) -> None:
    from importlib import import_module

    from django.db.migrations.loader import MigrationLoader

    name = next(
        name
        for app, name in MigrationLoader(None).disk_migrations
        if app == "historical_sync" and "daily_totals" in name
    )
    fill = import_module(f"historical_sync.migrations.{name}").FILL
    with tenant_scope(cast.acme.id):
        for connection in (make_connection(cast.acme), make_connection(cast.acme, "slack")):
            for days in (0, 0, 1, 40):
                ended(connection, at=NOW - timedelta(days=days), started_at=None if days else NOW - timedelta(hours=1))
    with across_tenants("filling anew"):
        DailyTotals.objects.all().delete()
        insert = fill[fill.index("INSERT INTO historical_sync_dailytotals") : fill.index("RESET ROLE")]
        with database.cursor() as cursor:
            cursor.execute(insert)
        assert totals() == counted() != {}


# -- charts ---------------------------------------------------------------------------------------------------------------


def test_bars_stand_on_each_other_and_end_at_a_round_number() -> None:
    spans = buckets(date(2026, 10, 1), date(2026, 10, 3), 1)
    chart = stacked(spans, [("a", "A", "good"), ("b", "B", "bad")], {"a": [10, 0, 30], "b": [5, 0, 20]})
    assert chart.top == 50
    assert [len(bar.pieces) for bar in chart.bars] == [2, 0, 2]
    low, high = chart.bars[2].pieces
    assert (low.y, low.height) == (40, 60)
    assert (high.y, high.height) == (0, 40)
    assert chart.total == 65


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (1, 1), (7, 8), (11, 15), (21, 25), (260, 300), (100_001, 150_000), (999, 1000)]
)
def test_a_charts_upper_edge_is_round_and_not_below_its_highest_bar(value: float, top: float) -> None:
    assert nice(value) == top


def test_spans_have_one_length_and_end_today() -> None:
    spans = buckets(date(2026, 1, 1), date(2026, 3, 31), 7)
    assert spans[-1][1] == date(2026, 3, 31)
    assert spans[0][0] <= date(2026, 1, 1)
    assert {(last - first).days for first, last in spans} == {6}


# -- the page -------------------------------------------------------------------------------------------------------------


def test_the_page_answers_what_came_in_from_where_and_what_failed(cast: SimpleNamespace, signed_in: Any) -> None:
    now = timezone.now()
    with tenant_scope(cast.acme.id):
        github = make_connection(cast.acme)
        ended(github, at=now, records_processed=1200)
        ended(github, at=now - timedelta(days=45), records_processed=70_000)
        ended(
            make_connection(cast.acme, "slack"), states.FAILED, at=now, last_error_code="access_denied",
            last_error_message="Slack does not allow it", records_processed=34,
        )  # fmt: skip
        make_job(make_connection(cast.acme, "jira"), records_processed=66)
    with tenant_scope(cast.globex.id):
        ended(make_connection(cast.globex, "zendesk"), at=now, records_processed=999_999)
    client = signed_in(cast.vera)
    text = client.get("/analytics").content.decode()
    assert '<dd class="num">1,300</dd>' in text, "what runs is in as well"
    assert '<dd class="num">50 %</dd>' in text
    assert "Slack does not allow it" in text
    assert "Jira" in text
    assert "Zendesk" not in text
    assert "999,999" not in text
    assert '<dd class="num">71,300</dd>' in client.get("/analytics?range=90d").content.decode()
    assert client.get("/analytics?range=%00nonsense").status_code == 200
    assert "style=" not in text


@pytest.mark.django_db(transaction=True)
def test_what_failed_before_the_range_is_not_read_for_its_reasons(live_cast: SimpleNamespace, signed_in: Any) -> None:
    """A schedule that fails leaves thousands."""
    now = timezone.now()
    with tenant_scope(live_cast.acme.id):
        connection = make_connection(live_cast.acme)
        times = [now, now - timedelta(days=29), *(now - timedelta(days=40, hours=n) for n in range(500))]
        common: dict[str, Any] = {
            "tenant": live_cast.acme, "connection": connection, "streams": ["issues"], "status": states.FAILED,
            "start_date": now - timedelta(days=1), "end_date": now, "last_error_message": "It is away",
        }  # fmt: skip
        HistoricalSyncJob.objects.bulk_create([HistoricalSyncJob(completed_at=at, **common) for at in times])
    with as_owner(), database.cursor() as cursor:  # PostgreSQL passes over tables of somebody else
        cursor.execute("ANALYZE historical_sync_historicalsyncjob")
    with CaptureQueriesContext(database) as asked:
        assert "2 times" in signed_in(live_cast.vera).get("/analytics").content.decode()
    (reasons,) = [query["sql"] for query in asked.captured_queries if 'AS "words"' in query["sql"]]
    with tenant_scope(live_cast.acme.id), database.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {reasons}")
        plans = [cursor.fetchone()[0][0]["Plan"]]
    for plan in plans:
        plans += plan.get("Plans", [])
    assert sum(plan.get("Rows Removed by Filter", 0) for plan in plans) == 0


@pytest.mark.parametrize(
    ("records", "speed"), [(0, "0/s"), (9, "&lt; 0.1/s"), (630, "0.7/s"), (4_050, "4.5/s"), (900_000, "1,000/s")]
)
def test_a_slow_import_is_not_told_to_have_no_speed(
    cast: SimpleNamespace, signed_in: Any, records: int, speed: str
) -> None:
    """Of a quarter of an hour."""
    now = timezone.now()
    with tenant_scope(cast.acme.id):
        ended(
            make_connection(cast.acme), at=now, started_at=now - timedelta(minutes=15),
            records_processed=records, records_skipped=0,
        )  # fmt: skip
    text = signed_in(cast.vera).get("/analytics").content.decode()
    assert f'<dd class="num">{speed}</dd>' in text
    number = speed.removesuffix("/s")
    assert f'data-label="Records/s" class="right num">{number}</td>' in text
    assert f": {number} records a second</title>" in text
    assert f'<td class="right num">{number}</td>' in text, "in the chart's table"


def test_what_still_runs_makes_what_ended_no_faster(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        ended(connection, at=timezone.now(), records_processed=100, records_skipped=20)
        make_job(connection, records_processed=100_000)
    assert '<dd class="num">12/s</dd>' in signed_in(cast.vera).get("/analytics").content.decode()


def test_how_much_of_the_plan_is_used(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.globex.id):
        had(make_connection(cast.globex), 8500)
    text = signed_in(cast.charlie).get("/analytics").content.decode()
    assert '<strong class="num">8,500</strong> of <span class="num">10,000</span>' in text
    assert 'class="warn" max="100" value="85"' in text


def test_nothing_yet_is_said(cast: SimpleNamespace, signed_in: Any) -> None:
    assert "Nothing came in during the last 30 days" in signed_in(cast.alice).get("/analytics").content.decode()


def test_hundreds_of_jobs_take_as_many_queries_as_few(cast: SimpleNamespace, signed_in: Any) -> None:
    client = signed_in(cast.alice)
    counts = []
    for more in (3, 100):
        with tenant_scope(cast.acme.id):
            for i in range(more):
                ended(
                    make_connection(cast.acme, ("github", "slack", "jira")[i % 3]),
                    at=timezone.now() - timedelta(days=i % 40),
                )
        with CaptureQueriesContext(database) as queries:
            assert client.get("/analytics?range=12m").status_code == 200
        counts.append(len(queries))
    assert counts[0] == counts[1]
    assert counts[0] < 20
