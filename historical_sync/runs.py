"""The jobs that a worker has open: each with its way to the provider, its share of the budget and its stop, for all its chunks.

To open a job costs several queries and may ask the provider for a token. So a job stays open from one entry of the queue to its
next, and its chunks that run at once share what is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from channels.db import database_sync_to_async
from django.db.models import Q
from django.db.models.functions import Now

from atom.plans import PLANS
from historical_sync import tasks
from historical_sync.budget import ConnectionBudget, bring_back
from historical_sync.claims import Room
from historical_sync.database import Pool, tenant_transaction
from historical_sync.models import HistoricalSyncJob
from integrations import gateway
from integrations.http import Api

KEPT_SECONDS = 20.0  # that a job stays open for its next entry
PLAN_SECONDS = 60.0  # after which an open job's plan is looked at again: it may have been changed
# For a limit in the middle of a list that is read whole; a longer wait frees the worker.
LONGEST_WAIT_IN_A_LIST = timedelta(minutes=2)
# Does what follows when the way to a job's provider can't be opened. True: it can by now.
Barred = Callable[[HistoricalSyncJob, Exception], Awaitable[bool]]


@dataclass(slots=True)
class JobRun:
    """A job as this worker works on it: shared by its chunks, so that they share the token, the budget and the stop.

    Once stopped it is used no more: whoever resumes the job opens it anew.
    asking: what each of its chunks waits for from the provider right now, in words, and since when.
    """

    job: HistoricalSyncJob
    api: Api
    budget: ConnectionBudget
    room: Room
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    asking: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    users: int = 0
    used_at: float = 0.0  # on the monotonic clock, when its last user left
    plan_read_at: float = field(default_factory=time.monotonic)

    @contextlib.contextmanager
    def asks(self, who: str, words: str) -> Iterator[None]:
        """While `who` waits for the provider's answer about `words`."""
        self.asking[who] = (words, datetime.now(UTC))
        try:
            yield
        finally:
            self.asking.pop(who, None)


class JobRuns:
    """A worker's runs by job id. ending: those that were let go of and may still be used."""

    def __init__(self, pool: Pool, defer: tasks.Defer) -> None:
        self.pool = pool
        self.defer = defer
        self.current: dict[str, JobRun] = {}
        self.ending: list[JobRun] = []
        self.opening: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def use(self, job_id: str, tenant_id: str, barred: Barred) -> AsyncIterator[JobRun | None]:
        """The job's run, opened if it was not; None when there is no work on it now."""
        # One job's slow token must not hold up the others.
        lock = self.opening.setdefault(job_id, asyncio.Lock())
        async with lock:
            run = self.current.get(job_id) or await self._open(job_id, tenant_id, barred)
            if run is not None:
                run.users += 1
        try:
            if run is not None:
                await self._keep_to_the_plan(run)
            yield run
        finally:
            if run is not None:
                run.users -= 1
                run.used_at = time.monotonic()

    async def _open(self, job_id: str, tenant_id: str, barred: Barred) -> JobRun | None:
        job = await database_sync_to_async(_load)(job_id, tenant_id)
        if job is None:
            return None
        if job.has_to_wait:
            # Another entry of the job has just failed to get through: one try counts for all of them.
            await self.defer(job_id, tenant_id, at=job.waiting_until)
            return None
        provider = job.connection.provider
        a_minute = gateway.limit_a_minute(job.connection)
        budget = ConnectionBudget(self.pool, tenant_id, str(job.connection_id), provider, job.kind, a_minute)
        try:
            api = await gateway.open_api(job.connection, limiter=budget, longest_wait=LONGEST_WAIT_IN_A_LIST)
        except Exception as error:
            if await barred(job, error):
                await self.defer(job_id, tenant_id)
            return None
        run = self.current[job_id] = JobRun(job, api, budget, tasks.room(job.tenant.limits, provider))
        return run

    async def _keep_to_the_plan(self, run: JobRun) -> None:
        if time.monotonic() - run.plan_read_at < PLAN_SECONDS:
            return
        run.plan_read_at = time.monotonic()
        async with tenant_transaction(self.pool, str(run.job.tenant_id)) as cursor:
            await cursor.execute("SELECT plan FROM atom_tenant WHERE id = %s", [run.job.tenant_id])
            row = await cursor.fetchone()
        if row is not None:
            run.room = tasks.room(PLANS[row[0]], run.api.provider)

    def let_go(self, job_id: str) -> JobRun | None:
        """Whoever comes next opens the job anew. The run, if there was one."""
        run = self.current.pop(job_id, None)
        if run is not None:
            self.ending.append(run)
        return run

    def let_go_of_unused(self) -> None:
        """Where many jobs take turns each comes back within moments, so it is kept for a while."""
        before = time.monotonic() - KEPT_SECONDS
        for job_id, run in list(self.current.items()):
            if run.users == 0 and run.used_at < before:
                self.let_go(job_id)

    async def bring_back_budgets(self) -> None:
        """What runs that are over took of their providers' budgets and did not use, and what providers said: others may know."""
        over = [run for run in self.ending if run.users == 0]
        self.ending = [run for run in self.ending if run.users > 0]
        in_use = [run.budget for run in (*self.current.values(), *self.ending)]
        await bring_back(self.pool, [run.budget for run in over], in_use)


def _load(job_id: str, tenant_id: str) -> Any:
    """The job if there is work on it. has_to_wait: by the database's clock, as it has just failed to get through."""
    jobs = HistoricalSyncJob.objects.filter(tenant_id=tenant_id, id=job_id, status__in=("pending", "running"))
    has_to_wait = Q(attempts__gt=0, waiting_until__gt=Now())
    return jobs.annotate(has_to_wait=has_to_wait).select_related("connection", "tenant").first()
