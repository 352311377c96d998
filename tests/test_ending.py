"""Who is told, and how often, that access to a tool is about to end."""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.core import mail
from django.db import connections
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateJob

from atom.access import system_actor
from atom.models import Membership, User
from atom.tenancy import tenant_scope
from historical_sync import ending, tasks
from historical_sync.automation import NotificationPreference
from historical_sync.upkeep import by_the_clock
from integrations import disconnecting
from integrations.models import Connection
from tests.conftest import Sandbox, Worker, sandbox_token, wait_for
from tests.graphs import make_connection
from tests.processes import Running, on_the_tests_database, silent_mail_server

pytestmark = pytest.mark.django_db(transaction=True)
DAY = timedelta(days=1)


@pytest.fixture
def github(live_cast: SimpleNamespace) -> Connection:
    """Acme's."""
    with tenant_scope(live_cast.acme.id):
        return make_connection(live_cast.acme)


def ends(connection: Connection, at: Any) -> None:
    with tenant_scope(connection.tenant_id):
        Connection.objects.filter(id=connection.id).update(grant_expires_at=at)


def told(at: Any = None) -> list[str]:
    """To whom an e-mail goes out when the clock says so. As a worker sends it, but for the waiting."""
    mail.outbox.clear()
    by_the_clock(at or timezone.now())
    entries = ProcrastinateJob.objects.filter(task_name=tasks.ENDING, status="todo")
    for entry in list(entries):
        asyncio.run(ending.send(**entry.args))
    with connections["default"].cursor() as cursor:
        cursor.execute("DELETE FROM procrastinate_jobs WHERE task_name = %s", [tasks.ENDING])
    return sorted(sent.to[0].split("@")[0] for sent in mail.outbox)


def test_that_access_ends_is_told_once_when_the_card_begins_to_warn(github: Connection, settings: Any) -> None:
    settings.PUBLIC_URL = "https://atom.example"
    ends(github, timezone.now() + 14 * DAY + timedelta(hours=1))
    assert told() == []
    at = (timezone.now() + 13 * DAY).replace(hour=9, minute=5)
    ends(github, at)
    assert told() == ["alice"]
    (sent,) = mail.outbox
    assert sent.body.endswith("Which e-mails you get: https://atom.example/settings/notifications\n")
    assert sent.subject == f"Access to GitHub ends on {at.day} {at:%b}: acme-github"
    assert f"Access of Acme to GitHub (acme-github) ends on {at.day} {at:%b %Y}, 09:05 UTC." in sent.body
    assert "https://atom.example/integrations" in sent.body
    assert told() == []
    assert told(timezone.now() + 10 * DAY) == []


@pytest.mark.parametrize("status", ["reauth_required", "disconnected"])
def test_what_has_ended_is_not_about_to(github: Connection, status: str) -> None:
    ends(github, timezone.now() - DAY)
    assert told() == []
    ends(github, timezone.now() + DAY)
    with tenant_scope(github.tenant_id):
        Connection.objects.update(status=status)
    assert told() == []


def test_those_are_told_who_want_to_hear_of_failures_and_may_reconnect(
    github: Connection, live_cast: SimpleNamespace, signed_in: Any
) -> None:
    for user, may in ((live_cast.bob, True), (live_cast.vera, False)):
        form = signed_in(user).get("/settings/notifications").content.decode()
        assert ("14 days before access to a tool ends" in form) is may
    with tenant_scope(github.tenant_id):
        admin = User.objects.create_user("ada@acme.test", "secret")
        Membership.objects.create(tenant=live_cast.acme, user=admin, role="admin")
        for user, failed in ((live_cast.bob, True), (live_cast.vera, True), (admin, False)):
            membership = Membership.objects.get(tenant=live_cast.acme, user=user)
            NotificationPreference.objects.create(tenant=live_cast.acme, membership=membership, failed=failed)
    ends(github, timezone.now() + DAY)
    assert told() == ["alice", "bob"]


def test_a_later_end_is_told_of_again_and_the_same_one_a_moment_later_is_not(github: Connection) -> None:
    now = timezone.now()
    ends(github, now + 14 * DAY)
    assert told(now) == ["alice"]
    ends(github, now + 14 * DAY + timedelta(minutes=5))  # a refresh counts from when it was answered
    assert told(now + timedelta(minutes=10)) == []
    with tenant_scope(github.tenant_id):  # half a year later, in which it was renewed by being used
        Connection.objects.update(end_told_at=now - 180 * DAY, grant_expires_at=now + 13 * DAY)
    assert told(now) == ["alice"]


def test_who_renews_access_is_told_before_it_ends_the_next_time(
    live_cast: SimpleNamespace, sandbox: Sandbox, signed_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOM_PROVIDER_GITHUB_BASE_URL", f"{sandbox.root}/github")
    for _ in range(2):
        signed_in(live_cast.alice).post("/integrations/github/token", {"token": sandbox_token()})
        with tenant_scope(live_cast.acme.id):
            row = Connection.objects.get()
        ends(row, timezone.now() + 3 * DAY)
        assert [told(), told()] == [["alice"], []]


def test_it_is_sent_under_one_id_and_not_once_access_was_renewed_or_the_member_left(
    github: Connection, live_cast: SimpleNamespace
) -> None:
    ends(github, timezone.now() + DAY)
    by_the_clock()
    (entry,) = ProcrastinateJob.objects.filter(task_name=tasks.ENDING)
    for _ in range(2):  # the queue hands out again what a worker was at that died
        asyncio.run(ending.send(**entry.args))
    first, second = (sent.message()["Message-ID"] for sent in mail.outbox)
    assert first == second
    mail.outbox.clear()
    ends(github, timezone.now() + 90 * DAY)
    asyncio.run(ending.send(**entry.args))
    ends(github, timezone.now() + DAY)
    User.objects.filter(id=live_cast.alice.id).update(is_active=False)
    asyncio.run(ending.send(**entry.args))
    with tenant_scope(github.tenant_id):
        disconnecting.disconnect(system_actor(live_cast.acme, "Alice"), github)
    User.objects.filter(id=live_cast.alice.id).update(is_active=True)
    asyncio.run(ending.send(**entry.args))
    assert mail.outbox == []


def test_where_no_mail_is_sent_it_is_told_once_there_is(github: Connection, settings: Any) -> None:
    ends(github, timezone.now() + 10 * DAY)
    settings.SENDS_MAIL = False
    assert told() == []
    settings.SENDS_MAIL = True
    assert told() == ["alice"]


def test_two_workers_tell_of_one_end_once(github: Connection) -> None:
    together = threading.Barrier(4)

    def tick(_: int) -> None:
        together.wait(10)
        ending.tell_of_ends(timezone.now())
        connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        for days in range(1, 11):
            with tenant_scope(github.tenant_id):
                Connection.objects.update(end_told_at=None, grant_expires_at=timezone.now() + days * DAY)
            list(pool.map(tick, range(4)))
            assert ProcrastinateJob.objects.filter(task_name=tasks.ENDING).count() == days


def test_a_worker_tells_of_it(github: Connection, worker: Worker) -> None:
    ends(github, timezone.now() + DAY)
    by_the_clock()
    wait_for(lambda: mail.outbox, 20)
    assert mail.outbox[0].to == ["alice@acme.test"]


@pytest.mark.processes
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_worker_that_goes_away_was_at_is_sent_by_another(
    github: Connection, settings: Any, how: signal.Signals
) -> None:
    """It is killed, or told to end while the mail server takes longer than it has."""
    ends(github, timezone.now() + DAY)
    by_the_clock()
    with silent_mail_server() as (silent, smtp):
        first = Running("manage.py", "sync_worker", **on_the_tests_database(ATOM_SHUTDOWN_SECONDS="1", **smtp))
        met, _ = silent.accept()
        with met:
            first.signal(how)
            if how == signal.SIGKILL:
                first.ends()
            else:
                wait_for(lambda: not ProcrastinateJob.objects.filter(task_name=tasks.ENDING, status="doing"), 20)
    first.ends()
    settings.LEASE_SECONDS = 1.0
    second = Worker()
    try:
        wait_for(lambda: mail.outbox, 20)
    finally:
        second.stop()
    assert [sent.to for sent in mail.outbox] == [["alice@acme.test"]]
