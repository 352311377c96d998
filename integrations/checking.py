"""Trying a provider's streams over a small window, the way an import would, and what is to be said about each. Stores nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from integrations.errors import UNMAPPABLE, ProviderError, WindowTooLarge
from integrations.http import Api
from integrations.patience import patiently
from integrations.providers.base import JSON, Context, Estimate, Partition, Record, Stream, Window, WindowKind

MOST_PAGES = 5  # of one reading
MOST_REASONS = 3
PATIENCE = timedelta(seconds=60)  # for a provider that asks to slow down, each time
SECOND = timedelta(seconds=1)

T = TypeVar("T")


@dataclass
class Reading:
    """Rows of one window. whole: read to its end. outside: rows that came although the window does not hold them."""

    records: dict[str, Record] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)
    pages: int = 0
    outside: int = 0
    repeated: int = 0
    whole: bool = True
    cut: Window | None = None


@dataclass
class StreamReport:
    """What was seen of a stream in one partition. error: (code, words) when it could not be read. wrong: what must not be."""

    stream: str
    partition: str = ""
    reading: Reading = field(default_factory=Reading)
    counted: Estimate | None = None
    entities: Counter[str] = field(default_factory=Counter)
    relationships: Counter[str] = field(default_factory=Counter)
    edges: str = ""
    wrong: list[str] = field(default_factory=list)
    error: tuple[str, str] | None = None

    @property
    def is_well(self) -> bool:
        return self.error is None and not self.wrong

    @property
    def span(self) -> tuple[datetime, datetime] | None:
        """The times of the oldest and the newest row."""
        times = [record.occurred_at for record in self.reading.records.values()]
        return (min(times), max(times)) if times else None


async def check_stream(api: Api, stream: Stream, partition: Partition, window: Window) -> StreamReport:
    """Reads some pages of the window, maps every row, compares the provider's count, and tries an edge on a row's time."""
    report = StreamReport(stream.name, partition.label)
    try:
        report.reading = await _read(api, stream, partition, window)
        _map(report, stream, Context(api.namespace, partition))
        if stream.count is not None:
            report.counted = await _patiently(partial(stream.count, api, partition, report.reading.cut or window))
            _compare(report)
        if stream.window is not WindowKind.SNAPSHOT:
            await _try_edge(report, api, stream, partition, report.reading.cut or window)
    except ProviderError as error:
        report.error = (error.code, str(error))
    return report


async def _read(api: Api, stream: Stream, partition: Partition, window: Window) -> Reading:
    """Pages of the window. One that is too large for the provider is halved, as an import would, and its later half read."""
    while True:
        reading = Reading(cut=window)
        cursor: JSON | None = None
        try:
            while reading.pages < MOST_PAGES:
                page = await _patiently(partial(stream.fetch, api, partition, window, cursor))
                reading.pages += 1
                reading.rejected += [reason for _, _, reason in page.rejected]
                for record in page.records:
                    if stream.window is not WindowKind.SNAPSHOT and record.occurred_at not in window:
                        reading.outside += 1
                        continue
                    reading.repeated += record.external_id in reading.records
                    reading.records[record.external_id] = record
                if page.next_cursor is None:
                    return reading
                cursor = json.loads(json.dumps(page.next_cursor))
            reading.whole = False
            return reading
        except WindowTooLarge:
            if window.until - window.since < 2 * SECOND:
                raise
            window = Window(window.since + (window.until - window.since) // 2, window.until)


def _map(report: StreamReport, stream: Stream, context: Context) -> None:
    for record in report.reading.records.values():
        if record.occurred_at.tzinfo is None:
            report.wrong.append(f"record {record.external_id} has a time without a zone")
        try:
            graph = stream.extract(record.payload, context)
        except UNMAPPABLE as error:
            report.reading.rejected.append(f"{record.external_id}: {type(error).__name__} {error}")
            continue
        if not graph.entities or graph.entities[0].properties is None:
            report.wrong.append(f"record {record.external_id} does not tell its own entity first")
        report.entities.update(entity.kind for entity in graph.entities)
        report.relationships.update(relationship.kind for relationship in graph.relationships)


def _compare(report: StreamReport) -> None:
    counted, reading = report.counted, report.reading
    if counted is None or not counted.exact or not reading.whole:
        return
    seen = len(reading.records) + len(reading.rejected)
    if counted.records != seen:
        report.wrong.append(f"the provider counts {counted.records}, but {seen} came")


async def _try_edge(report: StreamReport, api: Api, stream: Stream, partition: Partition, window: Window) -> None:
    """Reads the window in two halves that meet exactly at a row's time: no row may be lost or be in both."""
    rows = sorted(report.reading.records.values(), key=lambda record: record.occurred_at)
    if not report.reading.whole or len(rows) < 2 or rows[0].occurred_at == rows[-1].occurred_at:
        report.edges = "not tried: too many rows" if not report.reading.whole else "not tried: too few rows"
        return
    edge = rows[len(rows) // 2].occurred_at
    if edge == rows[0].occurred_at:
        edge = rows[-1].occurred_at
    earlier = await _read(api, stream, partition, Window(window.since, edge))
    later = await _read(api, stream, partition, Window(edge, window.until))
    if not earlier.whole or not later.whole:
        report.edges = "not tried: too many rows"
        return
    lost = [row.external_id for row in rows if row.external_id not in earlier.records.keys() | later.records.keys()]
    # A row that changed meanwhile is rightly in the later half.
    both = [key for key in earlier.records.keys() & later.records.keys() if earlier.records[key] == later.records[key]]
    if lost or both:
        report.wrong.append(f"an edge at {edge.isoformat()} loses {len(lost)} rows and doubles {len(both)}")
    report.edges = "wrong" if lost or both else "right"


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    return await patiently(ask, first=SECOND, longest=PATIENCE)
