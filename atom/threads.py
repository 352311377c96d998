"""What must not run in the event loop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from channels.db import DatabaseSyncToAsync

# Not Django's one shared thread: a slow page must not hold up live progress.
_THREADS = ThreadPoolExecutor(4, thread_name_prefix="live")


def in_thread(function: Any) -> Any:
    """`function` for await, in a thread with a database connection of its own."""
    return DatabaseSyncToAsync(function, thread_sensitive=False, executor=_THREADS)
