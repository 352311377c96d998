"""The engine's own way to PostgreSQL: an async pool beside Django's, for what happens once a page.

Django's async ORM shares one thread a process; twenty chunks that commit pages would queue there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from django.conf import settings
from django.db import connections, utils
from procrastinate.contrib.django.utils import connector_params
from psycopg import AsyncConnection, AsyncCursor, InterfaceError, OperationalError, adapters, errors
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format
from psycopg_pool import AsyncConnectionPool

from atom.tenancy import SYSTEM_ROLE
from historical_sync import faultpoints, pgarrays

Connection = AsyncConnection[tuple[Any, ...]]
Pool = AsyncConnectionPool[Connection]
Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")

# The database is away, or has ended this connection: nothing is known of what was under way, and nothing can be written.
AWAY = (
    OperationalError,
    InterfaceError,
    errors.IdleInTransactionSessionTimeout,
    utils.OperationalError,
    utils.InterfaceError,
    utils.InternalError,
)
ENGINE = "atom engine"  # what PostgreSQL calls the engine's connections
TRUSTED_SECONDS = 1.0
TRIES = 5  # of a transaction that PostgreSQL refused for reasons of concurrency


class _ArrayDumper(Dumper):
    """An array that is encoded already."""

    format = Format.BINARY

    def dump(self, obj: Buffer) -> Buffer:
        return obj


for _kind in pgarrays.BinaryArray.__subclasses__():
    adapters.register_dumper(_kind, type(f"{_kind.__name__}Dumper", (_ArrayDumper,), {"oid": _kind.oid}))


def connect_arguments() -> dict[str, Any]:
    """psycopg's connection parameters of the run-time role, as Django would use them."""
    arguments = connector_params()
    arguments.pop("prepare_threshold", None)  # the engine's few statements are worth preparing
    arguments["application_name"] = ENGINE
    # A frozen worker, or one whose machine is gone, must not keep its locks: the server ends a transaction in which nothing happens
    # (but not a pipeline: see `reaping.SilentClients`).
    patience = int(settings.LEASE_SECONDS * 1000)
    # Whatever the server's defaults: a worker relies on what it has committed, and would go on behind a gap where a crash of the
    # database took some of it back; and times come in the connection's zone. Pages and the API tell them in UTC, and where clocks go
    # through an hour twice, times of such a zone are neither compared nor subtracted as moments.
    limits = f"-c idle_in_transaction_session_timeout={patience} -c synchronous_commit=on -c timezone=UTC"
    arguments["options"] = f"{arguments.get('options', '')} {limits}".strip()
    return arguments


def make_pool(size: int) -> Pool:
    """A pool, not opened yet; open it in the event loop that will use it."""
    connections["default"].get_connection_params()  # starts the embedded server if it is the one
    return AsyncConnectionPool(
        kwargs=connect_arguments(),
        min_size=1,
        max_size=size,
        open=False,
        timeout=30,
        name="engine",
        configure=commit_each,
        check=still_there,
        reset=note_use,
    )


async def commit_each(connection: AsyncConnection[Any]) -> None:
    """Outside of transactions that are asked for, psycopg adds none, which is a round trip more."""
    await connection.set_autocommit(True)


async def still_there(connection: AsyncConnection[Any]) -> None:
    """A pool's question before it lends a connection; one that just did its work need not be asked."""
    if time.monotonic() - getattr(connection, "used_at", 0.0) > TRUSTED_SECONDS:
        await AsyncConnectionPool.check_connection(connection)


async def note_use(connection: AsyncConnection[Any]) -> None:
    """For `still_there`: the pool has its connection back; not one that still is in a pipeline.

    psycopg leaves it so where a task is cancelled as its pipeline begins (`wait_async` lets others go first in a loop that is busy), and
    whoever was lent it next would be in that pipeline unasked.
    """
    if connection.pgconn.pipeline_status:
        raise InterfaceError("a task was cancelled as it began a pipeline: the pool makes a new connection")
    connection.used_at = time.monotonic()  # type: ignore[attr-defined]


@asynccontextmanager
async def tenant_transaction(
    pool: Pool, tenant_id: str, place: str = "other"
) -> AsyncIterator[AsyncCursor[tuple[Any, ...]]]:
    """One transaction that sees and writes the tenant's rows only. `place` names its commit for `faultpoints`."""
    async with pool.connection() as connection:
        async with connection.transaction(), connection.cursor() as cursor:
            await cursor.execute("SELECT set_config('atom.tenant', %s, true)", [tenant_id])
            yield cursor
            faultpoints.reached("before", place)
        faultpoints.reached("after", place)


@asynccontextmanager
async def pipelined_transaction(pool: Pool, tenant_id: str, place: str = "other") -> AsyncIterator[Connection]:
    """The same, but statements wait to be sent until an answer is asked for: many of them in one round trip.

    What a statement did wrong is raised where an answer is asked for, at the latest at the end.
    """
    async with pool.connection() as connection:
        async with connection.pipeline():
            # psycopg's own transaction would take round trips of its own for its beginning and its end. What is raised here rolls back
            # where the pool gets its connection back.
            await connection.execute("BEGIN")
            await connection.execute("SELECT set_config('atom.tenant', %s, true)", [tenant_id])
            yield connection
            faultpoints.reached("before", place)
            await connection.execute("COMMIT")
        faultpoints.reached("after", place)


@asynccontextmanager
async def system_transaction(pool: Pool, reason: str) -> AsyncIterator[AsyncCursor[tuple[Any, ...]]]:
    """One transaction across tenants; `reason` is for the reader of the call."""
    assert reason
    async with pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
        await cursor.execute(f"SET LOCAL ROLE {SYSTEM_ROLE}")
        yield cursor


def from_now(at: datetime | None) -> timedelta | None:
    """The time until `at` by this machine's clock, for the database to add to its own: it compares by that, and the two may differ."""
    return None if at is None else at - datetime.now(UTC)


def retried(transaction: Callable[Arguments, Awaitable[Answer]]) -> Callable[Arguments, Awaitable[Answer]]:
    """The transaction again when PostgreSQL chose it to give way (a deadlock): it left no trace.

    A page's save locks its chunk and then the job; who stops a job locks the job and then its chunks.
    """

    @wraps(transaction)
    async def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        for attempt in range(TRIES):
            try:
                return await transaction(*args, **kwargs)
            except (errors.DeadlockDetected, errors.SerializationFailure, errors.UniqueViolation):
                if attempt == TRIES - 1:
                    raise
                await asyncio.sleep(0.01 * 2**attempt)
        raise AssertionError("unreachable")

    return run
