"""The cache in Redis, with one pool of connections a process."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from redis.exceptions import RedisError

PATIENCE = 1.0  # seconds for an answer


class SharedRedisCache(RedisCache):
    """Django makes a cache object for each request of ASGI, and each would connect anew: a millisecond, and a socket left behind.

    While Redis is away each process has a cache of its own: pages and API go on, and tries to sign in are counted. (`/readyz` tells of
    Redis.)
    """

    _servers: list[str]

    @property
    def _cache(self) -> Any:
        return _client(tuple(self._servers))

    def get(self, *args: Any, **kwargs: Any) -> Any:
        return self._own_if_away("get", *args, **kwargs)

    def set(self, *args: Any, **kwargs: Any) -> None:
        self._own_if_away("set", *args, **kwargs)

    def add(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._own_if_away("add", *args, **kwargs))

    def incr(self, *args: Any, **kwargs: Any) -> int:
        return int(self._own_if_away("incr", *args, **kwargs))

    def delete(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._own_if_away("delete", *args, **kwargs))

    def _own_if_away(self, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(super(), name)(*args, **kwargs)
        except RedisError:
            return getattr(_own, name)(*args, **kwargs)


_own = LocMemCache("while-redis-is-away", {})


@cache
def _client(servers: tuple[str, ...]) -> RedisCacheClient:
    return RedisCacheClient(list(servers), socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
