"""Tokens that end in mid-page, grants that are gone, permissions that are missing."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection as database
from django.db import transaction
from django.utils import timezone

from historical_sync import actions, job_changes, tasks
from historical_sync.database import make_pool
from historical_sync.models import HistoricalSyncJob, JobEvent, SyncChunk, SyncRecord
from integrations import connect, disconnecting, gateway
from integrations.errors import ReauthRequired
from integrations.models import Connection
from integrations.narrowing import narrow, parts_of
from integrations.providers import PROVIDERS
from tests.conftest import Sandbox, Worker, connected, job_now, until
from tests.faults import toy as toys
from tests.faults.toy import Answer, Call, Server
from tests.faults.toy_stage import ToyStage
from tests.graphs import make_job

pytestmark = pytest.mark.django_db(transaction=True)


def expire(toy: ToyStage, after: int) -> None:
    """After some data calls the access token is over; the refresh token is good."""
    seen = {"calls": 0}

    def end(call: Call) -> Any:
        if call.path.startswith("/rows/"):
            seen["calls"] += 1
            if seen["calls"] == after:
                toy.server.good = set()
                return Answer(401, {"error": "token"})
        return None

    toy.server.faults.append(end)


def test_a_token_that_ends_in_mid_page_is_refreshed_once_for_all_chunks(toy: ToyStage, worker: Worker) -> None:
    toy.server.refresh_seconds = 0.3
    expire(toy, 3)
    toy.done(toy.job())
    assert toy.server.refreshes == [("refresh-0", 200)]
    assert not toy.damage()
    with_new = [call for call in toy.server.pages() if call.authorization == "Bearer access-1"]
    assert len(with_new) > 3


def test_twenty_at_once_in_as_many_processes_refresh_once(toy: ToyStage) -> None:
    """Each thread is a process as far as the lock goes: a connection of its own to the database, and nothing else shared."""
    from atom.tenancy import tenant_scope

    toy.server.refresh_seconds = 0.2
    connection = toy.connection
    tokens: list[str] = []

    def ask() -> None:
        from django.db import connection as database

        with tenant_scope(toy.tenant.id):
            tokens.append(gateway.refresh_token(Connection.objects.get(id=connection.id), "access-0"))
        database.close()

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert tokens == ["access-1"] * 20
    assert toy.server.refreshes == [("refresh-0", 200)]


def test_what_a_token_says_besides_is_heard_again_when_it_is_refreshed(toy: ToyStage, monkeypatch: Any) -> None:
    """An organization of Salesforce that is given another domain answers at another address from then on."""
    from atom.tenancy import tenant_scope

    real, provider = gateway._token_request, toy.connection.provider
    assert provider.oauth is not None
    oauth = dataclasses.replace(provider.oauth, token_facts=lambda token: {"instance_url": token["instance_url"]})
    monkeypatch.setitem(PROVIDERS, provider.slug, dataclasses.replace(provider, oauth=oauth))
    monkeypatch.setattr(
        gateway, "_token_request", lambda *a, **k: {**real(*a, **k), "instance_url": "https://new.my.salesforce.com"}
    )
    with tenant_scope(toy.tenant.id):
        Connection.objects.update(facts={"instance_url": "https://old.my.salesforce.com", "user_id": "005A"})
        connection = Connection.objects.get(id=toy.connection.id)
        gateway.refresh_token(connection, "access-0")
        wanted = {"instance_url": "https://new.my.salesforce.com", "user_id": "005A"}
        assert Connection.objects.get(id=connection.id).facts == wanted
        assert connection.facts == wanted, "for whoever is just opening the API"


def test_a_token_that_comes_after_access_was_given_up_is_not_kept(toy: ToyStage, monkeypatch: Any) -> None:
    from atom.tenancy import tenant_scope

    row = toy.connection
    real = gateway._token_request

    def given_up_meanwhile(*args: Any, **kwargs: Any) -> Any:
        token = real(*args, **kwargs)
        Connection.objects.filter(id=row.id).update(status="disconnected", sealed_credentials=b"")
        return token

    monkeypatch.setattr(gateway, "_token_request", given_up_meanwhile)
    with tenant_scope(toy.tenant.id):
        with pytest.raises(ReauthRequired):
            gateway.refresh_token(Connection.objects.get(id=row.id), "access-0")
        assert toy.server.refreshes == [("refresh-0", 200)]


def test_where_the_key_of_the_credentials_is_lost_the_job_says_so(
    toy: ToyStage, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    from atom.tenancy import tenant_scope

    row = toy.connection
    with tenant_scope(toy.tenant.id):
        Connection.objects.filter(id=row.id).update(sealed_credentials=b"of another key")
    job = until(toy.job(), "failed")
    assert job.last_error_code == "provider_misconfigured"
    assert job.last_error_message.startswith("No key of ATOM_ENCRYPTION_KEYS opens what is stored")
    assert "Traceback" not in caplog.text
    with tenant_scope(toy.tenant.id):
        disconnecting.disconnect(toy.actor, Connection.objects.get(id=row.id))
        assert Connection.objects.get(id=row.id).status == "disconnected"


def test_nobody_waits_for_the_connections_row_while_the_sign_in_service_answers(toy: ToyStage) -> None:
    from atom.tenancy import tenant_scope

    toy.server.refresh_seconds = 1.5
    row = toy.connection

    def ask() -> None:
        with tenant_scope(toy.tenant.id):
            gateway.refresh_token(Connection.objects.get(id=row.id), "access-0")
        database.close()

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.5)
    with tenant_scope(toy.tenant.id), transaction.atomic():
        Connection.objects.select_for_update(nowait=True).get(id=row.id)
    assert asking.is_alive(), "it is still asking"
    asking.join(20)
    assert toy.server.refreshes == [("refresh-0", 200)]


def test_the_rotated_refresh_token_is_kept_before_the_new_access_token_is_used(toy: ToyStage, worker: Worker) -> None:
    kept: list[str] = []

    def look(call: Call) -> None:
        if call.authorization == "Bearer access-1" and not kept:
            kept.append(toy.connection.credentials["refresh_token"])

    toy.server.faults.append(look)
    expire(toy, 2)
    toy.done(toy.job())
    assert kept == ["refresh-1"]


def test_a_sign_in_service_that_is_away_is_waited_for(toy: ToyStage, worker: Worker) -> None:
    real = toy.server._refresh
    left = [3]

    def away(call: Call) -> Any:
        if left[0]:
            left[0] -= 1
            return Answer(503, b"")
        return real(call)

    toy.server._refresh = away  # type: ignore[method-assign]
    try:
        expire(toy, 3)
        toy.done(toy.job())
    finally:
        del toy.server._refresh
    assert not toy.damage()


def test_a_revoked_grant_pauses_with_its_reason_and_a_reconnect_goes_on_exactly(toy: ToyStage, worker: Worker) -> None:
    expire(toy, 6)
    toy.server.refresh_tokens.append("taken back")
    job = toy.done(toy.job(), "paused")
    assert (job.pause_reason, job.last_error_code) == ("reauth_required", "connection_reauth_required")
    assert toy.connection.status == "reauth_required"
    assert not toy.chunks(job, status="running")
    before = job.records_processed

    toy.server.faults.clear()
    toy.server.good = {"access-new"}
    reconnect(toy, "access-new", "refresh-new")
    job = toy.done(job)
    assert job.records_processed == 370 > before
    assert job.retry_count == 0
    assert not toy.damage()


async def test_who_paused_an_import_that_lost_its_access_meanwhile_resumes_it_alone(toy: ToyStage) -> None:
    """The pause was asked for before the page's end, the refusal came before the worker heard of it."""
    now = timezone.now()

    @sync_to_async
    def asked_to_pause() -> Any:
        job = toy.job()
        asked = {"status": "running", "started_at": now, "control": "pause", "control_at": now}
        toy.within(lambda: HistoricalSyncJob.objects.filter(id=job.id).update(**asked))
        return job

    job = await asked_to_pause()
    async with make_pool(1) as pool:
        assert await job_changes.lost_access(pool, str(job.id), str(job.tenant_id), "access-0", "Access was withdrawn.")
    now_paused = await sync_to_async(job_now)(job)
    assert (now_paused.status, now_paused.pause_reason) == ("paused", "user")
    await sync_to_async(reconnect)(toy, "access-new", "refresh-new")
    assert (await sync_to_async(job_now)(job)).status == "paused"


def test_a_straggler_of_the_old_token_does_not_undo_a_reconnect(toy: ToyStage, worker: Worker) -> None:
    """An answer to the old token that arrives after the reconnect means nothing any more."""
    held, let_go = threading.Event(), threading.Event()

    def slow(server: Server, call: Call) -> Any:
        def act(handler: Any) -> None:
            held.set()
            let_go.wait(0.5)
            handler.send(Answer(401, {"error": "token"}))

        return act

    toy.within(lambda: _without_refresh(toy))
    toy.server.inject(slow, every=1, times=1, path="/rows/visits")
    job = toy.job()
    assert held.wait(10)
    toy.server.good = {"access-new"}
    reconnect(toy, "access-new", "")
    let_go.set()
    job = toy.done(job)
    assert toy.connection.status == "connected"
    assert not toy.damage()


def test_who_reconnects_keeps_nobody_from_writing_what_happened_to_a_job(toy: ToyStage) -> None:
    """Else whoever pauses the job, and holds the connection's row, and whoever reconnects would wait for each other."""
    job = toy.job()

    def write() -> None:
        try:
            with database.cursor() as cursor:
                cursor.execute("SET lock_timeout = '3s'")
            toy.within(JobEvent.objects.create, tenant=toy.tenant, job=job, actor="Atom", kind="paused")
        finally:
            database.close()

    with ThreadPoolExecutor(1) as other, transaction.atomic():
        reconnect(toy, "access-new", "refresh-new")
        other.submit(write).result()
    assert toy.events(job, "paused") == [""]


def _without_refresh(toy: ToyStage) -> None:
    connection = toy.connection
    connection.set_credentials("access-0")
    connection.save()


def reconnect(toy: ToyStage, access: str, refresh: str) -> None:
    from integrations.providers.base import Account

    token = {"access_token": access, "refresh_token": refresh}
    toy.within(
        connect._store, toy.actor, toy.connection.provider, Account("toy-account", "Toy"), access, facts={}, token=token
    )


def test_a_grant_found_gone_before_planning_pauses_too(toy: ToyStage, worker: Worker) -> None:
    toy.server.good = set()
    toy.server.refresh_tokens.append("taken back")
    job = toy.done(toy.job(), "paused")
    assert job.pause_reason == "reauth_required"
    with pytest.raises(ReauthRequired):
        toy.within(gateway.refresh_token, toy.connection, "access-0")


def test_a_missing_scope_fails_its_stream_in_words_and_the_others_finish(toy: ToyStage, worker: Worker) -> None:
    toy.server.inject(toys.says(403, {"error": "scope"}), every=1, times=10_000, path="/rows/attic")
    toy.server.inject(toys.says(403, {"error": "scope"}), every=1, times=10_000, path="/rows/cellar")
    job = toy.done(toy.job(), "failed")
    assert job.last_error_code == "provider_access_denied"
    assert "things" in job.last_error_message
    assert "things:read" in job.last_error_message
    assert "the attic" in job.last_error_message
    assert job.records_processed == 90 + 70 + 30
    assert job.completed_chunks == job.total_chunks - job.failed_chunks

    # Granted: Retry runs that and nothing else.
    asked = len(toy.server.calls)
    toy.server.faults.clear()
    toy.within(actions.resume, toy.actor, job)
    job = toy.done(job)
    assert {call.path for call in toy.server.calls[asked:]} <= {"/rows/attic", "/rows/cellar"}
    assert not toy.damage()


def test_what_cannot_even_be_listed_fails_alone(toy: ToyStage, worker: Worker) -> None:
    toy.server.inject(toys.says(403, {"error": "scope"}), every=1, times=10_000, path="/boxes")
    job = toy.done(toy.job(), "failed")
    assert "things:read" in job.last_error_message
    assert job.records_processed == 90 + 70 + 30

    toy.server.faults.clear()
    toy.within(actions.resume, toy.actor, job)
    job = toy.done(job)
    assert job.records_processed == 370
    assert not toy.damage("counters")


@pytest.mark.parametrize(("slug", "refuses"), [("jira", "northwind"), ("asana", "Nebenprojekte")])
def test_a_site_that_refuses_is_named_and_the_others_finish(
    live_cast: Any, worker: Worker, sandbox: Sandbox, slug: str, refuses: str
) -> None:
    from atom.access import system_actor
    from atom.tenancy import tenant_scope

    sandbox.control(records=400, deny=[f"{slug}.{refuses}"])
    connection = connected(live_cast.acme, slug, sandbox.root)
    start, actor = datetime(2020, 1, 1, tzinfo=UTC), system_actor(live_cast.acme, "test")

    def stored() -> Counter[str]:
        return Counter(SyncRecord.objects.filter(connection=connection).values_list("stream", flat=True))

    with tenant_scope(live_cast.acme.id):
        connection.budget_limit = 10_000
        connection.save()
        job = until(actions.start_sync(actor, connection, start=start), "failed", "completed", seconds=60)
        assert job.status == "failed"
        assert job.last_error_message.count(f"{refuses}: ") >= 2, "projects, and what is listed by them"
        truth = Counter(sandbox.truth(slug, until=job.end_date.isoformat()))
        some = stored()
        assert {name for name, count in truth.items() if count} == set(some)
        assert some < truth

        # It was told: what is scheduled goes on without it, and names it.
        job = actions.start_incremental(actor, connection, trigger="schedule")
        job = until(job, "failed", "completed", seconds=60)
        assert job.status == "completed", job.last_error_message
        assert set(job.streams) == {stream.name for stream in connection.provider.streams}
        assert f"{refuses}: " in job.last_error_message

        # Once it is allowed, the next one brings the rest.
        sandbox.control(deny=[])
        job = actions.start_incremental(actor, connection, trigger="schedule")
        job = until(job, "failed", "completed", seconds=60)
        assert job.status == "completed", job.last_error_message
        assert stored() == +truth


def test_a_scheduled_sync_fails_for_a_new_refusal_and_completes_without_one_that_was_told(
    toy: ToyStage, worker: Worker
) -> None:
    def scheduled(status: str, trigger: str = "schedule") -> HistoricalSyncJob:
        return toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection, trigger=trigger), status)

    def refuse(box: str, words: str) -> None:
        toy.server.inject(toys.says(403, {"error": words}), every=1, times=10_000, path=f"/rows/{box}")

    toy.done(toy.job())
    refuse("attic", "scope")
    job = scheduled("failed")
    told, event = job.last_error_message, toy.events(job, "failed")
    assert "the attic" in told

    again = scheduled("completed")
    assert (again.failed_chunks, again.last_error_code) == (1, "provider_access_denied")
    assert "the attic" in again.last_error_message
    assert toy.events(again, "completed") == event == ["1 part could not be imported"]
    assert scheduled("completed").failed_chunks == 1, "what completed was told before, too"
    assert scheduled("failed", trigger="manual").failed_chunks == 1, "somebody waits for it"
    assert scheduled("completed").failed_chunks == 1

    refuse("cellar", "scope")
    both = scheduled("failed")
    assert both.failed_chunks == 2, "that is news"
    assert scheduled("completed").failed_chunks == 2

    # What was left out comes in as soon as it is allowed, and a refusal after that is news again.
    toy.server.faults.clear()
    assert scheduled("completed").failed_chunks == 0
    refuse("attic", "scope")
    scheduled("failed")


def test_a_list_that_was_never_allowed_is_no_part_of_what_is_scheduled(toy: ToyStage, worker: Worker) -> None:
    toy.server.inject(toys.says(403, {"error": "scope"}), every=1, times=10_000, path="/rows/labels")
    toy.done(toy.job(), "failed")
    job = toy.done(toy.within(actions.start_incremental, toy.actor, toy.connection, trigger="schedule"))
    assert "labels" not in job.streams
    assert job.failed_chunks == 0


def test_who_chose_only_parts_of_other_sites_hears_of_no_refusal(
    live_cast: Any, worker: Worker, sandbox: Sandbox
) -> None:
    from atom.access import system_actor
    from atom.tenancy import tenant_scope

    sandbox.control(records=100, deny=["jira.northwind"])
    connection = connected(live_cast.acme, "jira", sandbox.root)
    actor = system_actor(live_cast.acme, "test")
    with tenant_scope(live_cast.acme.id):
        assert [part.label for part in parts_of(connection)] == ["Labör (LAB)"]
        connection = narrow(actor, connection, ["Labör (LAB)"])
        until(actions.start_sync(actor, connection, streams=["issues"]), "completed")
        assert {chunk.partition_label for chunk in SyncChunk.objects.all()} == {"Labör (LAB)"}


def test_a_vendors_own_refusal_is_said_in_its_stream_only(
    live_cast: Any, worker: Worker, sandbox: Sandbox, quick: None
) -> None:
    from atom.access import system_actor
    from atom.tenancy import tenant_scope

    sandbox.control(deny=["github.pull_requests"])
    connection = connected(live_cast.acme, "github", sandbox.root)
    with tenant_scope(live_cast.acme.id):
        job = actions.start_sync(system_actor(live_cast.acme, "test"), connection)
    job = until(job, "failed", "completed")
    assert job.status == "failed"
    assert "pull requests" in job.last_error_message
    assert "repo" in job.last_error_message
    with tenant_scope(live_cast.acme.id):
        streams = set(SyncRecord.objects.values_list("stream", flat=True))
    assert streams >= {"issues", "commits", "repositories"}
    assert "pull_requests" not in streams


def test_a_token_that_is_refreshed_while_somebody_connects_anew_is_not_kept(toy: ToyStage, monkeypatch: Any) -> None:
    from atom.tenancy import tenant_scope

    real = gateway._token_request

    def connected_anew(*args: Any, **kwargs: Any) -> Any:
        token = real(*args, **kwargs)
        row = Connection.objects.get(id=toy.connection.id)
        row.set_credentials("anew", "refresh-anew")
        row.save()
        return token

    monkeypatch.setattr(gateway, "_token_request", connected_anew)
    with tenant_scope(toy.tenant.id):
        assert gateway.refresh_token(Connection.objects.get(id=toy.connection.id), "access-0") == "anew"
        assert Connection.objects.get(id=toy.connection.id).credentials["refresh_token"] == "refresh-anew"


def test_parts_of_a_stream_that_an_upgrade_took_away_fail_in_words_and_once(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for stream in ("visits", "labels"):
        toy.server.inject(lambda *_: Answer(403, {"error": "no"}), every=1, times=100, path=f"/rows/{stream}")
    job = toy.done(toy.job(), "failed")
    assert {chunk.stream for chunk in toy.chunks(job, status="failed")} == {"visits", "labels"}
    toy.server.faults.clear()
    before = PROVIDERS["toy"]
    left = tuple(stream for stream in before.streams if stream.name != "visits")
    monkeypatch.setitem(PROVIDERS, "toy", dataclasses.replace(before, streams=left))

    toy.within(actions.resume, toy.actor, job)
    job = toy.done(job, "failed")
    assert {chunk.stream for chunk in toy.chunks(job, status="failed")} == {"visits"}
    assert job.last_error_code == "unknown_stream"
    assert 'Atom does not import "visits" from Toy any more.' in job.last_error_message
    assert len([told for told in toy.events(job, "chunk_failed") if "any more" in told]) == job.failed_chunks
    assert "unexpected failure" not in caplog.text


def test_an_import_of_a_provider_that_an_upgrade_took_away_fails_in_words_and_once(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from atom.tenancy import tenant_scope

    monkeypatch.delitem(PROVIDERS, "toy")
    with tenant_scope(toy.tenant.id), transaction.atomic():
        job = make_job(toy.connection, status="pending")
        tasks.enqueue(job, 1)
    job = toy.done(job, "failed")
    assert (job.last_error_code, job.last_error_message) == ("provider_misconfigured", "Atom knows no toy any more.")
    assert "unexpected failure" not in caplog.text
