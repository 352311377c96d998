"""Whether a chunk's pages lead anywhere. Pure."""

from __future__ import annotations

from datetime import datetime

from integrations.errors import CursorExpired, Endless
from integrations.providers.base import JSON, Page, Stream
from integrations.providers.wire import place

# In a row that a provider may send without anything new: where it lists other things than are asked for, hundreds have nothing.
IDLE_PAGES = 1_000


class Course:
    """The pages of a chunk as they are fetched. `name`: of the provider; `position`: where the chunk goes on."""

    def __init__(self, stream: Stream, name: str, position: datetime | None) -> None:
        self.stream, self.name, self.furthest = stream, name, position
        self.asked: set[int] = set()
        self.brought: set[int] = set()
        self.idle = 0

    def check(self, cursor: JSON | None, page: Page) -> None:
        """Of the page that `cursor` led to. Raises CursorExpired when it leads back, and Endless when it and many before it bring nothing
        that is new and come no further in time."""
        self.asked.add(place(cursor))
        if page.next_cursor is None:
            return
        if place(page.next_cursor) in self.asked:
            raise CursorExpired(f"{self.name} sends the same pages again and again.")
        brings = hash((tuple([row.external_id for row in page.records]), repr(page.rejected), page.looked_into))
        self.idle = 0 if self._moves(page.position) or brings not in self.brought else self.idle + 1
        self.brought.add(brings)
        if self.idle >= IDLE_PAGES:
            raise Endless(f"{self.name} sends page after page without anything new: {self.idle:,} in a row.")

    def _moves(self, position: datetime | None) -> bool:
        if position is None:
            return False
        before = self.furthest
        if before is not None and (position <= before if self.stream.ascending else position >= before):
            return False
        self.furthest = position
        return True
