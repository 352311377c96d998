"""Passwords: changed, forgotten, chosen anew; what that ends, what it tells nobody, and how often it may be tried."""

from __future__ import annotations

import json
import re
import signal
from datetime import timedelta
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.contrib.sessions.models import Session
from django.core import mail
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.db import connection as database
from django.test import Client
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateJob

from atom import accounts, tries
from atom.models import AuditEvent, Membership, Role, User
from atom.tenancy import tenant_scope
from historical_sync.upkeep import by_the_clock
from tests.conftest import Worker, wait_for
from tests.processes import Running, on_the_tests_database, silent_mail_server

NEW = "a long one indeed"


@pytest.fixture(autouse=True)
def _none_tried_yet() -> None:
    cache.clear()


def log(tenant: Any) -> list[tuple[str, str, str, str]]:
    with tenant_scope(tenant.id):
        lines = AuditEvent.objects.filter(tenant=tenant).order_by("id")
        return list(lines.values_list("actor", "action", "subject", "detail"))


def change(client: Client, old: str, new: str = NEW, again: str = "") -> Any:
    form = {"old_password": old, "new_password1": new, "new_password2": again or new}
    return client.post("/password", form, follow=True)


def ask(email: str, client: Client | None = None, **more: Any) -> Any:
    return (client or Client()).post("/password/forgotten", {"email": email}, **more)


def queued() -> list[dict[str, str]]:
    with database.cursor() as cursor:
        cursor.execute("SELECT args FROM procrastinate_jobs WHERE task_name = 'atom.send_link' ORDER BY id")
        return [json.loads(args) if isinstance(args, str) else args for (args,) in cursor.fetchall()]


def link(email: str) -> str:
    accounts.send_link(email, "http://testserver")
    found = re.search(r"http://testserver(/password/\S+)", mail.outbox[-1].body)
    assert found
    return found[1]


# -- changed --------------------------------------------------------------------------------------------------------------


def test_a_password_is_changed_by_who_knows_it_and_ends_every_other_session(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    here, there = signed_in(cast.bob), signed_in(cast.bob)
    assert 'href="/password"' in here.get("/integrations").content.decode()
    page = change(here, "bob").content.decode()
    assert "Your password is changed" in page
    assert here.get("/integrations").status_code == 200
    assert there.get("/integrations").status_code == 302, "signed out"
    assert there.get("/api/entities").status_code == 401
    cast.bob.refresh_from_db()
    assert cast.bob.check_password(NEW)
    assert log(cast.acme) == [("Bob", "member.password", "bob@acme.test", "")]


@pytest.mark.parametrize(
    ("old", "new", "again", "words"),
    [
        ("not it", NEW, NEW, "incorrect"),
        ("bob", "short", "short", "too short"),
        ("bob", "password123", "password123", "too common"),
        ("bob", "bob@acme.test", "bob@acme.test", "too similar"),
        pytest.param("bob", "ab" * 512 + "c", "", "at most 1,024 characters", id="too long"),
        ("bob", NEW, "another long one", "match"),
        ("", NEW, NEW, "required"),
    ],
)
def test_what_is_no_password_changes_nothing(
    cast: SimpleNamespace, signed_in: Any, old: str, new: str, again: str, words: str
) -> None:
    reply = change(signed_in(cast.bob), old, new, again)
    assert reply.status_code == 400
    assert words in reply.content.decode()
    cast.bob.refresh_from_db()
    assert cast.bob.check_password("bob")
    told = [("Bob", "member.password_refused", "bob@acme.test", "the old one was wrong")]
    assert log(cast.acme) == (told if old == "not it" else [])


def test_the_old_password_can_not_be_guessed_here_more_often_than_at_the_door(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    client = signed_in(cast.bob)
    for _ in range(tries.SIGN_IN["pair"]):
        assert change(client, "wrong").status_code == 400
    reply = change(client, "bob")
    assert (reply.status_code, reply["Retry-After"]) == (429, str(tries.WINDOW))
    assert "Wait five minutes" in reply.content.decode()
    assert Client().post("/sign-in", {"email": "bob@acme.test", "password": "bob"}).status_code == 429, "the same tries"
    cast.bob.refresh_from_db()
    assert cast.bob.check_password("bob")


@pytest.mark.parametrize("email", ["al\u0131ce@acme.test", "ALICE\0@acme.test"])
def test_no_other_spelling_of_an_address_is_the_account(cast: SimpleNamespace, email: str) -> None:
    """To PostgreSQL's UPPER a dotless i is an I; its tries would be counted apart."""
    assert Client().post("/sign-in", {"email": email, "password": "alice"}).status_code == 400
    assert ask(email).status_code == (400 if "\0" in email else 200)
    accounts.send_link("al\u0131ce@acme.test", "http://testserver")
    assert mail.outbox == []


def test_a_cookie_that_is_no_session_of_ours_is_nobodys(db: None) -> None:
    client = Client()
    for key in ("abcdefgh\0ijk", "abcdefgh' OR 1", "\xb2" * 32, "a" * 5000):
        client.cookies["sessionid"] = key  # quoted, as cookies may be
        assert client.get("/jobs").status_code == 302


def test_many_tries_at_once_are_no_more_than_one_after_the_other(
    cast: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0

    def slow(*_: Any, **__: Any) -> None:
        """While a password is looked at, the next one comes."""
        nonlocal made
        made += 1
        if made < 8:
            Client().post("/sign-in", {"email": "bob@acme.test", "password": "wrong"})

    with monkeypatch.context() as patch:
        patch.setattr("atom.views.authenticate", slow)
        Client().post("/sign-in", {"email": "bob@acme.test", "password": "wrong"})
    assert made == tries.SIGN_IN["pair"]
    for _ in range(tries.SIGN_IN["account"]):
        Client().post("/sign-in", {"email": "bob@acme.test", "password": "wrong"})
    form = {"email": "bob@acme.test", "password": "bob"}
    assert Client().post("/sign-in", form).status_code == 429
    for _ in range(tries.SIGN_IN["account"] * 2):
        reply = Client().post("/sign-in", form, REMOTE_ADDR="10.0.0.2")
        assert reply.status_code == 302, "elsewhere they get in, as often as they like"


def test_whoever_has_a_network_of_ipv6_has_no_more_tries_for_it(cast: SimpleNamespace) -> None:
    def reply(number: int, email: str) -> Any:
        form = {"email": email, "password": "wrong"}
        return Client().post("/sign-in", form, REMOTE_ADDR=f"2001:db8:1:2:{number:x}::1")

    for number in range(tries.SIGN_IN["pair"]):
        assert reply(number, "bob@acme.test").status_code == 400
    assert reply(99, "bob@acme.test").status_code == 429
    for number in range(tries.SIGN_IN["address"] - tries.SIGN_IN["pair"]):
        assert reply(number, f"{number}@acme.test").status_code == 400
    assert reply(99, "new@acme.test").status_code == 429
    away = Client().post("/sign-in", {"email": "bob@acme.test", "password": "bob"}, REMOTE_ADDR="2001:db8:1:3::1")
    assert away.status_code == 302, "the next network is another's"


def test_a_change_stands_in_the_log_of_every_workspace_of_theirs_and_of_no_other(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    change(signed_in(cast.charlie), "charlie")
    assert (len(log(cast.globex)), log(cast.acme)) == (1, [])
    with tenant_scope(cast.acme.id):
        Membership.objects.create(tenant=cast.acme, user=cast.charlie, role=Role.VIEWER)
    cast.charlie.refresh_from_db()
    change(signed_in(cast.charlie), NEW, "yet another one")
    assert (len(log(cast.globex)), len(log(cast.acme))) == (2, 1)


def test_who_has_no_workspace_has_a_password_all_the_same(db: None) -> None:
    lone = User.objects.create_user("lone@acme.test", "lone")
    client = Client()
    client.force_login(lone)
    assert "Your password is changed" in change(client, "lone").content.decode()


# -- forgotten ------------------------------------------------------------------------------------------------------------


def test_a_link_comes_by_mail_and_chooses_another_password_once(cast: SimpleNamespace, signed_in: Any) -> None:
    elsewhere = signed_in(cast.bob)
    assert "/password/forgotten" in Client().get("/sign-in").content.decode()
    assert "If bob@acme.test has an account" in ask("Bob@Acme.test").content.decode()
    assert queued() == [{"email": "bob@acme.test", "root": "http://testserver"}]
    path = link("bob@acme.test")
    assert mail.outbox[-1].to == ["bob@acme.test"]
    client = Client()
    form = client.get(path, follow=True)
    where = form.redirect_chain[-1][0]
    assert path.rsplit("/", 1)[1] not in where, "no token in an address that is shown"
    assert client.post(where, {"new_password1": "short", "new_password2": "short"}).status_code == 200
    done = client.post(where, {"new_password1": NEW, "new_password2": NEW}, follow=True)
    assert "Member in Acme" in done.content.decode()
    assert elsewhere.get("/integrations").status_code == 302, "signed out"
    again = Client().get(path, follow=True).content.decode()
    assert "This link is used up" in again
    assert "Ask for another one" in again
    how = "by a link that was sent to them"
    assert log(cast.acme) == [
        ("Bob", "member.password", "bob@acme.test", how),
        ("Bob", "member.signed_in", "bob@acme.test", how),
    ]


def test_a_link_that_was_not_used_dies_with_the_password_it_was_made_for(cast: SimpleNamespace, signed_in: Any) -> None:
    path = link("bob@acme.test")
    change(signed_in(cast.bob), "bob")
    assert "This link is used up" in Client().get(path, follow=True).content.decode()


def test_nobody_learns_who_has_an_account(cast: SimpleNamespace) -> None:
    User.objects.filter(id=cast.vera.id).update(is_active=False)
    said = set()
    for email in ("bob@acme.test", "nobody@acme.test", "vera@acme.test"):
        reply = ask(email)
        page = reply.content.decode().replace(email, "?")
        said.add((reply.status_code, re.sub(r'value="\w{64}"', "", page)))
    assert len(said) == 1
    assert len(queued()) == 3, "the page does not even look"
    for email in ("nobody@acme.test", "vera@acme.test"):
        accounts.send_link(email, "http://testserver")
    assert mail.outbox == []


@pytest.mark.parametrize("email", ["bob@acme.test", "nobody@acme.test"])
def test_nobodys_mailbox_is_filled(cast: SimpleNamespace, email: str) -> None:
    for _ in range(tries.LINK["pair"]):
        assert ask(email).status_code == 200
    reply = ask(email.upper())
    assert (reply.status_code, reply["Retry-After"]) == (429, str(tries.WINDOW))
    assert "Wait five minutes" in reply.content.decode()
    for number in range(tries.LINK["account"] - tries.LINK["pair"]):
        assert ask(email, REMOTE_ADDR=f"10.0.0.{number}").status_code == 200
    assert ask(email, REMOTE_ADDR="10.0.1.1").status_code == 429
    assert len(queued()) == tries.LINK["account"]


@pytest.mark.parametrize("email", ["", "nobody", "a@b.test\nBcc: x@y.test", "a" * 250 + "@b.test"])
def test_what_is_no_address_is_said(db: None, email: str) -> None:
    assert ask(email).status_code == 400
    assert queued() == []


def test_whoever_was_invited_and_lost_the_letter_gets_in_by_this_link_too(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        eve = User.objects.create_user("eve@acme.test")
        Membership.objects.create(tenant=cast.acme, user=eve, role=Role.VIEWER)
    client = Client()
    where = client.get(link("eve@acme.test"), follow=True).redirect_chain[-1][0]
    client.post(where, {"new_password1": NEW, "new_password2": NEW})
    assert client.get("/integrations").status_code == 200


def test_where_no_mail_is_sent_the_pages_say_whom_to_ask(cast: SimpleNamespace, signed_in: Any, settings: Any) -> None:
    settings.SENDS_MAIL = False
    for page in (Client().get("/password/forgotten"), ask("bob@acme.test")):
        assert "Ask whoever runs it" in page.content.decode()
        assert "<form" not in page.content.decode()
    assert queued() == []
    form = {"email": "eve@new.test", "role": "member"}
    page = signed_in(cast.alice).post("/settings/members", form, follow=True).content.decode()
    assert "sends no e-mail" in page
    assert "on its way" not in page
    assert mail.outbox == []
    assert User.objects.filter(email="eve@new.test").exists()


def test_whoever_runs_it_sets_a_password_from_the_command_line(
    cast: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getpass", lambda prompt: NEW)
    call_command("changepassword", "bob@acme.test", stdout=StringIO())
    cast.bob.refresh_from_db()
    assert cast.bob.check_password(NEW)


def test_the_longest_password_that_can_be_chosen_opens_the_door(cast: SimpleNamespace, signed_in: Any) -> None:
    longest = "ab" * (settings.LONGEST_PASSWORD // 2)
    assert change(signed_in(cast.bob), "bob", longest).status_code == 200
    assert Client().post("/sign-in", {"email": "bob@acme.test", "password": longest}).status_code == 302


def test_no_other_way_of_choosing_one_takes_a_longer(
    cast: SimpleNamespace, signed_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_long = "ab" * 512 + "c"
    monkeypatch.setattr("getpass.getpass", lambda prompt: too_long)
    with pytest.raises(CommandError):
        call_command("changepassword", "bob@acme.test", stdout=StringIO(), stderr=StringIO())
    reset = Client()
    page = reset.get(link("bob@acme.test"), follow=True)
    reply = reset.post(page.redirect_chain[-1][0], {"new_password1": too_long, "new_password2": too_long})
    assert "at most 1,024 characters" in reply.content.decode()
    cast.bob.refresh_from_db()
    assert cast.bob.check_password("bob")


@pytest.mark.parametrize("path", ["/password", "/password/forgotten"])
def test_the_forms_need_a_csrf_token(cast: SimpleNamespace, path: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(cast.bob)
    assert client.post(path, {"email": "bob@acme.test"}).status_code == 403


@pytest.mark.django_db(transaction=True)
def test_a_worker_sends_the_link_and_tries_again_where_the_mail_server_is_away(
    live_cast: SimpleNamespace, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = accounts.send_mail, []

    def away_at_first(*letter: Any) -> Any:
        if not failed:
            failed.append(letter)
            raise ConnectionRefusedError("the mail server is away")
        return real(*letter)

    monkeypatch.setattr(accounts, "send_mail", away_at_first)
    ask("bob@acme.test")
    wait_for(lambda: mail.outbox, 20)
    assert failed
    assert "/password/" in mail.outbox[0].body


@pytest.mark.processes
@pytest.mark.django_db(transaction=True)
def test_a_link_that_a_worker_was_sending_as_it_was_told_to_end_is_sent_by_another(live_cast: SimpleNamespace) -> None:
    def waits(status: str) -> bool:
        return ProcrastinateJob.objects.filter(task_name="atom.send_link", status=status).exists()

    with silent_mail_server() as (silent, smtp):
        ask("bob@acme.test")
        first = Running("manage.py", "sync_worker", **on_the_tests_database(ATOM_SHUTDOWN_SECONDS="1", **smtp))
        met, _ = silent.accept()
        with met:
            first.signal(signal.SIGTERM)
            wait_for(lambda: not waits("doing"), 20)
    first.ends()
    assert waits("todo")


def test_sessions_that_ran_out_are_forgotten_by_the_clock(cast: SimpleNamespace, signed_in: Any) -> None:
    signed_in(cast.bob)
    now = timezone.now()
    by_the_clock(now)
    assert Session.objects.count() == 1
    by_the_clock(now + timedelta(seconds=settings.SESSION_COOKIE_AGE + 60))
    assert Session.objects.count() == 0
