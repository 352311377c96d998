"""The calendar of a connection's coverage: streams down, time across, however many partitions there are. Pure.

Time is cut where a person cuts it: days, weeks, months, quarters or years, whichever keeps the row readable. A cell says what all
partitions of the stream add up to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise

from historical_sync import planning
from historical_sync.coverage import Failed, Held
from integrations.providers.base import Window

MOST_CELLS = 62
MOST_PARTS = 60  # rows below an open stream
MOST_GAPS = 50  # lines of the table of what is missing
WHOLE = 0.9995  # of a cell: what is left is seconds at an edge


@dataclass(frozen=True, slots=True)
class Cell:
    """x, width: percent of the row. share: of what was asked for, 0 to 100. state: in, missing, failed, unasked."""

    x: float
    width: float
    share: float
    state: str
    since: datetime
    until: datetime
    words: str

    @property
    def rest(self) -> float:
        return round(100 - self.share, 1)


@dataclass(slots=True)
class Row:
    """A stream, or one of its partitions; `found` of its `partitions` match a search and `hidden` of those are not shown."""

    key: str
    label: str
    cells: list[Cell]
    percentage: int
    failed: int
    partitions: int = 0
    open: bool = False
    parts: list[Row] = field(default_factory=list)
    found: int = 0
    hidden: int = 0


@dataclass(slots=True)
class Gap:
    """What is missing of a stream in one span of time, of however many partitions. `failed`: it was tried; `reason` says why."""

    stream: str
    window: Window
    failed: bool
    reason: str
    places: list[str]


def cuts(since: datetime, until: datetime) -> list[datetime]:
    """The edges of the cells over [since, until): the first not after `since`, the last not before `until`; midnights in UTC."""
    day = since.replace(hour=0, minute=0, second=0, microsecond=0)
    days = (until - day) / timedelta(days=1)
    if days <= MOST_CELLS:
        edges, step = [day], timedelta(days=1)
        while edges[-1] < until:
            edges.append(edges[-1] + step)
        return edges
    if days <= 7 * (MOST_CELLS - 1):
        edges, step = [day - timedelta(days=day.weekday())], timedelta(days=7)
        while edges[-1] < until:
            edges.append(edges[-1] + step)
        return edges
    months = next((n for n in (1, 3) if days <= 30.4 * n * (MOST_CELLS - 2)), 12)
    first = day.replace(day=1, month=(day.month - 1) // months * months + 1)
    edges = [first]
    while edges[-1] < until:
        index = edges[-1].year * 12 + edges[-1].month - 1 + months
        edges.append(first.replace(year=index // 12, month=index % 12 + 1))
    return edges


def coverage_map(
    held: Iterable[Held], since: datetime, until: datetime, opened: Collection[str] = (), search: str = ""
) -> list[Row]:
    """A row a stream over [since, until). opened: streams whose partitions show, those whose name holds `search`."""
    edges = cuts(since, until)
    streams: dict[str, list[Held]] = {}
    for part in held:
        streams.setdefault(part.stream, []).append(part)
    rows = []
    for name, parts in streams.items():
        row = _row(name, parts[0].label, parts, edges)
        if len(parts) > 1 or parts[0].partition:
            row.partitions, row.open = len(parts), name in opened
        if row.open:
            found = [part for part in parts if search.lower() in part.partition_label.lower()]
            shown = sorted(found, key=lambda part: (not part.failed, not part.missing))[:MOST_PARTS]
            row.parts = [_row(part.partition, part.partition_label, [part], edges) for part in shown]
            for one in row.parts:
                one.cells = _joined(one.cells)
            row.found, row.hidden = len(found), len(found) - len(shown)
        rows.append(row)
    return rows


def gaps(held: Iterable[Held]) -> list[Gap]:
    """What is missing, newest first; spans that several partitions lack for the same reason are one."""
    found: dict[tuple[str, Window, str], Gap] = {}
    # Most partitions look alike: each look is cut once.
    looks: dict[tuple[str, tuple[Window, ...], tuple[Failed, ...]], list[Held]] = {}
    for part in held:
        looks.setdefault((part.stream, part.missing, part.failed), []).append(part)
    for (stream, missing, failures), parts in looks.items():
        tried = {failed.window: failed.reason for failed in failures}
        spans = sorted((window.since, window.until) for window in tried)
        rest = [window for gap in missing for window in planning.subtract(gap, spans)]
        places = [part.partition_label for part in parts if part.partition]
        for window in (*tried, *rest):
            reason = tried.get(window, "")
            gap = found.setdefault((stream, window, reason), Gap(parts[0].label, window, window in tried, reason, []))
            gap.places += places
    for gap in found.values():
        gap.places.sort()
    return sorted(found.values(), key=lambda gap: (not gap.failed, -gap.window.until.timestamp(), gap.stream))


def _row(key: str, label: str, parts: Sequence[Held], edges: Sequence[datetime]) -> Row:
    # Most partitions look alike: each look is measured once.
    looks = Counter((part.covered, part.missing, tuple(failed.window for failed in part.failed)) for part in parts)
    count = len(edges) - 1
    have, lack, failed = [0.0] * count, [0.0] * count, [0.0] * count
    for (covered, missing, tried), times in looks.items():
        for spans, sums in ((covered, have), (missing, lack), (tried, failed)):
            for i, seconds in _measured(spans, edges):
                sums[i] += seconds * times
    whole = (edges[-1] - edges[0]).total_seconds()
    cells = []
    for i, (since, until) in enumerate(pairwise(edges)):
        asked = have[i] + lack[i]
        share = have[i] / asked if asked else 0.0
        state = "unasked" if not asked else "in" if share >= WHOLE else "failed" if failed[i] else "missing"
        x = (since - edges[0]).total_seconds() / whole * 100
        width = max((until - since).total_seconds() / whole * 100 - 0.25, 0.4)
        words = {"unasked": "not asked for", "in": "in", "failed": "failed", "missing": "missing"}[state]
        if share and state in ("failed", "missing"):
            words = f"{int(share * 100)} % in, the rest {'failed' if state == 'failed' else 'is missing'}"
        cells.append(Cell(round(x, 2), round(width, 2), round(100 * share, 1), state, since, until, words))
    total = sum(have) + sum(lack)
    percentage = (
        0 if not total else 100 if not any(part.missing for part in parts) else min(99, int(100 * sum(have) / total))
    )
    return Row(key, label, cells, percentage, sum(len(part.failed) for part in parts))


def _joined(cells: Iterable[Cell]) -> list[Cell]:
    """With neighbours that say the same as one: a page holds many rows of partitions."""
    joined: list[Cell] = []
    for cell in cells:
        last = joined[-1] if joined else None
        if last is not None and (last.state, last.share, last.words) == (cell.state, cell.share, cell.words):
            joined[-1] = replace(last, width=round(cell.x + cell.width - last.x, 2), until=cell.until)
        else:
            joined.append(cell)
    return joined


def _measured(spans: Iterable[Window], edges: Sequence[datetime]) -> Iterable[tuple[int, float]]:
    """(cell, seconds of it that the spans reach into); edges ascend."""
    i, count = 0, len(edges) - 1
    for span in sorted(spans, key=lambda window: window.since):
        while i < count and edges[i + 1] <= span.since:
            i += 1
        at = i
        while at < count and edges[at] < span.until:
            yield at, (min(edges[at + 1], span.until) - max(edges[at], span.since)).total_seconds()
            at += 1
