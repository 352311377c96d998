"""What a provider's headers do to the budget that all workers of a connection share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
import time_machine
from django.utils import timezone

from atom.tenancy import tenant_scope
from historical_sync.budget import ConnectionBudget, bring_back
from historical_sync.database import make_pool
from historical_sync.engine import Engine
from historical_sync.runs import JobRun
from historical_sync.tasks import Room
from integrations.errors import Throttled
from integrations.gateway import limit_a_minute
from integrations.http import Reply
from integrations.models import Connection
from tests.graphs import make_connection

pytestmark = pytest.mark.django_db(transaction=True)


def answered(tenant: Any, connection: Connection, headers: dict[str, str]) -> None:
    """The provider answers so, and the connection is as it is after that."""

    async def scene() -> None:
        pool = make_pool(1)
        await pool.open(wait=True)
        budget = ConnectionBudget(pool, str(tenant.id), str(connection.id), connection.provider)
        budget.after(Reply(200, headers, [], "", "https://api.github.com/x"))
        await bring_back(pool, [budget])
        await pool.close()

    asyncio.run(scene())
    with tenant_scope(tenant.id):
        connection.refresh_from_db()


@pytest.mark.parametrize(
    ("known", "left", "limit", "remaining", "then"),
    [
        (5000, 4000, 5000, 3990, 3990),  # the provider counts more than we do
        (5000, 3000, 5000, 4990, 3000),  # requests on their way are not in its number yet
        (5000, 4000, 15000, 14500, 14000),  # the limit grew: so did what is left
        (1_000_000, 900_000, 5000, 4990, 4990),  # the limit shrank: what was used of the larger one says nothing
        (1_000_000, 100, 5000, 4990, 4990),
    ],
)
def test_headers_correct_the_shared_budget(
    live_cast: SimpleNamespace, known: int, left: int, limit: int, remaining: int, then: int
) -> None:
    reset = int(time.time()) + 3000
    with tenant_scope(live_cast.acme.id):
        connection = make_connection(live_cast.acme)
        Connection.objects.filter(id=connection.id).update(
            budget_limit=known,
            budget_left=left,
            budget_resets_at=f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(reset))}",
        )
    headers = {
        "x-ratelimit-limit": str(limit),
        "x-ratelimit-remaining": str(remaining),
        "x-ratelimit-reset": str(reset),
    }
    answered(live_cast.acme, connection, headers)
    assert connection.budget_left == then
    assert connection.budget_limit == limit


@asynccontextmanager
async def budget_of(connection: Connection) -> AsyncIterator[ConnectionBudget]:
    """As a worker of its own has it."""
    async with make_pool(2) as pool:
        yield ConnectionBudget(pool, str(connection.tenant_id), str(connection.id), connection.provider)


def reply(limit: int, remaining: int, minutes: int = 50) -> Reply:
    """GitHub's, of a window that ends then."""
    headers = {"limit": limit, "remaining": remaining, "reset": int(time.time()) + minutes * 60}
    return Reply(200, {f"x-ratelimit-{name}": str(value) for name, value in headers.items()}, [], "", "https://x.test")


def test_what_a_worker_has_in_hand_is_gone_when_the_provider_says_that_nothing_is_left(
    live_cast: SimpleNamespace,
) -> None:
    connection = with_a_whole_budget(live_cast, timedelta(minutes=50))

    async def scene() -> None:
        async with budget_of(connection) as budget:
            await budget.before()
            budget.after(reply(5000, 0))
            with pytest.raises(Throttled):  # the row hears of it as it is asked for more
                await budget.before()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("limit", "remaining", "minutes", "left"),
    [
        (50, 40, 50, 39),  # a smaller limit
        (5000, 4000, 58, 3900),  # a window that ends much later
    ],
)
def test_what_was_taken_from_another_budget_than_the_provider_tells_of_is_not_asked(
    live_cast: SimpleNamespace, limit: int, remaining: int, minutes: int, left: int
) -> None:
    connection = with_a_whole_budget(live_cast, timedelta(minutes=50))

    async def scene() -> None:
        async with budget_of(connection) as budget:
            await budget.before()
            budget.after(reply(limit, remaining, minutes))
            await budget.before()

    asyncio.run(scene())
    with tenant_scope(live_cast.acme.id):
        connection.refresh_from_db()
    assert connection.budget_left == left


def test_requests_in_hand_are_asked_on_while_replies_say_what_was_known(live_cast: SimpleNamespace) -> None:
    """A question to the database for each would cost more than many an answer."""
    connection = with_a_whole_budget(live_cast, timedelta(minutes=50))

    async def scene() -> int:
        async with budget_of(connection) as budget:
            await budget.before()
            budget.after(reply(5000, 4999))
            return budget.in_hand

    assert asyncio.run(scene()) == 99


def test_what_replies_said_a_while_ago_of_a_budget_in_use_is_written_for_the_others(
    live_cast: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = with_a_whole_budget(live_cast, timedelta(minutes=50))

    def left() -> float:
        with tenant_scope(live_cast.acme.id):
            connection.refresh_from_db()
        return connection.budget_left

    async def look(budget: ConnectionBudget) -> float:
        await bring_back(budget.pool, [], [budget])
        return await asyncio.to_thread(left)

    async def scene() -> list[float]:
        async with budget_of(connection) as budget:
            budget.after(reply(5000, 3000))
            found = [await look(budget)]  # its next withdrawal is about to tell
            monkeypatch.setattr("historical_sync.budget.HELD", 0.0)
            found.append(await look(budget))
        return found

    assert asyncio.run(scene()) == [5000, 3000]


def test_a_reset_in_another_age_bars_nobody_for_more_than_a_day(live_cast: SimpleNamespace) -> None:
    with tenant_scope(live_cast.acme.id):
        connection = make_connection(live_cast.acme)
    headers = {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "9999999999"}
    answered(live_cast.acme, connection, headers)
    assert connection.budget_left == 0
    assert connection.budget_resets_at < timezone.now() + timedelta(days=1, seconds=1)


def test_a_worker_whose_clock_is_ahead_waits_by_the_databases(live_cast: SimpleNamespace) -> None:
    """By its own the time would be over, and it would ask again a hundred times a second."""
    with tenant_scope(live_cast.acme.id):
        connection = make_connection(live_cast.acme)
        until = timezone.now() + timedelta(minutes=5)
        Connection.objects.filter(id=connection.id).update(blocked_until=until)

    async def scene() -> None:
        pool = make_pool(1)
        await pool.open(wait=True)
        budget = ConnectionBudget(pool, str(live_cast.acme.id), str(connection.id), connection.provider)
        try:
            with time_machine.travel(timezone.now() + timedelta(hours=1)), pytest.raises(Throttled) as waits:
                async with asyncio.timeout(3):
                    await budget.before()
            # By its own again, by which all errors name their times.
            assert waits.value.retry_at is not None
            assert abs(waits.value.retry_at - until - timedelta(hours=1)) < timedelta(minutes=1)
        finally:
            await pool.close()

    asyncio.run(scene())


def with_a_whole_budget(live_cast: SimpleNamespace, ends: timedelta) -> Connection:
    """A connection that may ask 5,000 times until its window ends."""
    with tenant_scope(live_cast.acme.id):
        connection = make_connection(live_cast.acme)
        Connection.objects.filter(id=connection.id).update(
            budget_limit=5000, budget_left=5000, budget_resets_at=timezone.now() + ends
        )
    return connection


def test_what_a_job_took_and_did_not_use_is_there_for_the_next_once_it_ends(live_cast: SimpleNamespace) -> None:
    """Else many short imports use the limit up that the provider has hardly seen used."""
    connection = with_a_whole_budget(live_cast, timedelta(minutes=50))

    async def scene() -> None:
        pool = make_pool(2)
        await pool.open(wait=True)
        engine = Engine(pool, cast(Any, None))
        for number in range(200):
            budget = ConnectionBudget(pool, str(live_cast.acme.id), str(connection.id), connection.provider)
            await budget.before()
            await budget.before()
            engine.runs.current[str(number)] = JobRun(cast(Any, None), cast(Any, None), budget, Room(1, 1))
            await engine.obey()  # long since nobody uses it
        await pool.close()

    asyncio.run(scene())
    with tenant_scope(live_cast.acme.id):
        connection.refresh_from_db()
    assert connection.budget_left == 4600


def test_a_limit_by_the_minute_is_shared_and_asked_evenly_after_a_tenth_of_it(live_cast: SimpleNamespace) -> None:
    """Of the hour's limit all could be asked at once, which the vendor takes for abuse."""
    connection = with_a_whole_budget(live_cast, timedelta(minutes=50))

    async def until_it_waits(budget: ConnectionBudget) -> tuple[int, datetime | None]:
        asked = 0
        while True:
            try:
                await budget.before()
            except Throttled as wait:
                return asked, wait.retry_at
            asked += 1

    async def scene() -> list[tuple[int, datetime | None]]:
        pool = make_pool(2)
        await pool.open(wait=True)
        who = str(live_cast.acme.id), str(connection.id), connection.provider
        workers = [ConnectionBudget(pool, *who, a_minute=20) for _ in range(2)]
        found = [await until_it_waits(budget) for budget in workers]
        await pool.close()
        return found

    before = timezone.now()
    found = asyncio.run(scene())
    with tenant_scope(live_cast.acme.id):
        connection.refresh_from_db()
    assert connection.paced_until is not None
    # Two at once, and then eighteen in a minute and the second for which a worker keeps what it took.
    apart = timedelta(seconds=61) / 18
    assert connection.paced_until - 2 * apart > before
    assert [asked for asked, _ in found] == [2, 0]
    for _, again_at in found:  # told by the worker's clock
        assert again_at is not None
        assert abs(again_at - (connection.paced_until - apart)) < timedelta(seconds=1)
    assert connection.budget_left == 4998


def test_what_a_worker_did_not_ask_of_a_minute_it_may_ask_later(
    live_cast: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = with_a_whole_budget(live_cast, timedelta(minutes=50))
    monkeypatch.setattr("historical_sync.budget.HELD", 0.0)

    async def scene() -> None:
        pool = make_pool(2)
        await pool.open(wait=True)
        budget = ConnectionBudget(pool, str(live_cast.acme.id), str(connection.id), connection.provider, a_minute=20)
        for _ in range(2):
            await budget.before()  # which takes two, and brings one back
        await pool.close()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("changes", "url", "limit"),
    [
        ({}, "", 900),
        ({"base_url": "https://git.acme.test"}, "", None),
        ({"sandbox": True}, "", None),
        ({}, "https://git.acme.test", None),
    ],
)
def test_githubs_limit_by_the_minute_is_that_of_its_own_servers(
    live_cast: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], url: str, limit: int | None
) -> None:
    """An enterprise's server has no limits unless its administrator sets some."""
    monkeypatch.setenv("ATOM_PROVIDER_GITHUB_BASE_URL", url)
    with tenant_scope(live_cast.acme.id):
        connection = make_connection(live_cast.acme)
    for name, value in changes.items():
        setattr(connection, name, value)
    assert limit_a_minute(connection) == limit


def test_what_was_taken_of_a_window_that_is_over_is_not_brought_back(live_cast: SimpleNamespace) -> None:
    connection = with_a_whole_budget(live_cast, timedelta(seconds=0.3))

    async def scene() -> None:
        pool = make_pool(2)
        await pool.open(wait=True)
        old, new = [
            ConnectionBudget(pool, str(live_cast.acme.id), str(connection.id), connection.provider) for _ in range(2)
        ]
        await old.before()
        await asyncio.sleep(0.35)
        await new.before()  # opens the next window
        await bring_back(pool, [old])
        await pool.close()

    asyncio.run(scene())
    with tenant_scope(live_cast.acme.id):
        connection.refresh_from_db()
    assert connection.budget_left == 4900
