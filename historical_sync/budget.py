"""A provider's rate limit, shared by every worker of a connection.

The connection's row holds how many requests are left until the provider's window ends. A worker takes a few at a time, so that
most requests cost no query; the provider's own headers correct the row downwards, and upwards when they name a larger limit.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from historical_sync.database import Pool, tenant_transaction
from integrations.errors import Throttled
from integrations.providers.base import Provider, RateState

if TYPE_CHECKING:
    from integrations.http import Reply

SHARE = 50  # of the limit that a worker takes at once
LONGEST_WAIT_HERE = 2.0  # seconds; a longer wait gives the chunk back


class ConnectionBudget:
    """The gate's limiter for one connection in this process. Raises Throttled when the wait would be long."""

    def __init__(self, pool: Pool, tenant_id: str, connection_id: str, provider: Provider) -> None:
        self.pool = pool
        self.tenant_id = tenant_id
        self.connection_id = connection_id
        self.provider = provider
        self.in_hand = 0
        self.lock = asyncio.Lock()
        self.corrected_at = datetime.min.replace(tzinfo=UTC)
        self.seen: RateState | None = None
        self.correcting: set[asyncio.Task[None]] = set()

    async def before(self) -> None:
        """Takes one request from the budget. How many run at once is bounded by how many chunks of a connection do."""
        while True:
            async with self.lock:
                if self.in_hand > 0:
                    self.in_hand -= 1
                    return
                taken, wait_until = await self._withdraw()
                if taken > 0:
                    self.in_hand = taken - 1
                    return
            wait = (wait_until - datetime.now(UTC)).total_seconds()
            if wait > LONGEST_WAIT_HERE:
                raise Throttled(f"{self.provider.name}'s rate limit is used up", retry_at=wait_until)
            await asyncio.sleep(max(wait, 0.01))

    def after(self, reply: Reply) -> None:
        """Notes what the reply's headers say about the budget."""
        state = self.provider.rate_state(reply)
        if state is None:
            return
        if state.reset_at is not None:
            state = replace(state, reset_at=reply.by_our_clock(state.reset_at))
        now = datetime.now(UTC)
        news = self.seen is None or state.limit != self.seen.limit or state.remaining == 0
        if news or (now - self.corrected_at).total_seconds() >= 1:
            self.seen, self.corrected_at = state, now
            task = asyncio.get_running_loop().create_task(self._correct(state))
            self.correcting.add(task)
            task.add_done_callback(self._corrected)

    def _corrected(self, task: asyncio.Task[None]) -> None:
        self.correcting.discard(task)
        if not task.cancelled():
            task.exception()  # a missed correction is made by the next reply

    async def block(self, until: datetime) -> None:
        """Nobody asks this connection's provider anything before `until`."""
        self.in_hand = 0
        async with tenant_transaction(self.pool, self.tenant_id) as cursor:
            await cursor.execute(
                "UPDATE integrations_connection SET blocked_until = GREATEST(blocked_until, %s) WHERE id = %s",
                [until, self.connection_id],
            )

    async def _withdraw(self) -> tuple[int, datetime]:
        """(requests taken, when to ask again if none)."""
        budget = self.provider.budget
        async with tenant_transaction(self.pool, self.tenant_id) as cursor:
            await cursor.execute(
                """
                WITH opened AS (
                    UPDATE integrations_connection
                    SET budget_left = CASE WHEN budget_resets_at IS NULL OR budget_resets_at <= now()
                                           THEN COALESCE(budget_limit, %(requests)s) ELSE budget_left END,
                        budget_resets_at = CASE WHEN budget_resets_at IS NULL OR budget_resets_at <= now()
                                                THEN now() + make_interval(secs => %(seconds)s) ELSE budget_resets_at END
                    WHERE id = %(id)s
                    RETURNING budget_left, budget_resets_at, blocked_until, COALESCE(budget_limit, %(requests)s) AS size
                )
                SELECT CASE WHEN blocked_until > now() THEN 0
                            ELSE LEAST(floor(budget_left), GREATEST(1, floor(size / %(share)s)))::int END,
                       GREATEST(CASE WHEN budget_left < 1 THEN budget_resets_at END, blocked_until, now())
                FROM opened
                """,
                {
                    "requests": float(budget.requests),
                    "seconds": budget.seconds,
                    "id": self.connection_id,
                    "share": SHARE,
                },
            )
            row = await cursor.fetchone()
            if row is None:
                return 1, datetime.now(UTC)  # the connection was deleted; its lease will be refused
            taken = int(row[0])
            if taken > 0:
                await cursor.execute(
                    "UPDATE integrations_connection SET budget_left = budget_left - %s WHERE id = %s",
                    [taken, self.connection_id],
                )
            return taken, row[1]

    async def _correct(self, state: RateState) -> None:
        async with tenant_transaction(self.pool, self.tenant_id) as cursor:
            await cursor.execute(
                """
                UPDATE integrations_connection
                SET budget_left = CASE
                        WHEN %(limit)s::float IS NOT NULL AND %(limit)s IS DISTINCT FROM COALESCE(budget_limit, %(requests)s)
                            THEN LEAST(%(remaining)s, budget_left + %(limit)s - COALESCE(budget_limit, %(requests)s))
                        ELSE LEAST(budget_left, %(remaining)s) END,
                    budget_limit = COALESCE(%(limit)s, budget_limit),
                    budget_resets_at = COALESCE(%(resets_at)s, budget_resets_at)
                WHERE id = %(id)s
                """,
                {
                    "limit": None if state.limit is None else float(state.limit),
                    "requests": float(self.provider.budget.requests),
                    "remaining": float(state.remaining),
                    # A window that ends now, or did by a clock that is off, begins anew with the next withdrawal.
                    "resets_at": state.reset_at and max(state.reset_at, datetime.now(UTC)),
                    "id": self.connection_id,
                },
            )
