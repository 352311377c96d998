"""Pages on their way to storage: whole commits where providers are quick, all chunks at once where they are slow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest

from historical_sync import arrivals
from historical_sync.arrivals import BYTES_A_COMMIT, BYTES_BUFFERED, RECORDS_A_COMMIT, Amount, Arrivals, Buffer, Kept
from historical_sync.extraction import record_rows
from integrations.providers.base import JSON, Record

ROWS, _ = record_rows([Record(str(n), datetime(2026, 1, 1, tzinfo=UTC), {}) for n in range(100)], bytes(16), "rows")
Fetch = Callable[[JSON | None], Awaitable[Kept]]


def pages(number: int, before: Callable[[int], Awaitable[object]] | None = None) -> Fetch:
    """So many pages of a hundred records, each there at once, or when `before(page)` is over."""

    async def fetch(cursor: JSON | None) -> Kept:
        page = cursor["page"] if cursor else 0
        await (before(page) if before else asyncio.sleep(0))
        return Kept(ROWS, {"page": page + 1} if page + 1 < number else None)

    return fetch


async def read(fetch: Fetch, buffer: Buffer, seconds: float = 0.01) -> list[int]:
    """Reads to the end, each batch taking some seconds to be stored; the batches' records."""
    sizes: list[int] = []
    async with Arrivals(fetch, None, asyncio.Event(), buffer) as coming:
        done = False
        while not done:
            batch, done = await coming.batch()
            sizes.append(sum(len(page.rows) for page in batch))
            await asyncio.sleep(seconds)
    return sizes


async def test_a_worker_that_has_no_time_left_makes_whole_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Buffer, "is_busy", lambda self: True)
    buffer = Buffer()
    sizes = await asyncio.gather(*(read(pages(60), buffer) for _ in range(20)))
    assert [sum(found) for found in sizes] == [6000] * 20
    commits = [size for found in sizes for size in found]
    assert len(commits) < 1.5 * 20 * 6000 / RECORDS_A_COMMIT
    assert (buffer.held, buffer.turns, buffer.storing) == (Amount(), 0, 0)


async def test_a_worker_that_has_time_lets_all_chunks_fetch() -> None:
    """No page of twenty chunks comes before all twenty have asked: if one had to wait for another, none would ever come."""
    buffer, together = Buffer(), asyncio.Barrier(20)
    async with asyncio.timeout(30):
        sizes = await asyncio.gather(*(read(pages(10, lambda page: together.wait()), buffer, 0) for _ in range(20)))
    assert [sum(found) for found in sizes] == [1000] * 20


async def test_what_is_buffered_is_bounded() -> None:
    most = 0

    async def watched(cursor: JSON | None) -> Kept:
        nonlocal most
        most = max(most, buffer.held.records)
        return await quick(cursor)

    buffer, quick = Buffer(limit=1000), pages(20)
    await asyncio.gather(*(read(watched, buffer, 0.05) for _ in range(10)))
    assert 0 < most < 1000


async def test_large_records_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Buffer, "is_busy", lambda self: True)
    megabyte = ROWS[0]._replace(document=b"x" * 2**20)
    most = 0

    async def fetch(cursor: JSON | None) -> Kept:
        nonlocal most
        most = max(most, buffer.held.bytes)
        page = cursor["page"] if cursor else 0
        await asyncio.sleep(0)
        return Kept([megabyte], {"page": page + 1} if page < 19 else None)

    buffer = Buffer()
    assert await read(fetch, buffer) == [BYTES_A_COMMIT / 2**20] * 5
    sizes = await asyncio.gather(*(read(fetch, buffer) for _ in range(10)))
    assert [sum(found) for found in sizes] == [20] * 10
    assert most < BYTES_BUFFERED
    assert buffer.held == Amount()


async def test_who_gathers_is_told_when_somebody_could_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "GATHER_SECONDS", 60.0)
    buffer, slow = Buffer(), asyncio.Event()

    async def wait(page: int) -> None:
        if page:
            await slow.wait()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        async with AsyncExitStack() as others:
            for _ in range(arrivals.SAVES_AT_ONCE):
                await others.enter_async_context(buffer.turn_to_store())
            reader = group.create_task(read(pages(2, wait), buffer))
            while not buffer.gatherers:
                await asyncio.sleep(0)
            assert buffer.held.records == 100
        while buffer.gatherers:  # nobody stores any more: what it has is given out, though the rest is not there
            await asyncio.sleep(0)
        slow.set()
        assert await reader == [100, 100]


async def test_providers_that_hang_keep_neither_a_first_page_nor_a_commit_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    buffer, hang, all_hang = Buffer(), asyncio.Barrier(51), asyncio.Event()

    async def for_ever(page: int) -> None:
        if page:
            if hang.n_waiting == 49:
                all_hang.set()
            await hang.wait()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        hanging = [group.create_task(read(pages(50, for_ever), buffer)) for _ in range(50)]
        await all_hang.wait()
        with monkeypatch.context() as busy:  # those that hang have every turn that there is
            busy.setattr(Buffer, "is_busy", lambda self: True)
            assert await read(pages(1), buffer) == [100]
        assert sum(await read(pages(50), buffer)) == 5000
        for task in hanging:
            task.cancel()
    assert (buffer.held, buffer.turns, buffer.storing) == (Amount(), 0, 0)
