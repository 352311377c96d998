"""Asking a provider again while somebody waits for the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from integrations.errors import RetryLater

TRIES = 4
T = TypeVar("T")


async def patiently(ask: Callable[[], Awaitable[T]], *, first: timedelta, longest: timedelta) -> T:
    """The answer, asked for again when the provider said, or else after `first`, doubling.

    Raises what is no matter of waiting, and what would be one of more than `longest` or of too many tries.
    """
    for attempt in range(TRIES):
        try:
            return await ask()
        except RetryLater as error:
            wait = error.retry_at - datetime.now(UTC) if error.retry_at is not None else first * 2**attempt
            if attempt == TRIES - 1 or wait > longest:
                raise
            await asyncio.sleep(max(wait.total_seconds(), 0))
    raise AssertionError("unreachable")
