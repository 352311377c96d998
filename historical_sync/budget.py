"""A provider's rate limit, shared by every worker of a connection.

The connection's row holds how many requests are left until the provider's window ends. A worker takes a few at a time, so that
most requests cost no query, and brings back after a second what it has not used, or when its work on a job is over: then everybody
knows of a block or a correction. The provider's own headers correct the row downwards, and upwards when they name a larger limit:
when the worker takes the next ones, or within two seconds. A worker that dies takes what it had in hand with it, which errs on the
side of asking too little.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from historical_sync.database import (
    Pool,
    from_now,
    pipelined_transaction,
    retried,
    system_transaction,
    tenant_transaction,
)
from integrations.errors import Throttled
from integrations.http import LONGEST_WAIT
from integrations.providers.base import Provider, RateState

if TYPE_CHECKING:
    from integrations.http import Reply

SHARE = 50  # of the limit that a worker takes at once
FIRST = 5  # requests that a worker takes at once until headers have named the limit
HELD = 1.0  # seconds that a worker keeps them
HEADROOM = 0.1  # of the limit that a historical import leaves to incremental syncs
BURST = 0.1  # of a minute's limit that may be asked at once; the rest comes evenly, so that no minute at all has more than the limit
LONGEST_WAIT_HERE = 2.0  # seconds; a longer wait gives the chunk back
ANOTHER_WINDOW = 60.0  # seconds between the ends of two windows that can't be the same
AFTER_RESET = timedelta(seconds=0.5)  # the provider's clock may be a little behind ours

# What remains is never more than the provider says. A window that is over by now says nothing about the next. One that ends much later than
# the one we know is another one (a short limit beside the long one, say): its number counts alone, or the zero of the short one would last as
# long as the long one does. So does that of a smaller limit, which says nothing of what was used of the larger one; by what a limit is larger
# than the one we knew (null where it names none, which GREATEST passes over), more is left.
CORRECT = """
    UPDATE integrations_connection
    SET budget_left = CASE
            WHEN %(over)s THEN budget_left
            WHEN budget_resets_at < clock_timestamp() + %(resets_in)s::interval - make_interval(secs => %(another)s) THEN %(remaining)s
            WHEN %(limit)s::float < COALESCE(budget_limit, %(requests)s) THEN %(remaining)s
            ELSE LEAST(%(remaining)s, budget_left + GREATEST(0, %(limit)s::float - COALESCE(budget_limit, %(requests)s))) END,
        budget_limit = COALESCE(%(limit)s, budget_limit),
        budget_resets_at = CASE WHEN %(over)s THEN budget_resets_at
                                ELSE COALESCE(clock_timestamp() + %(resets_in)s::interval, budget_resets_at) END
    WHERE id = %(id)s
"""


# Brings back `unused` requests and takes some, in one statement. `apart`, the seconds between two requests of a limit by the minute, is
# null where there is none, and so is all that is worked out by it, which LEAST and GREATEST pass over.
WITHDRAW = """
WITH held AS (
    SELECT budget_left, budget_resets_at, blocked_until, paced_until, budget_limit, clock_timestamp() AS at,
           COALESCE(budget_limit, %(requests)s) AS size
    FROM integrations_connection WHERE id = %(id)s FOR UPDATE
), opened AS (  -- the window that is open now, which is a new one where the last has ended
    SELECT size, at, blocked_until, budget_limit, floor(size * %(headroom)s) AS kept,
           GREATEST(paced_until - make_interval(secs => %(unused)s * %(apart)s::float), at) AS paced,
           CASE WHEN budget_resets_at > at THEN LEAST(budget_left + %(unused)s, size) ELSE size END AS remaining,
           CASE WHEN budget_resets_at > at THEN budget_resets_at ELSE at + make_interval(secs => %(seconds)s) END AS resets_at
    FROM held
), granted AS (  -- the least of: what the head-room leaves, a worker's share, what may be asked at once, and the first few
    SELECT *, CASE WHEN blocked_until > at THEN 0
                   ELSE GREATEST(0, LEAST(floor(remaining - kept), GREATEST(1, floor(size / %(share)s)),
                                          floor(%(burst)s - extract(epoch FROM paced - at)::float / %(apart)s::float),
                                          CASE WHEN budget_limit IS NULL THEN %(first)s END)) END::int AS taken
    FROM opened
)
UPDATE integrations_connection connection
SET budget_left = granted.remaining - granted.taken, budget_resets_at = granted.resets_at,
    paced_until = granted.paced + make_interval(secs => granted.taken * %(apart)s::float)
FROM granted WHERE connection.id = %(id)s
RETURNING granted.taken, granted.size, extract(epoch FROM granted.resets_at - granted.at)::float,
          -- Nothing was taken: until the window ends, the block does, and a request's time has come, whichever is last.
          extract(epoch FROM GREATEST(
              CASE WHEN granted.remaining - granted.kept < 1 THEN granted.resets_at END, granted.blocked_until,
              granted.paced - make_interval(secs => (%(burst)s - 1) * %(apart)s::float), granted.at) - granted.at)::float
"""


class Withdrawal(NamedTuple):
    """Requests that were taken, and of which limit. window_left: seconds until its window ends; wait: seconds until another try, if none
    were. Both by the database's clock: by this machine's the window may be over already."""

    taken: int
    limit: float
    window_left: float
    wait: float


def pace(a_minute: int | None) -> tuple[int, float | None]:
    """Under a limit by the minute: how many requests may be asked at once, and the seconds between those that follow."""
    # What was taken may be asked a little later, and so come into the minute after.
    return (int(a_minute * BURST), (60 + HELD) / (a_minute * (1 - BURST))) if a_minute else (0, None)


class ConnectionBudget:
    """The gate's limiter for one connection in this process. Raises Throttled when the wait would be long.

    kind: of the job that asks; a historical import stops where the head-room of the others begins. a_minute: how many requests any
    minute may have, if that is limited besides.
    """

    def __init__(
        self,
        pool: Pool,
        tenant_id: str,
        connection_id: str,
        provider: Provider,
        kind: str = "historical",
        a_minute: int | None = None,
    ) -> None:
        self.pool = pool
        self.tenant_id = tenant_id
        self.connection_id = connection_id
        self.provider = provider
        self.headroom = HEADROOM if kind == "historical" else 0.0
        self.burst, self.apart = pace(a_minute)
        self.in_hand = 0
        self.held_until = 0.0  # on the monotonic clock
        self.window_ends = 0.0  # on the monotonic clock, of the window that they were taken from
        self.limit = float(provider.budget.requests)  # of that window
        self.lock = asyncio.Lock()
        # What replies said that the row does not know yet, the last of each limit, and on the monotonic clock since when.
        self.told: dict[int | None, RateState] = {}
        self.told_since = 0.0

    async def before(self) -> None:
        """Takes one request from the budget. How many run at once is bounded by how many chunks of a connection do."""
        while True:
            async with self.lock:
                if self.in_hand > 0 and time.monotonic() < self.held_until:
                    self.in_hand -= 1
                    return
                found = await self._withdraw(self.put_down())
                self.limit = found.limit
                if found.taken > 0:
                    self.in_hand = found.taken - 1
                    self.window_ends = time.monotonic() + found.window_left
                    self.held_until = min(time.monotonic() + HELD, self.window_ends)
                    return
                if found.wait > LONGEST_WAIT_HERE:
                    raise Throttled(
                        f"{self.provider.name}'s rate limit is used up",
                        retry_at=datetime.now(UTC) + timedelta(seconds=found.wait),
                    )
                # One waits and asks again for all who stand behind it.
                await asyncio.sleep(max(found.wait, 0.01))

    def put_down(self) -> int:
        """Requests that were taken and not used, for the caller to bring back; none of a window that is over."""
        unused, self.in_hand = self.in_hand, 0
        return unused if time.monotonic() < self.window_ends else 0

    def after(self, reply: Reply) -> None:
        """Notes what the reply's headers say about the budget; the row hears of it with the next withdrawal or by `bring_back`."""
        state = self.provider.rate_state(reply)
        if state is None:
            return
        ends = self.window_ends
        if state.reset_at is not None:
            now = datetime.now(UTC)
            reset_at = min(reply.by_our_clock(state.reset_at), now + LONGEST_WAIT)
            state = replace(state, reset_at=reset_at)
            ends = time.monotonic() + (reset_at + AFTER_RESET - now).total_seconds()
        if ends - self.window_ends > ANOTHER_WINDOW or (state.limit is not None and state.limit < self.limit):
            self.in_hand = 0  # they were taken from something else than what the row will hold
        self.in_hand = min(self.in_hand, state.remaining)
        if not self.told:
            self.told_since = time.monotonic()
        self.told.pop(state.limit, None)
        self.told[state.limit] = state

    def take_told(self) -> list[dict[str, Any]]:
        """What `CORRECT` needs for each thing that was told; it counts as known from now on."""
        told, self.told = self.told, {}
        now = datetime.now(UTC)
        return [
            {
                "over": state.reset_at is not None and state.reset_at <= now,
                "limit": None if state.limit is None else float(state.limit),
                "requests": float(self.provider.budget.requests),
                "remaining": float(state.remaining),
                "resets_in": from_now(state.reset_at and state.reset_at + AFTER_RESET),
                "another": ANOTHER_WINDOW,
                "id": self.connection_id,
            }
            for state in told.values()
        ]

    async def block(self, until: datetime) -> None:
        """Nobody asks this connection's provider anything before `until`: workers that have requests in hand see it in a second."""
        self.in_hand = 0
        async with tenant_transaction(self.pool, self.tenant_id, "block") as cursor:
            await cursor.execute(
                "UPDATE integrations_connection SET blocked_until = GREATEST(blocked_until, clock_timestamp() + %s::interval) WHERE id = %s",
                [from_now(until), self.connection_id],
            )

    async def _withdraw(self, unused: int) -> Withdrawal:
        """Brings back `unused` requests and takes some."""
        budget = self.provider.budget
        async with pipelined_transaction(self.pool, self.tenant_id, "withdraw") as db:
            for told in self.take_told():
                await db.execute(CORRECT, told)
            answer = await db.execute(
                WITHDRAW,
                {
                    "requests": float(budget.requests),
                    "seconds": budget.seconds,
                    "id": self.connection_id,
                    "share": SHARE,
                    "first": FIRST,
                    "headroom": self.headroom,
                    "unused": unused,
                    "apart": self.apart,
                    "burst": float(self.burst),
                },
            )
            row = await answer.fetchone()
        # Without a row the connection was deleted; its lease will be refused.
        return Withdrawal(1, self.limit, HELD, 0.0) if row is None else Withdrawal(*row)


async def bring_back(pool: Pool, over: Iterable[ConnectionBudget], in_use: Iterable[ConnectionBudget] = ()) -> None:
    """What is left in hand of budgets whose work is `over`; and what replies said of them, or a while ago of those `in_use`."""
    over = list(over)
    unused: Counter[str] = Counter()
    for budget in over:
        unused[budget.connection_id] += budget.put_down()
    a_while_ago = time.monotonic() - HELD
    heard = [*over, *(budget for budget in in_use if budget.told_since < a_while_ago)]
    # In one order in all workers, who otherwise wait for each other.
    told = sorted((one for budget in heard for one in budget.take_told()), key=itemgetter("id"))
    if told or +unused:
        await _write(pool, told, +unused)


@retried
async def _write(pool: Pool, told: Sequence[dict[str, Any]], unused: Counter[str]) -> None:
    async with system_transaction(pool, "a worker's jobs are of many tenants") as cursor:
        if told:
            await cursor.executemany(CORRECT, told)
        if unused:
            await cursor.execute(
                """
                UPDATE integrations_connection c
                SET budget_left = LEAST(c.budget_left + u.unused, COALESCE(c.budget_limit, c.budget_left + u.unused))
                FROM unnest(%s::uuid[], %s::int[]) AS u(id, unused)
                WHERE c.id = u.id AND c.budget_resets_at > clock_timestamp()
                """,
                [list(unused), list(unused.values())],
            )
