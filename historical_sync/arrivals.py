"""Pages on their way from a chunk's fetcher to its storer: how many are waited for, and how many may wait.

A commit costs the same for one record as for a hundred, so where the worker is busy pages that come quickly share one, and nobody waits
long for it; where it has time, what has arrived is stored at once. What a worker holds in memory is bounded however many chunks it
works on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from historical_sync.extraction import RecordRow, Rejected
from integrations.providers.base import JSON

RECORDS_A_COMMIT = 500
BYTES_A_COMMIT = 4 * 1024 * 1024  # of JSON
GATHER_SECONDS = 0.5  # from a busy worker's commit's first page; progress and requests to stop are seen once a commit
SAVES_AT_ONCE = 3  # one is worked out and one is mapped while the database writes another
LOOK_SECONDS = 0.2  # between two looks at whether there is room
RECORDS_BUFFERED = 10_000  # of all chunks of a worker, which so has whole commits from providers that take their time
BYTES_BUFFERED = 16 * 1024 * 1024


@dataclass(slots=True)
class Amount:
    """Records, and bytes of their JSON."""

    records: int = 0
    bytes: int = 0

    def add(self, other: Amount) -> None:
        self.records += other.records
        self.bytes += other.bytes

    def subtract(self, other: Amount) -> None:
        self.records -= other.records
        self.bytes -= other.bytes


@dataclass(slots=True)
class Buffer:
    """What a worker has fetched and not stored yet, of all its chunks, and whose turn it is to fetch, and to store.

    Where providers are quicker than this worker, as many chunks fetch as have room for a whole commit, and the others wait for
    their turn, instead of all of them committing a little. While the worker has time left, all may fetch.
    """

    limit: int = RECORDS_BUFFERED
    held: Amount = field(default_factory=Amount)
    storing: int = 0  # of `held`, records of batches that are given out
    turns: int = 0  # chunks whose turn it is to fetch
    freed: asyncio.Event = field(default_factory=asyncio.Event)  # there may be room for another turn, or page
    saving: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SAVES_AT_ONCE))
    gatherers: set[Arrivals] = field(default_factory=set)  # who wait for more while nobody could store what they have

    @property
    def full(self) -> bool:
        return self.held.records >= self.limit or self.held.bytes >= BYTES_BUFFERED

    def has_room_for_a_batch(self) -> bool:
        """Room for a whole commit besides those of the turns that are taken, or time to store smaller ones."""
        if self.storing + (self.turns + 1) * RECORDS_A_COMMIT <= self.limit:
            return True
        return self.storing <= self.limit // 2 and not self.is_busy()

    def is_busy(self) -> bool:
        """Whether what is given out now would have to wait for others to be stored."""
        return self.saving.locked()

    @asynccontextmanager
    async def turn_to_store(self) -> AsyncIterator[None]:
        """Held while a batch is stored. When a hundred pages come at once, a new job must not queue for a connection behind all of
        them. Whoever has gathered most goes on when nobody waits."""
        try:
            async with self.saving:
                yield
        finally:
            if self.gatherers and not self.saving.locked():
                max(self.gatherers, key=lambda arrivals: arrivals.waiting.records).news.set()


class Kept(NamedTuple):
    """A page as it is kept until it is stored. next_cursor, position: as in `Page`."""

    rows: list[RecordRow]
    next_cursor: JSON | None
    position: datetime | None = None
    rejected: Sequence[Rejected] = ()

    @property
    def size(self) -> Amount:
        return Amount(len(self.rows), sum([len(row.document) for row in self.rows]))


class Arrivals:
    """The pages of one chunk. An async context manager: the fetcher runs inside, and ends with it.

    fetch: cursor -> page. cursor: where to begin. stop: set when the chunk is to be let go. one: no more than one page.
    """

    def __init__(
        self,
        fetch: Callable[[JSON | None], Awaitable[Kept]],
        cursor: JSON | None,
        stop: asyncio.Event,
        buffer: Buffer,
        *,
        one: bool = False,
    ) -> None:
        self.fetch, self.cursor, self.stop, self.buffer, self.one = fetch, cursor, stop, buffer, one
        self.pages: list[Kept] = []
        self.waiting = Amount()  # in `pages`
        self.storing = Amount()  # in the batch that `batch` gave out last
        self.has_turn = False  # to fetch
        self.fetching = False  # a page is on its way
        self.began = False  # its first page was asked for
        self.news = asyncio.Event()
        self.taken = asyncio.Event()

    async def __aenter__(self) -> Arrivals:
        self.fetcher = asyncio.create_task(self._fetch())
        self.stopper = asyncio.create_task(self.stop.wait())
        for task in (self.fetcher, self.stopper):
            task.add_done_callback(lambda _: self.news.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self.fetcher, self.stopper):
            task.cancel()
        await asyncio.gather(self.fetcher, self.stopper, return_exceptions=True)
        self.buffer.held.subtract(self.waiting)
        self._stored()
        self._end_turn()

    async def batch(self) -> tuple[list[Kept], bool]:
        """The pages for the next commit, and whether the window ends with them. Lets go of the batch before.

        ([], False): told to stop, and nothing is at hand. Raises the fetcher's error once the pages before it are taken.
        """
        self._stored()
        while not (self.pages or self._over):
            await self._hear(None)
        await self._gather()
        pages, self.pages = self.pages, []
        self.storing, self.waiting = self.waiting, Amount()
        self.buffer.storing += self.storing.records
        if not self.fetching:
            self._end_turn()
        self.taken.set()
        if pages or not self.fetcher.done():
            return pages, bool(pages) and self._complete and pages[-1].next_cursor is None
        self.fetcher.result()
        return [], True

    async def _gather(self) -> None:
        """Waits for more, while it could not be stored yet anyway."""
        until = asyncio.get_running_loop().time() + GATHER_SECONDS
        self.buffer.gatherers.add(self)
        try:
            while self.buffer.is_busy() and not (self._over or self._enough or self.buffer.full):
                left = until - asyncio.get_running_loop().time()
                if left <= 0:
                    return
                await self._hear(left)
        finally:
            self.buffer.gatherers.discard(self)

    @property
    def _enough(self) -> bool:
        """For a commit."""
        return self.waiting.records >= RECORDS_A_COMMIT or self.waiting.bytes >= BYTES_A_COMMIT

    @property
    def _over(self) -> bool:
        """Nothing more will come, or is wanted."""
        return self.fetcher.done() or self.stop.is_set()

    @property
    def _complete(self) -> bool:
        return self.fetcher.done() and not self.fetcher.cancelled() and self.fetcher.exception() is None

    async def _fetch(self) -> None:
        while True:
            while self._enough:
                self.taken.clear()
                await self.taken.wait()
            while not self._take_turn():
                self.buffer.freed.clear()
                await _heard(self.buffer.freed, LOOK_SECONDS)
            self.fetching = True
            page = await self.fetch(self.cursor)
            self.fetching = False
            self.pages.append(page)
            size = page.size
            self.waiting.add(size)
            self.buffer.held.add(size)
            self.news.set()
            self.cursor = page.next_cursor
            if self.cursor is None or self.one:
                return

    def _take_turn(self) -> bool:
        """Whether it fetches its next page now: with its turn it goes on while there is room; the first, which somebody waits for, needs none."""
        if self.buffer.full:
            return False
        if not self.has_turn:
            if self.began and not self.buffer.has_room_for_a_batch():
                return False
            self.buffer.turns += 1
            self.has_turn = self.began = True
        return True

    def _end_turn(self) -> None:
        self.buffer.turns -= self.has_turn
        self.has_turn = False
        self.buffer.freed.set()

    def _stored(self) -> None:
        """The batch that was given out needs no room any more."""
        self.buffer.held.subtract(self.storing)
        self.buffer.storing -= self.storing.records
        self.storing = Amount()
        self.buffer.freed.set()

    async def _hear(self, seconds: float | None) -> None:
        self.news.clear()
        await _heard(self.news, seconds)


async def _heard(event: asyncio.Event, seconds: float | None) -> None:
    """Waits for the event, so many seconds at most."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
