"""What Redis is for while it is away or full."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import redis
from channels_redis.pubsub import RedisPubSubChannelLayer

from atom.cache import SharedRedisCache
from tests.conftest import free_port, missing, stop, wait_for


def test_while_redis_is_away_a_process_counts_for_itself() -> None:
    def away() -> SharedRedisCache:
        return SharedRedisCache("redis://127.0.0.1:1/0", {})  # each request has an object of its own

    assert away().get("tries", "nothing") == "nothing"
    with pytest.raises(ValueError, match="tries"):
        away().incr("tries")
    assert away().add("tries", 0, 60)
    assert not away().add("tries", 0, 60)
    assert [away().incr("tries"), away().incr("tries")] == [1, 2]
    away().set("other", 7, 60)
    assert (away().get("tries"), away().get("other")) == (2, 7)
    assert away().delete("tries")
    assert away().get("tries") is None


@pytest.fixture
def full_redis() -> Iterator[str]:
    """A Redis that has all the memory it may have, and evicts nothing."""
    if shutil.which("redis-server") is None:
        missing("redis-server")
    port = free_port()
    none = ["--save", "", "--appendonly", "no", "--maxmemory", "1", "--maxmemory-policy", "noeviction"]
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", *none], stdout=subprocess.DEVNULL
    )
    url = f"redis://127.0.0.1:{port}/0"
    with redis.Redis.from_url(url) as client:
        wait_for(lambda: answers(client))
    yield url
    stop(process)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.mark.redis
def test_while_redis_is_full_a_process_counts_for_itself(full_redis: str) -> None:
    """It answers, that nothing is there, and takes nothing: what was added must be found all the same."""

    def full() -> SharedRedisCache:
        return SharedRedisCache(full_redis, {})

    with pytest.raises(ValueError, match="tries-when-full"):
        full().incr("tries-when-full")
    assert full().add("tries-when-full", 0, 60)
    assert not full().add("tries-when-full", 0, 60)
    assert [full().incr("tries-when-full"), full().incr("tries-when-full")] == [1, 2]
    full().set("other-when-full", 7, 60)
    assert (full().get("tries-when-full"), full().get("other-when-full")) == (2, 7)
    assert full().delete("tries-when-full")
    assert full().get("tries-when-full") is None


@pytest.mark.redis
async def test_live_news_passes_through_a_redis_that_is_full(full_redis: str) -> None:
    layer = RedisPubSubChannelLayer(hosts=[full_redis])
    channel = await layer.new_channel()
    await layer.group_add("everybody", channel)
    await layer.group_send("everybody", {"type": "news"})
    async with asyncio.timeout(5):
        assert await layer.receive(channel) == {"type": "news"}
    await layer.flush()
