"""Sockets: a job's progress, a tenant's toasts, and the fragments of pages that change.

Each subscribes first and sends the present state then, so that nothing falls between. Messages of the channel layer say which job
changed; what is sent is read from the database. A socket sends at most five messages a second a job and always the last.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from channels.generic.websocket import AsyncWebsocketConsumer
from django.template.loader import render_to_string

from atom.access import Actor
from atom.sockets import actor_of_scope
from atom.tenancy import tenant_scope
from historical_sync import live, states
from historical_sync.broadcast import INTERVAL, job_group, tenant_group
from historical_sync.live import LiveJob, in_thread

ACCESS_AGAIN = 30.0  # seconds after which a message makes us ask again whether this person still may
STRANGER = 4404
GONE = 4401
ENDS = (states.COMPLETED, states.FAILED, states.CANCELLED, states.PAUSED)


class TenantConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """A socket of somebody in a tenant. Subclasses name their groups and say what to send."""

    actor: Actor
    tenant_id: str
    groups_joined: list[str]

    async def connect(self) -> None:
        self.groups_joined = []
        self._changed: dict[str, str] = {}
        self._wake = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        actor = await in_thread(actor_of_scope)(self.scope)
        if actor is None or not await self.may_open(actor):
            await self.close(STRANGER)  # before accept: the handshake itself is refused
            return
        self.actor, self.tenant_id = actor, str(actor.tenant.id)
        self._access_at = time.monotonic()
        for group in self.group_names():
            await self.channel_layer.group_add(group, self.channel_name)
            self.groups_joined.append(group)
        await self.accept()
        await self.opened()
        self._sender = asyncio.create_task(self._send_changes())

    async def disconnect(self, code: int) -> None:
        if self._sender is not None:
            self._sender.cancel()
        for group in self.groups_joined:
            await self.channel_layer.group_discard(group, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Nothing is expected from clients; what they send is ignored."""

    async def job_changed(self, message: dict[str, Any]) -> None:
        if message["tenant_id"] == self.tenant_id:
            self._changed[message["job_id"]] = message.get("mark", "")
            self._wake.set()

    async def job_asking(self, message: dict[str, Any]) -> None:
        """What a slow provider is being asked: only the job's page shows it."""

    async def _send_changes(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if time.monotonic() > self._access_at + ACCESS_AGAIN and not await self._still_allowed():
                await self.close(GONE)
                return
            changed, self._changed = self._changed, {}
            for job_id, mark in changed.items():
                seen = await live.read(self.tenant_id, job_id, mark)
                if seen is not None:
                    await self.changed(seen)
            await asyncio.sleep(INTERVAL)

    async def _still_allowed(self) -> bool:
        self._access_at = time.monotonic()
        actor = await in_thread(actor_of_scope)(self.scope)
        if actor is None or actor.tenant.id != self.actor.tenant.id:
            return False
        self.actor = actor
        return True

    async def may_open(self, actor: Actor) -> bool:
        return True

    def group_names(self) -> list[str]:
        return [tenant_group(self.tenant_id)]

    async def opened(self) -> None:
        """Sends what is so now."""

    async def changed(self, seen: LiveJob) -> None:
        """Sends what `seen` changes."""
        raise AssertionError("subclasses say what to send")


class OneJob(TenantConsumer):
    """A socket about one job of the tenant."""

    async def may_open(self, actor: Actor) -> bool:
        try:
            self.job_id = str(UUID(self.scope["url_route"]["kwargs"]["job_id"]))
        except ValueError:
            return False
        return await live.read(str(actor.tenant.id), self.job_id, f"open {time.monotonic_ns()}") is not None

    def group_names(self) -> list[str]:
        return [job_group(self.job_id)]


class JobProgress(OneJob):
    """/ws/historical-sync/{job_id}: the contract's events, as JSON."""

    async def opened(self) -> None:
        # Read after the subscription: what changed in between is in it.
        seen = await live.read(self.tenant_id, self.job_id, f"snapshot {time.monotonic_ns()}")
        if seen is not None:
            self._status, self._revision = seen.job.status, seen.job.revision
            await self._event("snapshot", seen)

    async def changed(self, seen: LiveJob) -> None:
        job = seen.job
        if job.revision <= self._revision:
            return
        kind = "progress"
        if job.status != self._status and job.status in ENDS:
            kind = job.status
        elif self._status in (states.PAUSED, states.FAILED) and job.status in states.WORKABLE:
            kind = "resumed"
        self._status, self._revision = job.status, job.revision
        await self._event(kind, seen)

    async def _event(self, kind: str, seen: LiveJob) -> None:
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        event = {"type": kind, "seq": seen.job.revision, "at": at, "job": seen.json(self.actor)}
        await self.send(text_data=orjson.dumps(event).decode())


class Notifications(TenantConsumer):
    """/ws/notifications: the tenant's finished, failed and paused jobs, for toasts."""

    async def opened(self) -> None:
        # Only what happens from now on is news.
        self._known: dict[str, str] = await in_thread(_statuses)(self.tenant_id)

    async def changed(self, seen: LiveJob) -> None:
        job = seen.job
        key = str(job.id)
        before = self._known.get(key)
        self._known[key] = job.status
        if job.status == before or job.status not in ENDS:
            return
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        event = {
            "type": job.status,
            "seq": job.revision,
            "at": at,
            "job": seen.json(self.actor),
            "html": seen.html("historical_sync/_toast.html", self.actor),
        }
        await self.send(text_data=orjson.dumps(event).decode())


class PageFragments(TenantConsumer):
    """/ws/pages: what changes on any page: the running indicator, rows of job tables, integration cards. HTML."""

    async def changed(self, seen: LiveJob) -> None:
        await self.send(
            text_data=seen.html("historical_sync/_changed.html", self.actor)
            + await in_thread(_indicator)(self.tenant_id)
        )


class JobFragments(OneJob):
    """/ws/pages/jobs/{job_id}: the job page's monitor. HTML."""

    async def opened(self) -> None:
        seen = await live.read(self.tenant_id, self.job_id, f"snapshot {time.monotonic_ns()}")
        if seen is not None:
            await self.changed(seen)

    async def changed(self, seen: LiveJob) -> None:
        await self.send(text_data=seen.html("historical_sync/_job_live.html", self.actor))

    async def job_asking(self, message: dict[str, Any]) -> None:
        if message["tenant_id"] == self.tenant_id:
            context = {"asking": message["words"], "asking_since": datetime.fromisoformat(message["since"])}
            await self.send(text_data=render_to_string("historical_sync/_pulse.html", context))


def _statuses(tenant_id: str) -> dict[str, str]:
    from historical_sync.models import HistoricalSyncJob

    with tenant_scope(tenant_id):
        jobs = HistoricalSyncJob.objects.filter(tenant_id=tenant_id).order_by("-created_at")[:200]
        return {str(job_id): status for job_id, status in jobs.values_list("id", "status")}


def _indicator(tenant_id: str) -> str:
    from historical_sync.pages.frame import indicator

    with tenant_scope(tenant_id):
        return indicator(tenant_id)
