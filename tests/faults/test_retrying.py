"""What happens after a failed call: one table of decisions, by the error's class."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from historical_sync import retrying
from historical_sync.retrying import MAX_ATTEMPTS, MAX_RESTARTS, Action, Decision, back_off, decide
from integrations.errors import (
    AccessDenied,
    CursorExpired,
    Misconfigured,
    NotReady,
    ProviderError,
    ReauthRequired,
    RequestRejected,
    Throttled,
    Unavailable,
    WindowTooLarge,
)
from integrations.providers.base import Stream, Window, WindowKind

NOW = datetime(2026, 10, 20, 12, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(days=10), NOW)


def stream(kind: WindowKind = WindowKind.EXACT, **facts: Any) -> Stream:
    return Stream("things", "Things", kind, None, None, **facts)  # type: ignore[arg-type]


def decided(error: Exception, kind: WindowKind = WindowKind.EXACT, **given: Any) -> Decision:
    given = {"attempts": 0, "stream": stream(kind), "window": WINDOW, "jitter": 0.5, "now": NOW} | given
    return decide(error, **given)


@pytest.mark.parametrize("attempts", [0, MAX_ATTEMPTS, 1000])
def test_throttling_waits_however_often_it_failed_before(attempts: int) -> None:
    until = NOW + timedelta(minutes=5)
    decision = decided(Throttled("slow down", until), attempts=attempts)
    assert decision.action is Action.WAIT
    assert until <= (decision.at or NOW) < until + timedelta(seconds=1)


@pytest.mark.parametrize("attempts", [0, 1000])
def test_an_answer_that_is_being_prepared_is_looked_at_again_however_often(attempts: int) -> None:
    at = NOW + timedelta(seconds=20)
    for error in (NotReady("wait", at), NotReady("wait")):
        decision = decided(error, attempts=attempts)
        assert (decision.action, decision.code) == (Action.LOOK_AGAIN, "provider_preparing")
        assert at <= (decision.at or NOW) < at + timedelta(seconds=1)
    assert NOW < decided(NotReady("wait", NOW)).at < NOW + timedelta(seconds=1)  # type: ignore[operator]


def test_a_limit_without_a_time_waits_a_minute_and_a_daily_one_an_hour() -> None:
    assert decided(Throttled("x")).at >= NOW + timedelta(seconds=60)  # type: ignore[operator]
    assert decided(Throttled("x", daily=True)).at >= NOW + timedelta(hours=1)  # type: ignore[operator]


def test_a_limit_that_is_over_still_waits_a_little() -> None:
    assert decided(Throttled("x", NOW - timedelta(hours=1))).at > NOW  # type: ignore[operator]


@pytest.mark.parametrize(
    "error",
    [
        Throttled("x", NOW.replace(year=9999)),
        NotReady("x", NOW.replace(year=9999)),
        Unavailable("x", NOW.replace(year=2286)),
    ],
)
def test_no_time_that_a_provider_names_parks_an_import_for_more_than_a_day(error: Exception) -> None:
    assert decided(error).at < NOW + timedelta(days=1, seconds=1)  # type: ignore[operator]


def test_what_is_unavailable_is_tried_again_until_the_retries_are_spent() -> None:
    actions = [decided(Unavailable("502"), attempts=attempts).action for attempts in range(MAX_ATTEMPTS)]
    assert actions == [Action.RETRY] * (MAX_ATTEMPTS - 1) + [Action.FAIL]


def test_a_time_that_the_provider_names_is_kept_but_never_shortens_the_back_off() -> None:
    later = NOW + timedelta(minutes=3)
    assert decided(Unavailable("503", later)).at == later
    assert decided(Unavailable("503", NOW)).at >= NOW + timedelta(seconds=0.5)  # type: ignore[operator]


def test_the_back_off_doubles_is_bounded_and_spread_by_jitter() -> None:
    waits = [back_off(failures, 0.5).total_seconds() for failures in range(12)]
    assert waits[:4] == [1, 2, 4, 8]
    assert max(waits) == retrying.LONGEST_BACK_OFF
    assert back_off(3, 0.0) < back_off(3, 0.99)
    assert back_off(10_000, 0.0) <= timedelta(seconds=retrying.LONGEST_BACK_OFF)


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        (WindowKind.EXACT, Action.SPLIT),
        (WindowKind.LOWER_BOUND, Action.SPLIT),
        (WindowKind.SCAN, Action.FAIL),
        (WindowKind.SNAPSHOT, Action.FAIL),
    ],
)
def test_a_window_too_large_is_split_where_halves_are_smaller(kind: WindowKind, action: Action) -> None:
    assert decided(WindowTooLarge("10,000"), kind).action is action


def test_a_window_of_a_second_is_not_split() -> None:
    narrow = Window(NOW, NOW + timedelta(seconds=1))
    assert decided(WindowTooLarge("10,000"), window=narrow).action is Action.FAIL


def test_a_dead_cursor_restarts_the_window_unless_that_brings_nothing_new() -> None:
    actions = [decided(CursorExpired("x"), restarts=restarts).action for restarts in range(MAX_RESTARTS + 1)]
    assert actions == [Action.RESTART] * MAX_RESTARTS + [Action.FAIL]
    assert decided(CursorExpired("x"), attempts=MAX_ATTEMPTS).action is Action.RESTART


@pytest.mark.parametrize("said", ["Not allowed", "Not allowed."])
def test_what_is_not_allowed_fails_with_what_the_stream_needs(said: str) -> None:
    decision = decide(
        AccessDenied(said), now=NOW, jitter=0, attempts=0, stream=stream(needs=("repo", "read:org")), window=WINDOW
    )  # fmt: skip
    assert decision.action is Action.FAIL
    assert decision.message == "Not allowed. It needs: repo, read:org."


@pytest.mark.parametrize("error", [Misconfigured("x"), RequestRejected("x")])
def test_what_no_retry_can_mend_fails_at_once(error: Exception) -> None:
    assert decided(error).action is Action.FAIL


def test_lost_access_asks_for_a_reconnect() -> None:
    assert decided(ReauthRequired("x"), attempts=MAX_ATTEMPTS).action is Action.RECONNECT


@pytest.mark.parametrize("error", [ProviderError("a dict instead of a list"), KeyError("secret"), RuntimeError()])
def test_whatever_else_is_tried_again(error: Exception) -> None:
    assert decided(error).action is Action.RETRY
    assert "secret" not in decided(error).message


@pytest.mark.parametrize("error", [WindowTooLarge("x"), CursorExpired("x")])
def test_planning_has_no_window_to_split_or_restart(error: Exception) -> None:
    assert decide(error, now=NOW, jitter=0, attempts=0).action is Action.FAIL
