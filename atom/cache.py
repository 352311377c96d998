"""The cache in Redis, with one pool of connections a process."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from redis.exceptions import RedisError

PATIENCE = 1.0  # seconds for an answer


class SharedRedisCache(RedisCache):
    """Django makes a cache object for each request of ASGI, and each would connect anew: a millisecond, and a socket left behind.

    While Redis is away it is an empty cache that counts nothing: pages and API go on. (`/readyz` tells of Redis.)
    """

    _servers: list[str]

    @property
    def _cache(self) -> Any:
        return _client(tuple(self._servers))

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        try:
            return super().get(key, default, version)
        except RedisError:
            return default

    def set(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> None:
        try:
            super().set(key, value, *args, **kwargs)
        except RedisError:
            return

    def add(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> bool:
        try:
            return super().add(key, value, *args, **kwargs)
        except RedisError:
            return True

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        try:
            return super().incr(key, delta, version)
        except RedisError:
            return delta

    def delete(self, key: Any, version: int | None = None) -> bool:
        try:
            return super().delete(key, version)
        except RedisError:
            return False


@cache
def _client(servers: tuple[str, ...]) -> RedisCacheClient:
    return RedisCacheClient(list(servers), socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
