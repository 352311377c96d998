"""Several imports asked for at once: what starts, what waits and why, and how it starts by itself."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from django.db import connections as databases
from django.utils import timezone

from atom.access import Actor, system_actor
from atom.models import Membership, Tenant
from atom.tenancy import tenant_scope
from historical_sync import actions, queueing, states
from historical_sync.automation import QueuedStart
from historical_sync.estimating import RangeEstimate, seconds_for, together
from historical_sync.models import HistoricalSyncJob
from historical_sync.upkeep import by_the_clock
from integrations.models import Connection
from tests.conftest import Sandbox, Worker, connected, wait_for
from tests.graphs import had, make_connection, make_job

START = "2026-10-01"


def five(tenant: Any) -> list[Connection]:
    with tenant_scope(tenant.id):
        return [make_connection(tenant, slug) for slug in ("github", "github", "linear", "slack", "stripe")]


def ask(client: Any, connections: list[Connection], **fields: str) -> Any:
    form = {"connection": [str(c.id) for c in connections], "start": START, "end": timezone.now().date().isoformat()}
    return client.post("/integrations/sync-selected", form | fields, follow=True)


def queued(tenant: Any) -> list[QueuedStart]:
    with tenant_scope(tenant.id):
        return list(queueing.waiting_of(tenant).select_related("connection"))


def active(tenant: Any) -> list[HistoricalSyncJob]:
    with tenant_scope(tenant.id):
        return list(actions.jobs_of(tenant).active().order_by("created_at"))


def test_the_page_of_what_is_selected_is_called_as_that_of_one(cast: SimpleNamespace, signed_in: Any) -> None:
    """Without scripts both are pages, of the same name: "histories" was gone from the dialog's own words already."""
    first, *_ = five(cast.acme)
    client = signed_in(cast.bob)
    for path in (f"/connections/{first.id}/import", f"/integrations/sync-selected?connection={first.id}"):
        page = client.get(path).content.decode()
        assert '<h1 class="visually-hidden">Bring history in</h1>' in page, path
        assert "<title>Bring history in" in page, path


def test_three_start_and_the_rest_waits_saying_why(cast: SimpleNamespace, signed_in: Any) -> None:
    connections = five(cast.acme)
    client = signed_in(cast.bob)
    page = ask(client, connections).content.decode()
    assert "3 imports started; 2 wait for room and will start by themselves." in page
    assert page.count("3 imports are active; it starts by itself") == 2
    assert "Asked for by Bob" in page
    jobs = active(cast.acme)
    assert len(jobs) == 3
    assert {job.start_date.date().isoformat() for job in jobs} == {START}
    assert {job.created_by for job in jobs} == {cast.bob}
    assert len(queued(cast.acme)) == 2
    assert "Waiting" in client.get("/integrations").content.decode()


def test_what_waits_starts_in_its_order_when_there_is_room(cast: SimpleNamespace, signed_in: Any) -> None:
    ask(signed_in(cast.bob), five(cast.acme))
    first, second = queued(cast.acme)
    with tenant_scope(cast.acme.id):
        actions.cancel(system_actor(cast.acme, "Test"), active(cast.acme)[0])
        assert queueing.start_waiting(cast.acme.id) == 1
    assert queued(cast.acme) == [second]
    newest = active(cast.acme)[-1]
    assert (newest.connection_id, newest.created_by, newest.created_by_label) == (first.connection_id, cast.bob, "Bob")
    assert newest.start_date.date().isoformat() == START
    by_the_clock()
    assert queued(cast.acme) == [second]
    assert len(active(cast.acme)) == 3


def test_what_waits_can_be_taken_back(cast: SimpleNamespace, signed_in: Any) -> None:
    client = signed_in(cast.bob)
    ask(client, five(cast.acme))
    first, second = queued(cast.acme)
    assert client.post(f"/queued/{first.id}/take-back").status_code == 302
    assert client.get(f"/queued/{first.id}").content == b""
    assert b"Take back" in client.get(f"/queued/{second.id}").content
    assert b"Take back" not in signed_in(cast.vera).get(f"/queued/{second.id}").content
    assert queued(cast.acme) == [second]
    assert client.post(f"/queued/{first.id}/take-back").status_code == 404


def test_what_can_not_start_when_its_turn_comes_stays_and_says_why(cast: SimpleNamespace, signed_in: Any) -> None:
    client = signed_in(cast.bob)
    ask(client, five(cast.acme))
    with tenant_scope(cast.acme.id):
        Membership.objects.filter(tenant=cast.acme, user=cast.bob).update(role="viewer")
        for job in active(cast.acme):
            actions.cancel(system_actor(cast.acme, "Test"), job)
        assert queueing.start_waiting(cast.acme.id) == 0
    assert [one.refused for one in queued(cast.acme)] == [True, True]
    page = signed_in(cast.alice).get("/jobs").content.decode()
    assert page.count("Bob may not start imports here any more.") == 2
    assert "Dismiss" in page


def test_what_lost_access_goes_on_waiting_and_holds_up_nobody(cast: SimpleNamespace, signed_in: Any) -> None:
    ask(signed_in(cast.bob), five(cast.acme))
    first, _ = queued(cast.acme)
    with tenant_scope(cast.acme.id):
        Connection.objects.filter(id=first.connection_id).update(status="reauth_required")
        actions.cancel(system_actor(cast.acme, "Test"), active(cast.acme)[0])
        assert queueing.start_waiting(cast.acme.id) == 1
    (left,) = queued(cast.acme)
    assert (left.id, left.refused) == (first.id, False)
    assert "Reconnect" in left.reason


def test_what_waits_when_the_months_records_are_used_up_starts_with_the_next_month(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    """As what had begun goes on then."""
    Tenant.objects.filter(id=cast.acme.id).update(plan="solo")
    with time_machine.travel(datetime(2026, 10, 31, 23, 30, tzinfo=UTC)) as clock, tenant_scope(cast.acme.id):
        ask(signed_in(cast.bob), five(cast.acme), start="2026-10-01")
        first, second = queued(cast.acme)
        had(first.connection, 250_000)
        for job in active(cast.acme):
            actions.cancel(system_actor(cast.acme, "Test"), job)
        by_the_clock()
        assert [(one.refused, one.reason) for one in queued(cast.acme)] == [(False, queueing.WAITS_FOR_THE_MONTH)] * 2
        assert active(cast.acme) == []
        clock.move_to(datetime(2026, 11, 1, 0, 0, 30, tzinfo=UTC))
        by_the_clock()
        assert [job.connection_id for job in active(cast.acme)] == [first.connection_id, second.connection_id]


def test_what_waits_for_the_next_month_has_the_history_that_its_plan_had_when_it_was_asked_for(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    """As what had begun by then has it. Three weeks later the twelve months of a plan of twelve months were refused."""
    Tenant.objects.filter(id=cast.acme.id).update(plan="solo")
    with time_machine.travel(datetime(2026, 10, 10, 12, tzinfo=UTC)) as clock, tenant_scope(cast.acme.id):
        ask(signed_in(cast.bob), five(cast.acme), start="2025-10-10", end="2026-10-10")
        first, second = queued(cast.acme)
        had(first.connection, 250_000)
        for job in active(cast.acme):
            actions.cancel(system_actor(cast.acme, "Test"), job)
        by_the_clock()
        assert [one.reason for one in queued(cast.acme)] == [queueing.WAITS_FOR_THE_MONTH] * 2
        # What a plan that was changed meanwhile would not have had then either is refused.
        QueuedStart.objects.filter(id=second.id).update(start_date=datetime(2025, 10, 1, tzinfo=UTC))
        clock.move_to(datetime(2026, 11, 1, 0, 0, 30, tzinfo=UTC))
        by_the_clock()
        assert [(one.id, one.refused) for one in queued(cast.acme)] == [(second.id, True)]
        (job,) = active(cast.acme)
        assert (job.connection_id, job.start_date) == (first.connection_id, datetime(2025, 10, 10, tzinfo=UTC))


def test_what_waits_goes_on_waiting_where_a_sync_of_its_connection_came_before(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    ask(signed_in(cast.bob), five(cast.acme))
    first, _ = queued(cast.acme)
    with tenant_scope(cast.acme.id):
        for job in active(cast.acme)[:2]:
            actions.cancel(system_actor(cast.acme, "Test"), job)
        sync = actions.start_sync(system_actor(cast.acme, "Schedule"), first.connection)
        assert queueing.start_waiting(cast.acme.id) == 1
        (waits,) = queued(cast.acme)
        assert (waits, waits.refused) == (first, False)
        actions.cancel(system_actor(cast.acme, "Test"), sync)
        assert queueing.start_waiting(cast.acme.id) == 1
    assert queued(cast.acme) == []


def test_what_waits_is_taken_back_when_its_connection_is_given_up(cast: SimpleNamespace, signed_in: Any) -> None:
    ask(signed_in(cast.bob), five(cast.acme))
    first, second = queued(cast.acme)
    assert signed_in(cast.alice).post(f"/connections/{first.connection_id}/disconnect").status_code == 302
    assert queued(cast.acme) == [second]
    with tenant_scope(cast.acme.id):
        Connection.objects.filter(id=first.connection_id).update(status="connected")
        for job in active(cast.acme):
            actions.cancel(system_actor(cast.acme, "Test"), job)
        queueing.start_waiting(cast.acme.id)
    assert [job.connection_id for job in active(cast.acme)] == [second.connection_id]


def test_one_that_can_not_start_is_named_and_the_others_do(cast: SimpleNamespace, signed_in: Any) -> None:
    connections = five(cast.acme)[:2]
    with tenant_scope(cast.acme.id):
        make_job(connections[0])
    page = ask(signed_in(cast.bob), connections).content.decode()
    assert "is already being imported" in page
    assert "1 import started." in page
    assert queued(cast.acme) == []


def test_a_range_that_is_off_starts_nothing(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.globex.id):
        connections = [make_connection(cast.globex), make_connection(cast.globex, "linear")]
    for start in ("2019-01-01", "yesterday"):
        reply = ask(signed_in(cast.charlie), connections, start=start)
        assert reply.status_code == 400
        assert b'role="alert"' in reply.content
    assert active(cast.globex) == []
    assert queued(cast.globex) == []


def test_the_dialog_offers_one_range_and_says_how_many_will_wait(cast: SimpleNamespace, signed_in: Any) -> None:
    connections = five(cast.acme)
    query = "&".join(f"connection={c.id}" for c in connections)
    text = (
        signed_in(cast.bob).get(f"/integrations/sync-selected?{query}", headers={"HX-Request": "true"}).content.decode()
    )
    assert text.startswith('<form class="dialog"')
    assert "Bring in the history of 5 connections" in text
    assert "2 of these wait" in text
    assert text.count('name="start"') == 1


def test_nothing_chosen_is_said(cast: SimpleNamespace, signed_in: Any) -> None:
    reply = signed_in(cast.bob).get("/integrations/sync-selected", headers={"HX-Request": "true"})
    assert reply["X-Fragments"] == "1"
    assert b"Choose at least one connection first." in reply.content


@pytest.mark.django_db(transaction=True)
def test_more_than_can_be_started_at_once_are_refused_not_cut_short(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        many = [make_connection(cast.acme) for _ in range(51)]
    page = ask(signed_in(cast.bob), many).content.decode()
    assert "Choose at most 50 connections at once." in page
    assert active(cast.acme) == queued(cast.acme) == []


@pytest.mark.parametrize(
    ("provider", "limit", "calls", "seconds"),
    [
        ("github", None, 100, 100 * 0.6 / 16),  # within the limit of the first hour
        ("github", None, 4_500, (4_500 - 90) * 61 / 810),  # 900 a minute, of which a tenth may be asked at once
        ("github", None, 45_000, 9 * 3600),
        ("github", 15_000, 45_000, 3600 * (45_000 / 13_500 - 1)),  # the provider has named a larger one
        ("zendesk", None, 900, 99 * 60),
    ],
)
def test_an_estimate_knows_the_providers_limit(provider: str, limit: float | None, calls: int, seconds: float) -> None:
    connection = Connection(provider_slug=provider, budget_limit=limit)
    job = HistoricalSyncJob(tenant=Tenant(plan="enterprise"), connection=connection)
    assert seconds_for(job, calls, calls) == pytest.approx(seconds)


def test_the_estimate_is_for_all_and_for_each(live_cast: SimpleNamespace, sandbox: Sandbox, signed_in: Any) -> None:
    made = [connected(live_cast.acme, "github", sandbox.root), connected(live_cast.acme, "hubspot", sandbox.root)]
    query = "&".join(f"connection={c.id}" for c in made)
    text = signed_in(live_cast.bob).get(f"/integrations/sync-selected/estimate?{query}&start={START}").content.decode()
    assert text.count("<li>") == 2
    assert "Provider calls" in text
    assert "notice error" not in text


def test_together_adds_up_what_is_known_and_is_no_better_than_the_least_known() -> None:
    exact, about = RangeEstimate(100, "exact", 10, 6.0), RangeEstimate(50, "about", 5, 3.0)
    unknown = RangeEstimate(None, "unknown", None, None)
    assert together([exact, exact], 3) == RangeEstimate(200, "exact", 20, 6.0)
    assert together([exact, about], 1) == RangeEstimate(150, "about", 15, 9.0)
    assert together([exact, unknown], 3) == RangeEstimate(100, "unknown", 10, 6.0, partly=True)
    assert together([unknown], 3) == unknown


@pytest.mark.django_db(transaction=True)
def test_many_who_start_what_waits_do_not_pass_the_limit(live_cast: SimpleNamespace) -> None:
    acme = live_cast.acme
    with tenant_scope(acme.id):
        for _ in range(6):
            QueuedStart.objects.create(
                tenant=acme,
                connection=make_connection(acme),
                reason="",
                created_by=live_cast.bob,
                created_by_label="Bob",
            )

    def start() -> None:
        with tenant_scope(acme.id):
            queueing.start_waiting(acme.id)
        databases.close_all()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with tenant_scope(acme.id):
        queueing.start_waiting(acme.id)
    assert len(active(acme)) == 3
    assert len(queued(acme)) == 3


@pytest.mark.django_db(transaction=True)
def test_all_of_them_come_in_one_after_the_other_without_anybody(
    live_cast: SimpleNamespace, sandbox: Sandbox, worker: Worker
) -> None:
    acme = live_cast.acme
    actor = Actor(acme, "member", "Bob", live_cast.bob)
    made = [connected(acme, "github", sandbox.root, account=str(number)) for number in range(5)]
    with tenant_scope(acme.id):
        for connection in made:
            queueing.start_or_queue(actor, connection)
    assert len(active(acme)) <= 3

    def all_in() -> bool:
        with tenant_scope(acme.id):
            return actions.jobs_of(acme).filter(status=states.COMPLETED).count() == 5

    # Sooner than the minute after which the clock would have seen to it.
    wait_for(all_in, 45)
    assert queued(acme) == []
