"""Pages that are not what pages should be: repeated, shifted, forgotten, capped, dated by another clock, unreadable or huge."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from historical_sync import actions, coverage
from historical_sync.meter import Meter
from historical_sync.models import QuarantinedRecord, SyncRecord
from historical_sync.retrying import MAX_RESTARTS
from integrations.providers import PROVIDERS
from integrations.providers.base import Page, Partition, Window
from tests.conftest import Worker
from tests.faults import toy as toys
from tests.faults.toy import END, PAGE, START, Answer, Call, Server
from tests.faults.toy_stage import ToyStage

pytestmark = pytest.mark.django_db(transaction=True)


def stored(toy: ToyStage, stream: str) -> dict[str, Any]:
    rows = toy.within(lambda: SyncRecord.objects.filter(tenant=toy.tenant, stream=stream))
    return {row.external_id: row.payload for row in rows}


# -- repeated and shifted -----------------------------------------------------------------------------------------------------


def test_a_page_repeated_is_counted_once(toy: ToyStage, worker: Worker) -> None:
    """The second page is the first again, under another cursor."""

    def again(server: Server, call: Call) -> Answer | None:
        if call.query.get("after") != str(PAGE):
            return server.proper(call)
        first = server.proper(Call(call.path, {**call.query, "after": "0"}, "", b""))
        return Answer(200, {**first.body, "next": PAGE + 10_000})

    def onwards(server: Server, call: Call) -> Answer:
        after = int(call.query.get("after", 0))
        query = {**call.query, "after": str(after - 10_000 if after > 10_000 else after)}
        return server.proper(Call(call.path, query, "", b""))

    toy.server.inject(
        lambda server, call: (onwards if int(call.query.get("after", 0)) > 10_000 else again)(server, call),
        every=1, times=10_000, path="/rows/labels",
    )  # fmt: skip
    toy.done(toy.job())
    assert len(toy.server.pages("labels")) == 3
    assert not toy.damage()


def test_a_page_whose_cursor_leads_to_itself_for_a_while(toy: ToyStage, worker: Worker) -> None:
    def itself(server: Server, call: Call) -> Answer:
        found = server.proper(call)
        return Answer(200, {**found.body, "next": int(call.query.get("after", 0))})

    toy.server.inject(itself, every=3, times=2, path="/rows/attic")
    job = toy.done(toy.job())
    assert toy.server.hits == 2
    assert toy.events(job, "restarted")
    assert not toy.damage()


def test_pages_that_go_in_circles_for_ever_fail_their_part_and_no_other(toy: ToyStage, worker: Worker) -> None:
    def circle(server: Server, call: Call) -> Answer:
        found = server.proper(call)
        return Answer(200, {**found.body, "next": (int(call.query.get("after", 0)) + PAGE) % 40})

    toy.server.inject(circle, every=1, times=10_000, path="/rows/labels")
    job = toy.done(toy.job(), "failed")
    assert (job.failed_chunks, job.total_chunks - job.completed_chunks) == (1, 1)
    assert "labels" in job.last_error_message
    assert "again and again" in job.last_error_message
    assert len(toy.server.pages("labels")) < 10 * MAX_RESTARTS
    assert not stored(toy, "labels") or len(stored(toy, "labels")) <= 40

    toy.server.faults.clear()
    toy.within(actions.resume, toy.actor, job)
    toy.done(job)
    assert not toy.damage()


def test_pages_that_go_in_circles_are_given_up_too_where_all_of_them_is_known(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job())

    def circle(server: Server, call: Call) -> Answer:
        found = server.proper(call)
        return Answer(200, {**found.body, "next": (int(call.query.get("after", 0)) + PAGE) % 40})

    before = len(toy.server.pages("labels"))
    toy.server.inject(circle, every=1, times=10_000, path="/rows/labels")
    job = toy.done(toy.job(full=True), "failed")
    assert "again and again" in job.last_error_message
    assert len(toy.server.pages("labels")) - before < 10 * MAX_RESTARTS


@pytest.mark.parametrize("rows", [True, False], ids=["the same rows", "no rows"])
def test_pages_without_end_that_bring_nothing_new_fail_their_part_and_no_other(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch, rows: bool
) -> None:
    """Each with a cursor of its own."""

    def ever_on(server: Server, call: Call) -> Answer:
        found = server.proper(Call(call.path, {}, call.authorization, call.body))
        return Answer(200, {"rows": found.body["rows"] if rows else [], "next": len(server.calls)})

    monkeypatch.setattr("historical_sync.course.IDLE_PAGES", 40)
    toy.server.inject(ever_on, every=1, times=10_000, path="/rows/labels")
    job = toy.done(toy.job(), "failed")
    assert (job.failed_chunks, job.total_chunks - job.completed_chunks) == (1, 1)
    assert (job.last_error_code, len(toy.server.pages("labels"))) == ("provider_endless_pages", 41)
    assert "Toy sends page after page without anything new: 40 in a row" in job.last_error_message

    toy.server.faults.clear()
    toy.within(actions.resume, toy.actor, job)
    toy.done(job)
    assert not toy.damage()


def test_duplicate_ids_across_pages_are_one_record_each_in_its_newest_form(toy: ToyStage, worker: Worker) -> None:
    world = toy.server.world["events"]
    for i in range(0, 60, 7):
        # The same row some pages later, changed by then.
        world.append({**world[i], "at": world[i + 25]["at"], "title": "changed", "tags": ["t9"]})
    toy.done(toy.job(streams=["events"]))
    found = stored(toy, "events")
    assert len(found) == 90
    assert sum(row["title"] == "changed" for row in found.values()) == 9
    from historical_sync.models import Relationship

    tagged = toy.within(lambda: Relationship.objects.filter(tenant=toy.tenant, kind="tagged"))
    assert len(tagged) == 90, "what the earlier form said is gone"


def test_rows_shifting_between_pages_lose_none_that_stay(toy: ToyStage, worker: Worker) -> None:
    """With every page some of the oldest rows are touched: they move to the end, and all others to the front."""
    touched: set[str] = set()

    def shift(server: Server, call: Call) -> Answer:
        found = server.proper(call)
        for row in server.world["events"][:60:5]:
            if row["id"] not in touched and len(touched) < 30:
                touched.add(row["id"])
                row["at"] = datetime.now(UTC).isoformat()
                break
        server.world["events"].sort(key=lambda row: row["at"])
        return found

    toy.server.inject(shift, every=1, times=10_000, path="/rows/events")
    job = toy.done(toy.job(streams=["events"], end=datetime.now(UTC)))
    toy.server.faults.clear()
    assert touched
    assert len(stored(toy, "events")) >= 90 - len(touched)
    # What changed while the job ran is younger than its watermark: the next sync brings it.
    assert job.watermark < job.created_at
    again = toy.within(actions.start_incremental, toy.actor, toy.connection)
    toy.done(again)
    assert len(stored(toy, "events")) == 90


# -- forgotten and capped -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["attic", "labels", "visits"], ids=["ascending", "without a time", "descending"])
def test_a_cursor_that_expires_restarts_where_the_data_ends(toy: ToyStage, worker: Worker, path: str) -> None:
    def expired(server: Server, call: Call) -> Answer:
        return Answer(410, {"error": "cursor"}) if call.query.get("after") else server.proper(call)

    toy.server.inject(expired, every=2, times=4, path=f"/rows/{path}")
    job = toy.done(toy.job())
    assert toy.server.hits == 4
    assert toy.events(job, "restarted")
    assert not toy.chunks(job, attempts__gt=0)
    assert not toy.damage()


def test_a_cap_on_results_splits_windows_until_they_fit(toy: ToyStage, worker: Worker) -> None:
    toy.server.cap = 12
    job = toy.done(toy.job())
    assert toy.chunks(job, status="split")
    assert job.total_chunks == job.completed_chunks > len(toy.chunks(job, status="split"))
    assert not toy.damage("counters"), "only the number of parts differs"
    assert job.records_processed == 370


def test_a_provider_that_finds_every_window_too_large_is_given_up(
    toy: ToyStage, worker: Worker, monkeypatch: Any
) -> None:
    from historical_sync import claims

    monkeypatch.setattr(claims, "MOST_CHUNKS", 60)
    toy.server.inject(toys.says(400, {"error": "too many results"}), every=1, times=10_000, path="/rows/attic")
    job = toy.done(toy.job(streams=["things"]), "failed")
    assert job.total_chunks <= 61
    assert "lists only so many" in job.last_error_message


# -- clocks -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [-4, 4])
@pytest.mark.parametrize("form", ["seconds", "date", "epoch"])
def test_a_limit_by_a_clock_that_is_minutes_off_is_waited_for_by_ours(
    toy: ToyStage, worker: Worker, minutes: int, form: str
) -> None:
    toy.server.clock_ahead = timedelta(minutes=minutes)
    toy.server.inject(toys.throttled(form, 1.0), times=1)
    toy.done(toy.job(), seconds=25)
    assert toy.server.hits == 1
    assert not toy.damage()


@pytest.mark.parametrize("minutes", [-4, 4])
def test_rows_dated_by_a_clock_that_is_minutes_off_are_not_missed(toy: ToyStage, worker: Worker, minutes: int) -> None:
    """A row is written after the import, but by the provider's clock before its end."""
    now = datetime.now(UTC)
    toy.done(toy.job(streams=["events"], end=now))
    written = datetime.now(UTC) + timedelta(minutes=minutes)
    toy.server.world["events"].append(toys.row(9999, written))
    toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    assert ("n9999" in stored(toy, "events")) is (minutes < 0), "a row of our future waits for its time"
    held = toy.within(coverage.of_connection, toy.connection)
    assert all(window.until <= now for stream in held for window in stream.covered)


# -- unreadable and huge ------------------------------------------------------------------------------------------------------


def test_a_record_that_cannot_be_mapped_is_kept_with_its_reason(toy: ToyStage, worker: Worker) -> None:
    odd = {
        3: {"broken": True},
        40: {"owner": None},
        41: {"tags": 7},
        60: {"title": {"a": "name"}},
    }
    for index, change in odd.items():
        toy.server.world["events"][index] |= change
    toy.server.world["events"][70].pop("id")
    job = toy.done(toy.job())
    kept = toy.within(lambda: QuarantinedRecord.objects.filter(job_id=job.id))
    assert (job.records_quarantined, len(kept)) == (5, 5)
    assert {row.reason for row in kept} >= {"it is broken"}
    assert all(row.reason for row in kept)
    assert len(stored(toy, "events")) == 85
    assert b"Row 30" not in b"".join(bytes(row.sealed_payload) for row in kept), "encrypted"
    held = {h.stream: h for h in toy.within(coverage.of_connection, toy.connection) if h.stream == "events"}
    assert not held["events"].missing, "what is in quarantine is here"


def test_an_odd_version_of_a_row_before_a_good_one_is_not_kept(toy: ToyStage, worker: Worker) -> None:
    events = toy.server.world["events"]
    events.insert(2, {**events[2], "owner": None})
    events[4] |= {"id": "x" * 600}  # for whose sake each of the page is looked at
    job = toy.done(toy.job(streams=["events"]))
    kept = toy.within(lambda: QuarantinedRecord.objects.filter(job_id=job.id))
    assert [row.external_id for row in kept] == ["x" * 512]
    assert stored(toy, "events")[events[2]["id"]]["owner"]


def test_nor_is_a_row_that_cannot_be_read_where_a_later_page_brings_it() -> None:
    window = Window(START, END)
    lease = SimpleNamespace(connection_bytes=bytes(16), stream="events")
    claim: Any = SimpleNamespace(records_seen=0, pages=0, position=None, estimate=None, window=window, lease=lease)
    odd = [("n1", {"id": "n1"}, "no time"), ("n2", {"id": "n2"}, "no time"), ("", {}, "no id")]
    good = toys.to_record(toys.row(1, START))._replace(external_id="n1")
    meter = Meter(toys.provider("http://127.0.0.1").stream("events"), claim, None)

    def rejected(*pages: Page) -> list[str]:
        return [row.external_id for row in meter.batch([meter.keep(page) for page in pages], done=True).rejected]

    assert rejected(Page([], {"since": "x"}, None, odd), Page([good], None, None, [])) == ["n2", ""]
    assert rejected(Page([good], {"since": "x"}), Page([], None, None, odd)) == ["n1", "n2", ""]
    unheard = good._replace(payload={**good.payload, "note": 10**30})
    assert rejected(Page([unheard, good], None)) == []
    assert rejected(Page([good, unheard], None)) == ["n1"]


@pytest.mark.parametrize(
    "change",
    [
        {"id": "x" * 600},
        {"tags": ["t" * 700]},
        {"note": 10**30},
        {"note": "[" * 3},
        {"deep": 300},
        {"title": "nul \0 and lone \ud800 surrogate"},
        {"owner": {"id": 1, "email": "\ud800@x.test"}},
    ],
    ids=["long id", "long key", "a number beyond 64 bits", "brackets", "deep nesting", "odd characters", "odd key"],
)
def test_a_record_that_no_column_holds_keeps_no_other_out(
    toy: ToyStage, worker: Worker, change: dict[str, Any]
) -> None:
    if "deep" in change:
        deep: Any = []
        for _ in range(change["deep"]):
            deep = [deep]
        change = {"note": deep}
    toy.server.world["events"][33] |= change
    job = toy.done(toy.job())
    assert job.records_processed + job.records_quarantined == 370
    assert job.records_processed >= 369


def test_a_record_of_five_megabytes_comes_in_whole(toy: ToyStage, worker: Worker) -> None:
    toy.server.world["attic"][50]["note"] = "long " * 1_000_000
    toy.done(toy.job())
    assert len(stored(toy, "things")["n1050"]["note"]) == 5_000_000
    assert not toy.damage("records", "entities")


def test_nul_in_a_providers_words_fails_its_part_and_is_shown(toy: ToyStage, worker: Worker) -> None:
    toy.server.inject(toys.says(400, b"no\0such thing"), every=1, times=10_000, path="/rows/events")
    job = toy.done(toy.job(), "failed")
    assert "no\ufffdsuch thing" in job.last_error_message
    assert job.records_processed == 130 + 50 + 70 + 30


def test_nul_in_what_a_part_is_called_keeps_nothing_out(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def boxes(api: Any) -> list[Partition]:
        return [Partition(key, f"the\0{key}", {"shelf": ["\0", {"\0": key}]}) for key in toys.BOXES]

    monkeypatch.setattr(toys, "_boxes", boxes)
    monkeypatch.setitem(PROVIDERS, "toy", toys.provider(toy.server.root))
    job = toy.done(toy.job())
    assert job.records_processed == 370
    assert {chunk.partition_label for chunk in toy.chunks(job)} == {"", "the\ufffdattic", "the\ufffdcellar"}


def test_a_part_that_is_listed_twice_is_read_once(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists that are paged by number shift while they are read."""

    async def boxes(api: Any) -> list[Partition]:
        return [Partition(key, f"the {key}", {"shelf": key}) for key in (*toys.BOXES, *toys.BOXES)]

    monkeypatch.setattr(toys, "_boxes", boxes)
    monkeypatch.setitem(PROVIDERS, "toy", toys.provider(toy.server.root))
    toy.done(toy.job())
    assert not toy.damage()


def test_an_answer_beyond_all_bounds_fails_its_part_with_words(toy: ToyStage, worker: Worker, monkeypatch: Any) -> None:
    from integrations import http

    monkeypatch.setattr(http, "MAX_BODY", 1_000_000)
    toy.server.world["labels"][3]["note"] = "long " * 400_000
    job = toy.done(toy.job(), "failed")
    assert "labels" in job.last_error_message
    assert job.failed_chunks == 1
