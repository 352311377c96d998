"""Jobs driven through every edge, legal and not, and by random users, workers, crashes and time.

The engine's own functions on a real database; the provider is left out.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from atom.access import system_actor
from atom.errors import Refused
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import actions, claims, job_changes, reaping, states
from historical_sync.claims import Claim, Room, ToPlan
from historical_sync.database import Pool, make_pool, tenant_transaction
from historical_sync.extraction import record_rows
from historical_sync.leases import LeaseLost
from historical_sync.mapping import Mapper
from historical_sync.models import Coverage, Entity, HistoricalSyncJob, Relationship, SyncChunk, SyncRecord
from historical_sync.planning import PlannedChunk
from historical_sync.progress import describe
from historical_sync.storage import Pages, save_pages
from integrations.models import Connection
from integrations.providers.base import WHOLE, Context, Graph, Partition, Record, Window
from integrations.providers.base import Entity as Thing
from tests.graphs import make_connection, make_job

ROOM = Room(job=3, tenant=5)
SINCE = datetime(2026, 10, 1, tzinfo=UTC)
DAYS = 6
WINDOWS = [Window(SINCE + timedelta(days=n), SINCE + timedelta(days=n + 1)) for n in range(DAYS)]


@pytest.fixture
def running(live_cast: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """An event loop and a pool, as a worker has them, and `do(coroutine)`."""
    loop = asyncio.new_event_loop()
    pool = make_pool(4)
    loop.run_until_complete(pool.open())
    yield SimpleNamespace(do=loop.run_until_complete, pool=pool, tenant=live_cast.acme)
    loop.run_until_complete(pool.close())
    loop.close()


# -- every edge ---------------------------------------------------------------------------------------------------------------


def a_job(tenant: Any, status: str) -> HistoricalSyncJob:
    """A planned job in that status with one chunk done and one to do."""
    ended = timezone.now() if status in states.FINISHED else None
    job = make_job(
        make_connection(tenant), status=status, planned=True, total_chunks=2, completed_chunks=1, completed_at=ended,
        pause_reason="user" if status == states.PAUSED else "", start_date=SINCE, end_date=SINCE + timedelta(days=2),
    )  # fmt: skip
    for ordinal, chunk in enumerate(("completed", "failed" if status == states.FAILED else "pending")):
        SyncChunk.objects.create(
            tenant=tenant, job=job, ordinal=ordinal, stream="issues", status=chunk,
            since=WINDOWS[ordinal].since, until=WINDOWS[ordinal].until,
        )  # fmt: skip
    return job


def by(action: Callable[..., Any]) -> Callable[[SimpleNamespace, HistoricalSyncJob], None]:
    return lambda world, job: action(system_actor(world.tenant, "a test"), job)


def a_claim(world: SimpleNamespace, job: HistoricalSyncJob) -> None:
    world.do(claims.claim(world.pool, str(job.id), str(job.tenant_id), ROOM))


def the_last_page(world: SimpleNamespace, job: HistoricalSyncJob) -> None:
    """A worker claims the chunk that is to do and stores its last page."""
    claim = world.do(claims.claim(world.pool, str(job.id), str(job.tenant_id), ROOM))
    if isinstance(claim, Claim):
        world.do(store(world.pool, claim, [], done=True))


def the_last_failure(world: SimpleNamespace, job: HistoricalSyncJob) -> None:
    claim = world.do(claims.claim(world.pool, str(job.id), str(job.tenant_id), ROOM))
    if isinstance(claim, Claim):
        world.do(claims.fail(world.pool, claim.lease, "provider_access_denied", "no"))


def cannot_be_planned(world: SimpleNamespace, job: HistoricalSyncJob) -> None:
    world.do(job_changes.fail_job(world.pool, str(job.id), str(job.tenant_id), "provider_misconfigured", "no"))


def access_is_lost(world: SimpleNamespace, job: HistoricalSyncJob) -> None:
    token = job.connection.credentials["access_token"]
    world.do(job_changes.lost_access(world.pool, str(job.id), str(job.tenant_id), token, "words"))


# What can happen to a job -> the statuses it happens in and where it leads. In all others nothing may change.
MOVES: dict[str, tuple[Callable[[SimpleNamespace, HistoricalSyncJob], None], dict[str, str]]] = {
    "pause": (by(actions.pause), {"pending": "paused", "running": "paused"}),
    "cancel": (by(actions.cancel), {"pending": "cancelled", "running": "cancelled", "paused": "cancelled"}),
    "resume": (by(actions.resume), {"paused": "pending", "failed": "pending"}),
    "a claim": (a_claim, {"pending": "running", "running": "running"}),
    "the last page": (the_last_page, {"pending": "completed", "running": "completed"}),
    "the last failure": (the_last_failure, {"pending": "failed", "running": "failed"}),
    "no plan": (cannot_be_planned, {"pending": "failed", "running": "failed"}),
    "lost access": (access_is_lost, {"pending": "paused", "running": "paused"}),
}
ASKED = {"pause", "cancel", "resume"}


@pytest.mark.parametrize(("move", "status"), list(itertools.product(MOVES, states.STATUSES)))
def test_every_move_from_every_status(running: SimpleNamespace, move: str, status: str) -> None:
    act, leads = MOVES[move]
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, status)
        if move in ASKED and status not in leads:
            with pytest.raises(Refused) as refused:
                act(running, job)
            assert (refused.value.code, refused.value.status_code) == ("invalid_state", 409)
        else:
            act(running, job)
        after = HistoricalSyncJob.objects.get(tenant=running.tenant, id=job.id)
    assert after.status == leads.get(status, status)
    if status not in leads:
        assert after.revision == job.revision, "what did not happen leaves no trace"
    elif after.status != status:
        # By one edge of the table, or through running when a worker both begins and ends it.
        begun = {(status, "running"), ("running", after.status)}
        assert (status, after.status) in states.TRANSITIONS or begun <= set(states.TRANSITIONS)


def test_every_edge_of_the_table_is_moved_along_by_something() -> None:
    moved = {(source, target) for _, leads in MOVES.values() for source, target in leads.items()}
    assert set(states.TRANSITIONS) - moved == set()


@pytest.mark.parametrize(
    ("status", "wrong"),
    [
        *((status, {"control": "cancel"}) for status in ("paused", "completed", "failed", "cancelled")),
        *((status, {"control": "pause"}) for status in ("paused", "completed", "failed", "cancelled")),
        *((status, {"completed_at": None}) for status in states.FINISHED),
        *((status, {"completed_at": timezone.now()}) for status in states.ACTIVE),
        *((status, {"pause_reason": "user"}) for status in states.STATUSES if status != "paused"),
        ("paused", {"pause_reason": ""}),
        ("running", {"status": "asleep"}),
        ("running", {"control": "halt"}),
    ],
)
def test_the_database_refuses_what_the_table_rules_out(
    cast: SimpleNamespace, status: str, wrong: dict[str, Any]
) -> None:
    with tenant_scope(cast.acme.id):
        job = a_job(cast.acme, status)
        with pytest.raises(IntegrityError), transaction.atomic():
            HistoricalSyncJob.objects.filter(id=job.id).update(**wrong)


@pytest.mark.parametrize(
    ("status", "lease"), [("running", None), ("pending", "a"), ("completed", "a"), ("failed", "a")]
)
def test_the_database_keeps_leases_on_running_chunks_only(
    cast: SimpleNamespace, status: str, lease: str | None
) -> None:
    with tenant_scope(cast.acme.id):
        job = a_job(cast.acme, "running")
        with pytest.raises(IntegrityError), transaction.atomic():
            SyncChunk.objects.filter(job=job, ordinal=1).update(status=status, lease=lease and job.id)


# -- races --------------------------------------------------------------------------------------------------------------------


def test_a_cancel_that_was_accepted_wins_over_the_last_page(running: SimpleNamespace) -> None:
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "pending")
        claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
        heartbeat()
        assert actions.cancel(system_actor(running.tenant, "a test"), job).status == "running"
        saved = running.do(store(running.pool, claim, [record(WINDOWS[1], 0)], done=True))
        assert saved.stored == 1, "what had been fetched is kept"
        assert actions.get_job(running.tenant, job.id).status == "cancelled"


def test_a_pause_of_a_job_that_was_completing_comes_too_late(running: SimpleNamespace) -> None:
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "pending")
        claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
        heartbeat()
        actions.pause(system_actor(running.tenant, "a test"), job)
        running.do(store(running.pool, claim, [], done=True))
        assert actions.get_job(running.tenant, job.id).status == "completed"


@pytest.mark.parametrize("what", ["waits", "tries again", "fails", "is not planned"])
def test_when_a_job_met_its_last_error_is_after_the_page_before(running: SimpleNamespace, what: str) -> None:
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "pending")
        claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
        running.do(store(running.pool, claim, []))
        page_at = actions.get_job(running.tenant, job.id).last_page_at
        soon = timezone.now() + timedelta(minutes=1)
        if what == "waits":
            running.do(claims.release(running.pool, claim.lease, not_before=soon, waiting="a limit"))
        elif what == "tries again":
            running.do(claims.retry_later(running.pool, claim.lease, "code", "words", soon))
        elif what == "fails":
            running.do(claims.fail(running.pool, claim.lease, "code", "words"))
        else:
            of_job = str(job.id), str(job.tenant_id)
            running.do(job_changes.planning_waits(running.pool, *of_job, soon, "code", "words", failed=True))
        assert actions.get_job(running.tenant, job.id).last_error_at > page_at


@pytest.mark.parametrize("what", ["fail", "split", "no plan", "lost access"])
def test_a_cancel_that_was_accepted_wins_over_whatever_else_ends_the_job(running: SimpleNamespace, what: str) -> None:
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "pending")
        claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
        heartbeat()
        actions.cancel(system_actor(running.tenant, "a test"), job)
        if what == "fail":
            running.do(claims.fail(running.pool, claim.lease, "code", "words"))
        elif what == "split":
            running.do(claims.split(running.pool, claim.lease, claim.window.since + timedelta(hours=12)))
        else:
            MOVES[what][0](running, job)
        assert actions.get_job(running.tenant, job.id).status == "cancelled"


def test_a_job_that_fails_as_a_whole_takes_its_chunks_from_their_workers(running: SimpleNamespace) -> None:
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "pending")
        claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
        cannot_be_planned(running, job)
        with pytest.raises(LeaseLost):
            running.do(store(running.pool, claim, [record(WINDOWS[1], 0)]))


def test_a_cancel_does_not_wait_for_a_worker_that_lost_access_and_waits_for_it(running: SimpleNamespace) -> None:
    async def waiting() -> None:
        async with asyncio.timeout(10), running.pool.connection() as other:
            while not (await (await other.execute("SELECT FROM pg_locks WHERE NOT granted")).fetchall()):
                await asyncio.sleep(0.02)

    async def begun(coroutine: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(coroutine)

    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "pending")
        token = job.connection.credentials["access_token"]
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '500ms'")
            actions.cancel(system_actor(running.tenant, "a test"), job)
            lost = job_changes.lost_access(running.pool, str(job.id), str(job.tenant_id), token, "words")
            task = running.do(begun(lost))
            running.do(waiting())
        running.do(task)
        assert actions.get_job(running.tenant, job.id).status == "cancelled"


def test_a_cancel_with_no_worker_alive_is_done_at_once(running: SimpleNamespace) -> None:
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "pending")
        claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM procrastinate_workers")
        assert actions.cancel(system_actor(running.tenant, "a test"), job).status == "cancelled"
        with pytest.raises(LeaseLost):
            running.do(store(running.pool, claim, [record(WINDOWS[1], 0)]))


def test_a_cancel_waits_for_no_worker_that_is_gone_though_others_live(running: SimpleNamespace) -> None:
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "pending")
        claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
        heartbeat()
        SyncChunk.objects.filter(id=claim.lease.chunk_id).update(lease_until=timezone.now() - timedelta(seconds=1))
        assert actions.cancel(system_actor(running.tenant, "a test"), job).status == "cancelled"
        with pytest.raises(LeaseLost):
            running.do(store(running.pool, claim, [record(WINDOWS[1], 0)]))


def test_a_worker_that_does_not_listen_does_not_keep_a_job_in_cancelling(running: SimpleNamespace) -> None:
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "pending")
        claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
        heartbeat()
        with time_machine.travel(timezone.now() - timedelta(minutes=3)):  # the web's clock is no measure of that
            assert actions.cancel(system_actor(running.tenant, "a test"), job).control == "cancel"
        running.do(claims.prolong(running.pool, [claim.lease]))  # it lives, and works on
        running.do(reaping.reap(running.pool))
        assert actions.get_job(running.tenant, job.id).control == "cancel", "it has some seconds to let go"
        HistoricalSyncJob.objects.filter(id=job.id).update(
            control_at=timezone.now() - timedelta(seconds=reaping.STOP_GRACE_SECONDS + 1)
        )
        running.do(reaping.reap(running.pool))
        assert actions.get_job(running.tenant, job.id).status == "cancelled"
        with pytest.raises(LeaseLost):
            running.do(store(running.pool, claim, [record(WINDOWS[1], 0)]))


def test_a_worker_does_not_go_on_behind_a_gap(running: SimpleNamespace) -> None:
    """A replica took over that had not heard of the chunk's last page."""
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "pending")
        claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
        first, second, third = (record(WINDOWS[1], n) for n in range(3))
        running.do(store(running.pool, claim, [first], after=0))
        running.do(store(running.pool, claim, [second], after=1))
        SyncRecord.objects.filter(external_id=second.external_id).delete()
        SyncChunk.objects.filter(id=claim.lease.chunk_id).update(pages=1)
        with pytest.raises(LeaseLost):
            running.do(store(running.pool, claim, [third], after=2))
        assert {row.external_id for row in SyncRecord.objects.filter(job_id=job.id)} == {first.external_id}
        running.do(claims.release(running.pool, claim.lease))
        again = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
        assert (again.lease.chunk_id, again.pages) == (claim.lease.chunk_id, 1), "from where the database is"


def test_parts_that_are_listed_late_take_nothing_from_the_percentage(running: SimpleNamespace) -> None:
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "running")
        HistoricalSyncJob.objects.filter(id=job.id).update(progress=1, progress_total=2)
        claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
        parts = [PlannedChunk("issues", Partition(key), claim.window, 900, 950.0) for key in ("a", "b", "c")]
        running.do(claims.replace(running.pool, claim.lease, parts))
        assert describe(actions.get_job(running.tenant, job.id)).percentage == 50
        for _ in parts:
            claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
            running.do(store(running.pool, claim, [], done=True))
        job = actions.get_job(running.tenant, job.id)
        assert (job.status, job.progress, job.completed_chunks) == ("completed", pytest.approx(job.progress_total), 4)


def test_that_no_part_is_listed_is_no_step_back(running: SimpleNamespace) -> None:
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "running")
        HistoricalSyncJob.objects.filter(id=job.id).update(progress=1, progress_total=2)
        claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
        running.do(claims.replace(running.pool, claim.lease, []))
        job = actions.get_job(running.tenant, job.id)
        assert (job.status, job.progress, job.progress_total, job.total_chunks) == ("completed", 1, 1, 1)


def test_the_time_when_nobody_worked_says_nothing_of_the_time_left(running: SimpleNamespace) -> None:
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "running")
        long_ago = timezone.now() - timedelta(hours=3)
        HistoricalSyncJob.objects.filter(id=job.id).update(
            progress=1,
            progress_total=2,
            pace_at=long_ago,
            pace_progress=0.9,
            earlier_pace_at=long_ago,
            last_page_at=long_ago,
        )
        claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM))
        assert describe(actions.get_job(running.tenant, job.id)).seconds_remaining is None
        running.do(store(running.pool, claim, [record(WINDOWS[1], 1)]))
        later = timezone.now() + timedelta(seconds=2)
        seen = describe(actions.get_job(running.tenant, job.id), later).seconds_remaining
        assert seen is None or seen < 60


def heartbeat() -> None:
    """A worker is alive."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM procrastinate_workers")
        cursor.execute("INSERT INTO procrastinate_workers DEFAULT VALUES")


# -- random users, workers, crashes and time ----------------------------------------------------------------------------------


def record(window: Window, number: int) -> Record:
    name = f"{window.since:%d%H%M%S}-{number}"
    return Record(name, window.since + timedelta(seconds=number), {"name": name})


def extract(payload: dict[str, Any], context: Context) -> Graph:
    key = f"thing:{payload['name']}"
    said = Graph(Thing("thing", key, payload["name"], {}))
    said.to("in", Thing("place", "place:1", "Here"))
    return said


async def store(
    pool: Pool, claim: Claim, records: list[Record], *, done: bool = False, after: int | None = None
) -> Any:
    """after: pages of the chunk that its worker knows to be stored; None: it knows how many there are."""
    if after is None:
        async with tenant_transaction(pool, claim.lease.tenant_id) as cursor:
            await cursor.execute("SELECT pages FROM historical_sync_syncchunk WHERE id = %s", [claim.lease.chunk_id])
            (after,) = await cursor.fetchone() or (0,)
    rows, _ = record_rows(records, claim.lease.connection_bytes, claim.lease.stream)
    batch = Pages(rows, pages=1, after=after, cursor=None if done else {"n": 1}, done=done, progress=0.5)
    return await save_pages(pool, claim.lease, batch, extract, Context("toy"), Mapper())


def make_machine(world: SimpleNamespace) -> type[RuleBasedStateMachine]:
    """The machine on this test's database. Every run has a connection of its own."""

    class Jobs(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.tenant, self.do, self.pool = world.tenant, world.do, world.pool
            self.actor = system_actor(self.tenant, "a test")
            self.job: Any = None
            self.held: list[Claim] = []  # by workers, of which some are dead or frozen and don't know
            self.cancelled: set[Any] = set()  # jobs whose cancel was accepted
            self.over: dict[Any, str] = {}  # what was final stays so

        @initialize()
        def connect(self) -> None:
            heartbeat()
            with tenant_scope(self.tenant.id):
                # Jobs of the run before don't count.
                for job in actions.jobs_of(self.tenant).active():
                    actions.cancel(self.actor, job)
                HistoricalSyncJob.objects.filter(tenant=self.tenant, status__in=states.ACTIVE).update(
                    status="cancelled", control="none", control_at=None, completed_at=timezone.now(), pause_reason=""
                )
                self.connection = make_connection(self.tenant)
            self.start()

        def start(self) -> None:
            with tenant_scope(self.tenant.id):
                self.job = actions.start_sync(
                    self.actor, self.connection, start=SINCE, end=SINCE + timedelta(days=DAYS), full=True
                )

        @property
        def now(self) -> HistoricalSyncJob:
            with tenant_scope(self.tenant.id):
                return actions.get_job(self.tenant, self.job.id)

        # A person

        @precondition(lambda self: self.now.status in states.FINISHED)
        @rule()
        def start_another(self) -> None:
            self.start()

        @rule(what=st.sampled_from(["pause", "cancel", "resume"]))
        def a_person_asks(self, what: str) -> None:
            with tenant_scope(self.tenant.id):
                before = self.now
                allowed = {
                    "pause": states.can_pause(before.status, before.control),
                    "cancel": states.can_cancel(before.status, before.control),
                    "resume": states.can_resume(before.status),
                }[what]
                again = before.status in states.ACTIVE and before.control == what
                try:
                    getattr(actions, what)(self.actor, before)
                except Refused:
                    assert not allowed
                    assert not again, "the answer to the first may have been lost"
                    assert self.now.revision == before.revision
                else:
                    assert allowed or again
                    assert not again or self.now.revision == before.revision
                    if what == "cancel":
                        self.cancelled.add(before.id)

        # A worker

        @rule()
        def claim(self) -> None:
            who = str(self.job.id), str(self.tenant.id), ROOM
            found = self.do(claims.claim(self.pool, *who))
            if isinstance(found, ToPlan):
                chunks = [PlannedChunk("issues", WHOLE, window, 3, 1.0) for window in WINDOWS]
                found = self.do(claims.claim(self.pool, *who, claims.Planned(chunks, 18, "about")))
            if isinstance(found, Claim):
                self.held.append(found)

        @precondition(lambda self: self.held)
        @rule(which=st.integers(0, 9), records=st.integers(0, 3), done=st.booleans())
        def save(self, which: int, records: int, done: bool) -> None:
            claim = self.held[which % len(self.held)]
            rows = [record(claim.window, number) for number in range(records)]
            try:
                self.do(store(self.pool, claim, rows, done=done))
            except LeaseLost:
                self.held.remove(claim)
            else:
                if done:
                    self.held.remove(claim)

        @precondition(lambda self: self.held)
        @rule(which=st.integers(0, 9), how=st.sampled_from(["release", "wait", "retry", "restart", "split", "fail"]))
        def let_go(self, which: int, how: str) -> None:
            claim = self.held.pop(which % len(self.held))
            soon = timezone.now() + timedelta(seconds=30)
            if how == "release":
                self.do(claims.release(self.pool, claim.lease))
            elif how == "wait":
                self.do(claims.release(self.pool, claim.lease, not_before=soon, waiting="a limit"))
            elif how == "retry":
                self.do(claims.retry_later(self.pool, claim.lease, "code", "words", soon))
            elif how == "restart":
                self.do(claims.restart_window(self.pool, claim.lease, "code", "words", soon))
            elif how == "split":
                middle = claim.window.since + (claim.window.until - claim.window.since) / 2
                if claim.window.until - claim.window.since > timedelta(hours=1):
                    self.do(claims.split(self.pool, claim.lease, middle.replace(microsecond=0)))
            else:
                self.do(claims.fail(self.pool, claim.lease, "code", "words"))

        @precondition(lambda self: self.held)
        @rule()
        def crash(self) -> None:
            """All that the workers hold is held by nobody."""
            self.held.clear()

        @rule()
        def keep_alive(self) -> None:
            self.do(claims.prolong(self.pool, [claim.lease for claim in self.held]))

        @rule(what=st.sampled_from(["lost access", "no plan"]))
        def the_job_as_a_whole(self, what: str) -> None:
            MOVES[what][0](world, self.job)
            with tenant_scope(self.tenant.id):  # who lost access has it again, and may resume
                Connection.objects.filter(tenant=self.tenant, id=self.connection.id).update(status="connected")

        # Time

        @rule(seconds=st.sampled_from([5, 20, 60]))
        def time_passes(self, seconds: int) -> None:
            with across_tenants("time passes for all"), connection.cursor() as cursor:
                span = timedelta(seconds=seconds)
                cursor.execute(
                    "UPDATE historical_sync_syncchunk SET lease_until = lease_until - %s, not_before = not_before - %s WHERE job_id = %s",
                    [span, span, self.job.id],
                )
                cursor.execute(
                    "UPDATE historical_sync_historicalsyncjob SET control_at = control_at - %s WHERE id = %s",
                    [span, self.job.id],
                )

        @rule()
        def reap(self) -> None:
            self.do(reaping.reap(self.pool))

        # What holds whatever happened

        @invariant()
        def all_is_in_order(self) -> None:
            if self.job is None:
                return
            with tenant_scope(self.tenant.id):
                job = self.now
                chunks = list(SyncChunk.objects.filter(tenant=self.tenant, job=job))
                in_order(job, chunks)
                records = SyncRecord.objects.filter(tenant=self.tenant, connection_id=self.connection.id)
                jobs = HistoricalSyncJob.objects.filter(tenant=self.tenant, connection=self.connection)
                assert sum(j.records_processed for j in jobs) == records.count()
                ids = list(records.values_list("id", flat=True))
                statements = Relationship.objects.filter(tenant=self.tenant, record_id__in=ids).count()
                assert sum(j.relationships_extracted for j in jobs) == statements == len(ids)
                covered(self.tenant, self.connection, jobs)
                active = [j for j in jobs if j.status in states.ACTIVE]
                assert len(active) <= 1
            running = sum(chunk.status == "running" for chunk in chunks)
            assert running <= ROOM.job
            if job.id in self.cancelled:
                assert job.status == "cancelled" or job.control == "cancel", "a cancel that was accepted wins"
            for other in jobs:
                assert self.over.get(other.id, other.status) == other.status, "what is final stays so"
                if other.status in ("completed", "cancelled"):
                    self.over[other.id] = other.status

        def teardown(self) -> None:
            """Nothing is stuck: with a worker that works and time that passes, the job ends or waits for a person."""
            if self.job is None:
                return
            self.held.clear()
            for _ in range(60):
                if self.now.status not in states.WORKABLE:
                    break
                self.time_passes(60)
                self.reap()
                self.claim()
                while self.held:
                    self.save(0, 3, True)
            assert self.now.status not in states.WORKABLE
            self.all_is_in_order()
            if self.now.status == "completed":
                with tenant_scope(self.tenant.id):
                    assert Entity.objects.filter(tenant=self.tenant, kind="place").count() == 1

    return Jobs


def in_order(job: HistoricalSyncJob, chunks: list[SyncChunk]) -> None:
    """A job's row and its chunks agree."""
    count = {status: sum(chunk.status == status for chunk in chunks) for status in states.CHUNK_STATUSES}
    assert job.total_chunks == len(chunks) - count["split"]
    assert job.completed_chunks == count["completed"]
    assert job.failed_chunks == count["failed"]
    assert job.records_processed == sum(chunk.records_processed for chunk in chunks)
    assert job.records_skipped == sum(chunk.records_skipped for chunk in chunks)
    assert job.control == "none" or job.status in states.WORKABLE
    if count["running"]:
        assert job.status == "running", "only a running job's chunks have workers"
    elif job.control != "none":
        raise AssertionError(f"the request to {job.control} is due, and nobody is there to honour it")
    if job.status == "completed":
        assert count["completed"] + count["split"] == len(chunks)
    if job.status == "failed" and job.planned and job.last_error_code == "incomplete":
        assert count["failed"] > 0
    assert len({chunk.lease for chunk in chunks if chunk.lease}) == count["running"], "one lease a running chunk"
    assert job.progress <= job.progress_total + 1e-6


def covered(tenant: Any, connection: Any, jobs: Any) -> None:
    """Coverage is what completed chunks cover, and nothing else."""
    windows = SyncChunk.objects.filter(tenant=tenant, job__in=jobs, status="completed").values_list("since", "until")
    ranges = Coverage.objects.filter(tenant=tenant, connection=connection).values_list("ranges", flat=True)
    seconds = sum((span.upper - span.lower).total_seconds() for found in ranges for span in found)
    union, end = 0.0, SINCE
    for since, until in sorted(windows):
        union += max(0.0, (until - max(since, end)).total_seconds())
        end = max(end, until)
    assert seconds == union


def test_whatever_happens_jobs_stay_in_order(running: SimpleNamespace) -> None:
    run_state_machine_as_test(
        make_machine(running),
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("how", ["release", "fail", "retry_later", "restart_window", "split", "prolong"])
def test_who_lost_the_lease_changes_nothing(running: SimpleNamespace, how: str) -> None:
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "running")
        lost = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM)).lease
        SyncChunk.objects.filter(id=lost.chunk_id).update(status="pending", lease=None, lease_until=None)
        held = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), ROOM)).lease
        assert (held.chunk_id, held.token != lost.token) == (lost.chunk_id, True)
        before = SyncChunk.objects.values().get(id=held.chunk_id)
        soon = timezone.now() + timedelta(seconds=5)
        late = {
            "release": lambda: claims.release(running.pool, lost),
            "fail": lambda: claims.fail(running.pool, lost, "code", "words"),
            "retry_later": lambda: claims.retry_later(running.pool, lost, "code", "words", soon),
            "restart_window": lambda: claims.restart_window(running.pool, lost, "code", "words", soon),
            "split": lambda: claims.split(running.pool, lost, before["since"] + timedelta(hours=12)),
            "prolong": lambda: claims.prolong(running.pool, [lost]),
        }[how]
        result = running.do(late())
        assert SyncChunk.objects.values().get(id=held.chunk_id) == before
        assert how != "prolong" or result == set()


def test_a_job_has_a_place_however_many_share_them() -> None:
    assert [claims.Room(job=4, tenant=8).share(jobs) for jobs in (0, 1, 2, 3)] == [4, 4, 4, 2]
    assert claims.Room(job=4, tenant=2).share(3) == 1
