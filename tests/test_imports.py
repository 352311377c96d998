"""Every provider's whole history comes in through the real engine: what is stored is what the stand-in holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from atom.access import system_actor
from atom.models import Tenant
from atom.plans import PLANS
from atom.tenancy import tenant_scope
from historical_sync import runs
from historical_sync.actions import start_sync
from historical_sync.allowance import records_this_month
from historical_sync.arrivals import RECORDS_A_COMMIT
from historical_sync.models import QuarantinedRecord, RollCall, SyncRecord
from integrations.models import Connection
from integrations.providers import PROVIDERS
from tests.conftest import connected, job_now, until, wait_for
from tests.graphs import had

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("slug", list(PROVIDERS))
def test_the_whole_history_of_a_provider_comes_in(live_cast: Any, worker: Any, sandbox: Any, slug: str):
    sandbox.control(records=100)
    connection = connected(live_cast.acme, slug, sandbox.root)
    with tenant_scope(connection.tenant_id):
        # Nobody waits here for a vendor that lets ten requests through a minute.
        connection.budget_limit = max(connection.provider.budget.requests, 1000)
        connection.save()
        job = start_sync(system_actor(live_cast.acme, "test"), connection, start=datetime(2020, 1, 1, tzinfo=UTC))
    job = until(job, "completed", "failed", seconds=60)
    with tenant_scope(connection.tenant_id):
        stored = Counter(SyncRecord.objects.filter(connection=connection).values_list("stream", flat=True))
        assert job.status == "completed", job.last_error_message
        assert not QuarantinedRecord.objects.filter(job=job).exists()
    truth = sandbox.truth(slug, until=job.end_date.isoformat())
    assert dict(stored) == {name: count for name, count in truth.items() if count}


@pytest.mark.parametrize("slug", [slug for slug, one in PROVIDERS.items() if any(s.gone for s in one.streams)])
def test_what_a_provider_has_no_more_is_marked_until_it_is_there_again(
    live_cast: Any, worker: Any, sandbox: Any, slug: str
) -> None:
    sandbox.control(records=100)
    connection = connected(live_cast.acme, slug, sandbox.root)
    streams = [stream.name for stream in connection.provider.streams if stream.gone is not None]

    def read(*, full: bool) -> Any:
        with tenant_scope(connection.tenant_id):
            # Each begins a window of its own.
            fresh = {"budget_limit": max(connection.provider.budget.requests, 1000), "budget_resets_at": None}
            Connection.objects.filter(id=connection.id).update(**fresh)
            since, actor = datetime(2020, 1, 1, tzinfo=UTC), system_actor(live_cast.acme, "test")
            job = start_sync(actor, connection, start=since, streams=streams, full=full)
        until(job, "completed", seconds=60)
        with tenant_scope(connection.tenant_id):
            wait_for(lambda: not RollCall.objects.filter(job_id=job.id).exists(), 60)
            rows = SyncRecord.objects.filter(connection=connection).values_list("stream", "external_id", "gone_at")
            return [{(stream, own) for stream, own, at in rows if (at is None) == there} for there in (True, False)]

    before, none = read(full=False)
    assert none == set()
    sandbox.control(delete_every=3)
    _, gone = read(full=True)
    there = {(name, own) for name in streams for own in sandbox.ids(slug, name)}
    # What lies where nothing is listed any more is not asked for, and not all can be told (`tests/contract`).
    assert set() < gone <= before - there
    sandbox.control(delete_every=0)
    assert read(full=True) == [before, set()]


def test_imports_at_once_bring_no_more_than_the_plans_records_of_a_month(
    live_cast: Any, worker: Any, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each began with all that was left."""
    monkeypatch.setitem(PLANS, "solo", replace(PLANS["solo"], records_a_month=900, chunks_at_once=3))
    Tenant.objects.filter(id=live_cast.acme.id).update(plan="solo")
    sandbox.control(records=3000)
    connections = [connected(live_cast.acme, "github", sandbox.root, account=str(number)) for number in (1, 2, 3)]
    with tenant_scope(live_cast.acme.id):
        actor = system_actor(Tenant.objects.get(id=live_cast.acme.id), "test")
        since = datetime.now(UTC) - timedelta(days=360)
        jobs = [start_sync(actor, connection, start=since) for connection in connections]
    ended = [until(job, "completed", "paused", "failed", seconds=60) for job in jobs]
    assert {(job.status, job.pause_reason) for job in ended} <= {("completed", ""), ("paused", "plan")}
    assert "paused" in {job.status for job in ended}
    brought = sum(job.records_processed for job in ended)
    # What each was just storing when the last ones came in is stored.
    assert 900 <= brought <= 900 + len(jobs) * RECORDS_A_COMMIT
    with tenant_scope(live_cast.acme.id):
        assert records_this_month(live_cast.acme, datetime.now(UTC)) == brought


def test_a_plan_that_is_changed_under_way_counts_for_what_follows(
    live_cast: Any, worker: Any, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "PLAN_SECONDS", 0.0)
    monkeypatch.setitem(PLANS, "solo", replace(PLANS["solo"], records_a_month=900))
    Tenant.objects.filter(id=live_cast.acme.id).update(plan="solo")
    sandbox.control(records=3000, latency_ms=100)
    connection = connected(live_cast.acme, "github", sandbox.root)
    with tenant_scope(live_cast.acme.id):
        actor = system_actor(Tenant.objects.get(id=live_cast.acme.id), "test")
        job = start_sync(actor, connection, start=datetime.now(UTC) - timedelta(days=360))
    wait_for(lambda: job_now(job).records_processed)
    Tenant.objects.filter(id=live_cast.acme.id).update(plan="enterprise")
    job = until(job, "completed", "paused", "failed", seconds=60)
    assert job.status == "completed", job.last_error_message
    assert job.records_processed > 900


def test_what_comes_in_counts_for_the_month_in_which_it_comes(live_cast: Any, worker: Any, sandbox: Any) -> None:
    """The connection had as much as the plan allows, in an earlier one."""
    Tenant.objects.filter(id=live_cast.acme.id).update(plan="free")
    sandbox.control(records=100)
    connection = connected(live_cast.acme, "github", sandbox.root)
    with tenant_scope(live_cast.acme.id):
        actor = system_actor(Tenant.objects.get(id=live_cast.acme.id), "test")
        long_ago = datetime.now(UTC) - timedelta(days=40)
        had(connection, 10_000, long_ago)
        job = start_sync(actor, connection)
    brought = until(job, "completed", "paused", "failed", seconds=60)
    assert brought.status == "completed"
    assert brought.records_processed > 0
    with tenant_scope(live_cast.acme.id):
        assert records_this_month(live_cast.acme, datetime.now(UTC)) == brought.records_processed
        assert records_this_month(live_cast.acme, long_ago) == 10_000
