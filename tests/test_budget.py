"""A connection's rate budget, as several workers share it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from atom.tenancy import tenant_scope
from historical_sync.budget import ConnectionBudget
from historical_sync.database import Pool, make_pool
from integrations.errors import Throttled
from integrations.models import Connection
from integrations.providers.base import RateBudget, RateState
from integrations.providers.github import GITHUB
from tests.conftest import connected

LONG = RateBudget(requests=100, seconds=600, concurrency=8)


@pytest.fixture
def connection(live_cast: SimpleNamespace) -> Any:
    return connected(live_cast.acme, "github", "")


@pytest.fixture
async def pool(connection: Any) -> AsyncIterator[Pool]:
    made = make_pool(8)
    await made.open()
    yield made
    await made.close()


def budget(pool: Pool, connection: Any, rate: RateBudget = LONG, kind: str = "historical") -> ConnectionBudget:
    return ConnectionBudget(pool, str(connection.tenant_id), str(connection.id), replace(GITHUB, budget=rate), kind)


async def spend(*budgets: ConnectionBudget, at_most: int = 1000) -> int:
    """Requests until there are no more."""
    spent = 0

    async def one(asked: ConnectionBudget) -> None:
        nonlocal spent
        while spent < at_most:
            try:
                await asked.before()
            except Throttled:
                return
            spent += 1

    await asyncio.gather(*(one(asked) for asked in budgets))
    return spent


async def test_workers_together_never_take_more_than_there_is(pool: Pool, connection: Any) -> None:
    workers = [budget(pool, connection, kind="incremental") for _ in range(4)]
    assert await spend(*workers) == 100


async def test_a_historical_import_leaves_head_room_that_an_incremental_sync_gets(pool: Pool, connection: Any) -> None:
    assert await spend(budget(pool, connection)) == 90
    assert await spend(budget(pool, connection, kind="incremental")) == 10


async def test_who_finds_nothing_learns_when_there_will_be_more(pool: Pool, connection: Any) -> None:
    await spend(budget(pool, connection))
    with pytest.raises(Throttled) as refused:
        await budget(pool, connection).before()
    assert refused.value.retry_at is not None
    assert timedelta(minutes=9) < refused.value.retry_at - datetime.now(UTC) <= timedelta(minutes=10)


async def test_a_short_wait_is_waited_for_and_the_new_window_is_whole(pool: Pool, connection: Any) -> None:
    short = RateBudget(requests=20, seconds=0.5, concurrency=8)
    asked = budget(pool, connection, short, "incremental")
    started = asyncio.get_running_loop().time()
    assert await spend(asked, at_most=50) == 50
    assert asyncio.get_running_loop().time() - started >= 1.0  # 20, 20 and 10: two windows have passed


async def test_requests_in_hand_are_not_carried_into_the_next_window(pool: Pool, connection: Any) -> None:
    short = RateBudget(requests=200, seconds=0.5, concurrency=8)
    idle, busy = (budget(pool, connection, short, "incremental") for _ in range(2))
    await idle.before()
    assert idle.in_hand == 3
    await asyncio.sleep(0.6)
    await busy.before()
    with tenant_scope(connection.tenant_id):
        opened = await Connection.objects.of(connection.tenant).aget(id=connection.id)
    await idle.before()
    with tenant_scope(connection.tenant_id):
        row = await Connection.objects.of(connection.tenant).aget(id=connection.id)
    # What it had is void: it took anew, from the new window.
    assert row.budget_left <= opened.budget_left - 1 or row.budget_resets_at != opened.budget_resets_at


async def test_a_block_reaches_a_worker_that_has_requests_in_hand(pool: Pool, connection: Any) -> None:
    one, other = budget(pool, connection), budget(pool, connection)
    await other.before()
    other.in_hand = 3
    await one.block(datetime.now(UTC) + timedelta(minutes=5))
    other.held_until = 0.0  # a second later
    with pytest.raises(Throttled):
        await other.before()


async def test_what_was_not_used_is_brought_back(pool: Pool, connection: Any) -> None:
    asked = budget(pool, connection, kind="incremental")
    await asked.before()
    for _ in range(20):
        asked.held_until = 0.0
        await asked.before()
    assert await spend(asked) == 100 - 21


async def test_a_dead_worker_takes_little_with_it(pool: Pool, connection: Any) -> None:
    for _ in range(5):
        await budget(pool, connection, kind="incremental").before()  # and is never heard of again
    assert 100 - 5 * 5 <= await spend(budget(pool, connection, kind="incremental")) < 100


async def test_headers_correct_the_budget_downwards_at_once(pool: Pool, connection: Any) -> None:
    asked = budget(pool, connection, kind="incremental")
    await asked.before()
    await asked._correct(RateState(7, 100, datetime.now(UTC) + timedelta(minutes=5)))
    asked.in_hand = 0
    assert await spend(asked) == 7


async def test_headers_that_name_a_larger_limit_raise_the_budget(pool: Pool, connection: Any) -> None:
    asked = budget(pool, connection, kind="incremental")
    await asked.before()
    await asked._correct(RateState(499, 500, datetime.now(UTC) + timedelta(minutes=5)))
    asked.in_hand = 0
    assert 490 <= await spend(asked) <= 499


async def test_a_late_reply_of_a_window_that_is_over_opens_no_new_one(pool: Pool, connection: Any) -> None:
    asked = budget(pool, connection, kind="incremental")
    await spend(asked, at_most=60)
    await asked._correct(RateState(3, 100, datetime.now(UTC) - timedelta(seconds=1)))
    with tenant_scope(connection.tenant_id):
        row = await Connection.objects.of(connection.tenant).aget(id=connection.id)
    assert row.budget_resets_at is not None
    assert row.budget_resets_at > datetime.now(UTC) + timedelta(minutes=9)
    assert await spend(asked) == 40
