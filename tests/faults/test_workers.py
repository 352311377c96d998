"""Workers that die, stop, freeze and change: what they leave is what an undisturbed run leaves."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import psycopg
import pytest
from django.conf import settings
from psycopg import AsyncConnection

from historical_sync import reaping, tasks
from historical_sync.database import connect_arguments
from tests.conftest import job_now, until, wait_for
from tests.faults.conftest import describe
from tests.faults.stage import KILLED, Picture, Stage, WorkerProcess, damage, database_url, leases, pages_of, picture

pytestmark = pytest.mark.processes
Undisturbed = Callable[[int], Picture]
SEED = 20261124
# Every commit of an ordinary import, both sides of it, and how often it is passed before; in the order in which a job comes by.
POINTS = (
    "before_claim:1", "before_plan:1", "after_plan:1", "before_defer:1", "after_defer:1", "after_claim:2", "before_withdraw:1",
    "after_withdraw:1", "before_save:1", "after_save:1", "before_done:2", "after_done:2",
)  # fmt: skip


def undamaged(theatre: Stage, undisturbed: Undisturbed, job: Any, number: int = 0) -> None:
    found = damage(undisturbed(number), picture(job.tenant))
    assert not found, f"{found}\n{describe(theatre.workers)}"


def test_two_undisturbed_imports_look_the_same(theatre: Stage, undisturbed: Undisturbed) -> None:
    theatre.worker()
    job = until(theatre.job(), "completed", seconds=60)
    undamaged(theatre, undisturbed, job)
    assert len(undisturbed(0)["records"]) > 200
    assert any(row[5] > 1 for row in undisturbed(0)["chunks"]), "some chunk has several pages"


def test_a_worker_killed_at_every_commit_in_turn_loses_and_doubles_nothing(
    theatre: Stage, undisturbed: Undisturbed
) -> None:
    """One import, a dozen workers one after the other, each killed at another commit."""
    theatre.sandbox.control(latency_ms=100)  # so that pages come, and are stored, one by one
    job = theatre.job()
    for point in POINTS:
        worker = theatre.worker(fault=point, concurrency=4, lease=1)
        wait_for(lambda worker=worker: not worker.alive or over(job), 30)
        assert worker.process.poll() == KILLED, f"{point} was not reached: {worker.words()}"
    theatre.sandbox.control(latency_ms=0)
    theatre.worker(lease=1)
    undamaged(theatre, undisturbed, until(job, "completed", seconds=60))


def over(job: Any) -> bool:
    return job_now(job).status not in ("pending", "running")


def test_workers_killed_at_random_moments_lose_and_double_nothing(theatre: Stage, undisturbed: Undisturbed) -> None:
    """Seeded kills, two workers at a time, each replaced at once; all but a few in the midst of work."""
    moments = random.Random(SEED)
    theatre.sandbox.control(latency_ms=400, jitter_ms=400)  # so that the import outlives them
    job = theatre.job()
    running = [at_the_queue(theatre) for _ in range(2)]
    struck = 0
    for _ in range(8):
        busy = wait_for(lambda: [one for one in running if is_at_work(one[1])], 30)
        victim, numbers = moments.choice(busy)
        time.sleep(moments.uniform(0, 0.3))
        victim.kill()
        struck += is_at_work(numbers)
        running.remove((victim, numbers))
        theatre.sandbox.control(latency_ms=3000)  # however long a worker takes to start on a busy machine
        running.append(at_the_queue(theatre))
        theatre.sandbox.control(latency_ms=400)
    assert not over(job)
    assert struck > 4, "the others had nothing in hand at their moment"
    theatre.sandbox.control(latency_ms=0, jitter_ms=0)
    undamaged(theatre, undisturbed, until(job, "completed", seconds=90))


def at_the_queue(theatre: Stage) -> tuple[WorkerProcess, set[int]]:
    """A new worker that takes entries, and the queue's numbers for it: one for starts, one for upkeep, one for all else."""
    before = numbers_of_workers()
    worker = theatre.worker(concurrency=4)
    wait_for(lambda: len(numbers_of_workers() - before) == 3, 30)
    return worker, numbers_of_workers() - before


def numbers_of_workers() -> set[int]:
    return asked("SELECT id FROM procrastinate_workers")


def is_at_work(numbers: set[int]) -> bool:
    """Whether the worker has an import's entry in hand, or had when it died."""
    in_hand = "SELECT id FROM procrastinate_jobs WHERE status = 'doing' AND worker_id = ANY(%s) AND queue_name <> %s"
    return bool(asked(in_hand, list(numbers), tasks.UPKEEP))


def asked(query: str, *parameters: Any) -> set[int]:
    with psycopg.connect(database_url(), autocommit=True) as owner:
        return {row[0] for row in owner.execute(query, parameters).fetchall()}


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_told_to_stop_in_mid_page_ends_in_order_and_gives_its_chunks_back(
    theatre: Stage, undisturbed: Undisturbed, told: signal.Signals
) -> None:
    theatre.sandbox.control(latency_ms=400)
    job = theatre.job()
    worker = theatre.worker(lease=60, concurrency=4)
    wait_for(lambda: leases(job) and pages_of(job) > 0, 30)
    worker.signal(told)
    assert worker.process.wait(20) == 0, worker.words()
    assert leases(job) == {}
    theatre.sandbox.control(latency_ms=0)
    theatre.worker(lease=60)  # nobody has to wait for a lease to run out
    undamaged(theatre, undisturbed, until(job, "completed", seconds=60))


def test_a_worker_frozen_past_its_lease_is_fenced_when_it_thaws(theatre: Stage, undisturbed: Undisturbed) -> None:
    theatre.sandbox.control(latency_ms=300)
    job = theatre.job()
    frozen = theatre.worker(concurrency=4)
    wait_for(lambda: len(leases(job)) >= 2 and pages_of(job) > 0, 30)
    frozen.signal(signal.SIGSTOP)
    held = leases(job)
    theatre.sandbox.control(latency_ms=0)
    theatre.worker(concurrency=4)
    wait_for(lambda: not set(held.values()) & set(leases(job).values()), 90)  # taken from it
    frozen.signal(signal.SIGCONT)
    undamaged(theatre, undisturbed, until(job, "completed", seconds=60))
    assert frozen.alive, f"it goes on with other work: {frozen.words()}"
    assert frozen.stop() == 0, frozen.words()


def test_a_deploy_replaces_workers_under_load_without_a_trace(theatre: Stage, undisturbed: Undisturbed) -> None:
    undisturbed(1)
    theatre.sandbox.control(latency_ms=80)
    jobs = [theatre.job(number) for number in range(2)]
    old = [theatre.worker(concurrency=4, lease=60) for _ in range(2)]
    wait_for(lambda: all(pages_of(job) > 0 for job in jobs), 30)
    for worker in old:
        theatre.worker(concurrency=4, lease=60)
        assert worker.stop() == 0, worker.words()
    theatre.sandbox.control(latency_ms=0)
    done = [until(job, "completed", seconds=60) for job in jobs]
    for number, job in enumerate(done):
        undamaged(theatre, undisturbed, job, number)


def test_a_worker_frozen_in_mid_transaction_does_not_keep_its_locks(theatre: Stage, undisturbed: Undisturbed) -> None:
    """Here the test is the frozen worker: it holds the job's row and the reaper's place, and does nothing."""
    theatre.sandbox.control(latency_ms=100)
    job = theatre.job()
    theatre.worker()
    wait_for(lambda: pages_of(job) > 0, 30)
    arguments = {**connect_arguments(), "options": "-c idle_in_transaction_session_timeout=2000"}
    with psycopg.connect(**arguments) as frozen:
        frozen.execute("SET LOCAL ROLE atom_system")
        frozen.execute("SELECT FROM historical_sync_historicalsyncjob WHERE id = %s FOR UPDATE", [job.id])
        frozen.execute("SELECT pg_advisory_xact_lock(hashtextextended('reaper', 0))")
        theatre.sandbox.control(latency_ms=0)
        undamaged(theatre, undisturbed, until(job, "completed", seconds=60))
        with pytest.raises(psycopg.Error):
            frozen.execute("SELECT 1")


def test_a_worker_frozen_in_mid_pipeline_does_not_keep_its_locks(theatre: Stage, undisturbed: Undisturbed) -> None:
    """As above, in the middle of a save: the server waits for more statements and counts no idle time."""
    theatre.sandbox.control(latency_ms=100)
    job = theatre.job()
    theatre.worker()
    wait_for(lambda: pages_of(job) > 0, 30)
    with psycopg.connect(**connect_arguments()) as frozen, suppress(psycopg.OperationalError), frozen.pipeline():
        frozen.execute("SET LOCAL ROLE atom_system")
        held = frozen.execute("SELECT id FROM historical_sync_historicalsyncjob WHERE id = %s FOR UPDATE", [job.id])
        assert held.fetchone() == (job.id,)
        theatre.sandbox.control(latency_ms=0)
        undamaged(theatre, undisturbed, until(job, "completed", seconds=60))
    assert frozen.broken, "it was cut off"


async def test_only_a_client_of_the_engine_that_is_silent_for_a_whole_lease_is_cut_off(db: None, settings: Any) -> None:
    settings.LEASE_SECONDS = 0.6
    ended = 0
    async with AsyncExitStack() as connections:

        async def connect(**more: Any) -> AsyncConnection:
            made = await AsyncConnection.connect(**{**connect_arguments(), **more})
            connections.push_async_callback(made.close)
            return made

        clients = {
            "silent": await connect(),
            "busy": await connect(),
            "foreign": await connect(application_name="psql"),
        }
        watcher = await connect(autocommit=True)
        silent = reaping.SilentClients()
        with suppress(psycopg.OperationalError):
            async with AsyncExitStack() as pipelines:
                for client in clients.values():
                    await pipelines.enter_async_context(client.pipeline())
                    await client.execute("SELECT 1")
                    await (await client.execute("SELECT 1")).fetchone()
                until = time.monotonic() + 2
                while time.monotonic() < until:
                    ended += await silent.cut_off(watcher)
                    await (await clients["busy"].execute("SELECT 1")).fetchone()
                    await asyncio.sleep(0.1)
        assert ended == 1
        assert [name for name, client in clients.items() if client.broken] == ["silent"]


async def test_a_client_that_fell_silent_between_a_pipelines_messages_is_cut_off(db: None, settings: Any) -> None:
    """A message without an answer, such as a request to flush, ends the server's watch over a transaction that shows as idle."""
    settings.LEASE_SECONDS = 0.4
    async with (
        await AsyncConnection.connect(**connect_arguments()) as client,
        await AsyncConnection.connect(**connect_arguments(), autocommit=True) as watcher,
    ):
        silent, ended = reaping.SilentClients(), 0
        with suppress(psycopg.OperationalError):
            async with client.pipeline() as pipeline:
                await client.execute("SELECT 1")
                await pipeline.sync()
                client.pgconn.send_flush_request()
                client.pgconn.flush()
                until = time.monotonic() + 2
                while not ended and time.monotonic() < until:
                    ended = await silent.cut_off(watcher)
                    await asyncio.sleep(0.1)
                await client.execute("SELECT 1")
        assert ended == 1
        assert client.broken


def test_the_engine_and_the_site_ask_the_server_to_end_frozen_transactions(db: None) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        assert cursor.fetchone() == ("1min",)
    with psycopg.connect(**connect_arguments()) as engine:
        row = engine.execute("SHOW idle_in_transaction_session_timeout").fetchone()
    assert row == (f"{settings.LEASE_SECONDS:.0f}s",)
