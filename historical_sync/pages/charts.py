"""Bars over time as SVG that a strict CSP lets through: positions in percent, colours by class, words in titles. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

GAP = 0.22  # of a bar's place that stays empty


class Series(NamedTuple):
    """One colour of a chart. tone: a class of the style sheet."""

    key: str
    label: str
    tone: str
    total: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a bar, in percent of the chart's height."""

    y: float
    height: float
    tone: str


@dataclass(frozen=True, slots=True)
class Bar:
    """x, width: percent. first, last: days, both in. values: one a series, in their order."""

    x: float
    width: float
    first: date
    last: date
    total: float
    pieces: list[Piece]
    values: list[float]


@dataclass(frozen=True, slots=True)
class Chart:
    """`top`: what the upper edge stands for."""

    series: list[Series]
    bars: list[Bar]
    top: float

    @property
    def total(self) -> float:
        return sum(bar.total for bar in self.bars)


def buckets(first: date, last: date, days: int) -> list[tuple[date, date]]:
    """Spans of so many days, both ends in, that end with `last` and begin at `first` at the latest."""
    spans = []
    end = last
    while end >= first:
        spans.append((end - timedelta(days=days - 1), end))
        end -= timedelta(days=days)
    return spans[::-1]


def stacked(
    spans: Sequence[tuple[date, date]],
    series: Sequence[tuple[str, str, str]],
    values: Mapping[str, Sequence[float]],
) -> Chart:
    """series: (key, label, tone), the lowest first. values: key -> a value for each span."""
    totals = [sum(values[key][i] for key, _, _ in series) for i in range(len(spans))]
    top = nice(max(totals, default=0))
    place = 100 / len(spans)
    bars = []
    for i, (first, last) in enumerate(spans):
        pieces, base = [], 100.0
        for key, _, tone in series:
            height = values[key][i] / top * 100
            if height > 0:
                base -= height
                pieces.append(Piece(round(base, 2), round(height, 2), tone))
        bars.append(
            Bar(
                round(i * place + place * GAP / 2, 3),
                round(place * (1 - GAP), 3),
                first,
                last,
                totals[i],
                pieces,
                [values[key][i] for key, _, _ in series],
            )
        )
    return Chart([Series(*one, sum(values[one[0]])) for one in series], bars, top)


def nice(value: float) -> float:
    """The least round number (1 to 8, and two halves, times a power of ten) that is not below the value; 1 for nothing."""
    if value <= 1:
        return 1
    power = 1
    while power * 10 < value:
        power *= 10
    return next(power * step for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * step >= value)
