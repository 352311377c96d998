"""What a job looks like right now, for everybody in this process who watches it.

Many sockets may watch one job. All of them hear the same message, so the first to ask reads the job and the others share the
reading and what is rendered from it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from channels.db import DatabaseSyncToAsync
from django.template.loader import render_to_string

from atom.access import Actor, Right
from atom.tenancy import tenant_scope
from historical_sync.models import HistoricalSyncJob
from historical_sync.progress import describe
from historical_sync.serializers import job_json

# Not Django's one shared thread: a slow page must not hold up live progress.
_THREADS = ThreadPoolExecutor(4, thread_name_prefix="live")


def in_thread(function: Any) -> Any:
    """`function` for await, in a thread with a database connection of its own."""
    return DatabaseSyncToAsync(function, thread_sensitive=False, executor=_THREADS)


class LiveJob:
    """One reading of a job, and what was made of it."""

    def __init__(self, job: HistoricalSyncJob) -> None:
        self.job = job
        self._made: dict[tuple[str, bool], Any] = {}

    def json(self, actor: Actor) -> dict[str, Any]:
        """The contract's job as `actor` sees it."""
        may = actor.may(Right.OPERATE)
        key = ("json", may)
        if key not in self._made:
            self._made[key] = job_json(self.job, actor)
        made: dict[str, Any] = self._made[key]
        return made

    def html(self, template: str, actor: Actor) -> str:
        """A fragment of the job; `template` gets what `job_context` says."""
        may = actor.may(Right.OPERATE)
        key = (template, may)
        if key not in self._made:
            self._made[key] = render_to_string(template, job_context(self.job, may))
        made: str = self._made[key]
        return made


def job_context(job: HistoricalSyncJob, may_operate: bool) -> dict[str, Any]:
    """What the fragments of a job get: the page's, htmx's and the socket's are the same."""
    return {"job": job, "progress": describe(job), "may_operate": may_operate}


_readings: dict[str, tuple[str, asyncio.Task[LiveJob | None]]] = {}


async def read(tenant_id: str, job_id: str, mark: str) -> LiveJob | None:
    """The job as it is after the message `mark`; None when the tenant has no such job (any more)."""
    known = _readings.get(job_id)
    if known is not None and known[0] == mark and not known[1].cancelled():
        return await asyncio.shield(known[1])
    task = asyncio.get_running_loop().create_task(in_thread(_read)(tenant_id, job_id))
    if len(_readings) > 1000:
        _readings.clear()
    _readings[job_id] = (mark, task)
    return await asyncio.shield(task)


def _read(tenant_id: str, job_id: str) -> LiveJob | None:
    with tenant_scope(tenant_id):
        job = HistoricalSyncJob.objects.with_names().filter(tenant_id=tenant_id, id=job_id).first()
    return LiveJob(job) if job is not None else None
