"""Sockets: a job's progress, a tenant's toasts, and the fragments of pages that change.

Each joins the process's hub first and sends the present state then, so that nothing falls between. What is sent is read from the
database; a socket gets at most five messages a second a job, and always the last.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime
from uuid import UUID

from channels.generic.websocket import AsyncWebsocketConsumer
from django.core.exceptions import SuspiciousOperation
from django.http import QueryDict
from django.template.loader import render_to_string
from django.utils import timezone

from atom.access import Actor, Right
from atom.fanout import SCOPE, Message, written
from atom.sockets import actor_of_scope
from atom.tenancy import tenant_scope
from atom.threads import in_thread
from historical_sync import hub, live, states
from historical_sync.live import LiveJob
from historical_sync.models import HistoricalSyncJob

log = logging.getLogger(__name__)

ACCESS_AGAIN = 30.0  # seconds after which a message makes us ask again whether this person still may
STRANGER = 4404
GONE = 4401
KNOWN = 200  # jobs, the newest, whose present state is known when a socket opens, beside those that are not over
TRY_AGAIN = 1013  # RFC 6455's registry: come back later
TOAST = "historical_sync/_toast.html"
ENDS = (states.COMPLETED, states.FAILED, states.CANCELLED, states.PAUSED)


class TenantConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """A socket of somebody in a tenant. Subclasses say what to send."""

    actor: Actor
    tenant_id: str
    job_id = ""
    template = ""  # of the fragment that it shows of a changed job

    async def connect(self) -> None:
        self._hub: hub.Hub | None = None
        self._checking: asyncio.Task[None] | None = None
        # What is told while the present state is being read, or access asked for again, is sent after it.
        self._holding = True
        self._late: dict[str, LiveJob] = {}
        actor = await in_thread(actor_of_scope)(self.scope)
        if actor is None or not await self.may_open(actor):
            await self.close(STRANGER)  # before accept: the handshake itself is refused
            return
        self.actor, self.tenant_id = actor, str(actor.tenant.id)
        self._access_at = time.monotonic()
        self._hub = hub.current()
        await self._hub.join(self)
        await self.joined()
        await self.accept()
        await self.opened()
        await self._catch_up()

    async def disconnect(self, code: int) -> None:
        if self._checking is not None:
            self._checking.cancel()
        if self._hub is not None:
            await self._hub.leave(self)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Nothing is expected from clients; what they send is ignored."""

    @property
    def fragments(self) -> set[tuple[str, bool]]:
        return {(self.template, self.actor.may(Right.OPERATE))} if self.template else set()

    async def tell(self, seen: LiveJob) -> None:
        """The hub's news of a job."""
        if not self._holding and time.monotonic() > self._access_at + ACCESS_AGAIN:
            self._holding = True
            self._checking = asyncio.create_task(self._ask_for_access())
        if self._holding:
            self._late[str(seen.job.id)] = seen
        else:
            await self.changed(seen)

    async def push(self, message: Message) -> None:
        """Sends what others may get, too."""
        if not written(self.scope.get(SCOPE), message):
            await self.send(text_data=message.text)

    async def tell_asking(self, message: dict[str, str]) -> None:
        """What a slow provider is being asked: only the job's page shows it."""

    async def _catch_up(self) -> None:
        while self._late:
            late, self._late = self._late, {}
            for seen in late.values():
                await self.changed(seen)
        self._holding = False

    async def _ask_for_access(self) -> None:
        try:
            actor = await in_thread(actor_of_scope)(self.scope, again=True)
        except Exception as error:
            # A socket that holds its news back for ever would be deaf: whoever opens it anew is asked again.
            log.warning("a socket is closed, as nobody can say whose it is: %r", error)
            await self.close(TRY_AGAIN)
            return
        if actor is None or actor.tenant.id != self.actor.tenant.id:
            await self.close(GONE)
            return
        self.actor, self._access_at = actor, time.monotonic()
        await self._catch_up()

    async def may_open(self, actor: Actor) -> bool:
        return True

    async def joined(self) -> None:
        """Reads what must be known of the time before the socket opens."""

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
        return await live.read(str(actor.tenant.id), self.job_id) is not None


class JobProgress(OneJob):
    """/ws/historical-sync/{job_id}: the contract's events, as JSON."""

    async def opened(self) -> None:
        # Read after the subscription: what changed in between is in it.
        seen = await live.read(self.tenant_id, self.job_id)
        if seen is not None:
            self._status, self._revision = seen.job.status, seen.job.revision
            await self.push(seen.event("snapshot", self.actor))

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
        await self.push(seen.event(kind, self.actor))


class SinceConsumer(TenantConsumer):
    """A socket of a page. ?since=: when the page was made; what is newer than that and older than the socket is told at once.

    ?workspace=: the page's. Another tab may have left it meanwhile: what the page would be told then is not the page's.
    """

    since: datetime | None = None

    async def may_open(self, actor: Actor) -> bool:
        try:
            query = QueryDict(self.scope["query_string"])
            given = query.get("since")
            self.since = None if given is None else live.since(given)
        except (ValueError, SuspiciousOperation):
            return False
        return bool(query.get("workspace", str(actor.tenant.id)) == str(actor.tenant.id))

    async def late(self, template: str) -> list[LiveJob]:
        """The jobs that a page of that time may show otherwise than they are, with the fragment rendered."""
        if self.since is None:
            return []
        return await live.read_late(self.tenant_id, self.since, template, self.actor.may(Right.OPERATE))


class Notifications(SinceConsumer):
    """/ws/notifications: the tenant's finished, failed and paused jobs, for toasts."""

    async def joined(self) -> None:
        # All is news that happens once the client sees the socket open, so what was there before is read before that.
        self._known: dict[str, str] = await in_thread(_statuses)(self.tenant_id)

    async def opened(self) -> None:
        for seen in await self.late(TOAST):
            if seen.job.stopped_lately:  # type: ignore[attr-defined] # of `live.of_late`
                self._known[str(seen.job.id)] = seen.job.status
                await self._tell_end(seen)

    async def changed(self, seen: LiveJob) -> None:
        job = seen.job
        key = str(job.id)
        before = self._known.get(key)
        self._known[key] = job.status
        if before is None and job.completed_at is not None and job.completed_at < timezone.now() - live.LONG_AGO:
            return  # one that was not among the newest, and whose records were read again
        if job.status != before and job.status in ENDS:
            await self._tell_end(seen)

    async def _tell_end(self, seen: LiveJob) -> None:
        job = seen.job
        toast = seen.html(TOAST, self.actor.may(Right.OPERATE))
        await self.push(seen.event(job.status, self.actor, html=toast.text))


class PageFragments(SinceConsumer):
    """/ws/pages: what changes on any page: the running indicator, rows of job tables, integration cards. HTML."""

    template = "historical_sync/_changed.html"

    async def opened(self) -> None:
        for seen in await self.late(self.template):
            await self.changed(seen)

    async def changed(self, seen: LiveJob) -> None:
        await self.push(seen.html(self.template, self.actor.may(Right.OPERATE)))


class JobFragments(OneJob):
    """/ws/pages/jobs/{job_id}: the job page's monitor. HTML."""

    template = "historical_sync/_job_live.html"

    async def opened(self) -> None:
        seen = await live.read(self.tenant_id, self.job_id)
        if seen is not None:
            await self.changed(seen)

    async def changed(self, seen: LiveJob) -> None:
        await self.push(seen.html(self.template, self.actor.may(Right.OPERATE)))

    async def tell_asking(self, message: dict[str, str]) -> None:
        context = {"asking": message["words"], "asking_since": datetime.fromisoformat(message["since"])}
        await self.send(text_data=render_to_string("historical_sync/_pulse.html", context))


def _statuses(tenant_id: str) -> dict[str, str]:
    with tenant_scope(tenant_id):
        jobs = HistoricalSyncJob.objects.filter(tenant_id=tenant_id).values_list("id", "status")
        newest = jobs.order_by("-created_at")[:KNOWN]
        return {str(job_id): status for job_id, status in [*newest, *jobs.filter(status__in=states.ACTIVE).order_by()]}


class Nowhere(AsyncWebsocketConsumer):  # type: ignore[misc]
    """What is at no address of ours answers as another tenant's job does."""

    async def connect(self) -> None:
        await self.close(STRANGER)
