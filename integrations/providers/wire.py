"""What vendors' wire formats have in common: times, rows to records, paged lists, Link headers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import orjson

from integrations.errors import (
    UNMAPPABLE,
    AccessDenied,
    CursorExpired,
    PartlyDenied,
    ProviderError,
    RequestRejected,
    Throttled,
)
from integrations.http import Api, Reply
from integrations.providers.base import JSON, Fetch, Page, Partition, Record, Window

Rejected = tuple[str, Any, str]
Rows = tuple[list[Any], JSON | None]  # of one page, and the cursor of the next; None at the end

# Of a list that is read whole, before anything else is done: far more than anybody has, and what a worker has room for.
MOST_ROWS, MOST_PAGES, MOST_SECONDS = 100_000, 2_000, 1800.0
# Where it meets the provider's limit: waits in a row, how long each is if nobody says so, and at least.
MOST_WAITS, DEFAULT_WAIT, LEAST_WAIT = 5, timedelta(seconds=60), timedelta(milliseconds=200)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND, MILLISECOND = timedelta(seconds=1), timedelta(milliseconds=1)
# No "<" within: each of many that nothing ends would be looked after to the header's end, which anybody's server may send.
_LINK = r'<([^<>]+)>;\s{0,9}rel="%s"'
_NEXT, _LAST = re.compile(_LINK % "next"), re.compile(_LINK % "last")
_PAGE = re.compile(r"[?&]page=(\d{1,18})")

# -- times --------------------------------------------------------------------------------------------------------------------


def utc(value: str) -> datetime:
    """An ISO date-time (Z, +00:00 or +0000; no offset is UTC) as aware UTC. ValueError and TypeError for what is none."""
    moment = datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def epoch(value: Any, unit: timedelta = SECOND) -> datetime:
    """The moment so many whole units after 1970. ValueError, TypeError and OverflowError for what is none."""
    return EPOCH + int(value) * unit


def ticks(window: Window, unit: timedelta = SECOND) -> tuple[int, int]:
    """The window's bounds in units since 1970, its beginning rounded down and its end up."""
    return (window.since - EPOCH) // unit, -((EPOCH - window.until) // unit)


def stamp(moment: datetime, precision: str = "seconds") -> str:
    """2026-01-31T09:00:00Z, rounded down: right for the beginning of a window, and for an end that is included (`last`).

    precision: as of `datetime.isoformat`: "milliseconds" gives 2026-01-31T09:00:00.000Z.
    """
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def last(until: datetime) -> datetime:
    """The last moment before a window's end, for vendors whose upper bound is included."""
    return until - timedelta(microseconds=1)


# -- rows ---------------------------------------------------------------------------------------------------------------------


def rows_of(data: Any, name: str) -> list[Any]:
    """The reply's rows; an error in words when they are not a list. name: the provider's."""
    if not isinstance(data, list):
        raise ProviderError(f"{name} answered with something that is not a list.")
    return data


@dataclass(frozen=True, slots=True)
class Reader:
    """How a row becomes a Record: also for `Stream.record`."""

    id_of: Callable[[JSON], object]
    time_of: Callable[[JSON], datetime]

    def __call__(self, row: JSON) -> Record:
        return Record(_named(self.id_of(row)), self.time_of(row), row)


def _named(found: object) -> str:
    """An id as text; ValueError for what is none, as null."""
    if (isinstance(found, str) and found) or (isinstance(found, int) and not isinstance(found, bool)):
        return str(found)
    raise ValueError(f"{found!r} is no id")


def reader(
    id_of: str | Callable[[JSON], object] = "id", time_of: str | Callable[[JSON], datetime] | None = None
) -> Reader:
    """The fields that hold a row's id and time (an ISO date-time), or what finds them; rows without a time are of 1970."""
    return Reader(
        (lambda row: row[id_of]) if isinstance(id_of, str) else id_of,
        (lambda row: EPOCH)
        if time_of is None
        else (lambda row: utc(row[time_of]))
        if isinstance(time_of, str)
        else time_of,
    )


def records(rows: list[Any], read: Reader) -> tuple[list[Record], list[Rejected]]:
    """The rows as records, and those that have no usable id or time, for `Page.rejected`."""
    id_of, time_of = read.id_of, read.time_of
    found: list[Record] = []
    rejected: list[Rejected] = []
    for row in rows:
        named = ""
        try:
            named = _named(id_of(row))
            found.append(Record(named, time_of(row), row))
        except UNMAPPABLE as error:
            rejected.append((named, row, f"no usable id or time: {type(error).__name__} {error}"))
    return found, rejected


Reached = Callable[[Iterable[datetime]], datetime]


def page(rows: list[Any], read: Reader, following: JSON | None, reached: Reached | None = None) -> Page:
    """The page of these rows. following: cursor of the next. reached: what of the rows' times is its position: `max` where
    they come oldest first, `min` where newest first, None where in no order of time."""
    found, rejected = records(rows, read)
    position = reached(record.occurred_at for record in found) if reached and found else None
    return Page(found, following, position, rejected)


def pages(
    rows_at: Callable[[Api, Partition, Window, JSON | None], Awaitable[Rows]],
    read: Reader,
    reached: Reached | None = None,
) -> Fetch:
    """A stream's `fetch`, of what brings a page's rows and the cursor of the next. reached: as of `page`."""

    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        rows, following = await rows_at(api, partition, window, cursor)
        return page(rows, read, following, reached)

    return fetch


def listing(rows_at: Callable[[Api, JSON | None], Awaitable[Rows]], read: Reader) -> Fetch:
    """A stream's `fetch`, of a list that knows neither partitions nor times: from (api, cursor)."""

    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        rows, following = await rows_at(api, cursor)
        return page(rows, read, following)

    return fetch


async def all_rows(
    rows_at: Callable[[JSON | None], Awaitable[Rows]], longest_wait: timedelta = timedelta(0)
) -> list[Any]:
    """All rows of a paged list, beginning with cursor None. Raises CursorExpired and RequestRejected where it has no end.

    longest_wait: for a limit that is met on the way (`Api.longest_wait`). A list of more pages than the limit allows at once would
    never be read to its end if each try began anew, so it goes on where it was; a longer wait, or one before the first page, is the
    caller's: Throttled.
    """
    found: list[Any] = []
    cursor: JSON | None = None
    been: set[int] = set()
    waits, until = 0, monotonic() + MOST_SECONDS
    while True:
        try:
            rows, cursor = await rows_at(cursor)
        except Throttled as error:
            waits += 1
            if cursor is None or waits > MOST_WAITS:
                raise
            # A list is not endless for that.
            until += await _wait_out(error, longest_wait)
            continue
        waits = 0
        found += rows
        if cursor is None:
            return found
        if (here := place(cursor)) in been:
            raise CursorExpired(
                "A list that is read whole comes back to its own beginning: the same pages again and again."
            )
        been.add(here)
        if len(found) > MOST_ROWS or len(been) > MOST_PAGES or monotonic() > until:
            raise RequestRejected(
                f"A list that is read whole has no end: {len(found):,} rows on {len(been):,} pages, and more to come."
            )


async def _wait_out(limit: Throttled, longest: timedelta) -> float:
    """Waits until the limit is over: the seconds that it took. Raises the limit itself if it would be longer."""
    wait = max(limit.retry_at - datetime.now(UTC) if limit.retry_at else DEFAULT_WAIT, LEAST_WAIT)
    if limit.daily or wait > longest:
        raise limit
    began = monotonic()
    await asyncio.sleep(wait.total_seconds())
    return monotonic() - began


def place(cursor: JSON | None) -> int:
    """What tells one place in a paged list from another."""
    return hash(orjson.dumps(cursor, option=orjson.OPT_SORT_KEYS))


# -- lists of several places --------------------------------------------------------------------------------------------------


async def partitions_in(
    places: list[JSON], partitions_of: Callable[[JSON], Awaitable[list[Partition]]]
) -> list[Partition]:
    """The partitions of all places (sites, workspaces) that a grant covers. place["name"]: what people call it.

    Raises PartlyDenied with those of the others where one refuses, AccessDenied where all do.
    """
    found: list[Partition] = []
    refusals = []
    for place in places:
        try:
            found += await partitions_of(place)
        except AccessDenied as error:
            refusals.append(f"{place['name']}: {error}")
    if not refusals:
        return found
    raise PartlyDenied(" ".join(refusals), found) if len(refusals) < len(places) else AccessDenied(" ".join(refusals))


async def rows_in(
    places: Callable[[], Awaitable[list[JSON]]],
    rows_of: Callable[[JSON, JSON | None], Awaitable[Rows]],
    cursor: JSON | None,
) -> Rows:
    """A page of a list that each of those places has for itself, one after the other. rows_of: from (place, its own cursor).

    One that refuses is asked again after the others, so what these have is stored by the time that it raises AccessDenied. cursor:
    {"places": still to read, "at": cursor in the first of them}.
    """
    # A cursor that a version before this one stored begins anew.
    left, at = (cursor["places"], cursor["at"]) if cursor and "places" in cursor else (await places(), None)
    refusals = []
    for _ in left:
        place, *others = left
        try:
            rows, following = await rows_of(place, at)
        except AccessDenied as error:
            refusals.append(f"{place['name']}: {error}")
            left, at = [*others, place], None
            continue
        if following is not None:
            return rows, {"places": left, "at": following}
        return rows, {"places": others, "at": None} if others else None
    if refusals:
        raise AccessDenied(" ".join(refusals))
    return [], None


# -- headers ------------------------------------------------------------------------------------------------------------------


def next_link(reply: Reply) -> str | None:
    """The address that the Link header calls next."""
    link = _NEXT.search(reply.headers.get("link", ""))
    return link[1] if link else None


def last_page(reply: Reply) -> int | None:
    """The number of the last page that the Link header names; without one, the rows of this reply, if that is all there is.

    None where a next page follows and nobody says how many: lists by cursor.
    """
    link = _LAST.search(reply.headers.get("link", ""))
    page = _PAGE.search(link[1]) if link else None
    if page is None:
        return None if next_link(reply) else len(reply.data)
    return int(page[1])
