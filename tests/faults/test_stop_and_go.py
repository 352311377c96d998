"""Pause, cancel and resume under way; who gets how much of the workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from procrastinate.contrib.django.models import ProcrastinateJob

from atom.access import system_actor
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import actions, claims, tasks
from historical_sync.database import make_pool
from historical_sync.models import HistoricalSyncJob, SyncChunk
from historical_sync.planning import PlannedChunk
from historical_sync.worker import STARTS_AT_ONCE
from integrations.providers.base import WHOLE, Window
from tests.conftest import job_now, until, wait_for
from tests.faults.conftest import SANDBOX
from tests.faults.stage import END, START, Picture, Stage, damage, leases, pages_of, picture

pytestmark = pytest.mark.processes
# The promise is two seconds; these run beside other tests on a small machine. `bench.faults --stops` measures it.
SOON = 6.0


def ask(what: Callable[..., Any], job: Any) -> Any:
    with tenant_scope(job.tenant_id):
        return what(system_actor(job.tenant, "a person"), job)


def seconds_until(job: Any, *statuses: str) -> float:
    began = time.monotonic()
    until(job, *statuses, seconds=30)
    return time.monotonic() - began


@pytest.mark.parametrize(("what", "status"), [(actions.pause, "paused"), (actions.cancel, "cancelled")])
def test_a_request_to_stop_is_heard_while_a_page_hangs(theatre: Stage, what: Any, status: str) -> None:
    job = theatre.job()
    theatre.worker(lease=60)
    wait_for(lambda: leases(job), 30)
    before = theatre.sandbox.control(latency_ms=15_000)

    def every_chunk_hangs() -> bool:
        now = theatre.sandbox.control()
        quick_ones_are_over = now["calls"] == before["calls"] + before["at_once"]
        return quick_ones_are_over and now["at_once"] == len(leases(job)) > 0

    wait_for(every_chunk_hangs, 10)
    ask(what, job)
    assert seconds_until(job, status) < SOON


@pytest.mark.parametrize(("what", "status"), [(actions.pause, "paused"), (actions.cancel, "cancelled")])
def test_a_request_to_stop_is_heard_while_the_job_waits_for_a_limit(theatre: Stage, what: Any, status: str) -> None:
    theatre.sandbox.control(rate_limit_every=1, retry_after=300)
    job = theatre.job()
    theatre.worker(lease=60)
    wait_for(lambda: job_now(job).waiting_until, 30)
    ask(what, job)
    assert seconds_until(job, status) < SOON
    assert job_now(job).waiting_until is None


def test_a_resumed_import_goes_on_at_its_cursor(theatre: Stage, undisturbed: Callable[[int], Picture]) -> None:
    job = theatre.job()
    worker = theatre.worker(lease=60)
    theatre.sandbox.control(latency_ms=250)

    def in_mid_window() -> Any:
        with tenant_scope(job.tenant_id):
            rows = SyncChunk.objects.filter(tenant=job.tenant, job=job, status="running", stream="issues")
            return rows.filter(cursor__isnull=False).first()

    wait_for(in_mid_window, 30)
    ask(actions.pause, job)
    until(job, "paused")
    with tenant_scope(job.tenant_id):
        chunk = SyncChunk.objects.filter(
            tenant=job.tenant, job=job, status="pending", stream="issues", cursor__isnull=False
        ).first()
    assert chunk is not None, worker.words()
    before = theatre.sandbox.control()["calls"]
    theatre.sandbox.control(latency_ms=0)
    ask(actions.resume, job)
    until(job, "completed", seconds=60)
    assert not damage(undisturbed(0), picture(job.tenant))
    path = f"/repos/{chunk.partition_facts['full_name']}/issues"
    calls = theatre.sandbox.control()["calls"] - before
    asked = [call["query"].get("since") for call in theatre.sandbox.log()[-calls:] if call["path"] == path]
    assert chunk.cursor["since"] in asked, f"{chunk.cursor} is not among {asked}"
    assert f"{chunk.since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" not in asked, "it began again"


def test_pausing_and_resuming_over_and_over_loses_and_doubles_nothing(
    theatre: Stage, undisturbed: Callable[[int], Picture]
) -> None:
    theatre.sandbox.control(latency_ms=200)  # so that it is not over before
    job = theatre.job()
    for _ in range(2):
        theatre.worker(concurrency=4, lease=60)
    for _ in range(6):
        stored = pages_of(job)
        wait_for(lambda stored=stored: pages_of(job) > stored, 30)
        ask(actions.pause, job)
        until(job, "paused")
        ask(actions.resume, job)
    theatre.sandbox.control(latency_ms=0)
    until(job, "completed", seconds=60)
    found = damage(undisturbed(0), picture(job.tenant))
    assert not found, str(found)


def test_five_thousand_chunks_of_one_tenant_do_not_hold_up_another(theatre: Stage) -> None:
    slots = 3
    theatre.sandbox.control(latency_ms=150)
    large = theatre.job(7, "salesforce", streams=["accounts"])
    windows = [Window(START + timedelta(hours=n), START + timedelta(hours=n + 1)) for n in range(5000)]
    asyncio.run(plan(large, [PlannedChunk("accounts", WHOLE, window, None, 1.0) for window in windows]))
    with tenant_scope(large.tenant_id):
        tasks.enqueue(large, tasks.parallel_chunks(large))
    theatre.worker(concurrency=slots, lease=60)
    wait_for(lambda: pages_of(large) > slots, 30)
    small = theatre.job(8, "salesforce", streams=["accounts"], start=END - timedelta(days=10))
    wait_for(lambda: job_now(small).started_at, 30)
    small = job_now(small)
    with tenant_scope(large.tenant_id):
        meanwhile = SyncChunk.objects.filter(
            tenant=large.tenant, job=large, started_at__gt=small.created_at, started_at__lt=small.started_at
        ).count()
    assert meanwhile <= slots, "each slot may finish what it has and begin one more at most"
    until(small, "completed", seconds=60)
    assert job_now(large).completed_chunks < 2500


def test_a_start_waits_for_no_place(theatre: Stage) -> None:
    """All that the worker may do at once is in hand, and ends in no time soon."""
    theatre.sandbox.control(latency_ms=20_000)
    busy = theatre.job(7, "salesforce", streams=["accounts"])
    asyncio.run(plan(busy, [PlannedChunk("accounts", WHOLE, Window(START, END), None, 1.0)]))
    theatre.worker(concurrency=1, lease=60)
    wait_for(lambda: leases(busy), 30)
    new = theatre.job(8, "salesforce", streams=["accounts"], start=END - timedelta(days=10))
    wait_for(lambda: job_now(new).started_at, SOON)
    assert leases(busy)


def test_every_new_import_gets_a_page_before_any_gets_a_second(theatre: Stage) -> None:
    theatre.sandbox.control(latency_ms=200)
    jobs = [theatre.job(number, "salesforce", streams=["accounts"]) for number in range(7, 19)]
    for job in jobs:
        asyncio.run(plan(job, [PlannedChunk("accounts", WHOLE, Window(START, END), None, 1.0)]))
    theatre.worker(concurrency=1, lease=60)
    places = 1 + STARTS_AT_ONCE

    def all_have_a_page() -> bool:
        with across_tenants("imports of twelve tenants"):
            pages = list(SyncChunk.objects.values_list("pages", flat=True))  # in one statement: all at the same moment
        # The last ones may be in hand, and keep nobody else waiting.
        assert pages.count(0) < places or max(pages) <= 1, pages
        return 0 not in pages

    wait_for(all_have_a_page, 30)
    for job in jobs:
        until(job, "completed", seconds=60)
        assert pages_of(job) > 1


def in_weeks(start: datetime) -> list[PlannedChunk]:
    """Chunks of a week of Salesforce's accounts from `start` to END. Made here, as a worker that plans asks for more at once."""
    weeks = (END - start) // timedelta(days=7)
    edges = [start, *(END - timedelta(days=7 * n) for n in reversed(range(weeks)))]
    return [PlannedChunk("accounts", WHOLE, Window(since, until), None, 1.0) for since, until in pairwise(edges)]


async def plan(job: Any, chunks: list[PlannedChunk]) -> None:
    """Plans the job with the given chunks, as a worker would that has no room for any of them."""
    pool = make_pool(2)
    await pool.open()
    try:
        room, planned = claims.Room(0, 0), claims.Planned(chunks, None, "unknown")
        await claims.claim(pool, str(job.id), str(job.tenant_id), room, planned)
    finally:
        await pool.close()


def test_no_more_chunks_at_once_than_plan_and_connection_and_worker_allow(theatre: Stage) -> None:
    """On the free plan two chunks of a job, three of the tenant; here two jobs and more workers than they may have."""
    start = END - timedelta(days=60)
    jobs = [
        theatre.job(5, "salesforce", plan="free", account=account, start=start, streams=["accounts"])
        for account in ("one", "other")
    ]
    for job in jobs:
        asyncio.run(plan(job, in_weeks(start)))
        tasks.enqueue(job, 4)
    theatre.sandbox.control(reset=True)
    theatre.sandbox.control(**SANDBOX, latency_ms=120)  # so that nothing is done before it is counted
    for _ in range(2):
        theatre.worker(concurrency=6, lease=60)
    most = 0

    def over() -> bool:
        nonlocal most
        with tenant_scope(jobs[0].tenant_id):
            most = max(most, SyncChunk.objects.filter(tenant=jobs[0].tenant, status="running").count())
        return all(job_now(job).status == "completed" for job in jobs)

    wait_for(over, 90)
    at_once = theatre.sandbox.control()["most_at_once"]
    assert 2 <= most <= 3, "each has its share"
    assert 2 <= at_once.pop("all") <= 3
    assert len(at_once) == 2
    assert max(at_once.values()) <= 2


def test_a_worker_works_on_no_more_chunks_at_once_than_it_was_told(theatre: Stage) -> None:
    job = theatre.job(0, "salesforce", streams=["accounts"])
    asyncio.run(plan(job, in_weeks(START)))
    tasks.enqueue(job, 4)
    theatre.sandbox.control(latency_ms=120)
    theatre.worker(concurrency=2, lease=60)
    # A new import's first page comes in beside what a worker has in hand.
    starts = ProcrastinateJob.objects.filter(queue_name=tasks.STARTS, status__in=["todo", "doing"])
    wait_for(lambda: not starts.exists() and theatre.sandbox.control()["at_once"] <= 2, 30)
    theatre.sandbox.control(reset=True)
    theatre.sandbox.control(**SANDBOX, latency_ms=120)
    until(job, "completed", seconds=60)
    assert theatre.sandbox.control()["most_at_once"]["all"] == 2
    with tenant_scope(job.tenant_id):
        assert HistoricalSyncJob.objects.get(tenant=job.tenant, id=job.id).failed_chunks == 0
