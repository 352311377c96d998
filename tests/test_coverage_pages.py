"""Coverage: the calendar of what is in, missing and failed, and what its buttons do."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from django.db import connection as database
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from psycopg.types.multirange import TimestamptzMultirange
from psycopg.types.range import Range

from atom.access import system_actor
from atom.tenancy import tenant_scope
from historical_sync import actions, coverage, planning, states
from historical_sync.coverage import Failed, Held
from historical_sync.models import Coverage, DataRemoval, HistoricalSyncJob, SyncChunk
from historical_sync.pages.coveragemap import MOST_CELLS, MOST_PARTS, coverage_map, cuts, gaps
from integrations.api import _parts_json
from integrations.models import Connection, ConnectionStatus
from integrations.providers.base import Partition, Window
from tests.graphs import make_connection, make_job

START = datetime(2026, 7, 1, tzinfo=UTC)
END = datetime(2026, 8, 1, tzinfo=UTC)


def span(first: int, last: int) -> Window:
    """Days of July, the last one out."""
    return Window(START + timedelta(days=first - 1), START + timedelta(days=last - 1))


def held(partition: str = "", covered: Any = (), missing: Any = (), failed: Any = ()) -> Held:
    return Held("issues", "Issues", partition, f"acme/{partition}" if partition else "", covered, missing, failed)


# -- the calendar ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [1, 20, 62, 63, 400, 430, 800, 1800, 5000, 12_000])
def test_the_cells_are_whole_days_weeks_months_or_years_and_few_enough(days: int) -> None:
    since = datetime(2015, 3, 18, 9, 30, tzinfo=UTC)
    edges = cuts(since, since + timedelta(days=days))
    assert edges[0] <= since
    assert edges[-1] >= since + timedelta(days=days) > edges[-2]
    assert len(edges) - 1 <= MOST_CELLS + 1
    assert all((edge.hour, edge.minute) == (0, 0) for edge in edges)
    assert edges == sorted(set(edges))


def test_a_cell_says_what_all_partitions_add_up_to() -> None:
    parts = [
        held("a", covered=(span(1, 11),), missing=(span(11, 13),)),
        held("b", covered=(span(1, 6), span(8, 13)), missing=(span(6, 8),), failed=(Failed(span(6, 7), "x", "no"),)),
    ]
    [row] = coverage_map(parts, START, END)
    states_of = {cell.since.day: cell.state for cell in row.cells if cell.since.month == 7}
    assert states_of[5] == "in"
    assert states_of[6] == "failed"
    assert states_of[7] == "missing"
    assert states_of[11] == "missing"
    assert states_of[13] == "unasked"
    assert next(cell.share for cell in row.cells if cell.since.day == 7) == 50
    assert row.percentage == int(100 * 20 / 24)
    assert row.partitions == 2
    assert not row.open


def test_hundreds_of_partitions_are_cut_to_what_a_page_holds_and_can_be_searched() -> None:
    parts = [
        held(f"repo-{i:03}", covered=(span(1, 11),), missing=(span(11, 12),) if i == 299 else ()) for i in range(300)
    ]
    [row] = coverage_map(parts, START, END, ["issues"])
    assert (len(row.parts), row.hidden) == (MOST_PARTS, 300 - MOST_PARTS)
    assert row.parts[0].label == "acme/repo-299", "what lacks something comes first"
    [row] = coverage_map(parts, START, END, ["issues"], "REPO-12")
    assert [part.label for part in row.parts] == [f"acme/repo-{i}" for i in range(120, 130)]


def test_a_partitions_row_joins_what_is_alike() -> None:
    parts = [held("a", covered=(span(1, 11), span(13, 20)), missing=(span(11, 13),)), held("b", covered=(span(1, 20),))]
    [row] = coverage_map(parts, START, END, ["issues"])
    first = next(part for part in row.parts if part.key == "a")
    assert [(cell.state, cell.since.day) for cell in first.cells] == [
        ("in", 1), ("missing", 11), ("in", 13), ("unasked", 20)
    ]  # fmt: skip
    assert abs(first.cells[-1].x + first.cells[-1].width - (row.cells[-1].x + row.cells[-1].width)) < 0.1
    assert len(row.cells) == 31


def test_what_is_missing_of_many_partitions_in_the_same_span_is_one_line() -> None:
    failed = (Failed(span(6, 8), "access_denied", "no access"),)
    parts = [held(str(i), missing=(span(5, 9),), failed=failed) for i in range(40)]
    found = gaps(parts)
    assert [(gap.window, gap.failed, len(gap.places)) for gap in found] == [
        (span(6, 8), True, 40), (span(8, 9), False, 40), (span(5, 6), False, 40)
    ]  # fmt: skip


def test_it_is_quick_with_many_partitions_that_all_differ() -> None:
    parts = [
        held(str(i), covered=(Window(START, START + timedelta(hours=i + 1)),), missing=(span(30, 31),))
        for i in range(700)
    ]
    began = time.process_time()
    coverage_map(parts, START, END, ["issues"])
    assert time.process_time() - began < 1


# -- the pages ------------------------------------------------------------------------------------------------------------


def imported(connection: Connection, *, gap: bool = True, partition: str = "1") -> HistoricalSyncJob:
    """An import of 40 days of issues; with a gap, ten days of it failed."""
    now = timezone.now()
    since, until = now - timedelta(days=40), now - timedelta(hours=1)
    job = make_job(
        connection, start_date=since, end_date=until, watermark=until, status=states.FAILED if gap else states.COMPLETED,
        completed_at=now, planned=True,
    )  # fmt: skip
    cut = now - timedelta(days=10)
    rest = {
        "tenant": connection.tenant,
        "job": job,
        "stream": "issues",
        "partition": partition,
        "partition_label": f"acme/{partition}",
    }
    SyncChunk.objects.create(ordinal=0, since=since, until=cut, status=states.CHUNK_COMPLETED, **rest)
    SyncChunk.objects.create(
        ordinal=1, since=cut, until=until, status=states.CHUNK_FAILED if gap else states.CHUNK_COMPLETED,
        error_code="provider_error" if gap else "", error_message="GitHub does not allow it" if gap else "", **rest,
    )  # fmt: skip
    Coverage.objects.update_or_create(
        tenant=connection.tenant, connection=connection, stream="issues", partition=partition,
        defaults={"ranges": TimestamptzMultirange([Range(since, cut if gap else until)])},
    )  # fmt: skip
    HistoricalSyncJob.objects.filter(id=job.id).update(created_at=until)
    return job


def test_the_page_says_what_is_missing_and_why(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        imported(connection)
    client = signed_in(cast.bob)
    text = client.get("/coverage").content.decode()
    assert "Some of it failed" in text
    assert "75 %" in text
    text = client.get(f"/coverage/{connection.id}?open=issues").content.decode()
    assert "GitHub does not allow it" in text
    assert "acme/1" in text
    assert "Repair gaps" in text


def test_two_accounts_of_one_tool_are_called_differently(cast: SimpleNamespace, signed_in: Any) -> None:
    """By who jumps from heading to heading, from link to link or from region to region, too."""
    with tenant_scope(cast.acme.id):
        for account in ("ana", "ben"):
            connection = make_connection(cast.acme)
            connection.account_label = account
            connection.save()
    page = signed_in(cast.bob).get("/coverage").content.decode()
    headings = re.findall(r'<h2 id="coverage-[0-9a-f-]{36}-name">(.*?)</h2>', page)
    assert sorted(re.sub("<[^>]*>", "", heading) for heading in headings) == ["GitHub (ana)", "GitHub (ben)"]


def test_all_but_the_last_minutes_is_99_percent() -> None:
    [row] = coverage_map([held(covered=(span(1, 30),), missing=(Window(END - timedelta(minutes=5), END),))], START, END)
    assert row.percentage == 99


def test_an_import_that_waits_for_somebody_is_not_under_way(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        imported(connection)
        make_job(connection, status=states.PAUSED, pause_reason="user")
    text = signed_in(cast.bob).get("/coverage").content.decode()
    assert "Import paused" in text
    assert "under way" not in text


def test_repair_imports_what_is_missing_and_nothing_else(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        imported(connection)
    reply = signed_in(cast.bob).post(f"/coverage/{connection.id}/repair")
    with tenant_scope(cast.acme.id):
        job = HistoricalSyncJob.objects.get(tenant=cast.acme, kind="repair")
    assert reply["Location"] == f"/jobs/{job.id}"
    assert abs(job.end_date - job.start_date - timedelta(days=10)) < timedelta(hours=2)
    text = signed_in(cast.bob).get("/coverage").content.decode()
    assert "Import under way" in text
    assert "Repair gaps" not in text


def test_repair_of_what_lacks_nothing_is_refused_in_words(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        imported(connection, gap=False)
    client = signed_in(cast.alice)
    assert "Nothing missing" in client.get("/coverage").content.decode()
    text = client.post(f"/coverage/{connection.id}/repair", follow=True).content.decode()
    assert "Nothing is missing of" in text
    with tenant_scope(cast.acme.id):
        assert not HistoricalSyncJob.objects.filter(tenant=cast.acme, kind="repair").exists()


def test_of_partitions_that_are_not_imported_any_more_nothing_is_missing(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        imported(connection, partition="1")
        imported(connection, partition="2")
        assert [(part.partition, bool(part.missing)) for part in coverage.of_connection(connection)] == [
            ("1", True),
            ("2", True),
        ]
        connection.only = ["2"]
        one, two = coverage.of_connection(connection)
        assert (one.missing, one.failed, bool(one.covered), bool(two.missing)) == ((), (), True, True)
        # An incremental sync is at whatever the provider lists: the first was deleted there, or is hidden from us.
        connection.only = None
        job = imported(connection, partition="2")
        HistoricalSyncJob.objects.filter(id=job.id).update(kind="incremental", created_at=timezone.now())
        one, two = coverage.of_connection(connection)
        assert (one.missing, one.failed, bool(one.covered), bool(two.missing)) == ((), (), True, True)


def test_what_imports_brought_is_known_without_reading_them(cast: SimpleNamespace) -> None:
    days = [timezone.now() - timedelta(days=day) for day in range(5)]

    def ended(connection: Connection, day: int, status: str, records: int) -> None:
        job = make_job(connection, status=status, records_processed=records, completed_at=days[day])
        HistoricalSyncJob.objects.filter(id=job.id).update(created_at=days[day])

    with tenant_scope(cast.acme.id):
        busy, new, other = (make_connection(cast.acme) for _ in range(3))
        for day, status in enumerate(("failed", "completed", "cancelled", "completed"), 1):
            ended(busy, day, status, 10**day)
        make_job(busy, status="paused", pause_reason="user", records_processed=1)
        Connection.objects.filter(id=busy.id).update(last_success_at=days[2])
        ended(other, 3, "completed", 7)
        ours = [busy, new, other]
        assert coverage.brought(ours) == {busy.id: (11_111, days[2]), new.id: (0, None), other.id: (7, days[3])}
        DataRemoval.objects.create(tenant=cast.acme, connection=busy, completed_at=days[3])
        assert coverage.brought(ours) == {busy.id: (1111, days[2]), new.id: (0, None), other.id: (7, days[3])}


def test_what_was_removed_is_neither_here_nor_missing(cast: SimpleNamespace, signed_in: Any) -> None:
    """Who deleted a tool's data and connected it again for less does not get all of it back by a repair."""
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        first = imported(connection)
        HistoricalSyncJob.objects.filter(id=first.id).update(records_processed=1234)
        DataRemoval.objects.create(tenant=cast.acme, connection=connection)
        Coverage.objects.filter(connection=connection).delete()
    client = signed_in(cast.alice)
    for completed_at in (None, timezone.now()):
        with tenant_scope(cast.acme.id):
            DataRemoval.objects.filter(connection=connection).update(completed_at=completed_at)
            assert coverage.of_connection(connection) == []
        assert "1,234" not in client.get("/integrations").content.decode()
        assert "Repair gaps" not in client.get("/coverage").content.decode()
    with tenant_scope(cast.acme.id):
        second = imported(connection, gap=False, partition="2")
        HistoricalSyncJob.objects.filter(id=second.id).update(created_at=timezone.now(), records_processed=17)
        (part,) = coverage.of_connection(connection)
        assert (part.partition, part.missing) == ("2", ())
    assert "17 records" in re.sub(r"<[^>]+>", "", client.get("/integrations").content.decode())


def test_an_import_after_a_removal_counts_though_the_webs_clock_is_behind(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        DataRemoval.objects.create(tenant=cast.acme, connection=connection, completed_at=timezone.now())
        with time_machine.travel(timezone.now() - timedelta(minutes=3)):
            job = actions.start_sync(system_actor(cast.acme, "Test"), connection, streams=["issues"])
        assert coverage.asked(connection).keys() == {"issues"}
        HistoricalSyncJob.objects.filter(id=job.id).update(status=states.FAILED, completed_at=timezone.now())
        assert actions.resume(system_actor(cast.acme, "Test"), job).status == states.PENDING


def test_extending_opens_the_offer_with_the_next_earlier_start(cast: SimpleNamespace, signed_in: Any) -> None:
    from historical_sync.admission import months_back

    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        imported(connection)
    client = signed_in(cast.bob)
    start = months_back(timezone.now(), 3).date().isoformat()
    assert f"/connections/{connection.id}/import?start={start}" in client.get("/coverage").content.decode()
    assert f'value="{start}"' in client.get(f"/connections/{connection.id}/import?start={start}").content.decode()


def test_the_plans_end_is_explained_instead(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.globex.id):
        connection = make_connection(cast.globex)
        job = imported(connection)
        HistoricalSyncJob.objects.filter(id=job.id).update(start_date=timezone.now() - timedelta(days=92))
    text = signed_in(cast.charlie).get("/coverage").content.decode()
    assert "Your Free plan reaches 3 months back. The Solo plan reaches 1 year back." in text
    assert "Extend further back" not in text


def test_who_may_only_look_is_offered_nothing(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        imported(connection)
    text = signed_in(cast.vera).get(f"/coverage/{connection.id}").content.decode()
    assert "Repair gaps" not in text
    assert "Extend further back" not in text


def test_history_of_a_connection_that_was_given_up_is_still_shown(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        imported(connection)
        Connection.objects.filter(id=connection.id).update(
            status=ConnectionStatus.DISCONNECTED, last_success_at=timezone.now()
        )
    text = signed_in(cast.alice).get("/coverage").content.decode()
    assert "Disconnected" in text
    assert "Repair gaps" not in text


def test_ten_connections_take_as_many_queries_as_two(cast: SimpleNamespace, signed_in: Any) -> None:
    client = signed_in(cast.alice)
    counts = []
    for more in (2, 8):
        with tenant_scope(cast.acme.id):
            for i in range(more):
                imported(make_connection(cast.acme), gap=bool(i % 2))
        with CaptureQueriesContext(database) as queries:
            assert client.get("/coverage").status_code == 200
        counts.append(len(queries))
    assert counts[0] == counts[1], [query["sql"][:120] for query in queries]


def test_several_connections_read_at_once_are_as_each_alone(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        connections = [make_connection(cast.acme) for _ in range(3)]
        imported(connections[0])
        imported(connections[1], gap=False, partition="2")
        together = coverage.of_connections(connections)
        for connection in connections:
            assert together[connection.id] == coverage.of_connection(connection)
        assert [bool(together[connection.id]) for connection in connections] == [True, True, False]


def test_thousands_of_partitions_that_look_alike_are_cut_once(cast: SimpleNamespace, monkeypatch: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        imported(connection, partition="0")
        [row] = Coverage.objects.filter(connection=connection)
        Coverage.objects.bulk_create(
            Coverage(tenant=cast.acme, connection=connection, stream=row.stream, partition=str(i), ranges=row.ranges)
            for i in range(1, 300)
        )
        subtract, cuts = planning.subtract, []
        monkeypatch.setattr(planning, "subtract", lambda *given: cuts.append(given) or subtract(*given))
        parts = coverage.of_connection(connection)
        assert len({(part.covered, part.missing) for part in parts}) == 1
        assert sorted(place for gap in gaps(parts) for place in gap.places) == sorted(p.partition_label for p in parts)
    assert len(parts) == 300
    assert len(cuts) < 10


def test_of_thousands_of_failures_of_a_part_each_is_looked_at_once(cast: SimpleNamespace) -> None:
    """Each was compared with all before it."""
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        job = imported(connection)
        since, step = job.start_date, (job.end_date - job.start_date) / 5_000
        SyncChunk.objects.filter(job=job).delete()
        SyncChunk.objects.bulk_create(
            SyncChunk(
                tenant=cast.acme, job=job, ordinal=n, stream="issues", partition="1", since=since + n * step,
                until=since + (n + 1) * step, status=states.CHUNK_FAILED, error_code="x",
            )
            for n in range(5_000)
        )  # fmt: skip
        Coverage.objects.filter(connection=connection).delete()
        began = time.process_time()
        [part] = coverage.of_connection(connection)
        assert time.process_time() - began < 0.4
    assert len(part.failed) == 5_000


def test_an_older_failure_of_the_same_span_adds_nothing(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        older, newer = imported(connection), imported(connection)
        HistoricalSyncJob.objects.filter(id=older.id).update(created_at=older.start_date)
        SyncChunk.objects.filter(job=older).update(error_message="old", partition="1")
        failed = SyncChunk.objects.filter(status=states.CHUNK_FAILED)
        failed.filter(job=newer).update(since=failed.get(job=older).since, error_message="new")
        failed.filter(job=older).update(until=failed.get(job=newer).until)
        [part] = coverage.of_connection(connection)
        assert [one.reason for one in part.failed] == ["new"]
        failed.filter(job=older).update(since=failed.get(job=newer).since - timedelta(days=1))
        [part] = coverage.of_connection(connection)
        assert [one.reason for one in part.failed] == ["old"], "it reaches further, and the newer one lies in it"


def test_of_thousands_of_chosen_parts_each_is_looked_up_at_once(cast: SimpleNamespace) -> None:
    """To go through all of them for each of all took twelve seconds for eight thousand."""

    class Chosen(list[str]):
        def __contains__(self, key: object) -> bool:
            raise AssertionError("gone through")

    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        imported(connection, partition="1")
        imported(connection, partition="2")
        connection.only = Chosen(["2"])
        assert [bool(part.missing) for part in coverage.of_connection(connection)] == [False, True]
        parts = _parts_json(connection, [Partition("1", "one"), Partition("2", "two")])["partitions"]
    assert [part["imported"] for part in parts] == [False, True]
