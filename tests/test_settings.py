"""Settings: members, API keys, plan and usage, audit log; what is refused, and to whom."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from django.core import mail
from django.db import DatabaseError, transaction
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from atom import audit, members
from atom.access import RIGHTS, Actor, Right, actor_for_key, actor_for_user, system_actor
from atom.errors import InvalidInput, Refused
from atom.models import ApiKey, AuditEvent, Membership, Role, User
from atom.tenancy import across_tenants, tenant_scope
from atom.tries import LINK
from historical_sync import actions, schedules, webhooks
from historical_sync.models import DataRemoval, HistoricalSyncJob
from integrations import disconnecting, narrowing
from integrations.models import Connection
from tests.graphs import had, make_connection, make_job


def member(cast: SimpleNamespace, who: str) -> Membership:
    with across_tenants("the test looks"):
        return Membership.objects.select_related("tenant").get(user=getattr(cast, who))


def log(tenant: Any) -> list[tuple[str, str, str]]:
    with tenant_scope(tenant.id):
        return list(AuditEvent.objects.filter(tenant=tenant).order_by("id").values_list("actor", "action", "subject"))


@pytest.fixture
def admin(cast: SimpleNamespace) -> User:
    with tenant_scope(cast.acme.id):
        user = User.objects.create_user("dana@acme.test", "dana", name="Dana")
        Membership.objects.create(tenant=cast.acme, user=user, role=Role.ADMIN)
    return user


# -- members --------------------------------------------------------------------------------------------------------------


def test_when_somebody_signed_in_elsewhere_is_not_told_before_they_were_here(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    def told() -> str:
        page = alice.get("/settings/members").content.decode()
        row = page.partition("Role of charlie@globex.test")[0]
        return row.rpartition('data-label="Last sign-in"')[2].partition("</td>")[0]

    alice, charlie = signed_in(cast.alice), signed_in(cast.charlie)
    alice.post("/settings/members", {"email": "charlie@globex.test", "role": "viewer"})
    assert "not here yet" in told()
    assert "<time" not in told()
    charlie.post("/workspace", {"tenant": str(cast.acme.id)})
    charlie.get("/jobs")
    assert "<time" in told()


def test_somebody_new_is_invited_by_mail_sets_a_password_and_is_in(cast: SimpleNamespace, signed_in: Any) -> None:
    page = signed_in(cast.alice).post("/settings/members", {"email": " Eve@New.test ", "role": "member"}, follow=True)
    assert "An invitation is on its way to eve@new.test" in page.content.decode()
    [letter] = mail.outbox
    assert letter.to == ["eve@new.test"]
    assert "Alice made you a member of Acme" in letter.body
    path = re.search(r"http://testserver(/welcome/\S+)", letter.body)
    assert path
    eve = Client()
    form = eve.get(path[1], follow=True)
    assert "Choose a password" in form.content.decode()
    where = form.redirect_chain[-1][0]
    weak = eve.post(where, {"new_password1": "short", "new_password2": "short"})
    assert "too short" in weak.content.decode()
    done = eve.post(where, {"new_password1": "a long one indeed", "new_password2": "a long one indeed"}, follow=True)
    assert done.redirect_chain[-1][0] == "/integrations"
    assert "Member in Acme" in done.content.decode()
    assert "This link is used up" in Client().get(path[1], follow=True).content.decode()
    assert log(cast.acme) == [("Alice", "member.invited", "eve@new.test"), ("eve", "member.signed_in", "eve@new.test")]


def test_somebody_with_an_account_is_added_and_told(cast: SimpleNamespace, signed_in: Any) -> None:
    signed_in(cast.alice).post("/settings/members", {"email": "charlie@globex.test", "role": "viewer"})
    [letter] = mail.outbox
    assert "/welcome/" not in letter.body
    with tenant_scope(cast.acme.id):
        assert Membership.objects.get(tenant=cast.acme, user=cast.charlie).role == "viewer"
    with tenant_scope(cast.globex.id):
        assert Membership.objects.get(tenant=cast.globex, user=cast.charlie).role == "owner"
    assert log(cast.globex) == []


@pytest.mark.parametrize(
    ("email", "role", "words"),
    [
        ("nobody", "member", "not an e-mail address"),
        ("a@b.test\nBcc: x@y.test", "member", "not an e-mail address"),
        ("bob@acme.test", "member", "is a member already"),
        ("BOB@acme.test", "member", "is a member already"),
        ("new@acme.test", "god", "Choose a role"),
        ("new@acme.test", "", "Choose a role"),
    ],
)
def test_invitations_that_can_not_be_leave_no_trace(
    cast: SimpleNamespace, signed_in: Any, email: str, role: str, words: str
) -> None:
    before = User.objects.count()
    reply = signed_in(cast.alice).post("/settings/members", {"email": email, "role": role})
    assert reply.status_code == 400
    assert words in reply.content.decode()
    assert User.objects.count() == before
    assert mail.outbox == []
    assert log(cast.acme) == []


def test_a_workspace_that_somebody_was_added_to_does_not_take_the_place_of_their_own(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    stranger = signed_in(cast.charlie)
    stranger.post("/settings", {"name": "A Acme"})  # before "Acme" by name
    stranger.post("/settings/members", {"email": "alice@acme.test", "role": "owner"})
    alice = signed_in(cast.alice)
    assert "Owner in Acme" in alice.get("/integrations").content.decode()
    alice.post("/workspace", {"tenant": str(cast.globex.id)})
    assert "Owner in A Acme" in alice.get("/integrations").content.decode()


def test_who_is_invited_on_a_page_of_one_workspace_becomes_no_member_of_another(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    with tenant_scope(cast.globex.id):
        Membership.objects.create(tenant=cast.globex, user=cast.alice, role="owner")
    alice = signed_in(cast.alice)
    alice.post("/workspace", {"tenant": str(cast.acme.id)})
    page = alice.get("/settings/members").content.decode()
    form = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]+)"', page))
    alice.post("/workspace", {"tenant": str(cast.globex.id)})  # in another tab
    invitation = {**form, "email": "eve@new.test", "role": "member"}
    refused = alice.post("/settings/members", invitation)
    assert refused.status_code == 409
    assert "This page is of another workspace, Acme, and this browser is in Globex by now." in refused.content.decode()
    assert not User.objects.filter(email="eve@new.test").exists()

    alice.post("/workspace", {**form, "tenant": str(cast.acme.id)})  # which any page may
    assert alice.post("/settings/members", invitation).status_code == 302
    with tenant_scope(cast.acme.id):
        assert Membership.objects.filter(tenant=cast.acme, user__email="eve@new.test").exists()


def test_whose_account_was_closed_is_not_added(cast: SimpleNamespace, signed_in: Any) -> None:
    User.objects.filter(id=cast.charlie.id).update(is_active=False)
    reply = signed_in(cast.alice).post("/settings/members", {"email": "charlie@globex.test", "role": "viewer"})
    assert reply.status_code == 400


def test_nobodys_mailbox_is_filled_with_invitations(cast: SimpleNamespace, signed_in: Any) -> None:
    alice = signed_in(cast.alice)
    for email in ("eve@new.test", *(f"{number}@new.test" for number in range(40))):
        alice.post("/settings/members", {"email": email, "role": "member"})
    assert len(mail.outbox) == 41, "many people are invited from one address"
    with tenant_scope(cast.acme.id):
        eve = Membership.objects.get(tenant=cast.acme, user__email="eve@new.test")
    for _ in range(LINK["account"]):
        page = alice.post(f"/settings/members/{eve.id}", {"action": "link"}, follow=True).content.decode()
    assert "was written to often enough" in page
    assert len([letter for letter in mail.outbox if letter.to == ["eve@new.test"]]) == LINK["account"]


def test_a_mail_server_that_is_down_does_not_undo_the_invitation(
    cast: SimpleNamespace, signed_in: Any, settings: Any
) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    client = signed_in(cast.alice)
    page = client.post("/settings/members", {"email": "eve@new.test", "role": "member"}, follow=True)
    assert "could not be sent" in page.content.decode()
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    with tenant_scope(cast.acme.id):
        invited = Membership.objects.get(tenant=cast.acme, user__email="eve@new.test")
    client.post(f"/settings/members/{invited.id}", {"action": "link"})
    assert "/welcome/" in mail.outbox[-1].body


def test_a_role_changes_at_once(cast: SimpleNamespace, signed_in: Any) -> None:
    bob = signed_in(cast.bob)
    assert bob.get("/settings/members").status_code == 403
    signed_in(cast.alice).post(f"/settings/members/{member(cast, 'bob').id}", {"action": "role", "role": "admin"})
    assert bob.get("/settings/members").status_code == 200
    assert log(cast.acme) == [("Alice", "member.role", "bob@acme.test")]


def test_who_is_removed_is_out_at_once(cast: SimpleNamespace, signed_in: Any) -> None:
    bob = signed_in(cast.bob)
    assert bob.get("/jobs").status_code == 200
    signed_in(cast.alice).post(f"/settings/members/{member(cast, 'bob').id}", {"action": "remove"})
    reply = bob.get("/jobs")
    assert reply.status_code == 403
    assert "not a member of any workspace" in reply.content.decode()
    assert 'action="/sign-out"' in reply.content.decode(), "a way to sign in as somebody else"
    assert User.objects.filter(id=cast.bob.id).exists()
    assert log(cast.acme) == [("Alice", "member.removed", "bob@acme.test")]


def left_by_bob(cast: SimpleNamespace) -> SimpleNamespace:
    """What Bob connected and made, beside what others did, and what is over."""
    with tenant_scope(cast.acme.id):
        mailbox, repositories, over, hers = (
            make_connection(cast.acme, slug) for slug in ("google", "github", "slack", "linear")
        )
        Connection.objects.exclude(id=hers.id).update(created_by=cast.bob)
        Connection.objects.filter(id=over.id).update(status="disconnected")
        job = make_job(mailbox)
        keys, secrets = {}, {}
        for name, who, fields in (
            ("nightly", cast.bob, {}),
            ("report", cast.bob, {}),
            ("long ago", cast.bob, {"revoked": True}),
            ("expired", cast.bob, {"expiry_date": timezone.now() - timedelta(days=1)}),
            ("her own", cast.alice, {}),
        ):
            keys[name], secrets[name] = ApiKey.objects.create_key(
                tenant=cast.acme, role="member", name=name, created_by=who, **fields
            )
    return SimpleNamespace(
        mailbox=mailbox, repositories=repositories, over=over, hers=hers, job=job, keys=keys, secrets=secrets
    )


def asked(page: str) -> dict[str, bool]:
    """The boxes of the page that asks before a member is removed: "key nightly's prefix" -> whether it is ticked."""
    boxes = re.findall(r'<input type="checkbox" name="(key|connection)" value="([^"]+)"( checked)?>', page)
    return {f"{name} {value}": bool(ticked) for name, value, ticked in boxes}


def test_who_removes_a_member_is_asked_about_what_they_connected_and_made(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    bobs = left_by_bob(cast)
    where = f"/settings/members/{member(cast, 'bob').id}"
    alice = signed_in(cast.alice)
    assert f'href="{where}"' in alice.get("/settings/members").content.decode()
    page = alice.get(where).content.decode()
    assert asked(page) == {
        f"key {bobs.keys['nightly'].prefix}": True,
        f"key {bobs.keys['report'].prefix}": True,
        f"connection {bobs.mailbox.id}": False,
        f"connection {bobs.repositories.id}": False,
    }
    for words in ("nightly", "Google (acme-google)", "GitHub (acme-github)", "go on importing"):
        assert words in page
    assert "her own" not in page
    assert "<html" not in alice.get(where, headers={"HX-Request": "true"}).content.decode()
    assert member(cast, "bob").role == "member"
    assert log(cast.acme) == [], "asking changes nothing"


def test_what_is_ticked_ends_with_the_membership_and_nothing_else(cast: SimpleNamespace, signed_in: Any) -> None:
    bobs = left_by_bob(cast)
    where = f"/settings/members/{member(cast, 'bob').id}"
    form = {
        "action": "remove",
        "key": [bobs.keys["nightly"].prefix, bobs.keys["her own"].prefix, "no-such"],
        "connection": [str(bobs.mailbox.id), str(bobs.hers.id), "no-such", str(bobs.over.id)],
    }
    page = signed_in(cast.alice).post(where, form, follow=True).content.decode()
    assert "bob@acme.test is no member any more" in page
    with tenant_scope(cast.acme.id):
        assert not Membership.objects.filter(user=cast.bob).exists()
        connections = dict(Connection.objects.values_list("provider_slug", "status"))
        assert HistoricalSyncJob.objects.get(id=bobs.job.id).status == "cancelled"
        assert not DataRemoval.objects.exists(), "what came in is kept"
    assert connections == {
        "google": "disconnected",
        "github": "connected",
        "slack": "disconnected",
        "linear": "connected",
    }
    assert [name for name, secret in bobs.secrets.items() if actor_for_key(secret)] == ["report", "her own"]
    assert log(cast.acme) == [
        ("Alice", "job.cancel_requested", "Google (acme-google)"),
        ("Alice", "connection.disconnected", "Google (acme-google)"),
        ("Alice", "key.revoked", "nightly"),
        ("Alice", "member.removed", "bob@acme.test"),
    ]
    with tenant_scope(cast.acme.id):
        told = AuditEvent.objects.get(action="member.removed").detail
    assert told == "was member; 1 API key revoked, 1 stays; 1 connection disconnected, 1 stays"


def test_what_a_provider_goes_on_to_honour_of_who_leaves_is_told(cast: SimpleNamespace, signed_in: Any) -> None:
    bobs = left_by_bob(cast)
    with tenant_scope(cast.acme.id):
        Connection.objects.filter(id=bobs.repositories.id).update(by_oauth=False)
    form = {"action": "remove", "connection": str(bobs.repositories.id)}
    page = signed_in(cast.alice).post(f"/settings/members/{member(cast, 'bob').id}", form, follow=True)
    assert "GitHub takes until somebody revokes it there" in page.content.decode()


def test_tools_of_who_leaves_are_asked_at_once_and_each_of_them_whatever_happens(
    cast: SimpleNamespace, signed_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, of which none answered, took ten seconds and more each."""
    slugs = ["asana", "github", "google", "jira", "linear", "notion", "slack", "zendesk"]
    with tenant_scope(cast.acme.id):
        rows = [make_connection(cast.acme, slug) for slug in slugs]
        Connection.objects.update(created_by=cast.bob)
    together, asked_of = threading.Barrier(len(rows)), []

    def way(row: Connection) -> Any:
        def ask() -> None:
            together.wait(10)
            asked_of.append(row.provider_slug)
            raise TimeoutError

        return ask

    monkeypatch.setattr("integrations.disconnecting._way_to_revoke", way)
    form = {"action": "remove", "connection": [str(row.id) for row in rows]}
    page = signed_in(cast.alice).post(f"/settings/members/{member(cast, 'bob').id}", form, follow=True).content.decode()
    assert sorted(asked_of) == slugs
    assert page.count("could not be taken back: it takes too long to answer.") == len(slugs)
    with tenant_scope(cast.acme.id):
        assert set(Connection.objects.values_list("status", flat=True)) == {"disconnected"}

    # What was given up before one that could not be is not forgotten.
    together, asked_of = threading.Barrier(1), []
    with tenant_scope(cast.acme.id):
        Connection.objects.update(status="connected")
        first, second, *_ = rows
        actor = system_actor(cast.acme, "Alice")
        with monkeypatch.context() as patched:
            give_up = disconnecting._give_up

            def only_the_first(actor: Actor, row: Connection, delete_data: bool) -> None:
                if row.id != first.id:
                    raise OSError
                give_up(actor, row, delete_data)

            patched.setattr("integrations.disconnecting._give_up", only_the_first)
            with pytest.raises(OSError):
                disconnecting.give_up(actor, [str(first.id), str(second.id)])
    assert asked_of == [first.provider_slug]


def test_a_member_who_stays_keeps_what_they_have(cast: SimpleNamespace, signed_in: Any, admin: User) -> None:
    """The last owner, and an owner whom an admin would remove: refused before anything ends."""
    with tenant_scope(cast.acme.id):
        row = make_connection(cast.acme, "google")
        Connection.objects.filter(id=row.id).update(created_by=cast.alice)
        key, secret = ApiKey.objects.create_key(tenant=cast.acme, role="owner", name="k", created_by=cast.alice)
    form = {"action": "remove", "key": key.prefix, "connection": str(row.id)}
    where = f"/settings/members/{member(cast, 'alice').id}"
    for client, words in (
        (signed_in(cast.alice), "A workspace needs an owner"),
        (signed_in(admin), "Only an owner can"),
    ):
        assert words in client.post(where, form, follow=True).content.decode()
    assert "Only an owner can" in signed_in(admin).get(where).content.decode()
    assert actor_for_key(secret) is not None
    with tenant_scope(cast.acme.id):
        assert Connection.objects.get(id=row.id).status == "connected"
    assert log(cast.acme) == []


def test_who_may_only_manage_disconnects_nothing(cast: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part needs the right that it needs by hand."""
    bobs = left_by_bob(cast)
    monkeypatch.setitem(RIGHTS, Role.ADMIN, frozenset({Right.VIEW, Right.MANAGE}))
    actor = Actor(cast.acme, Role.ADMIN, "Dana", None)
    with tenant_scope(cast.acme.id):
        with pytest.raises(Refused) as refused:
            members.remove(actor, member(cast, "bob").id, connections=[str(bobs.mailbox.id)])
        assert (refused.value.code, refused.value.status_code) == ("permission_denied", 403)
        assert Connection.objects.get(id=bobs.mailbox.id).status == "connected"
    assert member(cast, "bob").role == "member"


@pytest.mark.parametrize("data", [{"action": "remove"}, {"action": "role", "role": "admin"}])
def test_the_last_owner_stays(cast: SimpleNamespace, signed_in: Any, data: dict[str, str]) -> None:
    page = signed_in(cast.alice).post(f"/settings/members/{member(cast, 'alice').id}", data, follow=True)
    assert "A workspace needs an owner" in page.content.decode()
    assert page.redirect_chain[-1][0] == "/settings/members"  # where it was asked for
    assert member(cast, "alice").role == "owner"
    assert log(cast.acme) == []


def test_a_role_that_somebody_has_already_is_not_said_to_be_changed(cast: SimpleNamespace, signed_in: Any) -> None:
    form = {"action": "role", "role": "owner"}
    reply = signed_in(cast.alice).post(f"/settings/members/{member(cast, 'alice').id}", form, follow=True)
    assert reply.redirect_chain[-1][0] == "/settings/members", "they may see it as before"
    assert "alice@acme.test has this role already." in reply.content.decode()


def test_an_owner_who_becomes_admin_goes_on_with_the_members(cast: SimpleNamespace, signed_in: Any) -> None:
    client = signed_in(cast.alice)
    client.post(f"/settings/members/{member(cast, 'bob').id}", {"action": "role", "role": "owner"})
    reply = client.post(
        f"/settings/members/{member(cast, 'alice').id}", {"action": "role", "role": "admin"}, follow=True
    )
    assert reply.redirect_chain[-1][0] == "/settings/members"
    assert "alice@acme.test has the role Admin now." in reply.content.decode()
    again = client.post(
        f"/settings/members/{member(cast, 'alice').id}", {"action": "role", "role": "viewer"}, follow=True
    )
    assert again.redirect_chain[-1][0] == "/integrations"


@pytest.mark.parametrize("role", ["viewer", "member", "admin"])
def test_everybody_may_leave_with_what_is_theirs(cast: SimpleNamespace, signed_in: Any, role: str) -> None:
    bobs = left_by_bob(cast)
    with tenant_scope(cast.acme.id):
        Membership.objects.filter(user=cast.bob).update(role=role)
    bob = signed_in(cast.bob)
    start = "/settings/members" if role == "admin" else "/integrations"
    assert 'href="/settings/leave"' in bob.get(start).content.decode()
    page = bob.get("/settings/leave").content.decode()
    assert "Leave Acme?" in page
    assert 'action="/settings/leave"' in page
    assert f'href="{start}" data-close' in page
    assert set(asked(page)) == {
        *(f"key {bobs.keys[name].prefix}" for name in ("nightly", "report")),
        *(f"connection {row.id}" for row in (bobs.mailbox, bobs.repositories)),
    }
    form = {
        "key": [bobs.keys["nightly"].prefix, bobs.keys["her own"].prefix],
        "connection": [str(bobs.mailbox.id), str(bobs.hers.id)],
    }
    assert bob.post("/settings/leave", form).status_code == 302
    assert "not a member of any workspace" in bob.get("/integrations").content.decode()
    with tenant_scope(cast.acme.id):
        assert not Membership.objects.filter(user=cast.bob).exists()
        assert set(Connection.objects.live().values_list("provider_slug", flat=True)) == {"github", "linear"}
    assert [name for name, secret in bobs.secrets.items() if actor_for_key(secret)] == ["report", "her own"]
    assert ("Bob", "member.removed", "bob@acme.test") in log(cast.acme)


def test_the_last_owner_does_not_leave(cast: SimpleNamespace, signed_in: Any) -> None:
    page = signed_in(cast.alice).post("/settings/leave", follow=True).content.decode()
    assert "A workspace needs an owner" in page
    assert member(cast, "alice").role == "owner"


@pytest.mark.parametrize("meanwhile", [{"action": "remove"}, {"action": "role", "role": "viewer"}])
def test_what_was_under_way_when_somebody_was_removed_is_not_done(
    cast: SimpleNamespace, signed_in: Any, admin: User, meanwhile: dict[str, str]
) -> None:
    """They would let themselves in again, or have a key that nobody was asked about."""
    with tenant_scope(cast.acme.id):
        key, secret = ApiKey.objects.create_key(tenant=cast.acme, role="owner", name="k")
        asks = actor_for_user(admin, cast.acme.id)
        bob, hers = member(cast, "bob"), Membership.objects.get(user=admin)
    assert asks is not None
    signed_in(cast.alice).post(f"/settings/members/{hers.id}", meanwhile)
    before = log(cast.acme)
    with tenant_scope(cast.acme.id):
        for act in (
            lambda: members.invite(asks, "eve@new.test", "admin"),
            lambda: members.create_key(asks, "back door", "admin", ""),
            lambda: members.change_role(asks, bob.id, "viewer"),
            lambda: members.remove(asks, bob.id),
            lambda: members.revoke_key(asks, key.prefix),
            lambda: members.rename(asks, "Mine"),
        ):
            with pytest.raises(Refused) as refused:
                act()
            assert (refused.value.code, refused.value.status_code) == ("permission_denied", 403)
    assert log(cast.acme) == before
    assert actor_for_key(secret) is not None
    assert not User.objects.filter(email="eve@new.test").exists()


def test_an_owner_may_leave_once_there_is_another(cast: SimpleNamespace, signed_in: Any) -> None:
    client = signed_in(cast.alice)
    client.post(f"/settings/members/{member(cast, 'bob').id}", {"action": "role", "role": "owner"})
    client.post(f"/settings/members/{member(cast, 'alice').id}", {"action": "remove"})
    with tenant_scope(cast.acme.id):
        assert not Membership.objects.filter(tenant=cast.acme, user=cast.alice).exists()


def test_an_admin_neither_makes_nor_touches_owners(cast: SimpleNamespace, signed_in: Any, admin: User) -> None:
    client = signed_in(admin)
    alice = member(cast, "alice")
    for data in ({"action": "remove"}, {"action": "role", "role": "member"}):
        page = client.post(f"/settings/members/{alice.id}", data, follow=True)
        assert "Only an owner can" in page.content.decode()
    client.post(f"/settings/members/{member(cast, 'bob').id}", {"action": "role", "role": "owner"})
    assert client.post("/settings/members", {"email": "x@y.test", "role": "owner"}).status_code == 403
    assert client.post("/settings/keys", {"name": "x", "role": "owner", "days": "30"}).status_code == 403
    with tenant_scope(cast.acme.id):
        assert Membership.objects.filter(tenant=cast.acme, role=Role.OWNER).count() == 1
        assert not ApiKey.objects.exists()
    assert log(cast.acme) == []
    assert 'value="owner"' not in client.get("/settings/members").content.decode()


def test_members_of_another_tenant_do_not_exist(cast: SimpleNamespace, signed_in: Any) -> None:
    charlie = member(cast, "charlie")
    client = signed_in(cast.alice)
    assert client.post(f"/settings/members/{charlie.id}", {"action": "remove"}).status_code == 404
    assert "charlie" not in client.get("/settings/members").content.decode()
    alice = Actor(cast.acme, Role.OWNER, "Alice", cast.alice)
    with across_tenants("the code's own scope, without the database's"), pytest.raises(Membership.DoesNotExist):
        members.remove(alice, charlie.id)


# -- keys -----------------------------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_works_with_its_role_and_ends_when_revoked(cast: SimpleNamespace, signed_in: Any) -> None:
    client = signed_in(cast.alice)
    reply = client.post("/settings/keys", {"name": "report", "role": "viewer", "days": "30"})
    assert (reply.status_code, reply["Location"]) == (302, "/settings/keys"), "loaded again it makes no second one"
    until_then = str(dict(client.session))
    shown = client.get("/settings/keys")
    found = re.search(r"<code id=\"secret\">(\w+\.\w+)</code>", shown.content.decode())
    assert found
    assert "no-store" in shown["Cache-Control"]
    assert found[1] not in client.get("/settings/keys").content.decode()
    assert found[1] not in str(dict(client.session)), "it is kept nowhere"
    assert found[1] not in until_then, "nor was it, in words that can be read"
    actor = actor_for_key(found[1])
    assert actor
    assert (actor.tenant, actor.role) == (cast.acme, "viewer")
    with tenant_scope(cast.acme.id):
        key = ApiKey.objects.get(tenant=cast.acme)
    assert key.created_by == cast.alice
    assert timedelta(days=29) < key.expiry_date - timezone.now() < timedelta(days=31)
    client.post(f"/settings/keys/{key.prefix}/revoke")
    assert actor_for_key(found[1]) is None
    assert "Revoked" in client.get("/settings/keys").content.decode()
    client.post(f"/settings/keys/{key.prefix}/revoke")
    assert log(cast.acme) == [("Alice", "key.created", "report"), ("Alice", "key.revoked", "report")]


def test_a_key_is_shown_in_its_own_workspace_only(cast: SimpleNamespace, signed_in: Any) -> None:
    with across_tenants("a test's"):
        Membership.objects.create(tenant=cast.globex, user=cast.alice, role="owner")
    client = signed_in(cast.alice)
    client.post("/settings/keys", {"name": "report", "role": "viewer", "days": "30"})
    client.post("/workspace", {"tenant": str(cast.globex.id)})
    for tenant in (cast.globex, cast.acme):
        client.post("/workspace", {"tenant": str(tenant.id)})
        assert 'id="secret"' not in client.get("/settings/keys").content.decode()


@pytest.mark.parametrize(
    "data",
    [
        {"name": "", "role": "viewer", "days": "30"},
        {"name": "x" * 51, "role": "viewer", "days": "30"},
        {"name": "a\0b", "role": "viewer", "days": "30"},
        {"name": "x", "role": "root", "days": "30"},
        {"name": "x", "role": "viewer", "days": "31"},
        {"name": "x", "role": "viewer", "days": "-1"},
    ],
)
def test_keys_that_can_not_be_leave_no_trace(cast: SimpleNamespace, signed_in: Any, data: dict[str, str]) -> None:
    assert signed_in(cast.alice).post("/settings/keys", data).status_code == 400
    with tenant_scope(cast.acme.id):
        assert not ApiKey.objects.exists()
    assert log(cast.acme) == []


def test_keys_of_another_tenant_do_not_exist(cast: SimpleNamespace, signed_in: Any) -> None:
    assert signed_in(cast.alice).post("/settings/keys/%00/revoke").status_code == 404
    with tenant_scope(cast.globex.id):
        key, secret = ApiKey.objects.create_key(tenant=cast.globex, role="viewer", name="theirs")
    client = signed_in(cast.alice)
    assert client.post(f"/settings/keys/{key.prefix}/revoke").status_code == 404
    assert "theirs" not in client.get("/settings/keys").content.decode()
    assert actor_for_key(secret) is not None


def test_a_key_tells_when_it_was_last_used_and_is_written_to_once_a_day(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        _, secret = ApiKey.objects.create_key(tenant=cast.acme, role="viewer", name="report")
    owner = signed_in(cast.alice)

    def last_used() -> str:
        [cell] = re.findall(r'data-label="Last used"[^>]*>(.*?)</td>', owner.get("/settings/keys").content.decode())
        return re.sub("<.*?>", "", cell)

    def ask() -> int:
        """How often the key was written to."""
        with CaptureQueriesContext(database) as queries:
            assert Client().get("/api/entities", headers={"Authorization": f"Api-Key {secret}"}).status_code == 200
        return sum(query["sql"].startswith('UPDATE "atom_apikey"') for query in queries)

    with time_machine.travel(datetime(2026, 11, 29, 9, tzinfo=UTC)) as clock:
        assert last_used() == "never used"
        assert Client().get("/api/entities", headers={"Authorization": f"Api-Key {secret}x"}).status_code == 401
        assert last_used() == "never used", "not by who has a part of it"
        assert (ask(), ask()) == (1, 0)
        clock.move_to(datetime(2026, 11, 29, 23, 59, tzinfo=UTC))
        assert (ask(), last_used()) == (0, "29 Nov 2026")
        clock.move_to(datetime(2026, 11, 30, 0, 1, tzinfo=UTC))
        assert last_used() == "29 Nov 2026"
        assert (ask(), last_used()) == (1, "30 Nov 2026")


def test_a_program_gets_its_answer_where_the_use_of_its_key_can_not_be_written_down(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        key, secret = ApiKey.objects.create_key(tenant=cast.acme, role="viewer", name="report")
    with transaction.atomic():
        with database.cursor() as cursor:
            cursor.execute("SET LOCAL transaction_read_only = on")
        reply = Client().get("/api/entities", headers={"Authorization": f"Api-Key {secret}"})
        assert reply.status_code == 200
        transaction.set_rollback(True)
    with tenant_scope(cast.acme.id):
        assert ApiKey.objects.get(pk=key.pk).last_used is None


# -- workspace and plan ---------------------------------------------------------------------------------------------------


def test_the_name_changes_and_bad_ones_do_not(cast: SimpleNamespace, signed_in: Any) -> None:
    client = signed_in(cast.alice)
    client.post("/settings", {"name": " Acme & Sons "})
    cast.acme.refresh_from_db()
    assert cast.acme.name == "Acme & Sons"
    for bad in ("", " ", "x" * 151, "a\nb"):
        assert client.post("/settings", {"name": bad}).status_code == 400
    cast.acme.refresh_from_db()
    assert cast.acme.name == "Acme & Sons"
    assert log(cast.acme) == [("Alice", "workspace.renamed", "Acme & Sons")]


def test_what_is_used_of_the_plan(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.globex.id):
        had(make_connection(cast.globex), 9000)
    text = signed_in(cast.charlie).get("/settings").content.decode()
    assert '<strong class="num">9,000</strong>' in text
    assert 'class="warn" max="100" value="90"' in text
    assert "3 months back" in text
    assert "5,000,000" in text, "what the other plans include"


# -- audit log ------------------------------------------------------------------------------------------------------------


def test_what_is_done_with_imports_and_connections_is_in_the_log(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        actor = Actor(cast.acme, Role.MEMBER, "Bob", cast.bob)
        connection = make_connection(cast.acme)
        job = actions.start_sync(actor, connection)
        actions.cancel(actor, job)
    name = str(connection)
    assert log(cast.acme) == [("Bob", "job.started", name), ("Bob", "job.cancel_requested", name)]
    client = signed_in(cast.alice)
    text = client.get("/settings/audit").content.decode()
    assert "started an import of" in text
    assert "acme-github" in text
    assert "started an import of" not in client.get("/settings/audit?area=keys").content.decode()
    assert signed_in(cast.bob).get("/settings/audit").status_code == 403


def test_what_is_sent_where_and_what_is_imported_when_is_in_the_log(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        actor = Actor(cast.acme, Role.OWNER, "Alice", cast.alice)
        connection = make_connection(cast.acme)
        schedules.choose(actor, connection, "1h", enabled=True)
        schedules.choose(actor, connection, "1h", enabled=True)  # as it was: nothing to tell
        schedules.choose(actor, connection, "1d", enabled=False)
        narrowing.narrow(actor, connection, None)
        endpoint, _ = webhooks.add(actor, "https://1.1.1.1/told?key=secret", ["completed"])
        webhooks.renew_secret(actor, endpoint.id)
        webhooks.turn_off(actor, endpoint.id)
        webhooks.turn_on(actor, endpoint.id)
        webhooks.remove(actor, endpoint.id)
    name, url = str(connection), "https://1.1.1.1/told"  # the key of the service that is told stands in no line
    assert log(cast.acme) == [
        ("Alice", "schedule.changed", name),
        ("Alice", "schedule.changed", name),
        ("Alice", "connection.narrowed", name),
        ("Alice", "webhook.added", url),
        ("Alice", "webhook.renewed", url),
        ("Alice", "webhook.off", url),
        ("Alice", "webhook.on", url),
        ("Alice", "webhook.removed", url),
    ]


def test_an_action_that_is_rolled_back_leaves_no_line(cast: SimpleNamespace) -> None:
    alice = Actor(cast.acme, Role.OWNER, "Alice", cast.alice)
    with tenant_scope(cast.acme.id):
        with transaction.atomic():
            members.rename(alice, "Other")
            transaction.set_rollback(True)
        with pytest.raises((InvalidInput, Refused)):
            members.rename(alice, "")
    assert log(cast.acme) == []


def test_lines_can_not_be_changed_or_taken_out(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        audit.record(cast.acme.id, "Alice", "key.created", "k")
        for change in (lambda rows: rows.update(actor="Bob"), lambda rows: rows.delete()):
            with pytest.raises(DatabaseError, match="append only"), transaction.atomic():
                change(AuditEvent.objects.filter(tenant=cast.acme))
    assert log(cast.acme) == [("Alice", "key.created", "k")]
    with across_tenants("deleting a tenant"):
        cast.acme.delete()
        assert not AuditEvent.objects.exists()


def test_the_operator_changing_a_plan_is_in_the_log(cast: SimpleNamespace, signed_in: Any) -> None:
    User.objects.filter(id=cast.alice.id).update(is_staff=True, is_superuser=True)
    form = {
        "name": "Globex", "plan": "team", "memberships-TOTAL_FORMS": "0", "memberships-INITIAL_FORMS": "0",
    }  # fmt: skip
    reply = signed_in(cast.alice).post(f"/admin/atom/tenant/{cast.globex.id}/change/", form)
    assert reply.status_code == 302
    assert log(cast.globex) == [("The operator", "workspace.plan", "Team")]


# -- lists ----------------------------------------------------------------------------------------------------------------


def fill(cast: SimpleNamespace, count: int) -> None:
    with tenant_scope(cast.acme.id):
        for _ in range(count):
            user = User.objects.create_user(f"u{User.objects.count()}@acme.test")
            Membership.objects.create(tenant=cast.acme, user=user, role=Role.MEMBER)
            ApiKey.objects.create_key(tenant=cast.acme, role="viewer", name="k", created_by=user)
            audit.record(cast.acme.id, "Alice", "key.created", "k")


@pytest.mark.parametrize("path", ["/settings/members", "/settings/keys", "/settings/audit"])
def test_forty_rows_take_as_many_queries_as_four(cast: SimpleNamespace, signed_in: Any, path: str) -> None:
    client = signed_in(cast.alice)
    counts = []
    for more in (4, 36):
        fill(cast, more)
        with CaptureQueriesContext(database) as queries:
            assert client.get(path).status_code == 200
        counts.append(len(queries))
    assert counts[0] == counts[1], [query["sql"][:100] for query in queries]


def test_the_deployment_itself_acts_by_name(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        members.create_key(system_actor(cast.acme, "The operator"), "k", "viewer", "")
    assert log(cast.acme) == [("The operator", "key.created", "k")]
