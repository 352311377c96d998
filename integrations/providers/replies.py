"""What replies say besides rows: which error they mean, by a table, and how much of a limit is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from integrations.errors import ProviderError, RetryLater
from integrations.http import Reply
from integrations.providers.base import JSON, RateState
from integrations.providers.wire import MILLISECOND, SECOND, epoch, utc


class Means(NamedTuple):
    """What a code or status means.

    words: for people, beginning with or containing the vendor's name; {said} is what the vendor says itself, {code}
        its code, {status} the status.
    wait: of a RetryLater, the seconds to wait where the reply names no time; None: back off.
    """

    error: type[ProviderError]
    words: str
    wait: float | None = None


ErrorTable = Mapping[str | int, Means]  # by the vendor's code or the status


def error_in(table: ErrorTable, reply: Reply, code: str | int = "", said: object = "") -> ProviderError | None:
    """The error that the table has for the vendor's code, or else for the status; None if it has none for either.

    A limit is told by status 429, whatever the code says besides.
    """
    found = (table.get(429) if reply.status == 429 else None) or table.get(code) or table.get(reply.status)
    if found is None:
        return None
    words = found.words.format(code=code, status=reply.status, said=str(said or "")[:300] or "it gives no reason")
    if issubclass(found.error, RetryLater):
        wait = datetime.now(UTC) + timedelta(seconds=found.wait) if found.wait is not None else None
        return found.error(words, reply.retry_at() or wait)
    return found.error(words)


def body(reply: Reply) -> JSON:
    """The reply's object; empty when it is none."""
    return reply.data if isinstance(reply.data, dict) else {}


def first(found: object) -> JSON:
    """The object, or the first of a list of objects; empty when it is neither."""
    found = found[0] if isinstance(found, list) and found else found
    return found if isinstance(found, dict) else {}


def inner(row: JSON, name: str) -> JSON:
    """The object, or the first of the list of objects, that stands there; empty when there is none."""
    return first(row.get(name))


def rate_headers(
    left: str = "x-ratelimit-remaining", limit: str = "x-ratelimit-limit", reset: str = "x-ratelimit-reset"
) -> Callable[[Reply], RateState | None]:
    """A provider's `rate_state`, of what three headers say; without one of them it is unknown.

    reset: an ISO date-time, or epoch seconds or milliseconds.
    """

    def rate_state(reply: Reply) -> RateState | None:
        at = reset_of(reply, reset)
        try:
            return RateState(int(reply.headers[left]), int(reply.headers[limit]), at) if at else None
        except (KeyError, ValueError):
            return None

    return rate_state


def reset_of(reply: Reply, header: str = "x-ratelimit-reset") -> datetime | None:
    """The time in a header, by the vendor's clock: an ISO date-time, or epoch seconds or milliseconds. None when there is none."""
    told = reply.headers.get(header, "")
    try:
        return epoch(told, MILLISECOND if len(told) > 11 else SECOND) if told.isdigit() else utc(told)
    except (ValueError, OverflowError):
        return None
