"""What of a chunk's pages is stored, and how far the chunk has come. Pure: no database, no clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from historical_sync.claims import Claim
from historical_sync.extraction import Rejected
from historical_sync.storage import Pages
from integrations.providers.base import Page, Stream, WindowKind


class Meter:
    """Turns pages into batches: filters by the exact field, and says how far the chunk has come."""

    def __init__(self, stream: Stream, claim: Claim, only: Collection[str] | None) -> None:
        self.stream = stream
        self.claim = claim
        self.only = None if only is None else frozenset(only)
        self.seen = claim.records_seen
        self.pages = claim.pages
        self.furthest = claim.position
        self.before: frozenset[str] = frozenset()

    def batch(self, pages: Sequence[Page], done: bool) -> Pages:
        window = self.claim.window
        whole = self.stream.window is WindowKind.SNAPSHOT
        batch = Pages(
            done=done,
            pages=len(pages),
            after=self.pages,
            whole=whole,
            clock=self.stream.clock,
            as_read=self.stream.as_read,
            before=self.before,
            only=sorted(self.only) if self.only is not None and self.stream.parts_of is not None else None,
        )
        for page in pages:
            records = page.records
            if not whole:
                since, until = window.since, window.until
                records = [record for record in records if since <= record.occurred_at < until]
            if self.only is not None and self.stream.names_partitions:
                records = [record for record in records if record.external_id in self.only]
            elif self.only is not None and (parts_of := self.stream.parts_of) is not None:
                records = [record for record in records if not self.only.isdisjoint(parts_of(record.payload))]
            batch.records.extend(records)
            if batch.rejected:  # what a later page brings counts, as it does in another batch
                good = {record.external_id for record in records}
                batch.rejected = [row for row in batch.rejected if row.external_id not in good]
            batch.rejected.extend(Rejected(*row) for row in page.rejected)
            batch.cursor = page.next_cursor
            if page.position is not None:
                reached = min(max(page.position, window.since), window.until)
                if self.furthest is None or (
                    reached > self.furthest if self.stream.ascending else reached < self.furthest
                ):
                    self.furthest, batch.moved = reached, True
                batch.position = self.furthest
        self.seen += len(batch.records)
        self.pages += batch.pages
        self.before = frozenset(record.external_id for record in batch.records)
        batch.progress = self._progress(batch.position)
        return batch

    def _progress(self, position: datetime | None) -> float:
        window = self.claim.window
        shares = [0.0]
        if self.claim.estimate:
            shares.append(min(self.seen / self.claim.estimate, 0.99))
        if position is not None:
            passed = position - window.since if self.stream.ascending else window.until - position
            shares.append(passed / (window.until - window.since))
        return max(shares)
