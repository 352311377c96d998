"""The cache in Redis, with one pool of connections a process."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.core.cache.backends.redis import RedisCache, RedisCacheClient


class SharedRedisCache(RedisCache):
    """Django makes a cache object for each request of ASGI, and each would connect anew: a millisecond, and a socket left behind."""

    _servers: list[str]

    @property
    def _cache(self) -> Any:
        return _client(tuple(self._servers))


@cache
def _client(servers: tuple[str, ...]) -> RedisCacheClient:
    return RedisCacheClient(list(servers))
