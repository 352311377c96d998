"""The ledger of what is here: what a job plans, what goes on where, which gaps there are and how they are closed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from psycopg.types.range import Range

from atom.errors import Refused
from atom.models import ApiKey, Tenant
from historical_sync import actions, coverage, forgetting
from historical_sync.models import Coverage, QuarantinedRecord, SyncChunk, SyncRecord
from integrations.providers.base import Window
from tests.conftest import Worker, job_now, wait_for
from tests.faults import toy as toys
from tests.faults.toy import END, START
from tests.faults.toy_stage import ToyStage

pytestmark = pytest.mark.django_db(transaction=True)

MIDDLE = START + timedelta(days=30)
STREAMS = {"labels", "things", "events", "visits"}


def held(toy: ToyStage, **span: Any) -> dict[tuple[str, str], coverage.Held]:
    found = toy.within(coverage.of_connection, toy.connection, **span)
    return {(part.stream, part.partition): part for part in found}


def ids(toy: ToyStage) -> set[str]:
    return {row.external_id for row in toy.within(lambda: SyncRecord.objects.filter(tenant=toy.tenant))}


def test_the_same_range_again_asks_for_no_row(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job())
    asked = len(toy.server.pages())
    again = toy.done(toy.job())
    assert (again.total_chunks, again.records_processed) == (0, 0)
    assert len(toy.server.pages()) == asked


def test_full_reads_all_again_and_finds_it_unchanged(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job())
    again = toy.done(toy.job(full=True))
    assert (again.records_processed, again.records_skipped, again.entities_extracted) == (0, 370, 0)
    assert not toy.damage("counters", "by kind", "records"), "only the job that saw it last is another"


def test_extending_the_range_back_imports_the_new_part_only(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job(start=MIDDLE))
    asked = len(toy.server.pages())
    job = toy.done(toy.job())
    new = toy.server.pages()[asked:]
    assert not [call for call in new if call.path == "/rows/labels"], "a snapshot is here already"
    assert all(call.query["until"] <= MIDDLE.isoformat() for call in new if "until" in call.query)
    assert job.records_skipped == 0
    assert not toy.damage("counters", "by kind")


def test_the_ledger_holds_what_is_here_by_stream_and_partition(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job(start=MIDDLE))
    found = held(toy, since=START, until=END)
    assert set(found) == {("labels", ""), ("things", "attic"), ("things", "cellar"), ("events", ""), ("visits", "")}
    assert found["things", "attic"].covered == (Window(MIDDLE, END),)
    assert found["things", "attic"].missing == (Window(START, MIDDLE),)
    assert found["things", "attic"].partition_label == "the attic"
    assert found["labels", ""].missing == (), "what has no time is here up to when it was read"
    assert all(part.missing == () for part in held(toy).values()), "nothing of what was asked for"


def test_gaps_are_listed_with_what_failed_and_closed_by_one_action(toy: ToyStage, worker: Worker) -> None:
    toy.server.inject(toys.says(403, {"error": "scope"}), every=1, times=10_000, path="/rows/cellar")
    toy.done(toy.job(), "failed")
    part = held(toy)["things", "cellar"]
    assert part.missing == (Window(START, END),)
    assert [failed.code for failed in part.failed] == ["provider_access_denied"] * len(part.failed)
    assert "things:read" in part.failed[0].reason

    toy.server.faults.clear()
    asked = len(toy.server.pages())
    repair = toy.done(toy.within(actions.repair_gaps, toy.actor, toy.connection))
    assert (repair.kind, repair.streams) == ("repair", ["things"])
    assert {call.path for call in toy.server.pages()[asked:]} == {"/rows/cellar"}
    assert not any(part.missing or part.failed for part in held(toy).values())
    assert not toy.damage("counters", "by kind")
    with pytest.raises(Refused, match="Nothing is missing"):
        toy.within(actions.repair_gaps, toy.actor, toy.connection)


def test_that_parts_could_not_be_listed_is_old_news_once_they_were(toy: ToyStage, worker: Worker) -> None:
    toy.server.inject(toys.says(403, {"error": "scope"}), every=1, times=10_000, path="/boxes")
    toy.done(toy.job(streams=["things"]), "failed")
    assert {key: bool(part.failed) for key, part in held(toy).items()} == {("things", ""): True}
    toy.server.faults.clear()
    toy.done(toy.job(streams=["things"]))
    assert {key: bool(part.missing) for key, part in held(toy).items()} == {
        ("things", box): False for box in toys.BOXES
    }


def test_while_parts_can_not_be_listed_those_that_are_known_lack_what_is_new_and_say_why(
    toy: ToyStage, worker: Worker
) -> None:
    """The list that was refused counted as one more part, without a name, of which nothing was here."""
    toy.done(toy.job(streams=["things"], end=datetime.now(UTC)))
    known = held(toy)
    toy.server.inject(toys.says(403, {"error": "scope"}), every=1, times=10_000, path="/boxes")
    toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection), "failed")
    found = held(toy)
    assert found.keys() == known.keys() == {("things", box) for box in toys.BOXES}
    for place, part in found.items():
        assert part.covered == known[place].covered
        assert [failed.window for failed in part.failed] == list(part.missing)
        assert "things:read" in part.failed[0].reason
    toy.server.faults.clear()
    toy.done(toy.within(actions.repair_gaps, toy.actor, toy.connection))
    assert not any(part.missing for part in held(toy).values())


def test_a_repair_brings_nothing_that_nobody_asked_for(toy: ToyStage, worker: Worker) -> None:
    """Events were asked for over all the time, visits only lately; there is a hole in the events."""
    third = START + timedelta(days=20)
    toy.done(toy.job(streams=["events"], end=third))
    toy.done(toy.job(streams=["events"], start=MIDDLE))
    toy.done(toy.job(streams=["visits"], start=MIDDLE, end=END - timedelta(days=20)))
    toy.done(toy.job(streams=["visits"], start=END - timedelta(days=10)))
    assert held(toy)["events", ""].missing == (Window(third, MIDDLE),)
    repair = toy.done(toy.within(actions.repair_gaps, toy.actor, toy.connection))
    assert (repair.start_date, set(repair.streams)) == (third, {"events", "visits"})
    assert not any(part.missing for part in held(toy).values()), "nor is that missed now"
    assert {row["id"] for row in toy.server.world["events"]} <= ids(toy)
    visits = [row for row in toy.server.world["visits"] if row["id"] in ids(toy)]
    assert min(row["at"] for row in visits) >= MIDDLE.isoformat()


def test_what_a_cancelled_import_left_out_is_a_gap(toy: ToyStage, worker: Worker) -> None:
    toy.server.inject(toys.says(403, {"error": "daily quota"}, Retry_After="3000"), every=6, times=10_000)
    job = toy.job()
    wait_for(lambda: job_now(job).waiting_until)
    toy.within(actions.cancel, toy.actor, job)
    toy.done(job, "cancelled")
    assert any(part.missing for part in held(toy).values())
    toy.server.faults.clear()
    toy.within(lambda: type(toy.connection).objects.filter(id=toy.connection.id).update(blocked_until=None))
    missing = toy.done(toy.job())
    assert missing.total_chunks > 0
    assert not toy.damage("counters", "by kind")


# -- going on -----------------------------------------------------------------------------------------------------------------


def test_an_incremental_sync_goes_on_at_the_watermark_of_the_start(toy: ToyStage, worker: Worker) -> None:
    first = toy.done(toy.job(end=datetime.now(UTC)))
    toy.server.world["events"].append(toys.row(9001, datetime.now(UTC)))
    toy.server.world["attic"].append(toys.row(9002, datetime.now(UTC)))
    toy.server.world["labels"].append(toys.row(9003, START - timedelta(days=1000)))
    toy.server.world["visits"].append(toys.row(9004, datetime.now(UTC)))
    asked = len(toy.server.pages())
    job = toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    assert (job.kind, job.start_date) == ("incremental", first.watermark)
    assert set(job.streams) == STREAMS
    assert job.records_processed == 4, "a snapshot is read anew, whatever the ledger says of it"
    assert {"n9001", "n9002", "n9003", "n9004"} <= ids(toy)
    assert len(toy.server.pages()) - asked < asked / 2

    again = toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    assert again.records_processed == 0
    assert again.start_date == job.watermark


def test_a_program_brings_what_is_new_and_what_is_missing(toy: ToyStage, worker: Worker) -> None:
    """Without a range, which it would have to remember."""
    _, key = toy.within(ApiKey.objects.create_key, tenant=toy.tenant, role="member", name="cron")
    program = Client(headers={"Authorization": f"Api-Key {key}"})

    def asked_for(kind: str) -> Any:
        path = f"/api/integrations/{toy.connection.id}/historical-sync/start"
        reply = program.post(path, {"kind": kind}, "application/json")
        assert reply.status_code == 202, reply.json()
        return toy.done(toy.within(actions.get_job, toy.tenant, reply.json()["job_id"]))

    toy.done(toy.job(end=datetime.now(UTC)))
    toy.server.world["events"].append(toys.row(9011, datetime.now(UTC)))
    toy.server.world["attic"].append(toys.row(9012, datetime.now(UTC)))
    job = asked_for("incremental")
    assert (job.kind, job.trigger, job.records_processed) == ("incremental", "api", 2)
    assert {"n9011", "n9012"} <= ids(toy)

    toy.done(toy.job(start=START - timedelta(days=9), end=START - timedelta(days=6), streams=["things"]))
    older = toys.row(9013, START - timedelta(days=2))
    toy.server.world["attic"].append(older)
    repair = asked_for("repair")
    assert (repair.kind, repair.trigger, repair.records_processed) == ("repair", "api", 1)
    assert older["id"] in ids(toy)
    assert not any(part.missing for part in held(toy).values())


def test_a_row_that_moves_from_an_old_window_to_a_new_one_meanwhile_is_not_lost(toy: ToyStage, worker: Worker) -> None:
    """It is touched after its new window was read and before its old one is: this import can't see it, the next one does."""
    moved = toy.server.world["attic"][5]
    state = {"done": False}

    def move(call: Any) -> None:
        # The newest windows come first; the old one is asked for later.
        if call.path == "/rows/attic" and call.query["since"] <= moved["at"] and not state["done"]:
            state["done"] = True
            moved["at"] = datetime.now(UTC).isoformat()

    toy.server.faults.append(move)
    toy.done(toy.job(end=datetime.now(UTC)))
    assert state["done"]
    assert moved["id"] not in ids(toy)
    toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    assert moved["id"] in ids(toy)
    assert len(ids(toy)) == 370


def test_a_partition_that_failed_last_time_is_caught_up_from_where_it_ended(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job(end=datetime.now(UTC)))
    row = toys.row(9005, datetime.now(UTC))
    toy.server.world["cellar"].append(row)
    toy.server.inject(toys.says(403, {"error": "scope"}), every=1, times=10_000, path="/rows/cellar")
    failed = toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection), "failed")
    toy.server.faults.clear()
    job = toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    assert job.start_date >= failed.start_date
    assert "n9005" in ids(toy)
    assert not any(part.missing for part in held(toy).values())


@pytest.mark.parametrize("ending", ["failed", "cancelled", "completed"])
def test_a_hole_that_an_incremental_sync_left_is_closed_by_the_next_one(
    toy: ToyStage, worker: Worker, ending: str
) -> None:
    """Long after the last one it comes in parts, the newest first: that one is here, the older one is not."""
    since = START + timedelta(days=10)
    is_old = lambda call: call.path == "/rows/attic" and call.query["since"] < MIDDLE.isoformat()  # noqa: E731
    answer = toys.Answer(500, {}) if ending == "cancelled" else toys.Answer(403, {"error": "scope"})
    toy.done(toy.job(end=since))
    toy.server.faults.append(lambda call: answer if is_old(call) else None)
    if ending == "completed":  # without what was refused the last time, too
        toy.done(toy.job(start=START - timedelta(days=9), end=START, streams=["things"]), "failed")
    trigger = "schedule" if ending == "completed" else "manual"
    job = toy.within(actions.start_incremental, toy.actor, toy.connection, trigger=trigger)
    if ending == "cancelled":
        wait_for(lambda: len(toy.chunks(job, status="completed")) == job_now(job).total_chunks - 1 > 0)
        toy.within(actions.cancel, toy.actor, job)
    toy.done(job, ending)
    assert any(part.missing for part in held(toy).values())
    toy.server.faults.clear()
    toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    assert ids(toy) == {row["id"] for rows in toy.server.world.values() for row in rows}
    if ending == "completed":  # what was refused before that is a repair's
        toy.done(toy.within(actions.repair_gaps, toy.actor, toy.connection))
    assert not any(part.missing for part in held(toy).values())
    # What is here is not read once more.
    asked = len(toy.server.pages())
    toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    assert not [call for call in toy.server.pages()[asked:] if is_old(call)]


def test_a_partition_that_appears_is_read_as_far_back_as_the_others(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.done(toy.job(end=datetime.now(UTC)))
    monkeypatch.setattr(toys, "BOXES", (*toys.BOXES, "shed"))
    toy.server.world["shed"] = [toys.row(6000 + i, START + timedelta(days=5 * i)) for i in range(10)]
    toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    assert {f"n{6000 + i}" for i in range(10)} <= ids(toy)


@pytest.mark.parametrize("listed_late", [False, True])
def test_a_stream_that_had_nothing_to_be_listed_by_at_first_comes_in_once_there_is(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch, listed_late: bool
) -> None:
    """A bot that is connected before it is invited to a channel, an organisation without a repository."""
    boxes = toys.BOXES
    monkeypatch.setattr(toys, "BOXES", ())
    if listed_late:
        toy.server.inject(toys.says(403, {"error": "scope"}), every=1, times=1, path="/boxes")
    toy.done(toy.job(end=datetime.now(UTC)))
    toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    monkeypatch.setattr(toys, "BOXES", boxes)
    toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    assert {row["id"] for box in boxes for row in toy.server.world[box]} <= ids(toy)
    assert not any(part.missing for part in held(toy).values())


def test_an_incremental_sync_reads_no_further_back_than_the_plan(toy: ToyStage, worker: Worker) -> None:
    now = datetime.now(UTC)
    toy.server.world["events"] = [toys.row(8000 + days, now - timedelta(days=days)) for days in (250, 150, 50)]
    toy.done(toy.job(streams=["events"], start=now - timedelta(days=300), end=now - timedelta(days=200)))
    toy.within(lambda: Tenant.objects.filter(id=toy.tenant.id).update(plan="free"))
    job = toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    assert min(chunk.since for chunk in toy.chunks(job)) >= job.start_date
    assert ids(toy) == {"n8250", "n8050"}


def test_a_stream_that_ended_long_ago_takes_no_other_back_with_it(toy: ToyStage, worker: Worker) -> None:
    """Events ended a while ago, everything else was asked for only later, and is here."""
    ended, now = START + timedelta(days=20), datetime.now(UTC)
    toy.done(toy.job(streams=["events"], end=ended))
    last = toy.done(toy.job(streams=["things", "visits"], start=MIDDLE, end=now))
    asked = len(toy.server.pages())
    job = toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    assert job.start_date == ended
    assert {row["id"] for row in toy.server.world["events"]} <= ids(toy)
    calls = [call for box in toys.BOXES for call in toy.server.pages(box) if call in toy.server.pages()[asked:]]
    assert len(calls) == len(toys.BOXES)
    assert all(call.query["since"] == last.watermark.isoformat() for call in calls)
    things = [row for name in (*toys.BOXES, "visits") for row in toy.server.world[name] if row["id"] in ids(toy)]
    assert min(row["at"] for row in things) >= MIDDLE.isoformat()
    assert not any(part.missing for part in held(toy).values()), "nor is that missed, for nobody asked for it"


def test_partitions_that_are_listed_late_go_on_where_each_ended(toy: ToyStage, worker: Worker) -> None:
    """The boxes can't be listed when the incremental job is planned; they were asked for in two pieces."""
    third = START + timedelta(days=20)
    toy.done(toy.job(streams=["things"], end=third))
    last = toy.done(toy.job(streams=["things"], start=MIDDLE, end=datetime.now(UTC)))
    asked = len(toy.server.pages())
    toy.server.inject(toys.says(403, {"error": "scope"}), every=1, times=1, path="/boxes")
    toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    calls = toy.server.pages()[asked:]
    assert {(call.path, call.query["since"]) for call in calls} == {
        (f"/rows/{box}", last.watermark.isoformat()) for box in toys.BOXES
    }


def test_there_is_nothing_to_go_on_from_before_the_first_import(toy: ToyStage) -> None:
    with pytest.raises(Refused, match="Import its history first"):
        toy.within(actions.start_incremental, toy.actor, toy.connection)


def test_only_what_was_chosen_once_goes_on(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job(streams=["events"], end=datetime.now(UTC)))
    job = toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    assert job.streams == ["events"]


# -- what is kept of it -------------------------------------------------------------------------------------------------------


def test_coverage_stays_what_it_was_without_the_parts_of_old_imports(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a partition that is gone, of failures and of what nothing newer went over, all stays."""
    monkeypatch.setattr(toys, "BOXES", (*toys.BOXES, "shed"))
    toy.server.world["shed"] = [toys.row(6000 + i, START + timedelta(days=5 * i)) for i in range(10)]
    toy.done(toy.job(end=datetime.now(UTC)))
    monkeypatch.setattr(toys, "BOXES", toys.BOXES[:-1])
    toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    toy.server.inject(toys.says(403, {"error": "scope"}), every=1, times=10_000, path="/rows/cellar")
    failed = toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection), "failed")
    toy.done(toy.job(start=START - timedelta(days=9), end=START, streams=["events"]))

    def told() -> tuple[Any, ...]:
        return (
            toy.within(coverage.of_connection, toy.connection),
            toy.within(coverage.left_over, toy.connection),
            toy.within(coverage.asked, toy.connection),
        )

    def parts() -> set[Any]:
        return {row.id for row in toy.within(lambda: SyncChunk.objects.filter(tenant=toy.tenant))}

    before, then = told(), parts()
    old = datetime.now(UTC) + forgetting.PARTS_KEPT - timedelta(minutes=1)
    assert forgetting.forget_parts(old) == 0, "not yet"
    forgotten = forgetting.forget_parts(old + timedelta(minutes=2))
    assert 0 < forgotten == len(then) - len(parts())
    assert told() == before
    assert forgetting.forget_parts(old + timedelta(minutes=3)) == 0, "each import is looked through once"

    # What failed can still be tried again, and is looked through once more when it has ended.
    toy.server.faults.clear()
    toy.within(actions.resume, toy.actor, failed)
    toy.done(failed)
    assert not any(part.missing for part in held(toy).values())
    asked = len(toy.server.pages())
    toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    before = told()
    assert len(toy.server.pages()) - asked < 12, "nothing is read anew"
    assert forgetting.forget_parts(old + timedelta(minutes=4)) > 0
    assert told() == before


@pytest.mark.parametrize("trigger", ["manual", "schedule"])
def test_of_parts_that_fail_again_and_again_the_newest_are_kept(toy: ToyStage, worker: Worker, trigger: str) -> None:
    """As by a schedule that nobody looks after."""
    toy.done(toy.job(end=datetime.now(UTC)))
    toy.server.inject(toys.says(403, {"error": "scope"}), every=1, times=10_000, path="/rows/cellar")
    again = "completed" if trigger == "schedule" else "failed"  # which goes on without what was refused before
    jobs = [
        toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection, trigger=trigger), status)
        for status in ("failed", again, again)
    ]

    def told() -> tuple[Any, ...]:
        return held(toy), toy.within(coverage.left_over, toy.connection)

    def failed() -> list[int]:
        return [len(toy.chunks(job, status="failed")) for job in jobs]

    before = told()
    assert failed() == [1, 1, 1]
    forgetting.forget_parts(jobs[-1].completed_at + forgetting.PARTS_KEPT)
    assert failed() == [0, 0, 1]
    assert told() == before
    with pytest.raises(Refused, match="later ones went over what it lacks"):
        toy.within(actions.resume, toy.actor, jobs[0])

    # Of what has come in after all none needs to be kept.
    toy.server.faults.clear()
    toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    later = datetime.now(UTC) + timedelta(days=1)  # by when the last minutes are settled
    ledger = Coverage.objects.filter(connection=toy.connection, stream="things", partition="cellar")
    toy.within(lambda: ledger.update(ranges=[Range(START, later)]))
    before = told()
    forgetting.forget_parts(later + forgetting.PARTS_KEPT)
    assert failed() == [0, 0, 0]
    assert told()[0] == before[0]


def test_parts_with_something_in_quarantine_are_kept_until_it_is_replayed(toy: ToyStage, worker: Worker) -> None:
    toy.server.world["events"][3] |= {"broken": True}
    first = toy.done(toy.job(streams=["events"], end=datetime.now(UTC)))
    toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection))
    later = datetime.now(UTC) + forgetting.PARTS_KEPT + timedelta(minutes=1)
    forgetting.forget_parts(later)
    [row] = toy.within(lambda: QuarantinedRecord.objects.filter(tenant=toy.tenant))
    assert [chunk.id for chunk in toy.chunks(first)] == [row.chunk_id]
    done = toy.within(actions.replay_quarantine, toy.actor, first)
    assert (done.mapped, done.left) == (0, 1)
    # Once it is replayed, neither it nor its part is needed.
    toy.within(lambda: QuarantinedRecord.objects.filter(id=row.id).update(replayed_at=datetime.now(UTC)))
    toy.within(lambda: type(first).objects.filter(id=first.id).update(parts_forgotten=False))
    assert forgetting.forget_parts(later) == 1
    assert not toy.within(lambda: QuarantinedRecord.objects.filter(tenant=toy.tenant))
