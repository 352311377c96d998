"""The engine's own way to PostgreSQL: an async pool beside Django's, for what happens once a page.

Django's async ORM shares one thread a process; twenty chunks that commit pages would queue there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from django.db import connections
from procrastinate.contrib.django.utils import connector_params
from psycopg import AsyncConnection, AsyncCursor
from psycopg_pool import AsyncConnectionPool

from atom.tenancy import SYSTEM_ROLE

Pool = AsyncConnectionPool[AsyncConnection[tuple[Any, ...]]]


def connect_arguments() -> dict[str, Any]:
    """psycopg's connection parameters of the run-time role, as Django would use them."""
    arguments = connector_params()
    arguments.pop("prepare_threshold", None)  # the engine's few statements are worth preparing
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
        check=AsyncConnectionPool.check_connection,
    )


@asynccontextmanager
async def tenant_transaction(pool: Pool, tenant_id: str) -> AsyncIterator[AsyncCursor[tuple[Any, ...]]]:
    """One transaction that sees and writes the tenant's rows only."""
    async with pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
        await cursor.execute("SELECT set_config('atom.tenant', %s, true)", [tenant_id])
        yield cursor


@asynccontextmanager
async def system_transaction(pool: Pool, reason: str) -> AsyncIterator[AsyncCursor[tuple[Any, ...]]]:
    """One transaction across tenants; `reason` is for the reader of the call."""
    assert reason
    async with pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
        await cursor.execute(f"SET LOCAL ROLE {SYSTEM_ROLE}")
        yield cursor
