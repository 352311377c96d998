"""A range of history to chunks: what is missing, in windows of a size that takes seconds, newest first. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from integrations.providers.base import Estimate, Partition, Stream, Window, WindowKind

TARGET_RECORDS = 5_000  # a chunk: some seconds of work, and a cell on the job's map
LEAST_RECORDS = 1_000  # of a chunk that is there for the sake of an empty lane
SMALL = 500  # records that are not worth more than one window
MONTH = timedelta(days=30.5)
MOST_WINDOWS = 400  # of one stream in one partition
UNCOUNTED_CHUNKS = 12  # chunks of one stream when nobody knows how much there is
CHUNK_COST = 50.0  # the fixed cost of a chunk in records, so that empty chunks count for something
UNCOUNTED_WEIGHT = 500.0


@dataclass(frozen=True, slots=True)
class Target:
    """A stream in a partition, with the spans that are missing and how many records they hold, if the provider said."""

    stream: Stream
    partition: Partition
    missing: tuple[Window, ...]
    estimate: Estimate | None = None

    @property
    def hull(self) -> Window:
        """From the first missing span to the last."""
        return Window(self.missing[0].since, self.missing[-1].until)


@dataclass(frozen=True, slots=True)
class PlannedChunk:
    """One chunk to be. estimate: records, None when unknown. weight: its share of the job's work."""

    stream: str
    partition: Partition
    window: Window
    estimate: int | None
    weight: float


def subtract(window: Window, covered: Iterable[tuple[datetime, datetime]]) -> tuple[Window, ...]:
    """What of `window` no span of `covered` holds, oldest first."""
    missing: list[Window] = []
    since = window.since
    for start, end in sorted(covered):
        if end <= since:
            continue
        if start >= window.until:
            break
        if start > since:
            missing.append(Window(since, start))
        since = max(since, end)
    if since < window.until:
        missing.append(Window(since, window.until))
    return tuple(missing)


def plan(targets: Sequence[Target], lanes: int = 1) -> list[PlannedChunk]:
    """The chunks of a job in the order of work: what has no time first (it names what the rest refers to), then newest first.

    lanes: how many of them may be worked on at once.
    """
    partitions: dict[str, int] = {}
    for target in targets:
        partitions[target.stream.name] = partitions.get(target.stream.name, 0) + 1
    chunks: list[tuple[tuple[float, ...], PlannedChunk]] = []
    for order, target in enumerate(targets):
        if not target.missing:
            continue
        for window, records in _windows(target, partitions[target.stream.name], lanes):
            weight = CHUNK_COST + (records if records is not None else UNCOUNTED_WEIGHT)
            rank = 0.0 if target.stream.window is WindowKind.SNAPSHOT else 1.0
            chunk = PlannedChunk(
                target.stream.name, target.partition, window, None if records is None else round(records), weight
            )
            chunks.append(((rank, -window.until.timestamp(), float(order)), chunk))
    chunks.sort(key=lambda item: item[0])
    return [chunk for _, chunk in chunks]


def _windows(target: Target, partitions: int, lanes: int) -> list[tuple[Window, float | None]]:
    """The target's windows with the records that each may hold."""
    known = None if target.estimate is None else float(target.estimate.records)
    if target.stream.window in (WindowKind.SNAPSHOT, WindowKind.SCAN):
        # Read in one go however it is cut, so it is not cut. With what lies between the gaps, which was not counted.
        return [(target.hull, known if len(target.missing) == 1 else None)]
    whole = sum((w.until - w.since).total_seconds() for w in target.missing)
    cut: list[tuple[Window, float | None]] = []
    for gap in target.missing:
        seconds = (gap.until - gap.since).total_seconds()
        share = None if known is None else known * seconds / whole
        count = _count(seconds, share, partitions, lanes)
        edges = [gap.since + timedelta(seconds=math.floor(seconds * i / count)) for i in range(count)] + [gap.until]
        if target.stream.window is WindowKind.DAY:
            edges[1:-1] = [max(_midnight(edge), gap.since) for edge in edges[1:-1]]
        for since, until in itertools.pairwise(edges):
            if since < until:
                cut.append((Window(since, until), None if share is None else share / count))
    return cut


def middle(stream: Stream, window: Window) -> datetime | None:
    """Where a window that is too large is split; None when it is too narrow for what the provider can tell apart."""
    seconds = int((window.until - window.since).total_seconds())
    if stream.window is WindowKind.DAY:
        edge = _midnight(window.since + timedelta(seconds=seconds // 2))
        return edge if window.since < edge else None
    return window.since + timedelta(seconds=seconds // 2) if seconds >= 2 else None


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _count(seconds: float, records: float | None, partitions: int, lanes: int) -> int:
    """Into how many windows a gap is cut: at most one a second, as providers count in whole seconds."""
    months = max(1, math.ceil(seconds / MONTH.total_seconds() - 0.1))
    if records is None:
        wanted = min(months, max(1, UNCOUNTED_CHUNKS // partitions))
    elif records <= SMALL:
        wanted = 1
    else:
        wanted = max(math.ceil(records / TARGET_RECORDS), min(months, 12))
        # Whole rounds: the last chunks of windows that are alike would leave all other lanes empty.
        rounds = math.ceil(wanted / lanes) * lanes
        if records >= rounds * LEAST_RECORDS:
            wanted = rounds
    return max(1, min(wanted, MOST_WINDOWS, int(seconds) or 1))


def total(targets: Sequence[Target]) -> tuple[int | None, str]:
    """(records, quality) of all targets together. Streams that can't be counted make it "about"; none counted, "unknown"."""
    wanted = [target for target in targets if target.missing]
    counted = [target.estimate for target in wanted if target.estimate is not None]
    if wanted and not counted:
        return None, "unknown"
    exact = len(counted) == len(wanted) and all(estimate.exact for estimate in counted)
    return sum(estimate.records for estimate in counted), "exact" if exact else "about"


def words(window: Window) -> str:
    """The window for people: "12 Oct 2026", "12–19 Oct 2026", "28 Sep – 5 Oct 2026"."""
    first = window.since.astimezone(UTC)
    last = (window.until - timedelta(microseconds=1)).astimezone(UTC)
    if first.date() == last.date():
        return f"{first.day} {first:%b %Y}"
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day}–{last.day} {last:%b %Y}"
    if first.year == last.year:
        return f"{first.day} {first:%b} – {last.day} {last:%b %Y}"
    return f"{first.day} {first:%b %Y} – {last.day} {last:%b %Y}"
