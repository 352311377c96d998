"""The shared cache while Redis is away."""

from __future__ import annotations

from atom.cache import SharedRedisCache


def test_a_cache_that_is_away_is_empty_and_stops_nobody() -> None:
    away = SharedRedisCache("redis://127.0.0.1:1/0", {})
    assert away.get("a", "nothing") == "nothing"
    away.set("a", 1, 60)
    assert away.add("a", 0, 60)
    assert away.incr("a") == 1, "the first of its period, for who counts"
    assert not away.delete("a")
