"""How many requests of a tenant may take long at once, as they wait for its tools: each keeps one of the threads that answer everybody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

from django.core.cache import cache

from atom.errors import Refused

AT_ONCE = 6  # of `handler.THREADS`
FORGOTTEN_AFTER = 60  # seconds; longer than any waits. What ended without giving its turn back takes none from then on


@contextmanager
def turn(tenant_id: UUID) -> Iterator[None]:
    """Around what may take many seconds while somebody waits. Raises Refused when as many of the tenant's do already."""
    key = f"turns:{tenant_id}"
    cache.add(key, 0, FORGOTTEN_AFTER)
    with suppress(ValueError):  # it ran out in between
        if cache.incr(key) > AT_ONCE:
            cache.decr(key)
            words = "Too much of this workspace is waited for already. Try again in a moment."
            raise Refused("throttled", words, status_code=429, retry_after=5)
    try:
        yield
    finally:
        with suppress(ValueError):
            cache.decr(key)
