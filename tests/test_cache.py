"""The shared cache while Redis is away."""

from __future__ import annotations

import pytest

from atom.cache import SharedRedisCache


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
