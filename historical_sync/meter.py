"""What of a chunk's pages is stored, and how far the chunk has come. Pure: no database, no clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from historical_sync.arrivals import Kept
from historical_sync.claims import Claim
from historical_sync.extraction import Rejected, record_rows
from historical_sync.storage import Pages
from integrations.providers.base import Page, Stream, WindowKind


class Meter:
    """Turns pages into what is kept of them: filters by the exact field; and these into batches: says how far the chunk has come. full:
    of a job that reads again what is here."""

    def __init__(self, stream: Stream, claim: Claim, only: Collection[str] | None, *, full: bool = False) -> None:
        self.roll = full and stream.gone is not None
        self.stream = stream
        self.claim = claim
        self.only = None if only is None else frozenset(only)
        self.whole = stream.window is WindowKind.SNAPSHOT
        self.seen = claim.records_seen
        self.pages = claim.pages
        self.furthest = claim.position
        self.before: frozenset[str] = frozenset()

    def keep(self, page: Page) -> Kept:
        """The records of the page that are wanted, as rows: a fifth of what their objects take."""
        window, records = self.claim.window, page.records
        if not self.whole:
            since, until = window.since, window.until
            records = [record for record in records if since <= record.occurred_at < until]
        if self.only is not None and self.stream.names_partitions:
            records = [record for record in records if record.external_id in self.only]
        elif self.only is not None and (parts_of := self.stream.parts_of) is not None:
            records = [record for record in records if not self.only.isdisjoint(parts_of(record.payload))]
        rows, bad = record_rows(records, self.claim.lease.connection_bytes, self.claim.lease.stream)
        return Kept(rows, page.next_cursor, page.position, [*(Rejected(*row) for row in page.rejected), *bad])

    def batch(self, pages: Sequence[Kept], done: bool) -> Pages:
        window = self.claim.window
        batch = Pages(
            done=done,
            pages=len(pages),
            after=self.pages,
            whole=self.whole,
            clock=self.stream.clock,
            as_read=self.stream.as_read,
            before=self.before,
            only=sorted(self.only) if self.only is not None and self.stream.parts_of is not None else None,
            roll=self.roll,
            shared=self.stream.shared,
        )
        for page in pages:
            batch.rows.extend(page.rows)
            if batch.rejected:  # what a later page brings counts, as it does in another batch
                good = {row.external_id for row in page.rows}
                batch.rejected = [row for row in batch.rejected if row.external_id not in good]
            batch.rejected.extend(page.rejected)
            batch.cursor = page.next_cursor
            if page.position is not None:
                reached = min(max(page.position, window.since), window.until)
                if self.furthest is None or (
                    reached > self.furthest if self.stream.ascending else reached < self.furthest
                ):
                    self.furthest, batch.moved = reached, True
                batch.position = self.furthest
        self.seen += len(batch.rows)
        self.pages += batch.pages
        self.before = frozenset([row.external_id for row in batch.rows])
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
