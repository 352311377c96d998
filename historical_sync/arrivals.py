"""Pages on their way from a chunk's fetcher to its storer: how many are waited for, and how many may wait.

A commit costs the same for one record as for a hundred, so pages that come quickly share one; but nobody waits long for a commit,
and what a worker holds in memory is bounded however many chunks it works on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from integrations.providers.base import JSON, Page

RECORDS_A_COMMIT = 1_000
GATHER_SECONDS = 0.5  # from a commit's first page; progress and requests to stop are seen once a commit
RECORDS_IN_HAND = 4_000  # of all chunks of a worker: some 30 MB


@dataclass(slots=True)
class InHand:
    """A worker's memory for records that are fetched and not stored yet."""

    limit: int = RECORDS_IN_HAND
    held: int = 0
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def full(self) -> bool:
        return self.held >= self.limit

    def has_room_for(self, waiting: int) -> bool:
        """Whether a chunk with `waiting` records at hand may fetch its next page.

        Who begins a batch needs half of the room free: where the provider is quicker than the database, a few chunks then fill
        whole batches while the others wait, instead of all of them committing a little.
        """
        return self.held < (self.limit if waiting else self.limit // 2)

    def take(self, records: int) -> None:
        self.held += records

    def give_back(self, records: int) -> None:
        self.held -= records
        self.freed.set()


class Arrivals:
    """The pages of one chunk. An async context manager: the fetcher runs inside, and ends with it.

    fetch: cursor -> page. cursor: where to begin. stop: set when the chunk is to be let go.
    """

    def __init__(
        self, fetch: Callable[[JSON | None], Awaitable[Page]], cursor: JSON | None, stop: asyncio.Event, in_hand: InHand
    ) -> None:
        self.fetch, self.cursor, self.stop, self.in_hand = fetch, cursor, stop, in_hand
        self.pages: list[Page] = []
        self.waiting = 0  # records of `pages`
        self.storing = 0  # records of the batch that `batch` gave out last
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
        self.in_hand.give_back(self.waiting + self.storing)

    async def batch(self) -> tuple[list[Page], bool]:
        """The pages for the next commit, and whether the window ends with them. Lets go of the batch before.

        ([], False): told to stop, and nothing is at hand. Raises the fetcher's error once the pages before it are taken.
        """
        self.in_hand.give_back(self.storing)
        self.storing = 0
        while not (self.pages or self._over):
            await self._hear(None)
        until = asyncio.get_running_loop().time() + GATHER_SECONDS
        while not (self._over or self.waiting >= RECORDS_A_COMMIT or self.in_hand.full):
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await self._hear(left)
        pages, self.pages = self.pages, []
        self.storing, self.waiting = self.waiting, 0
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
            while not self.in_hand.has_room_for(self.waiting):
                self.in_hand.freed.clear()
                await self.in_hand.freed.wait()
            page = await self.fetch(self.cursor)
            self.pages.append(page)
            self.waiting += len(page.records)
            self.in_hand.take(len(page.records))
            self.news.set()
            self.cursor = page.next_cursor
            if self.cursor is None:
                return

    async def _hear(self, seconds: float | None) -> None:
        self.news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self.news.wait()
        except TimeoutError:
            return
