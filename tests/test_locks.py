"""Who locks what first: each test holds one transaction between two of its locks while another takes its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.db import connection as database
from django.utils import timezone
from psycopg import waiting

from atom import audit, members
from atom.access import actor_for_key, system_actor
from atom.models import ApiKey, Membership
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import actions, delivering, job_changes, replaying, webhooks
from historical_sync.automation import Delivery, Notice, WebhookEndpoint
from historical_sync.database import Pool, make_pool, pipelined_transaction, tenant_transaction
from historical_sync.models import QuarantinedRecord, SyncChunk
from integrations import disconnecting, gateway
from integrations.crypto import encrypt
from tests.conftest import connected, job_now, wait_for
from tests.faults.stage import database_url
from tests.graphs import make_connection, make_job
from tests.test_connect import is_accepted

pytestmark = pytest.mark.django_db(transaction=True)


class Aside:
    """Something done in a thread, with a database connection of its own. error: what it raised."""

    def __init__(self, tenant: Any, action: Any, *args: Any) -> None:
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(tenant, action, args), daemon=True)
        self.thread.start()

    def _run(self, tenant: Any, action: Any, args: Any) -> None:
        try:
            with tenant_scope(tenant.id):
                action(*args)
        except BaseException as error:
            self.error = error
        finally:
            database.close()

    def waits_or_is_done(self) -> bool:
        return not self.thread.is_alive() or lock_waits() > 0

    def ends(self) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error


class Held:
    """Takes the place of a function that is called between two locks: whoever comes first stays there until `let_go`."""

    def __init__(self, real: Any) -> None:
        self.real, self.reached, self.go = real, threading.Event(), threading.Event()

    def __call__(self, *args: Any) -> Any:
        if not self.reached.is_set():
            self.reached.set()
            assert self.go.wait(20)
        return self.real(*args)


def lock_waits() -> int:
    """Transactions that wait for a row."""
    with psycopg.connect(database_url(), autocommit=True) as owner:
        row = owner.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
        return int(row[0]) if row else 0


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made: list[Held] = []

    def hold(module: Any, name: str) -> Held:
        made.append(Held(getattr(module, name)))
        monkeypatch.setattr(module, name, made[-1])
        return made[-1]

    yield hold
    for one in made:
        one.go.set()


@pytest.fixture
def acme(live_cast: SimpleNamespace) -> SimpleNamespace:
    tenant = live_cast.acme
    with tenant_scope(tenant.id):
        connection = make_connection(tenant)
    return SimpleNamespace(tenant=tenant, actor=system_actor(tenant, "Alice"), connection=connection)


def chunk_of(job: Any, status: str, **fields: Any) -> SyncChunk:
    return SyncChunk.objects.create(
        tenant_id=job.tenant_id, job=job, ordinal=0, stream="issues", since=job.start_date, until=job.end_date,
        status=status, completed_at=timezone.now(), **fields,
    )  # fmt: skip


def with_pool(action: Any, *args: Any) -> None:
    async def main() -> None:
        pool = make_pool(1)
        await pool.open()
        try:
            await action(pool, *args)
        finally:
            await pool.close()

    asyncio.run(main())


def test_who_pauses_a_job_as_it_loses_access_gets_no_error(acme: SimpleNamespace, held: Any) -> None:
    """Nothing is left to do, so the pause completes the job; the connection is locked by who found the token dead."""
    with tenant_scope(acme.tenant.id):
        job = make_job(acme.connection, status="running", planned=True, started_at=timezone.now())
        chunk_of(job, "completed")
    between = held(job_changes, "decrypt")
    token = acme.connection.credentials["access_token"]
    losing = Aside(
        acme.tenant, with_pool, job_changes.lost_access, str(job.id), str(acme.tenant.id), token, "The grant is gone."
    )
    assert between.reached.wait(20)
    pausing = Aside(acme.tenant, actions.pause, acme.actor, job)
    wait_for(pausing.waits_or_is_done)
    between.go.set()
    pausing.ends()
    losing.ends()
    assert job_now(job).status == "completed"
    with tenant_scope(acme.tenant.id):
        acme.connection.refresh_from_db()
    assert acme.connection.status == "reauth_required"


def test_who_resumes_a_job_as_its_quarantine_is_replayed_gets_no_error(acme: SimpleNamespace, held: Any) -> None:
    """A replay locks a chunk and then the job, as a page's save does; who resumes has the job and wants its failed chunks."""
    with tenant_scope(acme.tenant.id):
        job = make_job(
            acme.connection, status="failed", planned=True, started_at=timezone.now(), completed_at=timezone.now(),
            total_chunks=1, failed_chunks=1, records_quarantined=1,
        )  # fmt: skip
        chunk = chunk_of(job, "failed", records_quarantined=1)
        QuarantinedRecord.objects.create(
            tenant=acme.tenant, connection=acme.connection, job=job, chunk=chunk, stream="issues", reason="odd",
            fingerprint=uuid4(), sealed_payload=encrypt("{}"),
        )  # fmt: skip
    between = held(replaying, "decrypt")
    replays = Aside(acme.tenant, actions.replay_quarantine, acme.actor, job)
    assert between.reached.wait(20)
    resuming = Aside(acme.tenant, actions.resume, acme.actor, job)
    wait_for(resuming.waits_or_is_done)
    between.go.set()
    resuming.ends()
    replays.ends()
    assert job_now(job).status == "pending"


def test_who_turns_an_endpoint_off_as_an_attempt_is_recorded_gets_no_error(
    acme: SimpleNamespace, held: Any, settings: Any
) -> None:
    settings.ALLOW_PRIVATE_HOSTS = True
    with tenant_scope(acme.tenant.id):
        endpoint, _ = webhooks.add(acme.actor, "http://127.0.0.1:9/hook", ["failed"])
        job = make_job(acme.connection)
        notice = Notice.objects.create(
            tenant=acme.tenant, job=job, revision=0, event="failed", snapshot={}, spread_at=timezone.now()
        )
        delivery = Delivery.objects.create(
            tenant=acme.tenant, notice=notice, endpoint=endpoint, next_attempt_at=timezone.now()
        )
        claimed = delivering._claim(acme.tenant.id, delivery.id, timezone.now())
    between = held(delivering, "_judge")
    recording = Aside(acme.tenant, delivering._record, claimed, 500, "It said 500.", timezone.now())
    assert between.reached.wait(20)
    turning_off = Aside(acme.tenant, webhooks.turn_off, acme.actor, endpoint.id)
    wait_for(turning_off.waits_or_is_done)
    between.go.set()
    turning_off.ends()
    recording.ends()
    with tenant_scope(acme.tenant.id):
        assert not WebhookEndpoint.objects.get(id=endpoint.id).enabled
        assert Delivery.objects.get(id=delivery.id).status == "failed"


def test_a_program_does_not_wait_for_whoever_changes_its_key(live_cast: SimpleNamespace) -> None:
    with tenant_scope(live_cast.acme.id):
        key, secret = ApiKey.objects.create_key(tenant=live_cast.acme, role="viewer", name="report")
    with psycopg.connect(database_url()) as other:
        assert other.execute("SELECT name FROM atom_apikey WHERE id = %s FOR UPDATE", [key.pk]).fetchone() == (
            "report",
        )
        asking = Aside(live_cast.acme, actor_for_key, secret)
        wait_for(asking.waits_or_is_done)
        asking.ends()
    actor_for_key(secret)
    with tenant_scope(live_cast.acme.id):
        assert ApiKey.objects.get(pk=key.pk).last_used == timezone.now().date(), "the next one says so"


def test_two_workspaces_that_invite_the_same_new_person_at_once_both_have_them(
    live_cast: SimpleNamespace, held: Any
) -> None:
    between = held(audit, "record")
    acme, globex = live_cast.acme, live_cast.globex

    def invite(tenant: Any) -> None:
        members.invite(system_actor(tenant, "Alice"), "new@people.test", "member")

    first = Aside(acme, invite, acme)
    assert between.reached.wait(20)
    second = Aside(globex, invite, globex)
    wait_for(second.waits_or_is_done)
    between.go.set()
    first.ends()
    second.ends()
    with across_tenants("a person of two workspaces"):
        theirs = Membership.objects.filter(user__email="new@people.test")
        assert {one.tenant_id for one in theirs} == {acme.id, globex.id}


@pytest.mark.parametrize("slug", ["linear", "notion"])
def test_a_token_that_comes_while_its_connection_is_disconnected_ends_too(
    live_cast: SimpleNamespace, sandbox: Any, held: Any, slug: str
) -> None:
    """Once as what the provider ends is the whole grant, once as it is one token: nobody stored what came last, nor ended it."""
    tenant, came = live_cast.acme, []
    connection = connected(tenant, slug, sandbox.root)
    between = held(gateway.grants, "read_token")
    real = between.real
    between.real = lambda *reply: came.append(real(*reply)) or came[-1]
    refreshing = Aside(tenant, gateway.refresh_token, connection, connection.credentials["access_token"])
    assert between.reached.wait(20)
    leaving = Aside(tenant, disconnecting.disconnect, system_actor(tenant, "Alice"), connection)
    wait_for(leaving.waits_or_is_done)
    between.go.set()
    leaving.ends()
    refreshing.thread.join(20)
    assert len(came) == 1
    assert not is_accepted(sandbox, slug, came[0]["access_token"])


# -- the engine's connections -----------------------------------------------------------------------------------------------


def test_whoever_is_cancelled_leaves_a_connection_that_is_good_for_the_next(
    acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal of data ended in an error where an import had been paused just as it began a transaction."""
    tenant_id = str(acme.tenant.id)
    monkeypatch.setattr(waiting, "MAX_BUSY_TIME", -1.0)  # as in a loop that has always much to do

    async def use(pool: Pool) -> None:
        async with pipelined_transaction(pool, tenant_id) as db:
            await db.execute("SELECT 1")

    async def sweep(pool: Pool) -> None:
        for steps in range(20):
            using = asyncio.create_task(use(pool))
            for _ in range(steps):
                await asyncio.sleep(0)
            using.cancel()
            await asyncio.wait([using])
            async with tenant_transaction(pool, tenant_id) as cursor, cursor.connection.cursor("rows") as rows:
                await rows.execute("SELECT 2")
                assert await rows.fetchall() == [(2,)]

    with_pool(sweep)
