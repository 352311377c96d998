"""The map of a job's chunks: streams down, time across, however many chunks there are. Pure.

A row draws its chunks as they are while they are few and side by side; else time is cut into even cells, and a cell says what the
chunks that reach into it add up to.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from historical_sync import states

MOST_CELLS = 60  # of a row
MOST_CELLS_OF_PART = 24
MOST_PARTS = 60  # rows below an open stream
GAP = 0.25  # percent of the row's width between two cells
LEAST, LEAST_ALONE = 0.4, 1.5  # percent that a cell takes, however short its window: a row's only one shall be seen


class ChunkFacts(NamedTuple):
    """What the map needs of a chunk; in the order of `FIELDS`."""

    stream: str
    partition: str
    partition_label: str
    since: datetime
    until: datetime
    status: str
    progress: float
    weight: float
    not_before: datetime | None
    records_processed: int
    records_skipped: int

    @property
    def state(self) -> str:
        return "waiting" if self.status == states.CHUNK_PENDING and self.not_before else self.status

    @property
    def done(self) -> float:
        return 1.0 if self.status == states.CHUNK_COMPLETED else self.progress


FIELDS = ChunkFacts._fields


@dataclass(frozen=True, slots=True)
class Cell:
    """x, width: percent of the row. done: share in percent. state: pending, waiting, running, completed, failed.

    many: of several chunks; what is done of them rises from the bottom, of one chunk it goes to the right.
    """

    x: float
    width: float
    done: float
    many: bool
    state: str
    since: datetime
    until: datetime
    words: str

    @property
    def done_width(self) -> float:
        return round(self.width * self.done / 100, 2)

    @property
    def rest(self) -> float:
        return round(100 - self.done, 1)


@dataclass(slots=True)
class Row:
    """A stream, or one of its partitions. `parts`: the partitions of an open stream; `hidden`: how many more there are."""

    key: str
    label: str
    cells: list[Cell]
    chunks: int
    completed: int
    failed: int
    records: int
    partitions: int = 0
    open: bool = False
    parts: list[Row] = field(default_factory=list)
    hidden: int = 0


def chunk_map(
    chunks: Iterable[ChunkFacts],
    start: datetime,
    end: datetime,
    labels: Mapping[str, str],
    opened: Collection[str] = (),
) -> list[Row]:
    """The rows of a job over [start, end). labels: stream -> words, in the order of the rows. opened: streams whose parts show."""
    streams: dict[str, list[ChunkFacts]] = {}
    for chunk in chunks:
        streams.setdefault(chunk.stream, []).append(chunk)
    order = {name: i for i, name in enumerate(labels)}
    rows = []
    for stream in sorted(streams, key=lambda name: (order.get(name, len(order)), name)):
        of_stream = streams[stream]
        row = _row(stream, labels.get(stream, stream), of_stream, start, end, MOST_CELLS)
        partitions: dict[str, list[ChunkFacts]] = {}
        for chunk in of_stream:
            partitions.setdefault(chunk.partition, []).append(chunk)
        if len(partitions) > 1 or "" not in partitions:
            row.partitions, row.open = len(partitions), stream in opened
        if row.open:
            parts = [
                _row(key, of_part[0].partition_label or key, of_part, start, end, MOST_CELLS_OF_PART)
                for key, of_part in sorted(partitions.items(), key=lambda item: _urgency(item[1]))[:MOST_PARTS]
            ]
            row.parts, row.hidden = parts, len(partitions) - len(parts)
        rows.append(row)
    return rows


def _urgency(chunks: Sequence[ChunkFacts]) -> tuple[bool, str]:
    """Parts that failed come first, then by name; what runs stays in its place, as that changes all the time."""
    failed = any(chunk.state == states.CHUNK_FAILED for chunk in chunks)
    return not failed, chunks[0].partition_label.lower()


def _row(key: str, label: str, chunks: Sequence[ChunkFacts], start: datetime, end: datetime, most: int) -> Row:
    windows = sorted({(chunk.since, chunk.until) for chunk in chunks})
    apart = all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(windows))
    if not apart or len(windows) > most:
        step = (end - start) / most
        windows = [(start + step * i, start + step * (i + 1)) for i in range(most)]
    members: list[list[ChunkFacts]] = [[] for _ in windows]
    for chunk in chunks:
        for i in _reaches(windows, chunk):
            members[i].append(chunk)
    least = LEAST_ALONE if len(windows) == 1 else LEAST
    cells = [
        _cell(window, inside, start, end, least) for window, inside in zip(windows, members, strict=True) if inside
    ]
    return Row(
        key,
        label,
        cells,
        len(chunks),
        sum(chunk.status == states.CHUNK_COMPLETED for chunk in chunks),
        sum(chunk.status == states.CHUNK_FAILED for chunk in chunks),
        sum(chunk.records_processed + chunk.records_skipped for chunk in chunks),
    )


def _reaches(windows: Sequence[tuple[datetime, datetime]], chunk: ChunkFacts) -> range:
    """The places of the windows (ascending, apart) that the chunk reaches into."""
    first = bisect_right(windows, chunk.since, key=lambda window: window[1])
    last = bisect_left(windows, chunk.until, key=lambda window: window[0])
    return range(first, max(last, first))


def _cell(
    window: tuple[datetime, datetime], chunks: Sequence[ChunkFacts], start: datetime, end: datetime, least: float
) -> Cell:
    found = {chunk.state for chunk in chunks}
    for state in (states.CHUNK_FAILED, states.CHUNK_RUNNING, "waiting", states.CHUNK_PENDING):
        if state in found:
            break
    else:
        state = states.CHUNK_COMPLETED
    weight = sum(chunk.weight for chunk in chunks) or 1.0
    share = min(sum(chunk.weight * chunk.done for chunk in chunks) / weight, 1.0)
    whole = (end - start) / timedelta(seconds=1) or 1.0
    x = max((window[0] - start) / timedelta(seconds=1) / whole * 100, 0.0)
    width = max(min((window[1] - start) / timedelta(seconds=1) / whole * 100, 100.0) - x - GAP, least)
    x = min(x, 100 - width)
    return Cell(
        round(x, 2), round(width, 2), round(100 * share, 1), len(chunks) > 1, state, *window, _words(chunks, share)
    )


def _words(chunks: Sequence[ChunkFacts], share: float) -> str:
    records = sum(chunk.records_processed + chunk.records_skipped for chunk in chunks)
    if len(chunks) == 1:
        state = {
            "pending": "to do", "waiting": "waiting", "running": f"running, {int(share * 100)} %", "completed": "done", "failed": "failed",
        }.get(chunks[0].state, chunks[0].state)  # fmt: skip
        return f"{state}, {records:,} records"
    counts = {
        "done": sum(chunk.status == states.CHUNK_COMPLETED for chunk in chunks),
        "running": sum(chunk.status == states.CHUNK_RUNNING for chunk in chunks),
        "failed": sum(chunk.status == states.CHUNK_FAILED for chunk in chunks),
    }
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none done"
    return f"{len(chunks)} parts: {said}, {records:,} records"
