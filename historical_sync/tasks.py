"""The queue's tasks: take a chunk of a job and work on it; and, once a minute, do what is due by the clock.

A queue entry is a right to work on a job, not a given chunk: the worker takes the job's next chunk when it gets to it, and puts an
entry back at the end of the queue when there is more. So a job never has more entries than it may use workers, first in, first
out shares the workers fairly between jobs, and an entry that dies with its worker is replaced by the reaper.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import OperationalError, transaction
from procrastinate import App, JobContext, RetryStrategy
from procrastinate.contrib.django import app as django_app
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import JobDeferrer
from procrastinate.tasks import configure_task
from procrastinate.types import JSONDict

from historical_sync import faultpoints
from historical_sync.claims import Room

if TYPE_CHECKING:
    from uuid import UUID

    from atom.plans import Plan
    from historical_sync.models import HistoricalSyncJob
    from integrations.providers.base import Provider

QUEUE = "history"
STARTS = "starts"  # the first entry of a job that somebody started or resumed: each worker keeps a few places for these
UPKEEP = "upkeep"  # with places of its own, too, so that it neither waits behind imports nor counts as one that waits
QUEUES = (STARTS, QUEUE, UPKEEP)
TASK = "historical_sync.work"
REMOVE = "historical_sync.remove"
TIDY = "historical_sync.tidy"
CALL_ROLL = "historical_sync.call_roll"
TICK = "historical_sync.tick"
ENDED = "historical_sync.ended"
ENDING = "historical_sync.ending"
app: App = django_app
# For five days. Cancelled is what a worker has in hand that is to end, once its time is over.
MAILED_AGAIN = RetryStrategy(
    max_attempts=8,
    exponential_wait=5,
    retry_exceptions=[OSError, OperationalError, asyncio.CancelledError],  # type: ignore[list-item]
)


@django_app.task(queue=QUEUE, name=TASK, pass_context=True)
async def work(context: JobContext, job_id: str, tenant_id: str) -> None:
    """Works on one chunk of the job. Never fails: what goes wrong is in the job's and the chunk's own state."""
    from historical_sync.worker import current

    await current().work(job_id, tenant_id, beginning=context.job.queue == STARTS)


@django_app.task(queue=UPKEEP, name=TICK, priority=1, queueing_lock=TICK, pass_context=False)
async def tick(timestamp: int) -> None:
    """Does what is due by the clock; one worker of all, once a minute. `timestamp`: the minute, not used: what is due shows."""
    from atom.threads import in_thread
    from historical_sync.upkeep import by_the_clock

    await in_thread(by_the_clock)()


@django_app.task(queue=UPKEEP, name=ENDED, priority=1, pass_context=False)
async def ended(tenant_id: str) -> None:
    """Does what follows from the end, or pause, of a job of the tenant, and has those told who want to know."""
    from atom.threads import in_thread
    from historical_sync import rollcall
    from historical_sync.upkeep import after_an_end
    from historical_sync.worker import current

    await in_thread(after_an_end)(tenant_id)
    await rollcall.hand_out(current())
    await current().deliveries.look(tenant_id)


def tell(tenant_id: UUID | str) -> None:
    """Has what is due to be told of the tenant's jobs delivered."""
    with suppress(AlreadyEnqueued), transaction.atomic():
        ended.configure(queueing_lock=f"{ENDED} {tenant_id}").defer(tenant_id=str(tenant_id))


@django_app.task(
    queue=UPKEEP,
    name=ENDING,
    pass_context=False,
    retry=MAILED_AGAIN,
)
async def access_ends(connection_id: str, membership_id: str, tenant_id: str) -> None:
    """Writes to a member that access ends soon; again later where the mail server does not take it, or the worker goes away."""
    from historical_sync import ending

    await ending.send(connection_id, membership_id, tenant_id)


@django_app.task(queue=QUEUE, name=REMOVE, pass_context=False)
async def remove(connection_id: str, tenant_id: str) -> None:
    """Removes what only the connection brought. Ended half-way, it is handed out again and goes on."""
    from historical_sync import removing
    from historical_sync.worker import current

    await removing.remove(current().pool, connection_id, tenant_id)


@django_app.task(queue=QUEUE, name=CALL_ROLL, pass_context=False)
async def call_roll(job_id: str, tenant_id: str, tries: int = 0) -> None:
    """Asks the provider for what a full import did not meet. Ended half-way, it is handed out again and goes on."""
    from historical_sync import rollcall
    from historical_sync.worker import current

    await rollcall.call(current(), job_id, tenant_id, tries)


@django_app.task(queue=UPKEEP, name=TIDY, pass_context=False)
async def tidy(tenant_id: str) -> None:
    """Takes out of the tenant's graph what updated records no longer say. That may take minutes: it gives way to what waits."""
    from historical_sync import tidying
    from historical_sync.worker import current

    engine = current()

    async def give_way() -> bool:
        return engine.closing.is_set() or await engine.defer.others_wait([UPKEEP])

    if not await tidying.tidy(engine.pool, tenant_id, give_way=give_way):
        await engine.defer.tidy(tenant_id)


def tidy_soon(tenant_id: UUID | str) -> None:
    """Has the tenant's graph tidied; one entry that waits is enough."""
    with suppress(AlreadyEnqueued), transaction.atomic():
        tidy.configure(queueing_lock=f"{TIDY} {tenant_id}").defer(tenant_id=str(tenant_id))


def enqueue(job: HistoricalSyncJob, entries: int) -> None:
    """Puts entries for the job into the queue, in the caller's transaction.

    The first goes before what waits and into places that are kept for it: whoever starts an import sees something at once, however
    much others have to do. A tenant's few active jobs bound how often that happens.
    """
    for number in range(entries):
        entry = work.configure(queue=QUEUE if number else STARTS, priority=int(number == 0))
        entry.defer(job_id=str(job.id), tenant_id=str(job.tenant_id))


class Defer:
    """Puts entries into the queue from a worker, through the worker's own connections."""

    def __init__(self, worker_app: App) -> None:
        self.app = worker_app

    def _entry(self, name: str, **options: Any) -> JobDeferrer:
        # Not by the app: what it knows as a task goes by Django's connection, in a thread.
        return configure_task(name=name, job_manager=self.app.job_manager, **options)

    async def __call__(self, job_id: str, tenant_id: str, at: datetime | None = None, entries: int = 1) -> None:
        """So many entries for the job; `at`: not before that time."""
        if not entries:
            return
        faultpoints.reached("before", "defer")
        of_job: JSONDict = {"job_id": job_id, "tenant_id": tenant_id}
        await self._entry(TASK, queue=QUEUE, schedule_at=at).batch_defer_async(*[of_job] * entries)
        faultpoints.reached("after", "defer")

    async def remove(self, connection_id: str, tenant_id: str) -> None:
        """What removes a connection's data."""
        await self._entry(REMOVE, queue=QUEUE).defer_async(connection_id=connection_id, tenant_id=tenant_id)

    async def call_roll(self, job_id: str, tenant_id: str, at: datetime | None = None, tries: int = 0) -> None:
        """What asks for what the job did not meet. tries: that failed so far."""
        with suppress(AlreadyEnqueued):
            entry = self._entry(CALL_ROLL, queue=QUEUE, schedule_at=at, queueing_lock=f"{CALL_ROLL} {job_id}")
            await entry.defer_async(job_id=job_id, tenant_id=tenant_id, tries=tries)

    async def tick(self) -> None:
        """What is due by the clock now rather than at the next minute: nobody may have worked for a while."""
        with suppress(AlreadyEnqueued):
            entry = self._entry(TICK, queue=UPKEEP, priority=1, queueing_lock=TICK)
            await entry.defer_async(timestamp=int(time.time()))

    async def tick_of(self, minute: int) -> None:
        """The same, once for each minute (seconds since 1970), whichever worker comes first. Not by Procrastinate's own clockwork: put
        back by an hour it stands still for that hour, and after a night asleep it makes up for every minute of it."""
        entry = self._entry(TICK, queue=UPKEEP, priority=1, queueing_lock=TICK, task_kwargs={"timestamp": minute})
        with suppress(AlreadyEnqueued):
            await self.app.job_manager.defer_periodic_job(job=entry.job, periodic_id="", defer_timestamp=minute)

    async def ended(self, tenant_id: str) -> None:
        """What follows from the end of a job of the tenant. Several workers hear of one end: one entry is enough."""
        with suppress(AlreadyEnqueued):
            entry = self._entry(ENDED, queue=UPKEEP, priority=1, queueing_lock=f"{ENDED} {tenant_id}")
            await entry.defer_async(tenant_id=tenant_id)

    async def tidy(self, tenant_id: str) -> None:
        """As `tidy_soon`."""
        with suppress(AlreadyEnqueued):
            entry = self._entry(TIDY, queue=UPKEEP, queueing_lock=f"{TIDY} {tenant_id}")
            await entry.defer_async(tenant_id=tenant_id)

    async def others_wait(self, queues: Sequence[str] = (QUEUE, STARTS)) -> bool:
        """Whether an entry of these queues is due that no worker has taken."""
        row = await self.app.connector.execute_query_one_async(
            """
            SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE queue_name = ANY(%(queues)s) AND status = 'todo'
                           AND (scheduled_at IS NULL OR scheduled_at <= now())) AS waiting
            """,
            queues=list(queues),
        )
        return bool(row["waiting"])


def parallel_chunks(job: HistoricalSyncJob) -> int:
    """How many chunks of the job may be worked on at once: by plan and provider."""
    return room(job.tenant.limits, job.connection.provider).job


def room(plan: Plan, provider: Provider) -> Room:
    """How much of a job may be worked on, on this plan at this provider."""
    return Room(min(plan.parallel_chunks, provider.budget.concurrency), plan.chunks_at_once, plan.records_a_month)
