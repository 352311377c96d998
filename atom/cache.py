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
    Redis.) So it is with what a full Redis has no room for: it answers that such a key is not there, and then the process's own counts.
    """

    _servers: list[str]

    @property
    def _cache(self) -> Any:
        return _client(tuple(self._servers))

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self._own_if_away("get", key, _own.get(key, default, version), version)

    def set(self, *args: Any, **kwargs: Any) -> None:
        self._own_if_away("set", *args, **kwargs)

    def add(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._own_if_away("add", *args, **kwargs))

    def incr(self, *args: Any, **kwargs: Any) -> int:
        try:
            return int(self._own_if_away("incr", *args, **kwargs))
        except ValueError:
            return int(_own.incr(*args, **kwargs))

    def delete(self, *args: Any, **kwargs: Any) -> bool:
        here = _own.delete(*args, **kwargs)
        return bool(self._own_if_away("delete", *args, **kwargs)) or here

    def _own_if_away(self, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(super(), name)(*args, **kwargs)
        except RedisError:
            return getattr(_own, name)(*args, **kwargs)


_own = LocMemCache("while-redis-is-away", {})


@cache
def _client(servers: tuple[str, ...]) -> RedisCacheClient:
    return RedisCacheClient(list(servers), socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
