"""Planning: what is missing of a range, cut into windows, newest first. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from historical_sync import planning
from historical_sync.models import HistoricalSyncJob
from historical_sync.planning import Target, plan, subtract, total, words
from historical_sync.targeting import History, missing
from integrations.providers import PROVIDERS
from integrations.providers.base import WHOLE, Estimate, Partition, Stream, Window

START = datetime(2026, 1, 1, tzinfo=UTC)
ISSUES = PROVIDERS["github"].stream("issues")
PULLS = PROVIDERS["github"].stream("pull_requests")
REPOSITORIES = PROVIDERS["github"].stream("repositories")
COMMITS = PROVIDERS["github"].stream("commits")


def window(since: float, until: float) -> Window:
    """In days since START."""
    return Window(START + timedelta(days=since), START + timedelta(days=until))


spans = st.lists(
    st.tuples(st.integers(-20, 120), st.integers(1, 40)).map(lambda s: (window(s[0], s[0] + s[1]).since, window(s[0], s[0] + s[1]).until)),
    max_size=8,
)  # fmt: skip


@given(covered=spans)
def test_what_is_missing_and_what_is_covered_make_the_whole(covered: list[tuple[datetime, datetime]]) -> None:
    whole = window(0, 100)
    missing = subtract(whole, covered)
    for day in range(100):
        moment = START + timedelta(days=day, hours=12)
        is_covered = any(since <= moment < until for since, until in covered)
        assert sum(gap.since <= moment < gap.until for gap in missing) == (0 if is_covered else 1)
    assert all(a.until < b.since for a, b in itertools.pairwise(missing)), "gaps that touch are one"


@given(days=st.integers(1, 1500), records=st.none() | st.integers(0, 3_000_000), partitions=st.integers(1, 5))
def test_the_windows_of_a_stream_cover_its_gaps_once_newest_first(
    days: int, records: int | None, partitions: int
) -> None:
    estimate = None if records is None else Estimate(records, exact=True)
    targets = [
        Target(ISSUES, Partition(str(p), f"repository {p}"), (window(0, days), window(days + 1, days + 3)), estimate)
        for p in range(partitions)
    ]
    chunks = plan(targets)
    for p in range(partitions):
        own = sorted((c.window for c in chunks if c.partition.key == str(p)), key=lambda w: w.since)
        assert own[0].since == window(0, 1).since
        assert own[-1].until == window(0, days + 3).until
        breaks = [(a.until, b.since) for a, b in itertools.pairwise(own) if a.until != b.since]
        assert breaks == [(window(0, days).until, window(days + 1, 0).since)]
        assert len(own) <= 2 * planning.MOST_WINDOWS
    ends = [chunk.window.until for chunk in chunks]
    assert ends == sorted(ends, reverse=True)
    assert all(chunk.weight > 0 for chunk in chunks)


def test_what_has_no_time_comes_first_and_in_one_piece() -> None:
    chunks = plan([Target(ISSUES, WHOLE, (window(0, 300),)), Target(REPOSITORIES, WHOLE, (window(0, 300),))])
    assert chunks[0].stream == "repositories"
    assert sum(chunk.stream == "repositories" for chunk in chunks) == 1


def test_what_is_read_in_one_go_is_not_cut() -> None:
    (chunk,) = plan([Target(PULLS, WHOLE, (window(0, 10), window(50, 900)), Estimate(100_000, exact=True))])
    assert (chunk.window.since, chunk.window.until) == (window(0, 0).since, window(0, 900).until)


def test_much_is_cut_into_parts_that_take_seconds_and_little_is_not_cut() -> None:
    assert len(plan([Target(ISSUES, WHOLE, (window(0, 365),), Estimate(200, exact=True))])) == 1
    many = plan([Target(ISSUES, WHOLE, (window(0, 365),), Estimate(100_000, exact=True))])
    assert all((chunk.estimate or 0) <= planning.TARGET_RECORDS * 1.01 for chunk in many)


def test_nothing_missing_is_nothing_to_do() -> None:
    assert plan([Target(ISSUES, WHOLE, ())]) == []


@pytest.mark.parametrize(
    ("records", "lanes", "chunks"), [(200_000, 16, 48), (100_000, 8, 24), (20_000, 16, 16), (12_000, 16, 12)]
)
def test_chunks_fill_their_lanes_to_the_end(records: int, lanes: int, chunks: int) -> None:
    """As long as they are large enough: the last two of 18 equal ones would run beside 14 empty lanes."""
    targets = [Target(ISSUES, WHOLE, (window(0, 365),), Estimate(records, exact=True))]
    assert len(plan(targets, lanes)) == chunks
    assert len(plan(targets)) <= chunks
    assert total([Target(ISSUES, WHOLE, ())]) == (0, "exact")


def test_the_total_says_how_sure_it_is() -> None:
    exact = Target(ISSUES, WHOLE, (window(0, 1),), Estimate(5, exact=True))
    about = Target(ISSUES, WHOLE, (window(0, 1),), Estimate(7, exact=False))
    unknown = Target(PULLS, WHOLE, (window(0, 1),))
    assert total([exact, exact]) == (10, "exact")
    assert total([exact, about]) == (12, "about")
    assert total([exact, unknown]) == (5, "about")
    assert total([unknown]) == (None, "unknown")


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [
        ("2026-10-12", "2026-10-13", "12 Oct 2026"),
        ("2026-10-12", "2026-10-20", "12–19 Oct 2026"),
        ("2026-09-28", "2026-10-06", "28 Sep – 5 Oct 2026"),
        ("2025-12-28", "2026-01-06", "28 Dec 2025 – 5 Jan 2026"),
    ],
)
def test_a_window_in_words(since: str, until: str, said: str) -> None:
    ends = [datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (since, until)]
    assert words(Window(*ends)) == said


# -- what an incremental job reads --------------------------------------------------------------------------------------------


def read(
    stream: Stream,
    *covered: tuple[float, float],
    elsewhere: tuple[float, float] | None = None,
    left: Sequence[tuple[float, float]] = (),
    oldest: float = -1000,
) -> list[tuple[float, float]]:
    """What a job of [day 10, day 100) reads of the stream where `covered` is here already; `elsewhere`: in another partition.

    left: what earlier jobs were to bring and did not.
    """
    job = HistoricalSyncJob(kind="incremental", start_date=window(10, 100).since, end_date=window(10, 100).until)
    spans = [(window(*span).since, window(*span).until) for span in covered]
    ledger = {(stream.name, "here"): spans}
    if elsewhere:
        ledger[stream.name, "there"] = [(window(*elsewhere).since, window(*elsewhere).until)]
    again = {(stream.name, "here"): [(window(*span).since, window(*span).until) for span in left]}
    day = timedelta(days=1)
    return [
        ((w.since - START) / day, (w.until - START) / day)
        for w in missing(job, stream, Partition("here"), History(ledger, {}, again, window(oldest, 100).since))
    ]


def test_each_stream_goes_on_where_it_ended_whatever_the_job_begins_with() -> None:
    """The job begins on day 10, where the first of its streams ended."""
    assert read(ISSUES, (0, 90)) == [(90, 100)]
    assert read(ISSUES, (50, 90)) == [(90, 100)], "nobody asked for what is before day 50"
    assert read(ISSUES, (0, 20), (50, 90)) == [(90, 100)], "the hole is a repair's"
    assert read(ISSUES, (0, 5)) == [(5, 100)], "this partition was not brought the last time"


def test_what_an_earlier_one_was_to_bring_and_did_not_is_read_now() -> None:
    assert read(ISSUES, (0, 20), (50, 90), left=[(15, 40), (45, 95)]) == [(20, 40), (45, 50), (90, 100)]
    assert read(ISSUES, (50, 90), left=[(5, 30)]) == [(90, 100)], "what was removed since is nobody's wish"
    assert read(ISSUES, left=[(5, 30)]) == [(10, 100)]


def test_what_is_read_once_more_is_never_more_than_is_here() -> None:
    """Commits are told long after they were made: two weeks of them are read again, however long ago the last sync was."""
    assert read(COMMITS, (0, 99)) == [(85, 100)]
    assert read(COMMITS, (95, 99)) == [(95, 100)], "nobody asked for what is before day 95"
    assert read(COMMITS, (0, 5), (95, 99)) == [(85, 100)], "and not for all since day 5"
    assert read(COMMITS, (0, 40)) == [(26, 100)]


def test_nothing_older_than_the_plan_goes_is_read() -> None:
    assert read(ISSUES, (0, 20), oldest=60) == [(60, 100)]
    assert read(ISSUES, (0, 90), left=[(30, 70)], oldest=60) == [(90, 100)], "what is here"
    assert read(ISSUES, (0, 10), (80, 90), left=[(5, 75)], oldest=60) == [(60, 75), (90, 100)]
    assert read(ISSUES, elsewhere=(3, 90), oldest=60) == [(60, 100)]


def test_what_appeared_since_is_read_as_far_back_as_the_rest_of_its_stream_went() -> None:
    assert read(ISSUES, elsewhere=(3, 90)) == [(3, 100)]
    assert read(ISSUES, elsewhere=(60, 90)) == [(60, 100)]


def test_what_has_no_time_is_read_whole_each_time() -> None:
    assert read(REPOSITORIES, (-100, 90)) == [(90, 100)]
