"""What a job's numbers mean: percentage, speed, time left, words. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atom.words import duration, number
from historical_sync import states
from historical_sync.progress import describe

NOW = datetime(2026, 10, 20, 12, tzinfo=UTC)


def job(**given: Any) -> Any:
    values = {
        "status": "running", "control": "none", "pause_reason": "", "planned": True, "phase_detail": "", "progress": 0.0,
        "progress_total": 100.0, "records_processed": 0, "records_skipped": 0, "total_chunks": 4, "failed_chunks": 0,
        "waiting_until": None, "last_error_code": "", "last_error_at": None, "last_page_at": None, "earlier_pace_at": None, "earlier_pace_progress": 0.0, "earlier_pace_records": 0,
    }  # fmt: skip
    return SimpleNamespace(**{**values, **given})


@given(progress=st.floats(0, 1e6), total=st.just(0.0) | st.floats(0.01, 1e6), status=st.sampled_from(states.STATUSES))
def test_a_hundred_percent_is_done_and_nothing_else_is(progress: float, total: float, status: str) -> None:
    percentage = describe(job(progress=progress, progress_total=total, status=status), NOW).percentage
    assert 0 <= percentage <= 100
    assert (percentage == 100) == (status == "completed")


@given(steps=st.lists(st.floats(0, 10), min_size=2, max_size=20))
def test_the_percentage_never_goes_back(steps: list[float]) -> None:
    done, shown = 0.0, []
    for step in steps:
        done += step
        shown.append(describe(job(progress=done, progress_total=sum(steps) or 1), NOW).percentage)
    assert shown == sorted(shown)


def test_speed_and_time_left_come_from_the_recent_past() -> None:
    seen = describe(
        job(progress=40, records_processed=900, records_skipped=100, last_page_at=NOW, earlier_pace_at=NOW - timedelta(seconds=10),
            earlier_pace_progress=20, earlier_pace_records=500),
        NOW,
    )  # fmt: skip
    assert seen.records_per_second == 50
    assert seen.seconds_remaining == 30
    assert seen.seconds_low is not None
    assert seen.seconds_high is not None
    assert seen.seconds_low < 30 < seen.seconds_high


@pytest.mark.parametrize(
    ("given", "quiet"),
    [
        ({"last_page_at": NOW - timedelta(seconds=5)}, False),
        ({"last_page_at": NOW - timedelta(seconds=15)}, True),
        ({}, True),
        ({"waiting_until": NOW + timedelta(minutes=1)}, False),
        ({"status": "paused"}, False),
    ],
)
def test_a_job_at_work_without_a_page_for_long_is_quiet(given: dict[str, Any], quiet: bool) -> None:
    assert describe(job(**given), NOW).quiet is quiet


@pytest.mark.parametrize(
    ("page", "error", "erring"), [(5, 2, False), (40, 20, True), (40, 50, False), (None, 20, True)]
)
def test_a_quiet_job_errs_if_what_came_in_last_was_an_error(page: int | None, error: int, erring: bool) -> None:
    last_page_at = None if page is None else NOW - timedelta(seconds=page)
    seen = describe(job(last_page_at=last_page_at, last_error_at=NOW - timedelta(seconds=error)), NOW)
    assert seen.erring is erring


def test_a_job_that_waits_has_no_speed_and_no_end_but_a_time() -> None:
    at = NOW + timedelta(minutes=5)
    seen = describe(
        job(
            waiting_until=at,
            last_error_code="provider_throttled",
            progress=40,
            last_page_at=NOW,
            earlier_pace_at=NOW - timedelta(seconds=10),
        ),
        NOW,
    )
    assert (seen.records_per_second, seen.seconds_remaining, seen.waiting_until) == (None, None, at)
    assert "12:05" in seen.phase
    over = describe(job(waiting_until=at), at + timedelta(seconds=1))
    assert over.waiting_until is None


def test_a_job_that_nobody_works_on_has_no_speed_and_no_end() -> None:
    pace = {"earlier_pace_at": NOW - timedelta(seconds=10), "earlier_pace_progress": 20, "earlier_pace_records": 500}
    left = job(progress=40, records_processed=900, last_page_at=NOW, **pace)
    left.worker_alive = False
    seen = describe(left, NOW + timedelta(days=3))
    assert (seen.records_per_second, seen.seconds_remaining, seen.seconds_low, seen.seconds_high) == (None,) * 4
    left.worker_alive = True
    assert describe(left, NOW).seconds_remaining == 30


@pytest.mark.parametrize("status", states.STATUSES)
@pytest.mark.parametrize("control", states.CONTROLS)
def test_every_state_has_words_for_people(status: str, control: str) -> None:
    for reason in ("", *states.PAUSE_REASONS):
        phase = describe(job(status=status, control=control, pause_reason=reason), NOW).phase
        assert phase[0].isupper()
        assert "_" not in phase
        assert "None" not in phase


def test_a_job_that_brought_nothing_says_so() -> None:
    assert "already here" in describe(job(status="completed", total_chunks=0), NOW).phase
    assert "nothing new" in describe(job(status="completed"), NOW).phase
    assert "nothing" not in describe(job(status="completed", records_processed=1), NOW).phase


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "1 h"), (7800, "2 h 10 min"), (86_400 * 3, "3 days"), (None, "–"), (-5, "0 s")],
)  # fmt: skip
def test_durations_as_people_say_them(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def test_numbers_have_separators() -> None:
    assert [number(n) for n in (0, 999, 12_345, None)] == ["0", "999", "12,345", "–"]
