"""Pages on their way from a chunk's fetcher to its storer: how many are waited for, and how many may wait.

A commit costs the same for one record as for a hundred, so where the worker is busy pages that come quickly share one, and nobody waits
long for it; where it has time, what has arrived is stored at once. What a worker holds in memory is bounded however many chunks it
works on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from integrations.providers.base import JSON, Page

RECORDS_A_COMMIT = 500
LOOK_SECONDS = 0.2  # between two looks at how busy this worker is
BUSY_SHARE = 0.8
GATHER_SECONDS = 0.5  # from a busy worker's commit's first page; progress and requests to stop are seen once a commit
RECORDS_IN_HAND = 3_000  # of all chunks of a worker: some 25 MB


@dataclass(slots=True)
class InHand:
    """A worker's memory for records that are fetched and not stored yet, and whose turn it is to fetch.

    Where providers are quicker than this worker, as many chunks fetch as have room for a whole commit, and the others wait for
    their turn, instead of all of them committing a little. While the worker has time left, all may fetch.
    """

    limit: int = RECORDS_IN_HAND
    held: int = 0
    storing: int = 0  # of `held`, records of batches that are given out
    gathering: int = 0  # chunks that have their turn
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    looked_at: float = 0.0
    worked: float = 0.0  # seconds of this thread at `looked_at`
    busy: bool = False

    @property
    def full(self) -> bool:
        return self.held >= self.limit

    def has_room_for_a_batch(self) -> bool:
        if self.storing + (self.gathering + 1) * RECORDS_A_COMMIT <= self.limit:
            return True
        return self.storing <= self.limit // 2 and not self.is_busy()

    def is_busy(self) -> bool:
        """Whether this thread has worked nearly all of the last moment."""
        now = time.monotonic()
        if now - self.looked_at > LOOK_SECONDS:
            worked = time.thread_time()
            self.busy = worked - self.worked > BUSY_SHARE * (now - self.looked_at)
            self.looked_at, self.worked = now, worked
        return self.busy


class Arrivals:
    """The pages of one chunk. An async context manager: the fetcher runs inside, and ends with it.

    fetch: cursor -> page. cursor: where to begin. stop: set when the chunk is to be let go. one: no more than one page.
    """

    def __init__(
        self,
        fetch: Callable[[JSON | None], Awaitable[Page]],
        cursor: JSON | None,
        stop: asyncio.Event,
        in_hand: InHand,
        *,
        one: bool = False,
    ) -> None:
        self.fetch, self.cursor, self.stop, self.in_hand, self.one = fetch, cursor, stop, in_hand, one
        self.pages: list[Page] = []
        self.waiting = 0  # records of `pages`
        self.storing = 0  # records of the batch that `batch` gave out last
        self.gathering = False  # it has its turn
        self.asking = False  # a page is on its way
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
        self.in_hand.held -= self.waiting
        self._stored()
        self._end_turn()

    async def batch(self) -> tuple[list[Page], bool]:
        """The pages for the next commit, and whether the window ends with them. Lets go of the batch before.

        ([], False): told to stop, and nothing is at hand. Raises the fetcher's error once the pages before it are taken.
        """
        self._stored()
        while not (self.pages or self._over):
            await self._hear(None)
        until = asyncio.get_running_loop().time() + GATHER_SECONDS
        while self.in_hand.is_busy() and not (self._over or self.waiting >= RECORDS_A_COMMIT or self.in_hand.full):
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await self._hear(left)
        pages, self.pages = self.pages, []
        self.storing, self.waiting = self.waiting, 0
        self.in_hand.storing += self.storing
        if not self.asking:
            self._end_turn()
        self.taken.set()
        if pages or not self.fetcher.done():
            return pages, bool(pages) and self._complete and pages[-1].next_cursor is None
        self.fetcher.result()
        return [], True

    @property
    def _over(self) -> bool:
        """Nothing more will come, or is wanted."""
        return self.fetcher.done() or self.stop.is_set()

    @property
    def _complete(self) -> bool:
        return self.fetcher.done() and not self.fetcher.cancelled() and self.fetcher.exception() is None

    async def _fetch(self) -> None:
        while True:
            while self.waiting >= RECORDS_A_COMMIT:
                self.taken.clear()
                await self.taken.wait()
            while not self._may_fetch():
                self.in_hand.freed.clear()
                await _heard(self.in_hand.freed, LOOK_SECONDS)
            self.asking = True
            page = await self.fetch(self.cursor)
            self.asking = False
            self.pages.append(page)
            self.waiting += len(page.records)
            self.in_hand.held += len(page.records)
            self.news.set()
            self.cursor = page.next_cursor
            if self.cursor is None or self.one:
                return

    def _may_fetch(self) -> bool:
        """Whoever has its turn goes on while there is room; a first page, which somebody waits for, needs no turn."""
        if self.in_hand.full:
            return False
        if not (self.gathering or self.in_hand.has_room_for_a_batch() or not self.began):
            return False
        self.in_hand.gathering += not self.gathering
        self.gathering = self.began = True
        return True

    def _end_turn(self) -> None:
        self.in_hand.gathering -= self.gathering
        self.gathering = False
        self.in_hand.freed.set()

    def _stored(self) -> None:
        """The batch that was given out needs no room any more."""
        self.in_hand.held -= self.storing
        self.in_hand.storing -= self.storing
        self.storing = 0
        self.in_hand.freed.set()

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
