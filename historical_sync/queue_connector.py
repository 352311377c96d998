"""A worker's way to the queue, on which no entry waits that was put into it while the worker looked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, LiteralString

from procrastinate import PsycopgConnector, sql
from procrastinate.connector import Notify
from psycopg_pool import AsyncConnectionPool

from historical_sync.database import commit_each, note_use, still_there


def _pool(**options: Any) -> AsyncConnectionPool:
    return AsyncConnectionPool(**options | {"check": still_there})


class QueueConnector(PsycopgConnector):
    """Each question is one statement, so it takes one round trip, not the four of an empty one and a transaction.

    Procrastinate forgets what it has been notified of once a look at the queue is over, and with it what came after the database's
    answer and before that: the entry then waits for the next poll. So whoever found nothing looks again if anything was heard."""

    def __init__(self, **options: Any) -> None:
        super().__init__(pool_factory=_pool, configure=commit_each, reset=note_use, **options)
        self._heard = 0

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        async def hear(*, channel: str, payload: str) -> None:
            self._heard += 1
            await on_notification(channel=channel, payload=payload)

        await super().listen_notify(hear, channels)

    async def execute_query_one_async(self, query: LiteralString, **arguments: Any) -> dict[str, Any]:
        while True:
            before = self._heard
            row = await super().execute_query_one_async(query, **arguments)
            if query != sql.queries["fetch_job"] or row["id"] is not None or self._heard == before:
                return row
