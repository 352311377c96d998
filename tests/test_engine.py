"""The engine's and the reaper's own decisions, on a real database; the provider is left out."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest
from django.conf import settings
from django.db import OperationalError
from django.db import connection as database
from django.utils import timezone
from procrastinate import PsycopgConnector, sql
from procrastinate.contrib.django.django_connector import DjangoConnector
from procrastinate.contrib.django.models import ProcrastinateJob as Entries

from atom.tenancy import tenant_scope
from historical_sync import claims, reaping, removing, tasks, tidying, upkeep, worker
from historical_sync.database import connect_arguments, make_pool
from historical_sync.engine import Engine, _remaining
from historical_sync.extraction import Ids
from historical_sync.leases import Lease
from historical_sync.models import Coverage, DataRemoval, Entity, HistoricalSyncJob, StaleEntity, SyncChunk, SyncRecord
from historical_sync.planning import PlannedChunk
from integrations import gateway
from integrations.errors import Unavailable
from integrations.models import Connection
from integrations.providers import PROVIDERS
from integrations.providers.base import WHOLE, Window
from tests.conftest import Worker, wait_for
from tests.faults.stage import database_url
from tests.graphs import NOW, had, make_connection, make_job
from tests.test_state_machine import a_job, record, store
from tests.test_state_machine import running as running

pytestmark = pytest.mark.django_db(transaction=True)


def test_one_outage_of_the_sign_in_service_counts_once_however_many_entries_meet_it(
    running: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def away(*_: Any, **__: Any) -> Any:
        asked.append(1)
        raise Unavailable("its sign-in service does not answer")

    monkeypatch.setattr(gateway, "open_api", away)
    put_back = []

    async def defer(job_id: str, tenant_id: str, at: Any = None, entries: int = 1) -> None:
        put_back.append(at)

    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "running")
        engine = Engine(running.pool, cast(Any, defer))

        async def entries() -> None:
            await asyncio.gather(*[engine.work(str(job.id), str(job.tenant_id)) for _ in range(8)])

        running.do(entries())
        job.refresh_from_db()
        assert (len(asked), job.attempts, job.status) == (1, 1, "running")
        assert put_back == [job.waiting_until] * 8


def test_leases_of_chunks_that_were_cut_off_meanwhile_are_given_back_too(
    running: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Lease(name, name, "job", "tenant", "connection", "issues", "") for name in ("a", "b"))
    engine = Engine(running.pool, cast(Any, None), [first])
    released = []

    async def release(pool: Any, lease: Lease) -> None:
        if lease is first and second not in engine.abandoned:
            engine.abandoned.append(second)
        released.append(lease)

    monkeypatch.setattr(claims, "release", release)
    running.do(engine.keep_alive())
    assert set(released) == {first, second}
    assert engine.abandoned == []


@pytest.mark.parametrize("barrier", ["the provider's limit", "its sign-in service"])
def test_the_reaper_adds_nobody_to_those_who_wait_for_a_provider(running: SimpleNamespace, barrier: str) -> None:
    later = timezone.now() + timedelta(hours=1)
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "running")
        tasks.app.configure_task(tasks.TASK, queue=tasks.QUEUE, schedule_at=later).defer(
            job_id=str(job.id), tenant_id=str(job.tenant_id)
        )

        def ready() -> int:
            return next(found.ready for found in running.do(reaping.lanes(running.pool, tasks.TASK)))

        assert ready() == 1
        if barrier == "the provider's limit":
            Connection.objects.filter(id=job.connection_id).update(blocked_until=later)
        else:
            HistoricalSyncJob.objects.filter(id=job.id).update(attempts=1, waiting_until=later)
        assert ready() == 0


@pytest.fixture
def in_berlin(transactional_db: None) -> Iterator[None]:
    """The database's server is set to a time zone whose clocks go through an hour twice."""
    with psycopg.connect(database_url(), autocommit=True) as owner:
        name = owner.info.dbname
        owner.execute(f"ALTER DATABASE \"{name}\" SET timezone = 'Europe/Berlin'")
        yield
        owner.execute(f'ALTER DATABASE "{name}" RESET timezone')


def test_what_is_left_of_a_part_is_reckoned_in_utc_whatever_the_servers_time_zone(
    in_berlin: None, running: SimpleNamespace
) -> None:
    """It was read up to 2:50 in summer and is to be read on, without a cursor, up to 2:30 in winter."""
    since = datetime(2026, 10, 24, tzinfo=UTC)
    position, until = since + timedelta(hours=24, minutes=50), since + timedelta(hours=25, minutes=30)
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "pending")
        SyncChunk.objects.filter(job=job, status="pending").update(since=since, until=until, position=position)
        claim = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), claims.Room(job=3, tenant=5)))
    stream = PROVIDERS["github"].stream("issues")
    assert stream.ascending
    assert _remaining(stream, claim) == Window(position, until)
    assert claim.window.until - claim.window.since == timedelta(hours=25.5)


@pytest.mark.parametrize(("records", "status"), [(99, "running"), (100, "paused")])
def test_the_last_record_of_a_months_number_is_the_last_that_comes_in(
    running: SimpleNamespace, records: int, status: str
) -> None:
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "pending")
        had(job.connection, records)
        room = claims.Room(job=3, tenant=5, records_a_month=100)
        running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), room))
        job.refresh_from_db()
        assert (job.status, job.pause_reason) == (status, "plan" if status == "paused" else "")


def test_who_has_planned_a_job_second_adds_nothing(running: SimpleNamespace) -> None:
    with tenant_scope(running.tenant.id):
        job = make_job(make_connection(running.tenant), status="running")

        for since in (job.start_date, job.start_date + timedelta(days=1)):
            part = PlannedChunk("issues", WHOLE, Window(since, job.end_date), None, 1.0)
            room, planned = claims.Room(job=3, tenant=5), claims.Planned([part], None, "")
            running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), room, planned))
        assert list(job.chunks.values_list("since", flat=True)) == [job.start_date]


def test_restarts_count_since_something_new_came_in(running: SimpleNamespace) -> None:
    """A cursor that lives shorter than its part takes to be read dies again and again."""
    room = claims.Room(job=3, tenant=5)
    with tenant_scope(running.tenant.id):
        job = a_job(running.tenant, "pending")
        claimed = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), room))
        words = ("cursor_expired", "Its cursor ran out.", timezone.now())
        running.do(claims.restart_window(running.pool, claimed.lease, *words))
        claimed = running.do(claims.claim(running.pool, str(job.id), str(job.tenant_id), room))
        assert running.do(claims.failures(running.pool, claimed.lease)) == (0, 1)
        running.do(store(running.pool, claimed, []))
        assert running.do(claims.failures(running.pool, claimed.lease)) == (0, 1), "nothing new"
        running.do(store(running.pool, claimed, [record(claimed.window, 0)]))
        assert running.do(claims.failures(running.pool, claimed.lease)) == (0, 0)


def test_the_reaper_adds_nobody_to_those_who_wait_for_room(running: SimpleNamespace) -> None:
    """Of two jobs one began first and has all of the tenant's places; the other's entries look for room again and again."""
    room = claims.Room(job=4, tenant=4)

    def a_job_with(chunks: int) -> HistoricalSyncJob:
        job = make_job(make_connection(running.tenant), status="running", planned=True, total_chunks=chunks)
        for ordinal in range(chunks):
            SyncChunk.objects.create(
                tenant=running.tenant,
                job=job,
                ordinal=ordinal,
                stream="issues",
                partition=str(ordinal),
                since=NOW,
                until=NOW + timedelta(days=1),
            )
        return job

    def reap_and_look() -> None:
        of_job = {"job_id": str(waits.id), "tenant_id": str(waits.tenant_id)}
        found = next(
            lanes for lanes in running.do(reaping.lanes(running.pool, tasks.TASK)) if lanes.job_id == str(waits.id)
        )
        tasks.work.configure(queue=tasks.QUEUE).batch_defer(*[of_job] * found.missing(room))
        claimed = running.do(claims.claim(running.pool, str(waits.id), str(waits.tenant_id), room))
        assert isinstance(claimed, claims.Nothing)
        with database.cursor() as cursor:
            cursor.execute("UPDATE procrastinate_jobs SET scheduled_at = %s", [claimed.again_at])

    with tenant_scope(running.tenant.id):
        first = a_job_with(4)
        took = [running.do(claims.claim(running.pool, str(first.id), str(first.tenant_id), room)) for _ in range(4)]
        waits = a_job_with(6)
        for _ in range(5):
            reap_and_look()
            assert Entries.objects.count() == 1, "one goes on looking"
        tasks.work.configure(queue=tasks.QUEUE).batch_defer(*[{"job_id": str(waits.id)}] * 3)
        for _ in range(5):
            reap_and_look()
            assert Entries.objects.count() == 4
        for claimed in took[:2]:
            assert isinstance(claimed, claims.Claim)
            running.do(claims.release(running.pool, claimed.lease))
        found = {lanes.job_id: lanes for lanes in running.do(reaping.lanes(running.pool, tasks.TASK))}[str(waits.id)]
        assert found.missing(room) == 0, "those that look are enough"
        assert dataclasses.replace(found, due=1).missing(room) == 1, "one more for its half of the room"


def test_looking_again_takes_one_connection_of_the_pool(running: SimpleNamespace) -> None:
    """A second one may be held by a page that waits for the first one's lock."""
    tenant = running.tenant
    ids = Ids(tenant.id.bytes)
    key = "github:issue:1#7"
    with tenant_scope(tenant.id):
        account = make_connection(tenant)
        issue = Entity.objects.create(
            id=UUID(bytes=ids[key]), tenant=tenant, kind="issue", key=key, name="Stale", as_of=NOW
        )
        SyncRecord.objects.create(
            id=UUID(int=1), tenant=tenant, connection=account, job_id=UUID(int=2), stream="issues",
            partition="1", external_id="7", occurred_at=NOW, entity_id=issue.id, content_hash=UUID(int=3),
            payload={"id": 7, "number": 7, "title": "Fresh", "state": "open", "user": None, "updated_at": "2026-10-01T00:00:00Z"},
        )  # fmt: skip
        StaleEntity.objects.create(tenant=tenant, entity_id=issue.id)

    async def tidy() -> None:
        pool = make_pool(1)
        pool.timeout = 5
        await pool.open()
        try:
            await tidying.tidy(pool, str(tenant.id))
        finally:
            await pool.close()

    running.do(tidy())
    with tenant_scope(tenant.id):
        assert not StaleEntity.objects.exists()
        assert Entity.objects.get(id=issue.id).name == "Fresh"


def test_nothing_counts_as_imported_once_its_data_is_removed(running: SimpleNamespace) -> None:
    """Also what a chunk noted that was ending while the removal was asked for."""
    tenant = running.tenant
    with tenant_scope(tenant.id):
        account = make_connection(tenant)
        make_job(account, status="cancelled", completed_at=timezone.now())
        DataRemoval.objects.create(tenant=tenant, connection=account, records_total=0)
        Coverage.objects.create(tenant=tenant, connection=account, stream="issues", ranges=[])
        running.do(removing.remove(running.pool, str(account.id), str(tenant.id)))
        assert not Coverage.objects.filter(connection=account).exists()
        assert DataRemoval.objects.get(connection=account).completed_at is not None


def test_who_waits_for_a_job_outlasts_a_database_that_is_away() -> None:
    answers = [OperationalError("the server closed the connection"), False, True]

    async def once() -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    asyncio.run(worker._until(asyncio.Event(), once))
    assert answers == []


def test_a_worker_ends_what_it_does_beside_the_work_though_a_connection_breaks_as_it_is_told(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psycopg then raises what happened to the connection, and the task's cancel is never heard of again."""
    waits = threading.Event()

    async def index_names(engine: Engine) -> None:
        waits.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            if not broken:
                broken.append(True)
                raise psycopg.OperationalError("the server closed the connection") from None
            raise

    broken: list[bool] = []
    monkeypatch.setattr(worker, "index_names", index_names)
    monkeypatch.setattr(worker, "INDEX_SECONDS", 0.05)
    running = Worker()
    assert waits.wait(20)
    running.stop()
    assert running.error is None


def test_an_entry_that_comes_while_a_worker_looks_waits_for_no_poll(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database's answer was that there is none; the notification of the entry came before the answer did."""
    looked, look = threading.Event(), PsycopgConnector.execute_query_one_async

    def listens() -> bool:
        its_last = "datname = current_database() AND state = 'idle' AND query LIKE 'LISTEN%#upkeep%'"
        with psycopg.connect(database_url()) as owner:
            return owner.execute(f"SELECT FROM pg_stat_activity WHERE {its_last}").rowcount > 0

    async def slowly(self: PsycopgConnector, query: Any, **arguments: Any) -> dict[str, Any]:
        row = await look(self, query, **arguments)
        if query == sql.queries["fetch_job"] and tasks.UPKEEP in arguments["queues"] and row["id"] is None:
            while not listens():  # what comes before that waits for a poll
                await asyncio.sleep(0.01)
            looked.set()
            await asyncio.sleep(0.5)
        return row

    monkeypatch.setattr(worker, "POLL_UPKEEP_SECONDS", 600.0)
    monkeypatch.setattr(PsycopgConnector, "execute_query_one_async", slowly)
    running = Worker()
    try:
        assert looked.wait(20)
        tasks.tick.configure(queueing_lock="a second one").defer(timestamp=0)  # beside the one the worker may plan now
        wait_for(lambda: not Entries.objects.exists(), 10)
    finally:
        running.stop()


@pytest.mark.parametrize("connector", [PsycopgConnector, DjangoConnector])
def test_what_is_due_by_the_clock_goes_by_the_workers_own_connections(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, connector: Any
) -> None:
    """Django's would stay broken once the database was away: an idle worker has no work that closes it, and none goes on without it."""
    asked, ask = [], connector.execute_query_one_async

    async def noted(self: Any, query: Any, **arguments: Any) -> dict[str, Any]:
        asked.append(query)
        return dict(await ask(self, query, **arguments))

    monkeypatch.setattr(connector, "execute_query_one_async", noted)
    monkeypatch.setattr(upkeep, "by_the_clock", (done := threading.Event()).set)
    running = Worker()
    try:
        assert done.wait(20)
        if connector is PsycopgConnector:
            wait_for(lambda: sql.queries["defer_periodic_job"] in asked, 20)
    finally:
        running.stop()
    assert connector is PsycopgConnector or not asked


def test_what_is_due_by_the_clock_comes_each_minute_that_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is put back stops nothing for as long, and what a machine slept through is no minute each."""

    async def note(minute: int) -> None:
        asked.append(minute)
        if minute == noon + 60:
            raise psycopg.OperationalError("the database is away")

    async def sleep(seconds: float) -> None:
        waits.append(round(seconds, 3))
        if not shown:
            raise asyncio.CancelledError

    noon = int(datetime(2026, 10, 25, 12, tzinfo=UTC).timestamp())
    asked: list[int] = []
    waits: list[float] = []
    shown = [noon + 59.5, noon + 60.001, noon + 8 * 3600 + 12, noon - 3600 + 5, noon - 3540]
    monkeypatch.setattr(worker, "time", SimpleNamespace(time=lambda: shown.pop(0)))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(worker._each_minute(note))
    assert asked == [noon, noon + 60, noon + 8 * 3600, noon - 3600, noon - 3540]
    assert waits == [0.5, 59.999, 48, 55, 60]


def test_of_several_workers_one_looks_after_a_minute_and_again_after_the_clock_was_put_back(
    transactional_db: None,
) -> None:
    async def ticks(*minutes: int) -> list[int]:
        seen = []
        async with tasks.app.with_connector(PsycopgConnector(kwargs=connect_arguments())).open_async() as app:
            for minute in minutes:
                await tasks.Defer(app).tick_of(minute)
                entries = Entries.objects.filter(task_name=tasks.TICK)
                seen.append(await entries.acount())
                await app.job_manager.connector.execute_query_async("DELETE FROM procrastinate_jobs")
        return seen

    assert asyncio.run(ticks(7200, 7200, 7260, 3600, 3600, 3660)) == [1, 0, 1, 1, 0, 1]


def test_upkeep_waits_behind_no_import(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two places, which imports never leave, and more entries of these."""

    async def work(*_: Any, **__: Any) -> None:
        await asyncio.sleep(600)

    done = threading.Event()
    monkeypatch.setattr(settings, "SHUTDOWN_SECONDS", 1.0)
    monkeypatch.setattr(Engine, "work", work)
    monkeypatch.setattr(upkeep, "by_the_clock", done.set)
    tasks.work.configure(queue=tasks.QUEUE).batch_defer(*[{"job_id": "a job", "tenant_id": "a tenant"}] * 30)
    running = Worker(2)
    try:
        wait_for(lambda: Entries.objects.filter(queue_name=tasks.QUEUE, status="doing").count() == 2, 20)
        done.clear()
        tasks.tick.configure(queueing_lock="a second one").defer(timestamp=0)
        assert done.wait(20)
    finally:
        running.stop()


def test_graphs_that_are_long_to_tidy_give_way_to_what_is_due(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def rebuild(pool: Any, tenant_id: str, read: Any) -> bool:
        seen.add(tenant_id)
        await asyncio.sleep(0.05)
        return not over.is_set()

    seen: set[str] = set()
    tenants = {str(UUID(int=number)) for number in range(2 * worker.UPKEEP_AT_ONCE)}
    over, done = threading.Event(), threading.Event()
    monkeypatch.setattr(tidying, "_rebuild", rebuild)
    for tenant in tenants:
        tasks.tidy_soon(tenant)
    running = Worker()
    try:
        wait_for(lambda: seen == tenants, 20)
        monkeypatch.setattr(upkeep, "by_the_clock", done.set)
        tasks.tick.configure(queueing_lock="a second one").defer(timestamp=0)
        assert done.wait(10)
        over.set()
        wait_for(lambda: not Entries.objects.exists(), 10)
    finally:
        over.set()
        running.stop()


def test_a_worker_for_upkeep_alone_takes_no_imports(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def once() -> bool:
        return done.is_set()

    done = threading.Event()
    monkeypatch.setattr(upkeep, "by_the_clock", done.set)
    tasks.work.configure(queue=tasks.QUEUE).defer(job_id="a job", tenant_id="a tenant")
    asyncio.run(worker.run_worker(2, queues=[tasks.UPKEEP], stop=asyncio.Event(), once=once))
    assert [entry.status for entry in Entries.objects.filter(queue_name=tasks.QUEUE)] == ["todo"]
