"""What happens after a provider call went wrong: by the error's class, how often it failed, and nothing else. Pure.

Throttling never spends a retry, nor does an answer that is being prepared. Failures are counted since the last page that was stored,
restarts of a window since the last page that brought something new: a provider that goes in circles is given up in the end, one that is
only slow never.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from atom.words import sentence
from historical_sync import planning
from integrations.errors import (
    AccessDenied,
    CursorExpired,
    Endless,
    Misconfigured,
    NotReady,
    ProviderError,
    ReauthRequired,
    RequestRejected,
    RetryLater,
    Throttled,
    WindowTooLarge,
)
from integrations.http import LONGEST_WAIT
from integrations.providers.base import Stream, Window, WindowKind

MAX_ATTEMPTS = 8  # failures since the last progress
MAX_RESTARTS = 5  # of a window without anything new
BACK_OFF = 1.0  # seconds before the second attempt; doubles
LONGEST_BACK_OFF = 300.0  # seconds
THROTTLE_DEFAULT = timedelta(seconds=60)  # a limit without a time
PREPARING_DEFAULT = timedelta(seconds=20)  # an answer that is being prepared
DAILY_QUOTA_DEFAULT = timedelta(hours=1)
LEAST_WAIT = timedelta(milliseconds=200)  # for what is over already


class Action(StrEnum):
    WAIT = "wait"  # for the provider's limit, with all of the connection; spends no retry
    LOOK_AGAIN = "look_again"  # for an answer that is being prepared, alone; spends no retry
    RETRY = "retry"  # the same again, later
    RESTART = "restart"  # the window from its last committed position, without the cursor
    SPLIT = "split"  # the window in two
    RECONNECT = "reconnect"  # a person must grant access again
    FAIL = "fail"  # given up until somebody retries


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do. at: when to go on, or where to split the window. code, message: for the job's last error."""

    action: Action
    code: str
    message: str
    at: datetime | None = None


def decide(
    error: Exception,
    *,
    now: datetime,
    jitter: float,
    attempts: int,
    restarts: int = 0,
    stream: Stream | None = None,
    window: Window | None = None,
) -> Decision:
    """For a chunk (`stream` and `window` given) or for planning (neither). attempts, restarts: before this failure.

    jitter: a random number in [0, 1), so that what failed together does not come back together.
    """
    code, message = getattr(error, "code", "internal_error"), str(error)
    match error:
        case Throttled():
            at = error.retry_at or now + (DAILY_QUOTA_DEFAULT if error.daily else THROTTLE_DEFAULT)
            return Decision(Action.WAIT, code, message, _within_reason(at, now) + LEAST_WAIT * jitter)
        case NotReady():
            at = error.retry_at or now + PREPARING_DEFAULT
            return Decision(Action.LOOK_AGAIN, code, message, _within_reason(at, now) + LEAST_WAIT * jitter)
        case ReauthRequired():
            return Decision(Action.RECONNECT, code, message)
        case WindowTooLarge():
            middle = (
                planning.middle(stream, window)
                if window is not None and stream is not None and _can_split(stream)
                else None
            )
            return Decision(Action.SPLIT if middle else Action.FAIL, code, message, middle)
        case CursorExpired():
            if window is None or restarts + 1 > MAX_RESTARTS:
                return Decision(Action.FAIL, code, message)
            return Decision(Action.RESTART, code, message, now + back_off(restarts, jitter))
        case AccessDenied():
            needs = f" It needs: {', '.join(stream.needs)}." if stream is not None and stream.needs else ""
            return Decision(Action.FAIL, code, sentence(message) + needs if needs else message)
        case Misconfigured() | RequestRejected() | Endless():
            return Decision(Action.FAIL, code, message)
        case ProviderError():
            pass
        case _:
            message = "An unexpected error; the log has the details."
    if attempts + 1 >= MAX_ATTEMPTS:
        return Decision(Action.FAIL, code, message)
    at = now + back_off(attempts, jitter)
    if isinstance(error, RetryLater) and error.retry_at is not None:
        at = max(at, min(error.retry_at, now + LONGEST_WAIT))
    return Decision(Action.RETRY, code, message, at)


def back_off(failures: int, jitter: float) -> timedelta:
    """Time before the next attempt after `failures` + 1 of them: 1 s doubling to 5 minutes, times 0.5 to 1.5 by `jitter`."""
    return timedelta(seconds=min(LONGEST_BACK_OFF, BACK_OFF * 2.0 ** min(failures, 20)) * (0.5 + jitter))


def _within_reason(at: datetime, now: datetime) -> datetime:
    return max(min(at, now + LONGEST_WAIT), now + LEAST_WAIT)


def _can_split(stream: Stream) -> bool:
    """Halves of a list that is read whole, whatever the window, would be as long as it is."""
    return stream.window not in (WindowKind.SCAN, WindowKind.SNAPSHOT)
