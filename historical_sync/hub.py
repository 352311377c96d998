"""One ear a process: hears which jobs changed, reads each once, and tells every socket of the process that watches it.

Channels alone would wake each socket, which would read, render and encode for itself: a thousand watchers of one job cost a
thousand times the work. Here the work is done once and its result sent a thousand times. Changes that come while others are read
wait and are read together, so a hub under load does fewer, larger readings.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from channels.layers import get_channel_layer

from historical_sync import live, states
from historical_sync.broadcast import INTERVAL, tenant_group
from historical_sync.live import LiveJob

log = logging.getLogger(__name__)

TRY_AGAIN = 0.5  # seconds after a failure
LOOK_AGAIN = 15.0  # seconds between two looks for what was not heard of
BREATHE_EVERY = 50  # watchers told in a row before others get a turn

_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


class Watcher(Protocol):
    """A socket. `job_id`: the job that it watches, "" for all of its tenant's. `fragments`: what shall be rendered for it."""

    tenant_id: str
    job_id: str

    @property
    def fragments(self) -> set[tuple[str, bool]]: ...

    async def tell(self, seen: LiveJob) -> None: ...

    async def tell_asking(self, message: dict[str, str]) -> None: ...


def current() -> Hub:
    """The hub of this event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        _hubs[loop] = Hub(get_channel_layer())
    return _hubs[loop]


class Hub:
    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.channel = ""
        self.watchers: dict[str, dict[str, set[Watcher]]] = {}  # tenant -> job or "" -> sockets
        self.changed: dict[str, str] = {}  # job -> tenant
        self.told_at: dict[str, float] = {}
        self.going: dict[str, int] = {}  # job that is not over -> its revision when it was read last
        self.look_at = 0.0
        self.wake = asyncio.Event()
        self.reader = live.Reader()
        self.to_show: dict[str, LiveJob] = {}  # job -> its latest reading, to be rendered
        self.show = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self.starting = asyncio.Lock()

    async def join(self, watcher: Watcher) -> None:
        """From now on the watcher is told. Raises what the channel layer raises when it is down."""
        async with self.starting:  # those who come first come together
            if not self.tasks:
                self.channel = await self.layer.new_channel()
                self.going = {}
                self.look_at = asyncio.get_running_loop().time() + LOOK_AGAIN
                self.tasks = [asyncio.create_task(part()) for part in (self._hear, self._tell, self._show)]
        jobs = self.watchers.setdefault(watcher.tenant_id, {})
        jobs.setdefault(watcher.job_id, set()).add(watcher)
        try:
            await self.layer.group_add(tenant_group(watcher.tenant_id), self.channel)
        except BaseException:
            await self.leave(watcher)
            raise

    async def leave(self, watcher: Watcher) -> None:
        """The end of `join`; harmless without one."""
        jobs = self.watchers.get(watcher.tenant_id, {})
        sockets = jobs.get(watcher.job_id, set())
        sockets.discard(watcher)
        if not sockets:
            jobs.pop(watcher.job_id, None)
        if jobs or self.watchers.pop(watcher.tenant_id, None) is None:
            return
        try:
            await self.layer.group_discard(tenant_group(watcher.tenant_id), self.channel)
        except Exception as error:
            log.debug("leaving a group failed: %r", error)
        if not self.watchers:
            for task in self.tasks:
                task.cancel()
            self.tasks = []

    # -- hearing ------------------------------------------------------------------------------------------------------------

    async def _hear(self) -> None:
        while True:
            try:
                message = await self.layer.receive(self.channel)
            except Exception as error:
                log.warning("live updates are interrupted: %r", error)
                await asyncio.sleep(TRY_AGAIN)
                continue
            tenant_id, job_id = message["tenant_id"], message["job_id"]
            if message["type"] == "job.asking":
                for watcher in self.watchers.get(tenant_id, {}).get(job_id, set()).copy():
                    await self._safely(watcher.tell_asking(message))
            elif any(self._watching(tenant_id, job_id)):
                self.changed[job_id] = tenant_id
                self.wake.set()

    def _watching(self, tenant_id: str, job_id: str) -> Iterator[Watcher]:
        jobs = self.watchers.get(tenant_id, {})
        for key in (job_id, ""):
            yield from jobs.get(key, set()).copy()

    # -- telling ------------------------------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self.look_at):
                        await self.wake.wait()
                self.wake.clear()
                due: dict[str, str] = {}
                try:
                    await self._look()
                    due = self._due()
                    for seen in await self.reader.read(due) if due else ():
                        self._note(str(seen.job.id), seen.job.revision, seen.job.status)
                        await self._tell_all(seen, due[str(seen.job.id)])
                except Exception:
                    log.warning("live updates are late", exc_info=True)
                    await self.reader.close()
                    await asyncio.sleep(TRY_AGAIN)
                    self.changed = due | self.changed
                    self.wake.set()
        finally:
            await self.reader.close()

    async def _look(self) -> None:
        """Now and then: whose news was lost with its worker, or with a channel layer that was away, is told of, too."""
        now = asyncio.get_running_loop().time()
        if now < self.look_at:
            return
        self.look_at = now + LOOK_AGAIN
        for job_id, tenant_id, revision, status in await self.reader.revisions(self.watchers, self.going):
            if self.going.get(job_id) != revision:
                self.changed[job_id] = tenant_id
            self._note(job_id, revision, status)

    def _note(self, job_id: str, revision: int, status: str) -> None:
        if status in states.ACTIVE:
            self.going[job_id] = revision
        else:
            self.going.pop(job_id, None)

    def _due(self) -> dict[str, str]:
        """The changed jobs that may be told of now; the others wait for the end of their interval."""
        now = time.monotonic()
        due = {job: tenant for job, tenant in self.changed.items() if self.told_at.get(job, 0.0) + INTERVAL <= now}
        for job in due:
            del self.changed[job]
            self.told_at[job] = now
        if self.changed:
            soonest = min(self.told_at[job] for job in self.changed) + INTERVAL
            asyncio.get_running_loop().call_later(max(soonest - now, 0.001), self.wake.set)
        elif len(self.told_at) > 10_000:
            self.told_at.clear()
        return due

    async def _tell_all(self, seen: LiveJob, tenant_id: str) -> None:
        """Tells those who get JSON at once; has the fragments of the others made."""
        if seen.tenant_id != tenant_id:
            return  # whoever sent the message was wrong: nobody hears of another tenant's job
        job_id = str(seen.job.id)
        for number, watcher in enumerate(self._watching(tenant_id, job_id), 1):
            if watcher.fragments:
                self.to_show[job_id] = seen
                self.show.set()
            else:
                await self._safely(watcher.tell(seen))
            if number % BREATHE_EVERY == 0:
                await asyncio.sleep(0)

    async def _show(self) -> None:
        """Templates take a thread and many times as long as JSON: what changes meanwhile is shown once, as it is then."""
        while True:
            await self.show.wait()
            self.show.clear()
            shown, self.to_show = list(self.to_show.values()), {}
            watchers = [[w for w in self._watching(s.tenant_id, str(s.job.id)) if w.fragments] for s in shown]
            try:
                await live.render(
                    [(s, {f for w in ws for f in w.fragments}) for s, ws in zip(shown, watchers, strict=True)]
                )
            except Exception:
                log.warning("live pages are late", exc_info=True)
                await asyncio.sleep(TRY_AGAIN)
                self.to_show = {str(seen.job.id): seen for seen in shown} | self.to_show
                self.show.set()
                continue
            for seen, told in zip(shown, watchers, strict=True):
                for watcher in told:
                    await self._safely(watcher.tell(seen))

    async def _safely(self, telling: Any) -> None:
        """A socket that just broke is no reason not to tell the others."""
        try:
            await telling
        except Exception as error:
            log.debug("a socket could not be told: %r", error)
