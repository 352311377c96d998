"""Dates and times as people and programs write them."""

from __future__ import annotations

from datetime import MAXYEAR, UTC, datetime, timedelta

from django.utils.dateparse import parse_date, parse_datetime


def moment(value: str, *, end: bool = False) -> datetime:
    """An ISO date or date-time as aware UTC; without an offset it is UTC. A date is its beginning, or its end when `end`.
    What is later than a clock can tell is the last moment that it can.

    Raises ValueError for anything else.
    """
    value = value.strip()
    found = parse_datetime(value) if len(value) > 10 else None
    later = timedelta()
    if found is None:
        day = parse_date(value) if len(value) == 10 else None
        if day is None:
            raise ValueError(value)
        found = datetime(day.year, day.month, day.day, tzinfo=UTC)
        later = timedelta(days=1) if end else later
    try:
        return (found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)) + later
    except OverflowError:
        if found.year < MAXYEAR:
            raise ValueError(value) from None
        return datetime.max.replace(tzinfo=UTC)
