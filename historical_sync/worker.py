"""A worker: Procrastinate's loop for the queue, the engine for the work, and what keeps both honest.

Beside the work it prolongs its leases, listens for requests to stop (and looks for them, as notifications can be missed), and
reaps: chunks of workers that are gone are handed out again, whoever notices first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any

import psycopg
from django.conf import settings
from django.db import DatabaseError, connections
from procrastinate import App
from procrastinate.contrib.django import app as django_app
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Status

from atom.garbage import tune_garbage_collection
from atom.plans import PLANS
from historical_sync import broadcast, reaping, rollcall, searching, tasks
from historical_sync.database import AWAY, connect_arguments, make_pool
from historical_sync.engine import Engine
from historical_sync.leases import Lease
from historical_sync.mapping import Mapper
from historical_sync.mapping_process import MapperBeside
from historical_sync.queue_connector import QueueConnector
from integrations import gateway, providers

log = logging.getLogger(__name__)

OBEY_SECONDS = 1.0
SAY_SECONDS = 0.8
INDEX_SECONDS = 2.0
POLL_SECONDS = 0.2  # for entries that become due by the clock, of which nobody is notified
POLL_STARTS_SECONDS = 2.0  # of these none does: only while the connection that hears of them was down
POLL_UPKEEP_SECONDS = 2.0  # of these only mails that are sent again, seconds later and more
RECONNECT_SECONDS = 1.0
LAST_SECONDS = 5.0  # beyond those for the pages: a database that is away takes no last words
POOL_SIZE = 6  # connections: more would not make PostgreSQL quicker, and each keeps the room of its largest page
STARTS_AT_ONCE = 4  # of jobs that begin, beside what the worker has in hand: a plan and the first chunk each
UPKEEP_AT_ONCE = 4  # beside all of that
KEEP_ALIVE_SHARE, REAP_SHARE = 1 / 6, 1 / 10  # of the time after which a worker is taken for dead

# The database is away: where the worker was at the time says nothing.
GONE = (*AWAY, ConnectorException)

_engine: Engine | None = None


def current() -> Engine:
    """The engine of the worker that runs in this process."""
    if _engine is None:
        raise RuntimeError("no worker runs in this process")
    return _engine


async def run_worker(
    concurrency: int = 20,
    *,
    queues: Sequence[str] | None = None,
    stop: asyncio.Event,
    once: Callable[[], Awaitable[bool]] | None = None,
) -> None:
    """Works until `stop` is set: then finishes the pages in hand, gives the rest back, and returns.

    Survives a database that is away, at start as later. `once`: returns True when there is nothing left to wait for (for work on
    one job in the caller's process).
    """
    tune_garbage_collection()
    abandoned: list[Lease] = []
    was_away = False
    while not stop.is_set():
        try:
            await _run(concurrency, list(queues or tasks.QUEUES), stop, once, abandoned, was_away)
            return
        except (psycopg.OperationalError, psycopg.errors.InterfaceError, ConnectorException, OSError) as error:
            if stop.is_set():  # what it waited for was broken off
                return
            log.warning("the database is away, trying again: %s", _why(error))
            was_away = True
            await _wait(stop, RECONNECT_SECONDS)


async def _run(
    concurrency: int,
    queues: list[str],
    stop: asyncio.Event,
    once: Callable[[], Awaitable[bool]] | None,
    abandoned: list[Lease],
    was_away: bool,
) -> None:
    global _engine
    lease = settings.LEASE_SECONDS
    pool = make_pool(POOL_SIZE)
    # By the engine's parameters: what a frozen worker holds of the queue is let go of with the rest.
    worker_app: App = django_app.with_connector(QueueConnector(kwargs=connect_arguments()))
    try:
        async with contextlib.AsyncExitStack() as opened:
            async with _until_told(stop):
                await asyncio.to_thread(_refuse_pooler)
                await pool.open(wait=True, timeout=10)
                await opened.enter_async_context(worker_app.open_async())
            if was_away:
                log.warning("the database answers again")
            defer = tasks.Defer(worker_app)
            mapper = await opened.enter_async_context(MapperBeside()) if settings.MAPPING_PROCESS else Mapper()
            engine = _engine = Engine(pool, defer, abandoned, mapper)
            if tasks.UPKEEP in queues:
                await defer.tick()
            loops = _take_entries(worker_app, concurrency, queues)
            beside = [
                asyncio.create_task(_every(lease * KEEP_ALIVE_SHARE, engine.keep_alive), name="keep alive"),
                asyncio.create_task(_every(OBEY_SECONDS, engine.obey), name="obey"),
                asyncio.create_task(_every(SAY_SECONDS, engine.say_what_is_asked), name="say"),
                asyncio.create_task(_listen(engine, defer if tasks.UPKEEP in queues else None), name="listen"),
                asyncio.create_task(_every(lease * REAP_SHARE, lambda: _reap(engine, worker_app)), name="reap"),
                asyncio.create_task(_every(INDEX_SECONDS, lambda: index_names(engine)), name="index"),
                asyncio.create_task(_cut_off_the_silent(lease * REAP_SHARE), name="cut off"),
            ]
            if tasks.UPKEEP in queues:
                beside.append(asyncio.create_task(_each_minute(defer.tick_of), name="tick"))
            stopper = asyncio.create_task(_until(stop, once))
            try:
                await asyncio.wait({*loops, stopper}, return_when=asyncio.FIRST_COMPLETED)
                await _let_go(engine, loops)
                if not stopper.done() and not stop.is_set():
                    raise psycopg.OperationalError("the queue's loop ended")
            finally:
                await _end([*beside, stopper])
                with contextlib.suppress(*AWAY, TimeoutError):
                    async with asyncio.timeout(LAST_SECONDS):
                        await engine.runs.bring_back_budgets()
                await broadcast.flush()
                await gateway.close_clients()
    finally:
        _engine = None
        await pool.close()


def _refuse_pooler() -> None:
    connections["default"].refuse_pooler()  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def _until_told(stop: asyncio.Event) -> AsyncIterator[None]:
    """What waits for a database that is away is broken off, as by a time-out, when the worker is to stop."""
    async with asyncio.timeout(None) as patience:

        def give_up(told: asyncio.Task[bool]) -> None:
            with contextlib.suppress(RuntimeError):  # nothing waits any more
                if not told.cancelled():
                    patience.reschedule(0)

        stopper = asyncio.create_task(stop.wait())
        stopper.add_done_callback(give_up)
        try:
            yield
        finally:
            stopper.cancel()


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels them until they have ended, as once is not always enough: Procrastinate has several waits one after the other, and who is
    told so while its connection breaks hears of the break alone."""
    late = set(tasks)
    while late:
        for task in late:
            task.cancel()
        _, late = await asyncio.wait(late, timeout=RECONNECT_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)  # what was raised has been heard of


def _take_entries(worker_app: App, concurrency: int, queues: Sequence[str]) -> list[asyncio.Task[None]]:
    """Loops that take entries of the queues: each kind of work has places of its own."""
    name = f"{socket.gethostname()}:{os.getpid()}"
    kinds = (
        ("queue", name, concurrency, [queue for queue in queues if queue != tasks.UPKEEP], POLL_SECONDS),
        ("starts", f"{name} starts", STARTS_AT_ONCE, [tasks.STARTS], POLL_STARTS_SECONDS),
        ("upkeep", f"{name} upkeep", UPKEEP_AT_ONCE, [tasks.UPKEEP], POLL_UPKEEP_SECONDS),
    )
    return [
        asyncio.create_task(_take(worker_app, at_once, of, who, poll), name=kind)
        for kind, who, at_once, of, poll in kinds
        if not set(of).isdisjoint(queues)
    ]


async def _let_go(engine: Engine, loops: Sequence[asyncio.Task[None]]) -> None:
    """Finishes the pages in hand and gives the rest back, in the time that there is; says what ended a loop."""
    engine.close()
    told = asyncio.create_task(engine.deliveries.close(settings.SHUTDOWN_SECONDS))
    for loop in loops:
        if not loop.done():
            loop.cancel()  # Procrastinate then waits for what runs
    _, late = await asyncio.wait(loops, timeout=settings.SHUTDOWN_SECONDS + LAST_SECONDS)
    await _end(late)
    await told
    for loop in loops:
        error = None if loop.cancelled() else loop.exception()
        if isinstance(error, GONE):
            log.warning("the queue's loop ended: %s", _why(error))
        elif error is not None:
            log.error("the queue's loop ended", exc_info=error)


async def _take(worker_app: App, concurrency: int, queues: list[str], name: str, poll: float) -> None:
    """Procrastinate's loop: takes up to so many entries of the queues at once, until it is cancelled."""
    lease = settings.LEASE_SECONDS
    await worker_app.run_worker_async(
        concurrency=concurrency,
        queues=queues,
        name=name,
        fetch_job_polling_interval=poll,
        delete_jobs="always",
        install_signal_handlers=False,
        update_heartbeat_interval=lease * KEEP_ALIVE_SHARE,
        stalled_worker_timeout=lease,
        shutdown_graceful_timeout=settings.SHUTDOWN_SECONDS,
    )


async def _until(stop: asyncio.Event, once: Callable[[], Awaitable[bool]] | None) -> None:
    if once is None:
        await stop.wait()
        return
    while not stop.is_set():
        try:
            if await once():
                return
        except DatabaseError as error:
            log.warning("the database is away, looking again: %s", error)
        await _wait(stop, 0.2)


async def _every(seconds: float, action: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311 - so that many workers don't move in step
        await _try(action)


async def _each_minute(action: Callable[[int], Awaitable[None]]) -> None:
    """With the minute (seconds since 1970) that this machine's clock shows, now and whenever another begins, however it was set."""
    while True:
        now = time.time()
        minute = int(now // 60) * 60
        await _try(partial(action, minute))
        await asyncio.sleep(minute + 60 - now)


async def _try(action: Callable[[], Awaitable[None]]) -> None:
    try:
        await action()
    except GONE as error:
        log.warning("worker upkeep failed, trying again: %s", _why(error))
    except Exception:
        log.warning("worker upkeep failed, trying again", exc_info=True)


async def _listen(engine: Engine, defer: tasks.Defer | None) -> None:
    """Hears requests to stop, and of jobs that ended, at once; `Engine.obey` and `tasks.tick` are the fallback while this is down."""
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(**connect_arguments(), autocommit=True) as connection:
                await connection.execute("LISTEN atom_control")
                if defer is not None:
                    await connection.execute("LISTEN atom_ended")
                await engine.obey()
                async for notification in connection.notifies():
                    if notification.channel == "atom_control":
                        engine.asked_to_stop(notification.payload)
                    elif defer is not None:
                        await defer.ended(notification.payload)
        except (psycopg.Error, ConnectorException, OSError):
            await asyncio.sleep(RECONNECT_SECONDS)


async def index_names(engine: Engine) -> None:
    """All of the backlog while there is nothing to import; beside an import a share of what has waited for long."""
    while await searching.index_names(engine.pool, older_than=_patience(engine)) and not engine.leases:
        pass


def _patience(engine: Engine) -> float:
    """Seconds that names wait for this worker."""
    if not engine.leases:
        return 0.0
    return searching.BUSY_PATIENCE_SECONDS if engine.buffer.is_busy() else searching.PATIENCE_SECONDS


async def _cut_off_the_silent(every: float) -> None:
    silent = reaping.SilentClients()
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(**connect_arguments(), autocommit=True) as connection:
                while True:
                    if ended := await silent.cut_off(connection):
                        log.warning("%d connections of workers that have stopped in mid-transaction were ended", ended)
                    await asyncio.sleep(every)
        except (psycopg.Error, OSError):
            await asyncio.sleep(RECONNECT_SECONDS)


async def _reap(engine: Engine, worker_app: App) -> None:
    async with reaping.only_reaper(engine.pool) as only:
        if not only:
            return
        for job_id, tenant_id in await reaping.reap(engine.pool):
            await broadcast.job_changed(job_id, tenant_id)
        # Entries that a dead worker had in hand are not handed out again but replaced, where they are missed. What is tried again when it
        # fails, as mails are, nobody would miss.
        for entry in await worker_app.job_manager.get_stalled_jobs(seconds_since_heartbeat=settings.LEASE_SECONDS):
            if getattr(django_app.tasks.get(entry.task_name), "retry_strategy", None) is not None:
                await worker_app.job_manager.retry_job(entry)
            elif entry.id is not None:
                await worker_app.job_manager.finish_job_by_id_async(entry.id, status=Status.FAILED, delete_job=True)
        for connection_id, tenant_id in await reaping.removals_without_entry(engine.pool, tasks.REMOVE):
            await engine.defer.remove(connection_id, tenant_id)
        await rollcall.hand_out(engine)
        for lanes in await reaping.lanes(engine.pool, tasks.TASK):
            if lanes.provider in providers.PROVIDERS:
                room = tasks.room(PLANS[lanes.plan], providers.get(lanes.provider))
                await engine.defer(lanes.job_id, lanes.tenant_id, entries=lanes.missing(room))


def _why(error: BaseException) -> str:
    """In a line. Procrastinate's own error says only that there was one of the database, and some say nothing at all."""
    cause = error.__cause__ or error
    return " ".join(str(cause).split()) or type(cause).__name__


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
