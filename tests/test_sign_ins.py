"""What signing in, failing to, and passwords leave in the audit log: where, with which address, how much, and for how long."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.core.management import call_command
from django.db import DatabaseError, transaction
from django.db import connection as database
from django.test import Client
from django.utils import timezone

from atom import audit, sign_ins, tries
from atom.models import AuditEvent, Membership, Role, User
from atom.tenancy import across_tenants, tenant_scope
from historical_sync.upkeep import by_the_clock
from tests.conftest import Worker, wait_for

HOME = "198.51.100.7"


@pytest.fixture(autouse=True)
def _none_tried_yet() -> None:
    cache.clear()


@pytest.fixture
def both(cast: SimpleNamespace) -> SimpleNamespace:
    """Bob works in Acme and in Globex."""
    with across_tenants("a test's"):
        Membership.objects.create(tenant=cast.globex, user=cast.bob, role=Role.VIEWER, entered_at=timezone.now())
    return cast


def enter(email: str, password: str, client: Client | None = None, address: str = HOME) -> int:
    form = {"email": email, "password": password}
    return (client or Client()).post("/sign-in", form, REMOTE_ADDR=address).status_code


def log(tenant: Any) -> list[tuple[str, str, str, str, str | None]]:
    """Oldest first, with what waits in the queue to be written down."""
    with database.cursor() as cursor:
        cursor.execute("DELETE FROM procrastinate_jobs WHERE task_name = 'atom.note_failed_sign_in' RETURNING id, args")
        for _, args in sorted(cursor.fetchall()):
            sign_ins.note_failed(**(json.loads(args) if isinstance(args, str) else args))
    with tenant_scope(tenant.id):
        lines = AuditEvent.objects.filter(tenant=tenant).order_by("at", "id")
        return list(lines.values_list("actor", "action", "subject", "detail", "address"))


# -- what is written down -------------------------------------------------------------------------------------------------


def test_who_signs_in_and_out_is_in_the_log_of_each_workspace_of_theirs(both: SimpleNamespace) -> None:
    client = Client()
    assert enter("Bob@Acme.test", "bob", client) == 302
    client.post("/sign-out", REMOTE_ADDR=HOME)
    client.post("/sign-out", REMOTE_ADDR=HOME)  # signed out already
    told = [
        ("Bob", "member.signed_in", "bob@acme.test", "", HOME),
        ("Bob", "member.signed_out", "bob@acme.test", "", HOME),
    ]
    assert (log(both.acme), log(both.globex)) == (told, told)
    assert enter("charlie@globex.test", "charlie") == 302
    assert log(both.acme) == told, "Charlie is nobody here"


def test_a_password_that_the_command_line_changes_is_in_the_log(
    both: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter(["bob", "bobby", "a long one indeed", "a long one indeed"])
    monkeypatch.setattr("getpass.getpass", lambda **_: next(typed))
    call_command("changepassword", "bob@acme.test", stdout=StringIO(), stderr=StringIO())
    assert User.objects.get(email="bob@acme.test").check_password("a long one indeed")
    told = [(audit.OPERATOR, "member.password", "bob@acme.test", "from the command line", None)]
    assert (log(both.acme), log(both.globex)) == (told, told)


def test_a_workspace_that_somebody_never_entered_is_not_told_from_where_they_sign_in(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    """Whoever runs a workspace adds anybody who has an account, and asks nobody."""

    def told(tenant: Any) -> list[tuple[str, str | None]]:
        return [(action, address) for _, action, _, _, address in log(tenant) if action != "member.added"]

    def all_that_leaves_a_line(client: Client) -> None:
        assert enter("bob@acme.test", "wrong") == 400
        log(cast.acme)  # written down at once, as by a worker
        assert enter("bob@acme.test", "bob", client) == 302
        client.get("/jobs")
        form = {"old_password": "wrong", "new_password1": "a long one indeed", "new_password2": "a long one indeed"}
        assert client.post("/password", form, REMOTE_ADDR=HOME).status_code == 400
        client.post("/sign-out", REMOTE_ADDR=HOME)

    actions = ["member.sign_in_failed", "member.signed_in", "member.password_refused", "member.signed_out"]
    charlie = signed_in(cast.charlie)
    charlie.post("/settings/members", {"email": "bob@acme.test", "role": "viewer"})
    bob = Client()
    all_that_leaves_a_line(bob)
    assert told(cast.acme) == [(action, HOME) for action in actions]
    assert told(cast.globex) == [(action, None) for action in actions]
    # They go there: from then on it is told as the one that they have been in for long.
    assert enter("bob@acme.test", "bob", bob) == 302
    bob.post("/workspace", {"tenant": str(cast.globex.id)})
    assert bob.get("/integrations").status_code == 200
    bob.post("/sign-out")
    before = len(told(cast.globex))
    all_that_leaves_a_line(bob)
    assert told(cast.globex)[before:] == [(action, HOME) for action in actions]
    # Who is added anew was not there since.
    with across_tenants("a test's"):
        mine = Membership.objects.get(tenant=cast.globex, user=cast.bob)
    charlie.post(f"/settings/members/{mine.id}", {"action": "remove"})
    charlie.post("/settings/members", {"email": "bob@acme.test", "role": "viewer"})
    assert enter("bob@acme.test", "bob") == 302
    assert told(cast.globex)[-1] == ("member.signed_in", None)


def test_who_signs_in_has_entered_the_workspace_that_they_find_themselves_in(cast: SimpleNamespace) -> None:
    with across_tenants("a test's"):
        Membership.objects.filter(user=cast.bob).update(entered_at=None)
    assert enter("bob@acme.test", "bob") == 302
    assert log(cast.acme) == [("Bob", "member.signed_in", "bob@acme.test", "", HOME)]


def test_a_failed_try_is_in_the_log_of_each_workspace_of_whom_it_was_for(both: SimpleNamespace) -> None:
    before = timezone.now()
    assert enter("bob@acme.test", "wrong", address="203.0.113.9") == 400
    after = timezone.now()
    told = [("Somebody", "member.sign_in_failed", "bob@acme.test", "", "203.0.113.9")]
    assert (log(both.acme), log(both.globex)) == (told, told)
    with tenant_scope(both.acme.id):
        assert before <= AuditEvent.objects.get(tenant=both.acme).at <= after, (
            "when it was, not when it was written down"
        )


def test_a_try_without_an_account_is_told_to_the_operator_alone(
    cast: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "atom")
    assert enter("nobody@acme.test", "a secret") == 400
    assert enter("my password, by mistake", "a secret") == 400
    assert (log(cast.acme), log(cast.globex)) == ([], [])
    said = [record.getMessage() for record in caplog.records if HOME in record.getMessage()]
    assert said == [f"somebody failed to sign in, and there is no such account, from {HOME}"] * 2
    assert "nobody" not in caplog.text
    assert "mistake" not in caplog.text, "some type their password there"


def test_whoever_runs_it_is_told_of_tries_on_staff(cast: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    """Who need have no workspace, and then stand in no log of one."""
    User.objects.create_superuser("root@atom.test", "root")
    assert enter("root@atom.test", "wrong") == 400
    assert log(cast.acme) == []
    assert f"somebody failed to sign in as root@atom.test, who is staff, from {HOME}" in caplog.text


@pytest.mark.parametrize("form", [{}, {"email": "bob@acme.test"}, {"email": "b\0b@acme.test", "password": "x"}])
def test_a_form_that_is_not_filled_in_is_no_try(cast: SimpleNamespace, form: dict[str, str]) -> None:
    assert Client().post("/sign-in", form).status_code == 400
    password = {"username": form.get("email", ""), "password": form.get("password", "")}
    assert Client().post("/admin/login/", password).status_code == 200
    with database.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM procrastinate_jobs")
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize("email", ["bob@acme.test", "nobody@acme.test"])
def test_the_page_does_the_same_whether_there_is_an_account_or_not(cast: SimpleNamespace, email: str) -> None:
    """Writing lines takes time, by which one could tell: it is done later."""
    assert enter(email, "wrong") == 400
    with across_tenants("a test looks"):
        assert not AuditEvent.objects.exists()
    with database.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'atom.note_failed_sign_in'")
        assert cursor.fetchone() == (1,)


def test_the_admins_door_is_watched_too(cast: SimpleNamespace) -> None:
    User.objects.filter(id=cast.alice.id).update(is_staff=True, is_superuser=True)
    client = Client()

    def door(username: str, password: str) -> int:
        form = {"username": username, "password": password}
        return client.post("/admin/login/?next=/admin/", form, REMOTE_ADDR=HOME).status_code

    assert door("alice@acme.test", "wrong") == 200
    assert door("bob@acme.test", "bob") == 200, "who is no staff"
    assert door("alice@acme.test", "alice") == 302
    assert client.post("/admin/logout/", REMOTE_ADDR=HOME).status_code == 200
    told = log(cast.acme)
    assert {line[3:] for line in told} == {("in the admin", HOME)}
    assert [line[:3] for line in told] == [
        ("Somebody", "member.sign_in_failed", "alice@acme.test"),
        ("Somebody", "member.sign_in_failed", "bob@acme.test"),
        ("Alice", "member.signed_in", "alice@acme.test"),
        ("Alice", "member.signed_out", "alice@acme.test"),
    ]


def test_a_password_that_is_changed_has_the_address_too_and_so_has_one_that_was_not(
    both: SimpleNamespace, signed_in: Any
) -> None:
    client = signed_in(both.bob)
    form = {"old_password": "wrong", "new_password1": "a long one indeed", "new_password2": "a long one indeed"}
    assert client.post("/password", form, REMOTE_ADDR=HOME).status_code == 400
    assert client.post("/password", form | {"old_password": "bob"}, REMOTE_ADDR=HOME).status_code == 302
    told = [
        ("Bob", "member.password_refused", "bob@acme.test", "the old one was wrong", HOME),
        ("Bob", "member.password", "bob@acme.test", "", HOME),
    ]
    assert (log(both.acme), log(both.globex)) == (told, told)


def test_a_password_that_the_operator_sets_is_in_the_log(both: SimpleNamespace, signed_in: Any) -> None:
    """Without an address: it is not one of the workspace's people."""
    staff = signed_in(User.objects.create_superuser("root@atom.test", "root"))
    form = {"usable_password": "true", "password1": "a long secret here", "password2": "a long secret here", "set-password": "1"}  # fmt: skip
    assert staff.post(f"/admin/atom/user/{both.bob.pk}/password/", form).status_code == 302
    told = [("The operator", "member.password", "bob@acme.test", "", None)]
    assert (log(both.acme), log(both.globex)) == (told, told)


@pytest.mark.parametrize(
    ("came_from", "kept"),
    [
        ("2001:db8:1:2::5", "2001:db8:1:2::5"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("unknown", None),
        ("", None),
        ("198.51.100.7, 10.0.0.1", None),
    ],
)
def test_what_is_no_address_is_none(cast: SimpleNamespace, came_from: str, kept: str | None) -> None:
    assert enter("bob@acme.test", "bob", address=came_from) == 302
    assert enter("bob@acme.test", "wrong", address=came_from) == 400
    assert [line[4] for line in log(cast.acme)] == [kept, kept]


def test_the_page_tells_where_from_and_finds_them_by_their_area(cast: SimpleNamespace, signed_in: Any) -> None:
    enter("bob@acme.test", "bob")
    with tenant_scope(cast.acme.id):
        audit.record(cast.acme.id, "Alice", "key.created", "report")
    text = signed_in(cast.alice).get("/settings/audit?area=sign-ins").content.decode()
    assert "signed in as bob@acme.test" in text
    assert f"from {HOME}" in text
    assert "report" not in text


@pytest.mark.django_db(transaction=True)
def test_a_worker_writes_down_the_failed_try(live_cast: SimpleNamespace, worker: Worker) -> None:
    assert enter("bob@acme.test", "wrong") == 400

    def told() -> list[str]:
        with tenant_scope(live_cast.acme.id):
            return list(AuditEvent.objects.filter(tenant=live_cast.acme).values_list("action", flat=True))

    wait_for(told, 20)
    assert told() == ["member.sign_in_failed"]


# -- how much -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def days() -> Iterator[Any]:
    """time(s) -> lets so many seconds pass, for whom the limit of tries is too slow."""
    with time_machine.travel(timezone.now(), tick=False) as clock:
        yield clock.shift


def test_whoever_goes_on_trying_does_not_fill_the_log(cast: SimpleNamespace, days: Any) -> None:
    """However slowly: the limit of tries alone would let in a line every minute, for ever."""
    for _ in range(tries.FAILED_LINES["pair"] * 3):
        assert enter("bob@acme.test", "wrong") == 400
        days(tries.WINDOW / tries.SIGN_IN["pair"] + 60)
    assert len(log(cast.acme)) == tries.FAILED_LINES["pair"]
    for number in range(tries.FAILED_LINES["account"] * 2):
        enter("bob@acme.test", "wrong", address=f"203.0.113.{number}")
        days(tries.WINDOW / tries.SIGN_IN["account"] + 2)
    assert len(log(cast.acme)) == tries.FAILED_LINES["account"], "from anywhere"
    assert enter("vera@acme.test", "wrong", address="203.0.113.77") == 400
    assert log(cast.acme)[-1][2] == "vera@acme.test", "which hides nothing of others"
    assert enter("bob@acme.test", "bob", address="203.0.113.78") == 302
    assert log(cast.acme)[-1][1] == "member.signed_in", "nor that one got in"
    days(tries.DAY)
    assert enter("bob@acme.test", "wrong") == 400
    assert log(cast.acme)[-1][:3] == ("Somebody", "member.sign_in_failed", "bob@acme.test"), "told anew each day"


def test_one_address_does_not_fill_it_by_trying_everybody(cast: SimpleNamespace, days: Any) -> None:
    for number in range(tries.FAILED_LINES["address"] + 20):
        enter(f"{number}@acme.test", "wrong")
        days(tries.WINDOW / tries.SIGN_IN["address"] + 2)
    with database.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'atom.note_failed_sign_in'")
        assert cursor.fetchone() == (tries.FAILED_LINES["address"],)
    assert enter("bob@acme.test", "wrong") == 400
    assert log(cast.acme) == []
    assert enter("bob@acme.test", "wrong", address="203.0.113.9") == 400
    assert len(log(cast.acme)) == 1, "from another"


def test_a_script_that_signs_in_all_day_does_not_fill_it(cast: SimpleNamespace) -> None:
    client = Client()
    for _ in range(tries.LINES["pair"] + 5):
        assert enter("bob@acme.test", "bob", client) == 302
        client.post("/sign-out", REMOTE_ADDR=HOME)
    assert len(log(cast.acme)) == tries.LINES["pair"]
    assert enter("bob@acme.test", "bob", address="203.0.113.9") == 302
    assert len(log(cast.acme)) == tries.LINES["pair"] + 1, "from elsewhere it is news"


# -- for how long ---------------------------------------------------------------------------------------------------------


def test_addresses_are_forgotten_after_ninety_days_and_the_lines_stay(cast: SimpleNamespace) -> None:
    now = timezone.now()
    with tenant_scope(cast.acme.id):
        for age in (timedelta(days=91), timedelta(days=89)):
            audit.record(cast.acme.id, "Bob", "member.signed_in", "bob@acme.test", address=HOME, at=now - age)
    by_the_clock(now)
    line = ("Bob", "member.signed_in", "bob@acme.test", "")
    assert log(cast.acme) == [(*line, None), (*line, HOME)]


def test_nobody_else_takes_an_address_out_and_nobody_changes_one(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        audit.record(cast.acme.id, "Bob", "member.signed_in", "bob@acme.test", address=HOME)
        with pytest.raises(DatabaseError, match="append only"), transaction.atomic():
            AuditEvent.objects.filter(tenant=cast.acme).update(address=None)
    with across_tenants("what upkeep may not do either"):
        for change in ({"address": "203.0.113.9"}, {"address": None, "actor": "Eve"}, {"detail": "x"}):
            with pytest.raises(DatabaseError, match="append only"), transaction.atomic():
                AuditEvent.objects.filter(tenant=cast.acme).update(**change)
    assert log(cast.acme) == [("Bob", "member.signed_in", "bob@acme.test", "", HOME)]
