"""The engine: claim a chunk, fetch its pages, store them, go on until it is done or somebody says stop.

    claims.claim -> Arrivals (fetches ahead of the store) -> storage.save_pages -> broadcast.job_changed

The fetcher and the storer of a chunk run side by side: while pages are stored the next ones arrive, and all that has arrived is
stored in one transaction, so small quick pages share commits and slow ones are stored as they come. What goes wrong is decided
by the error's class (`integrations.errors`); nothing here knows a provider's name.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from psycopg.errors import DiskFull

from atom.tenancy import tenant_scope
from historical_sync import broadcast, claims, job_changes, planning, states, targeting, tasks
from historical_sync.arrivals import Arrivals, Buffer, Kept
from historical_sync.claims import Claim, Nothing, ToPlan
from historical_sync.course import Course
from historical_sync.database import AWAY, Pool
from historical_sync.delivering import Deliveries
from historical_sync.leases import Lease, LeaseLost
from historical_sync.mapping import Mapper
from historical_sync.meter import Meter
from historical_sync.models import HistoricalSyncJob
from historical_sync.quarantine import TOO_MANY
from historical_sync.retrying import Action, decide
from historical_sync.runs import JobRun, JobRuns
from historical_sync.storage import Pages, Saved, save_pages
from historical_sync.trouble import Trouble
from integrations.errors import CursorExpired, Endless, ProviderError
from integrations.providers.base import JSON, Context, Stream, Window, WindowKind

log = logging.getLogger(__name__)

DISK_AGAIN = timedelta(seconds=30)  # until another try to store what the database's disk had no room for
NO_ROOM_WORDS = "The disk of Atom's database is full. What came in is safe; the rest follows when there is room."
ASKING_AFTER = 1.0  # seconds without an answer after which watchers hear what is being asked


class End(Enum):
    """How the work on a chunk ended. STOPPED: before the chunk's end, and the lease may still be ours."""

    STOPPED = "stopped"
    DONE = "done"
    ALL_DONE = "done, and no other chunk of the job waits for a worker"


class TooManyRejected(Exception):
    """More of a chunk's records went into quarantine than can be the records' fault."""

    code = TOO_MANY


class UnknownStream(Exception):
    """The chunk was planned when its provider had a stream of that name: an upgrade has renamed it or taken it out."""

    code = "unknown_stream"


class Engine:
    """One worker's engine. `abandoned`: leases to give back as soon as the database can be reached again."""

    def __init__(
        self, pool: Pool, defer: tasks.Defer, abandoned: list[Lease] | None = None, mapper: Mapper | None = None
    ) -> None:
        self.pool = pool
        self.defer = defer
        self.mapper = mapper or Mapper()
        self.deliveries = Deliveries()
        self.buffer = Buffer()
        self.runs = JobRuns(pool, defer)
        self.trouble = Trouble()
        self.abandoned = abandoned if abandoned is not None else []
        self.leases: dict[str, tuple[Lease, asyncio.Event]] = {}
        self.closing = asyncio.Event()

    # -- the queue's side ---------------------------------------------------------------------------------------------------

    async def work(self, job_id: str, tenant_id: str, *, beginning: bool = False) -> None:
        """Handles one queue entry. Puts one back if the job has more to do; never raises.

        beginning: the entry is the job's first. It stays for no second chunk, and for no second page while other jobs wait to begin.
        """
        with tenant_scope(tenant_id):
            try:
                while await self._work_once(job_id, tenant_id, beginning):
                    # Others wait in the queue: to its end. Nobody does: straight on.
                    if beginning or self.closing.is_set() or await self.defer.others_wait():
                        await self.defer(job_id, tenant_id)
                        return
            except AWAY as error:
                # Leases are given back or run out, and the reaper puts entries back: nothing is lost, and there is nothing to
                # write it to.
                log.warning("database unavailable while working on job %s: %s", job_id, " ".join(str(error).split()))
            except Exception:
                log.exception("unexpected failure while working on job %s", job_id)

    async def _work_once(self, job_id: str, tenant_id: str, beginning: bool) -> bool:
        """Works on one chunk, or plans. False: this entry has come to its end."""
        async with self.runs.use(job_id, tenant_id, self._job_went_wrong) as run:
            if run is None:
                return False
            if self.closing.is_set():
                return True
            claimed = await claims.claim(self.pool, job_id, tenant_id, run.room)
            if isinstance(claimed, ToPlan):
                await broadcast.job_changed(job_id, tenant_id)
                claimed = await self._plan(run)
            if isinstance(claimed, Nothing):
                if claimed.again_at is not None:
                    await self.defer(job_id, tenant_id, at=claimed.again_at)
                await broadcast.job_changed(job_id, tenant_id)
                return False
            await broadcast.job_changed(job_id, tenant_id)
            if isinstance(claimed, ToPlan):
                return True
            return await self._chunk(run, claimed, beginning and await self.defer.others_wait([tasks.STARTS]))

    # -- planning -----------------------------------------------------------------------------------------------------------

    async def _plan(self, run: JobRun) -> Claim | ToPlan | Nothing:
        """Plans the job; its first chunk follows at once: who waits for it has waited for the plan. ToPlan: go on at once, anew."""
        job = run.job
        job_id, tenant_id = str(job.id), str(job.tenant_id)
        try:
            with run.asks("plan", "what there is"):
                targets = await self._until_stopped(run, targeting.gather_targets(run.api, job))
            if targets is None:
                return await claims.claim(self.pool, job_id, tenant_id, run.room)  # which settles the stop
            chunks = planning.plan(targets, run.room.job)
            planned = claims.Planned(chunks, *planning.total(targets), run.api.notices)
            claimed = await claims.claim(self.pool, job_id, tenant_id, run.room, planned)
            await self.defer(job_id, tenant_id, entries=max(0, min(run.room.job, len(chunks)) - 1))
            return claimed
        except DiskFull as error:
            at = self._disk_again(job_id, error)
            again_at = await job_changes.planning_waits(
                self.pool, job_id, tenant_id, at, states.NO_ROOM, NO_ROOM_WORDS, failed=False
            )
            return Nothing(again_at)
        except AWAY:
            raise
        except Exception as error:
            return ToPlan() if await self._job_went_wrong(job, error, run) else Nothing()

    async def _job_went_wrong(self, job: HistoricalSyncJob, error: Exception, run: JobRun | None = None) -> bool:
        """Has the job as a whole wait, fail or be reconnected, as the error's class says: planning it went wrong, or, without a run,
        opening the way to its provider. True: go on at once, somebody has reconnected."""
        job_id, tenant_id = str(job.id), str(job.tenant_id)
        if not isinstance(error, ProviderError):
            log.error("unexpected failure while %s job %s", "planning" if run else "opening", job_id, exc_info=error)
        attempts = await job_changes.job_failures(self.pool, job_id, tenant_id)
        decision = decide(error, now=datetime.now(UTC), jitter=_jitter(), attempts=attempts)
        code, message, at, again = decision.code, decision.message, decision.at, False
        self.trouble.tell(job, "", error, code, decision.action, at)
        if decision.action is Action.RECONNECT:
            token = run.api.token or "" if run else job.connection.credentials["access_token"]
            again = await self._lost_access(job, token, message)
        elif decision.action in (Action.WAIT, Action.LOOK_AGAIN, Action.RETRY) and at is not None:
            if run and decision.action is Action.WAIT:
                await run.budget.block(at)
            # A provider's limit spends no try; a sign-in service that always names one would be asked for ever.
            failed = not run or decision.action is Action.RETRY
            again_at = await job_changes.planning_waits(self.pool, job_id, tenant_id, at, code, message, failed=failed)
            await self.defer(job_id, tenant_id, at=again_at)
        else:
            await job_changes.fail_job(self.pool, job_id, tenant_id, code, message)
        await broadcast.job_changed(job_id, tenant_id)
        return again

    # -- a chunk ------------------------------------------------------------------------------------------------------------

    async def _chunk(self, run: JobRun, claim: Claim, one_page: bool) -> bool:
        """Works on the claimed chunk until it is done, given back or given up. True: the job has, or may have, more chunks."""
        lease = claim.lease
        job_id, tenant_id = lease.job_id, lease.tenant_id
        stop = asyncio.Event()
        self.leases[lease.token] = (lease, stop)
        if run.stop.is_set():
            stop.set()
        try:
            more = await self._attempt(run, claim, stop, one_page)
        except AWAY:
            # What comes back may be a replica that had not heard of all that this worker knows to be stored.
            self.abandoned.append(lease)
            self.mapper.forget_all()
            raise
        finally:
            self.leases.pop(lease.token, None)
        await broadcast.job_changed(job_id, tenant_id)
        return more

    async def _attempt(self, run: JobRun, claim: Claim, stop: asyncio.Event, one_page: bool) -> bool:
        """The same, as long as the database answers: raises the errors of `AWAY`."""
        lease = claim.lease
        try:
            end = await self._import(run, claim, stop, one_page)
            if end is End.STOPPED:
                await claims.release(self.pool, lease)
            return end is not End.ALL_DONE
        except LeaseLost:
            log.info("lease on chunk %s lost", lease.chunk_id)
            self.mapper.forget(lease.tenant_id)
            # Still ours where the database went back behind what it had confirmed.
            await claims.release(self.pool, lease)
            return True
        except DiskFull as error:
            return await self._no_room(lease, error)
        except AWAY:
            raise
        except Exception as error:
            if not isinstance(error, (ProviderError, TooManyRejected, UnknownStream)):
                log.exception("unexpected failure on chunk %s", lease.chunk_id)
            return await self._went_wrong(run, claim, error)

    async def _no_room(self, lease: Lease, error: DiskFull) -> bool:
        """Nothing of the pages was stored. The chunk is given back, for which its row has room, and the provider is asked for them again
        when there may be room for them; that is no failed attempt."""
        at = self._disk_again(lease.job_id, error)
        self.mapper.forget(lease.tenant_id)
        again_at = await claims.release(self.pool, lease, not_before=at, code=states.NO_ROOM, waiting=NO_ROOM_WORDS)
        await self.defer(lease.job_id, lease.tenant_id, at=again_at)
        return False

    def _disk_again(self, job_id: str, error: DiskFull) -> datetime:
        log.error(
            "the database has no room for job %s, trying again in a while: %s", job_id, " ".join(str(error).split())
        )
        return datetime.now(UTC) + DISK_AGAIN

    async def _went_wrong(self, run: JobRun, claim: Claim, error: Exception) -> bool:
        """Gives the chunk back or up, as the error's class says. True: the job may have more chunks for this entry."""
        lease = claim.lease
        if isinstance(error, TooManyRejected | UnknownStream):
            self.trouble.tell(run.job, lease.stream, error, error.code, Action.FAIL)
            await claims.fail(self.pool, lease, error.code, str(error))
            return True
        stream = _stream(run, lease)
        attempts, restarts = await claims.failures(self.pool, lease)
        decision = decide(
            error,
            now=datetime.now(UTC),
            jitter=_jitter(),
            attempts=attempts,
            restarts=restarts,
            stream=stream,
            window=claim.window,
        )
        code, message, at = decision.code, decision.message, decision.at
        if decision.action not in (Action.SPLIT, Action.FAIL):
            self.trouble.tell(run.job, lease.stream, error, code, decision.action, at)
        if decision.action is Action.RECONNECT:
            if not await self._lost_access(run.job, run.api.token or "", message):
                return False
            await claims.release(self.pool, lease)
        elif decision.action is Action.WAIT and at is not None:
            await run.budget.block(at)
            again_at = await claims.release(self.pool, lease, not_before=at, waiting=message)
            await self.defer(lease.job_id, lease.tenant_id, at=again_at)
            return False
        elif decision.action in (Action.LOOK_AGAIN, Action.RETRY) and at is not None:
            failed = decision.action is Action.RETRY
            await claims.retry_later(self.pool, lease, code, message, at, failed=failed)
        elif decision.action is Action.RESTART and at is not None:
            await claims.restart_window(self.pool, lease, code, message, at)
        elif decision.action is not Action.SPLIT or at is None or not await claims.split(self.pool, lease, at):
            self.trouble.tell(run.job, lease.stream, error, code, Action.FAIL)
            astray = isinstance(error, CursorExpired | Endless)
            await claims.fail(self.pool, lease, code, message, astray=astray)
        return True

    async def _import(self, run: JobRun, claim: Claim, stop: asyncio.Event, one_page: bool) -> End:
        """Fetches and stores the chunk's pages, or just the next one."""
        lease, stream = claim.lease, _stream(run, claim.lease)
        if stream.partitioned and not claim.partition.key:
            return await self._list(run, claim, stream)
        context = Context(run.api.namespace, claim.partition)
        window = _remaining(stream, claim)
        phase = f"{stream.label.lower()} of {planning.words(claim.window)}"
        if claim.partition.label:
            phase += f" in {claim.partition.label}"
        meter = Meter(stream, claim, run.job.connection.only, full=run.job.full)
        if window is None:
            saved = await self._save(run, lease, Pages(done=True, after=claim.pages), stream, context, phase)
            return End.DONE if saved.waiting else End.ALL_DONE
        course = Course(stream, run.api.provider.name, claim.position)

        async def fetch(cursor: JSON | None) -> Kept:
            with run.asks(lease.token, f"for {phase}"):
                page = await stream.fetch(run.api, claim.partition, window, cursor)
            course.check(cursor, page)
            return meter.keep(page)

        # In a frame of its own, which ends with it: this one would hold on to what was stored while it waits for the next.
        async def save_next(arrivals: Arrivals) -> tuple[Saved, bool] | None:
            pages, done = await arrivals.batch()
            if not pages and not done:
                return None
            batch = meter.batch(pages, done)
            # A save under way is finished, whatever happens to this task.
            saving = asyncio.ensure_future(self._save(run, lease, batch, stream, context, phase))
            return await asyncio.shield(saving), done

        async with Arrivals(fetch, claim.cursor, stop, self.buffer, one=one_page) as arrivals:
            while True:
                found = await save_next(arrivals)
                if found is None:
                    return End.STOPPED
                saved, done = found
                await broadcast.job_changed(lease.job_id, lease.tenant_id)
                if saved.too_many:
                    raise TooManyRejected(saved.too_many)
                if done:
                    return End.DONE if saved.waiting else End.ALL_DONE
                if one_page or saved.control != "none" or saved.exhausted or stop.is_set():
                    return End.STOPPED

    async def _save(
        self, run: JobRun, lease: Lease, batch: Pages, stream: Stream, context: Context, phase: str
    ) -> Saved:
        async with self.buffer.turn_to_store():
            return await save_pages(
                self.pool,
                lease,
                batch,
                stream.extract,
                context,
                self.mapper,
                phase=phase,
                records_a_month=run.room.records_a_month,
            )

    async def _list(self, run: JobRun, claim: Claim, stream: Stream) -> End:
        """Replaces a chunk whose partitions could not be listed at planning by chunks of the partitions. As `_import`."""
        targets = await self._until_stopped(run, targeting.listed_targets(run.api, run.job, stream, claim.window))
        if targets is None:
            return End.STOPPED
        await claims.replace(self.pool, claim.lease, planning.plan(targets, run.room.job))
        return End.DONE

    # -- shared decisions ---------------------------------------------------------------------------------------------------

    async def _lost_access(self, job: HistoricalSyncJob, token: str, message: str) -> bool:
        """Pauses the connection's work until a person reconnects. True: somebody has reconnected already, so go on anew.

        token: the one that the provider did not take.
        """
        if not await job_changes.lost_access(self.pool, str(job.id), str(job.tenant_id), token, message):
            self.runs.let_go(str(job.id))  # whoever comes next opens the API anew, with the new token
            return True
        self.asked_to_stop(str(job.id))
        await broadcast.job_changed(job.id, job.tenant_id)
        return False

    async def _until_stopped(
        self, run: JobRun, work: Coroutine[Any, Any, list[planning.Target]]
    ) -> list[planning.Target] | None:
        """What `work` returns; None when the job was told to stop first."""
        task = asyncio.create_task(work)
        stopper = asyncio.create_task(run.stop.wait())
        try:
            await asyncio.wait({task, stopper}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for running in (task, stopper):
                running.cancel()
            await asyncio.gather(task, stopper, return_exceptions=True)

    # -- beside the work ----------------------------------------------------------------------------------------------------

    async def keep_alive(self) -> None:
        """Prolongs this worker's leases; stops the work on those that are not its own any more."""
        while self.abandoned:
            lease = self.abandoned[-1]
            await claims.release(self.pool, lease)
            self.abandoned.remove(lease)
        leases = [lease for lease, _ in self.leases.values()]
        alive = await claims.prolong(self.pool, leases)
        for lease in leases:
            if lease.token not in alive and lease.token in self.leases:
                self.leases[lease.token][1].set()

    async def obey(self) -> None:
        """Stops the work on jobs that somebody asked to pause or cancel."""
        self.runs.let_go_of_unused()
        for job_id in await job_changes.requests_to_stop(self.pool, list(self.runs.current)):
            self.asked_to_stop(job_id)
        await self.runs.bring_back_budgets()

    def asked_to_stop(self, job_id: str) -> None:
        """The same for one job, told by a notification."""
        run = self.runs.let_go(job_id)
        if run is None:
            return
        run.stop.set()
        for lease, stop in self.leases.values():
            if lease.job_id == job_id:
                stop.set()

    async def say_what_is_asked(self) -> None:
        """Tells the watchers of slow jobs what the provider has been asked and has not answered yet."""
        slow = datetime.now(UTC) - timedelta(seconds=ASKING_AFTER)
        for job_id, run in list(self.runs.current.items()):
            asked = sorted((since, words) for words, since in run.asking.values())
            # A request that is younger than that means that answers do come in.
            if asked and asked[-1][0] < slow:
                since, words = asked[0]
                words = f"Asking {run.job.connection.provider_name} {words}"
                await broadcast.job_asking(job_id, run.job.tenant_id, words, since)

    def close(self) -> None:
        """Lets go of every chunk at its next page boundary and takes no more."""
        self.closing.set()
        for job_id in list(self.runs.current):
            self.asked_to_stop(job_id)


def _stream(run: JobRun, lease: Lease) -> Stream:
    """What the chunk is of; UnknownStream if there is none any more."""
    provider = run.job.connection.provider
    try:
        return provider.stream(lease.stream)
    except KeyError:
        raise UnknownStream(
            f'Atom does not import "{lease.stream}" from {provider.name} any more. A new import brings what took its place.'
        ) from None


def _remaining(stream: Stream, claim: Claim) -> Window | None:
    """The window from where it goes on when its cursor died; None when nothing is left of it."""
    window = claim.window
    if claim.cursor is not None or claim.position is None or stream.window is WindowKind.SNAPSHOT:
        return window
    if stream.ascending:
        return Window(claim.position, window.until) if claim.position < window.until else None
    # The row at the position itself may share its moment with rows not read yet.
    until = min(claim.position + timedelta(seconds=1), window.until)
    return Window(window.since, until) if window.since < until else None


def _jitter() -> float:
    return random.random()  # noqa: S311
