"""The queue's one task: take a chunk of a job and work on it.

A queue entry is a right to work on a job, not a given chunk: the worker takes the job's next chunk when it gets to it, and puts an
entry back at the end of the queue when there is more. So a job never has more entries than it may use workers, first in, first
out shares the workers fairly between jobs, and an entry that dies with its worker is replaced by the reaper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from procrastinate import App
from procrastinate.contrib.django import app as django_app

if TYPE_CHECKING:
    from datetime import datetime

    from historical_sync.models import HistoricalSyncJob

QUEUE = "history"
app: App = django_app


@django_app.task(queue=QUEUE, name="historical_sync.work", pass_context=False)
async def work(job_id: str, tenant_id: str) -> None:
    """Works on one chunk of the job. Never fails: what goes wrong is in the job's and the chunk's own state."""
    from historical_sync.worker import current

    await current().work(job_id, tenant_id)


def enqueue(job: HistoricalSyncJob, entries: int) -> None:
    """Puts entries for the job into the queue, in the caller's transaction."""
    for _ in range(entries):
        work.defer(job_id=str(job.id), tenant_id=str(job.tenant_id))


class Defer:
    """Puts entries into the queue from a worker, through the worker's own connections."""

    def __init__(self, worker_app: App) -> None:
        self.app = worker_app

    async def __call__(self, job_id: str, tenant_id: str, at: datetime | None = None) -> None:
        """One entry for the job; `at`: not before that time."""
        deferrer = self.app.configure_task("historical_sync.work", queue=QUEUE, schedule_at=at)
        await deferrer.defer_async(job_id=job_id, tenant_id=tenant_id)

    async def others_wait(self) -> bool:
        """Whether an entry is due that no worker has taken."""
        row = await self.app.connector.execute_query_one_async(
            """
            SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE queue_name = %(queue)s AND status = 'todo'
                           AND (scheduled_at IS NULL OR scheduled_at <= now())) AS waiting
            """,
            queue=QUEUE,
        )
        return bool(row["waiting"])


def parallel_chunks(job: HistoricalSyncJob) -> int:
    """How many chunks of the job may be worked on at once: by plan and provider."""
    return min(job.tenant.limits.parallel_chunks, job.connection.provider.budget.concurrency)
