"""Waits: they hold no worker, they are shown with their time, and what they count survives the worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection

from historical_sync import actions, retrying
from historical_sync.models import HistoricalSyncJob
from historical_sync.progress import describe
from historical_sync.totals import DailyTotals
from tests.conftest import Worker, job_now, wait_for
from tests.faults import toy as toys
from tests.faults.toy_stage import ToyStage

pytestmark = pytest.mark.django_db(transaction=True)


def soon(job: Any) -> Any:
    return wait_for(lambda: (now := job_now(job)).waiting_until and now)


def test_a_long_wait_frees_the_worker_and_shows_its_time(toy: ToyStage) -> None:
    """A worker with one slot: while one job waits for a quota, another one's import goes through it."""
    toy.server.inject(toys.says(403, {"error": "quota"}, Retry_After="1800"), every=2, times=1, path="/rows/events")
    running = Worker(concurrency=1)
    try:
        waiting = toy.job(streams=["events"])
        now = soon(waiting)
        assert now.status == "running"
        assert timedelta(minutes=29) < now.waiting_until - datetime.now(UTC) < timedelta(minutes=31)
        assert "limit until" in describe(now).phase
        assert now.last_error_code == "provider_throttled"
        # The first part that meets the limit says so; each of the others is taken up, meets it too and is given back.
        wait_for(lambda: not toy.chunks(waiting, status="running"), 10)
        other = toy.other_connection()
        toy.done(toy.job(connection=other))
    finally:
        running.stop()
    assert job_now(waiting).status == "running"


def test_who_waits_for_an_answer_that_is_being_prepared_keeps_nobody_from_asking(toy: ToyStage, worker: Worker) -> None:
    toy.server.inject(toys.says(202, {}, Retry_After="30"), every=1, times=1, path="/rows/labels")
    job = toy.job()
    now = soon(job)
    assert now.records_processed == 340, "the other parts did not wait for the one"
    [waits] = toy.chunks(job, status="pending")
    assert (waits.stream, waits.attempts) == ("labels", 0)
    assert timedelta(seconds=10) < waits.not_before - datetime.now(UTC) < timedelta(seconds=31)
    assert toy.connection.blocked_until is None
    assert "prepares an answer" in describe(now).phase
    assert toy.events(job, "retry") == []


def test_an_answer_that_is_being_prepared_is_had_in_the_end(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "PREPARING_DEFAULT", timedelta(milliseconds=50))
    monkeypatch.setattr(retrying, "MAX_ATTEMPTS", 2)
    toy.server.inject(toys.says(202, {}), every=1, times=4, path="/rows/labels")
    job = toy.done(toy.job())
    assert not toy.damage()
    assert (job.last_error_code, job.last_error_message) == ("", "")


def test_a_wait_is_no_time_in_which_records_were_read(toy: ToyStage, worker: Worker) -> None:
    toy.server.inject(toys.says(403, {"error": "quota"}, Retry_After="4"), every=1, times=1, path="/rows/labels")
    job = toy.done(toy.job(streams=["labels"]))
    ran = (job.completed_at - job.started_at).total_seconds()
    assert 3 < job.waited_seconds <= ran - job.idle_seconds
    (day,) = toy.within(lambda: DailyTotals.objects.filter(tenant=toy.tenant))
    assert day.seconds == pytest.approx(ran - job.waited_seconds, abs=0.01)


def test_a_back_off_that_all_that_is_left_waits_for_is_shown(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "BACK_OFF", 60.0)
    toy.server.inject(toys.says(502), every=1, times=1, path="/rows/labels")
    job = toy.job()
    now = soon(job)
    assert now.records_processed == 340, "the other parts did not wait for the one"
    assert now.waiting_until > datetime.now(UTC)
    assert not toy.chunks(job, status="running")


@pytest.mark.parametrize("minutes", [-20, 20])
@pytest.mark.parametrize(
    ("stream", "path", "fault"),
    [
        ("labels", "/rows/labels", toys.says(502)),
        ("labels", "/rows/labels", toys.says(410)),
        ("things", "/boxes", toys.says(502)),
        ("labels", "/rows/labels", toys.says(403, {"error": "quota"}, Retry_After="120")),
    ],
    ids=["retry", "restart", "plan", "limit"],
)
def test_waits_are_by_the_databases_clock_whatever_the_workers_says(
    toy: ToyStage, monkeypatch: pytest.MonkeyPatch, stream: str, path: str, fault: toys.Fault, minutes: int
) -> None:
    monkeypatch.setattr(retrying, "BACK_OFF", 120.0)
    toy.server.inject(fault, every=1, times=1, path=path)

    def seconds(what: str) -> float:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT extract(epoch FROM {what} - clock_timestamp())::float")
            row = cursor.fetchone()
        return float(row[0])

    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=minutes)):
        running = Worker()
        try:
            job = soon(toy.job(streams=[stream]))
            scheduled = (
                "(SELECT max(scheduled_at) FROM procrastinate_jobs WHERE queue_name = 'history' AND status = 'todo')"
            )
            entries = wait_for(lambda: seconds(f"COALESCE({scheduled}, '-infinity')") > 0 and seconds(scheduled))
        finally:
            running.stop()
    assert 30 < seconds(f"'{job.waiting_until.isoformat()}'::timestamptz") < 190
    assert 30 < entries < 190
    [part] = toy.chunks(job) or [None]
    if part is not None:
        assert part.not_before == job.waiting_until
    if job.last_error_code == "provider_throttled":
        blocked = toy.connection.blocked_until
        assert abs(blocked - job.waiting_until) < timedelta(seconds=10)


def test_what_a_job_got_over_is_no_error_of_its_end(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "BACK_OFF", 0.1)
    toy.server.inject(toys.says(502), every=1, times=1, path="/rows/labels")
    job = toy.done(toy.job())
    assert toy.events(job, "retry")
    assert (job.last_error_code, job.last_error_message) == ("", "")


@pytest.mark.parametrize(("action", "status"), [(actions.pause, "paused"), (actions.cancel, "cancelled")])
def test_what_a_job_was_stuck_on_when_it_was_stopped_is_told(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch, action: Any, status: str
) -> None:
    monkeypatch.setattr(retrying, "BACK_OFF", 60.0)
    toy.server.inject(toys.says(502), every=1, times=1, path="/rows/labels")
    job = toy.job()
    soon(job)
    toy.within(action, toy.actor, job)
    assert toy.done(job, status).last_error_code == "provider_unavailable"


def test_retries_are_counted_since_the_last_progress(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page comes at the third attempt: more failures in all than a part may have in a row."""
    monkeypatch.setattr(retrying, "MAX_ATTEMPTS", 3)
    state: dict[str, int] = {}

    def stubborn(call: Any) -> Any:
        if call.path != "/rows/visits":
            return None
        place = call.query.get("after", "0")
        state[place] = state.get(place, 0) + 1
        return toys.Answer(502, b"") if state[place] < 3 else None

    toy.server.faults.append(stubborn)
    job = toy.done(toy.job())
    assert len(toy.events(job, "retry")) >= 6
    assert not toy.damage()


def test_planning_that_fails_is_counted_in_the_row_and_outlives_its_worker(
    toy: ToyStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "MAX_ATTEMPTS", 4)
    toy.server.inject(toys.says(502), every=1, times=10_000, path="/boxes")
    monkeypatch.setattr(retrying, "BACK_OFF", 0.6)
    first = Worker()
    job = toy.job()
    wait_for(lambda: job_now(job).attempts >= 2)
    first.stop()
    counted = job_now(job).attempts
    second = Worker()
    try:
        ended = toy.done(job, "failed")
    finally:
        second.stop()
    assert counted >= 2
    assert toy.server.hits == 4
    assert ended.last_error_code == "provider_unavailable"

    # And starts anew when somebody retries.
    toy.server.faults.clear()
    toy.within(actions.resume, toy.actor, job)
    third = Worker()
    try:
        toy.done(job)
    finally:
        third.stop()
    assert not toy.damage()


def test_a_part_that_fails_for_good_leaves_the_others_and_is_named(toy: ToyStage, worker: Worker) -> None:
    toy.server.inject(toys.says(502), every=1, times=10_000, path="/rows/visits")
    toy.server.inject(toys.says(400, {"error": "no"}), every=1, times=10_000, path="/rows/cellar")
    job = toy.done(toy.job(), "failed")
    assert job.records_processed == 130 + 90 + 30
    assert job.completed_chunks == job.total_chunks - job.failed_chunks
    words = job.last_error_message
    assert words.startswith("Not imported: ")
    assert "visits of " in words
    assert "things of " in words
    assert "in the cellar" in words
    assert "the attic" not in words

    asked = len(toy.server.calls)
    toy.server.faults.clear()
    toy.within(actions.resume, toy.actor, job)
    job = toy.done(job)
    assert {call.path for call in toy.server.calls[asked:]} == {"/rows/visits", "/rows/cellar"}
    assert (job.retry_count, job.failed_chunks, job.last_error_message) == (1, 0, "")
    assert not toy.damage()


def test_attempts_are_never_more_than_the_row_says(toy: ToyStage, worker: Worker) -> None:
    job = toy.done(toy.job())
    assert toy.within(lambda: HistoricalSyncJob.objects.get(id=job.id).attempts) == 0
