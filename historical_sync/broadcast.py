"""'Job N changed', from whoever committed to whoever watches. At most five a second a job, the last one always.

Messages carry no state: the consumer re-reads the job. The exception is what a slow provider is being asked right now, which is
nowhere written down. A channel layer that is down costs live pages their liveness (they poll)
and jobs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

log = logging.getLogger(__name__)

INTERVAL = 0.2  # seconds between two messages about one job
SEND_TIMEOUT = 2.0
COMPLAIN_EVERY = 60.0

_last_sent: dict[str, float] = {}
_waiting: set[str] = set()  # jobs whose next message has yet to be sent
_tasks: set[asyncio.Task[None]] = set()  # until their message is sent
_complained_at = 0.0


def tenant_group(tenant_id: UUID | str) -> str:
    return f"tenant.{tenant_id}"


async def job_changed(job_id: UUID | str, tenant_id: UUID | str) -> None:
    """Tells the watchers, now or at the end of the interval that is running. Never raises, never waits for the watchers."""
    key = str(job_id)
    if key in _waiting:
        return
    _waiting.add(key)
    wait = _last_sent.get(key, 0.0) + INTERVAL - time.monotonic()
    task = asyncio.get_running_loop().create_task(_send_after(max(wait, 0.0), key, str(tenant_id)))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _send_after(wait: float, job_id: str, tenant_id: str) -> None:
    try:
        if wait:
            await asyncio.sleep(wait)
    finally:
        _waiting.discard(job_id)
    if len(_last_sent) > 10_000:
        _last_sent.clear()
    _last_sent[job_id] = time.monotonic()
    await _send(job_id, tenant_id)


def job_changed_sync(job_id: UUID | str, tenant_id: UUID | str) -> None:
    """The same for actions in sync code, after their commit."""
    async_to_sync(_send)(str(job_id), str(tenant_id))


async def flush() -> None:
    """Waits for what is still to be sent; for a process that is about to end."""
    await asyncio.gather(*list(_tasks), return_exceptions=True)


async def job_asking(job_id: UUID | str, tenant_id: UUID | str, words: str, since: datetime) -> None:
    """Tells the watchers of one job what its provider has not answered since `since`. Never raises."""
    message = {"type": "job.asking", "job_id": str(job_id), "words": words, "since": since.isoformat()}
    await _send_to(str(tenant_id), message)


async def _send(job_id: str, tenant_id: str) -> None:
    await _send_to(tenant_id, {"type": "job.changed", "job_id": job_id})


async def _send_to(tenant_id: str, message: dict[str, str]) -> None:
    global _complained_at
    layer: Any = get_channel_layer()
    if layer is None:
        return
    try:
        async with asyncio.timeout(SEND_TIMEOUT):
            await layer.group_send(tenant_group(tenant_id), {**message, "tenant_id": tenant_id})
    except Exception as error:
        if time.monotonic() > _complained_at + COMPLAIN_EVERY:
            _complained_at = time.monotonic()
            log.warning("live updates are off, pages poll meanwhile: %s: %s", type(error).__name__, error)
