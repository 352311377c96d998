"""What vendors' wire formats have in common: times, rows to records, Link headers."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from integrations.errors import ProviderError
from integrations.http import Reply
from integrations.providers.base import JSON, Record

Rejected = tuple[str, Any, str]

_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')
_LAST_PAGE = re.compile(r'[?&]page=(\d+)[^>]*>;\s*rel="last"')


def utc(value: str) -> datetime:
    """An ISO date-time (Z, +00:00 or +0000; no offset is UTC) as aware UTC. ValueError and TypeError for what is none."""
    moment = datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def stamp(moment: datetime) -> str:
    """2026-01-31T09:00:00Z, rounded down: right for the beginning of a window, and for an end that is included (`last`)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def last(until: datetime) -> datetime:
    """The last moment before a window's end, for vendors whose upper bound is included."""
    return until - timedelta(microseconds=1)


def rows_of(data: Any, name: str) -> list[Any]:
    """The reply's rows; an error in words when they are not a list. name: the provider's."""
    if not isinstance(data, list):
        raise ProviderError(f"{name} answered with something that is not a list.")
    return data


def reader(id_of: Callable[[JSON], object], time_of: Callable[[JSON], datetime]) -> Callable[[JSON], Record]:
    """One row as `records` reads it: for `Stream.record`."""
    return lambda row: Record(str(id_of(row)), time_of(row), row)


def records(
    rows: list[Any], id_of: Callable[[JSON], object], time_of: Callable[[JSON], datetime]
) -> tuple[list[Record], list[Rejected]]:
    """The rows as records, and those that have no usable id or time, for `Page.rejected`."""
    found: list[Record] = []
    rejected: list[Rejected] = []
    for row in rows:
        named = ""
        try:
            named = str(id_of(row))
            found.append(Record(named, time_of(row), row))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            rejected.append((named, row, f"no usable id or time: {type(error).__name__} {error}"))
    return found, rejected


def next_link(reply: Reply) -> str | None:
    """The address that the Link header calls next."""
    link = _NEXT.search(reply.headers.get("link", ""))
    return link[1] if link else None


def last_page(reply: Reply) -> int:
    """The number of the last page that the Link header names; without one, the rows of this reply, which is all there is."""
    link = _LAST_PAGE.search(reply.headers.get("link", ""))
    return int(link[1]) if link else len(reply.data)
