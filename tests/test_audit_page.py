"""The audit log's page: what is asked for by its address, and the same as a file."""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime
from html import unescape
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client

from atom import audit
from atom.models import AuditEvent, Membership, Role
from atom.tenancy import across_tenants, tenant_scope

HEAD = ["time", "who", "action", "what", "subject", "detail", "address"]


def on(day: int, hour: int = 12, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


@pytest.fixture
def acme(cast: SimpleNamespace) -> SimpleNamespace:
    """A few lines of Acme's, and one of Globex's."""
    with tenant_scope(cast.acme.id):
        audit.record(cast.acme.id, "Alice", "key.created", "report", at=on(10, 23, 59))
        audit.record(cast.acme.id, "Alice", "member.role", "bob@acme.test", "from viewer to member", at=on(11, 0))
        audit.record(cast.acme.id, "Bob", "connection.connected", "vera's mailbox", at=on(12, 23, 59))
        audit.record(cast.acme.id, "Somebody", "member.sign_in_failed", "vera@acme.test", address="::1", at=on(13, 0))
        audit.record(cast.acme.id, "API key report", "job.started", "acme-github", at=on(14))
    with tenant_scope(cast.globex.id):
        audit.record(cast.globex.id, "Charlie", "key.created", "theirs", at=on(12))
    return cast


EVERYTHING = ["acme-github", "vera@acme.test", "vera's mailbox", "bob@acme.test", "report"]  # newest first


def page(client: Client, asked: str) -> str:
    reply = client.get(f"/settings/audit?{asked}")
    assert reply.status_code == 200
    return unescape(reply.content.decode())


def shown(client: Client, asked: str) -> list[str]:
    """The subjects, in their order."""
    lines = re.findall(r'data-label="What"><span>(.*?)</td>', page(client, asked))
    return [subject for line in lines for subject in EVERYTHING if re.search(rf"{subject}(?![\w@])", line)]


def file(client: Client, asked: str = "") -> list[dict[str, str]]:
    reply = client.get(f"/settings/audit.csv?{asked}")
    assert reply.status_code == 200
    assert reply["Content-Type"] == "text/csv; charset=utf-8"
    assert reply["Content-Disposition"] == 'attachment; filename="audit-log-acme.csv"'
    assert "no-store" in reply["Cache-Control"]
    rows = list(csv.reader(StringIO(reply.getvalue().decode("utf-8-sig"), newline="")))
    assert rows[0] == HEAD
    return [dict(zip(HEAD, row, strict=True)) for row in rows[1:]]


ASKED = [
    ("", EVERYTHING),
    ("area=keys", ["report"]),
    ("area=nonsense", EVERYTHING),
    # A person: as who did it and as whom it was done to, by the name or the address
    ("person=bob%40acme.test", ["vera's mailbox", "bob@acme.test"]),
    ("person=BOB", ["vera's mailbox", "bob@acme.test"]),
    ("person=vera", ["vera@acme.test"]),  # not what is called after somebody
    ("person=alice%40acme.test", ["bob@acme.test", "report"]),
    ("person=api+key", ["acme-github"]),
    ("person=charlie%40globex.test", []),
    ("person=%25", []),
    ("person=%00+%20", EVERYTHING),
    # Days, of UTC
    ("since=2026-11-11", EVERYTHING[:4]),
    ("until=2026-11-12", EVERYTHING[2:]),
    ("since=2026-11-11&until=2026-11-12", ["vera's mailbox", "bob@acme.test"]),
    ("since=2026-11-12&until=2026-11-11", []),
    ("since=yesterday&until=2026-02-31", EVERYTHING),
    ("since=0001-01-01&until=9999-12-31", EVERYTHING),
    # All of it at once
    ("area=members&person=bob&since=2026-11-11&until=2026-11-11", ["bob@acme.test"]),
    ("area=keys&person=bob", []),
]


@pytest.mark.parametrize(("asked", "found"), ASKED, ids=[asked or "all" for asked, _ in ASKED])
def test_the_page_shows_and_the_file_has_what_is_asked_for(
    acme: SimpleNamespace, signed_in: Any, asked: str, found: list[str]
) -> None:
    client = signed_in(acme.alice)
    assert shown(client, asked) == found
    assert [row["subject"] for row in file(client, asked)] == found


def test_the_address_is_the_state_of_the_page(acme: SimpleNamespace, signed_in: Any) -> None:
    """The form shows what was asked for, and the file and the next page are asked for in the same way."""
    client = signed_in(acme.alice)
    with tenant_scope(acme.acme.id):
        for _ in range(51):
            audit.record(acme.acme.id, "B&B", "member.role", "bob@acme.test", at=on(20))
    text = client.get("/settings/audit?area=members&person=B%26B&since=2026-11-20&until=2026-11-21").content.decode()
    assert '<option value="members" selected>' in text
    for field in (
        'name="person" value="B&amp;B"',
        'name="since" value="2026-11-20"',
        'name="until" value="2026-11-21"',
    ):
        assert field in text
    asked = "area=members&amp;person=B%26B&amp;since=2026-11-20&amp;until=2026-11-21"
    assert f'href="/settings/audit.csv?{asked}"' in text
    assert f'href="?{asked}&page=2"' in text
    assert len(file(client, unescape(asked))) == 51
    assert "Nothing found" in page(client, "person=nobody")


def test_a_line_of_the_file_has_what_the_page_shows(acme: SimpleNamespace, signed_in: Any) -> None:
    [row] = file(signed_in(acme.alice), "area=sign-ins")
    assert row == {
        "time": "2026-11-13T00:00:00+00:00", "who": "Somebody", "action": "member.sign_in_failed", "what": "failed to sign in as",
        "subject": "vera@acme.test", "detail": "", "address": "::1",
    }  # fmt: skip


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_nothing_in_the_file_is_a_formula(cast: SimpleNamespace, signed_in: Any, first: str) -> None:
    evil = f'{first}HYPERLINK("https://evil.test","x")'
    with tenant_scope(cast.acme.id):
        audit.record(cast.acme.id, evil, "key.created", evil, evil)
    [row] = file(signed_in(cast.alice))
    assert {row["who"], row["subject"], row["detail"]} == {f"'{evil}"}


def test_the_file_comes_in_parts_and_has_an_end(
    cast: SimpleNamespace, signed_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "AT_ONCE", 10)
    monkeypatch.setattr(audit, "MOST_LINES", 25)
    with tenant_scope(cast.acme.id):
        for number in range(30):  # several at the same moment, on both sides of an edge
            audit.record(cast.acme.id, "Alice", "key.created", f"{number}", at=on(10, minute=number // 4))
    client = signed_in(cast.alice)
    assert [row["subject"] for row in file(client)] == [str(number) for number in range(29, 4, -1)]
    parts = list(client.get("/settings/audit.csv").streaming_content)
    assert [part.count(b"\r\n") for part in parts] == [1, 10, 10, 5]
    assert "The newest 25 as CSV" in page(client, "")
    assert "The newest" not in page(client, "until=2026-11-09")


def test_a_file_is_of_the_workspace_that_one_is_in_and_for_who_manages_it(
    acme: SimpleNamespace, signed_in: Any
) -> None:
    for person in (acme.bob, acme.vera):
        reply = signed_in(person).get("/settings/audit.csv")
        assert (reply.status_code, "report" in reply.content.decode()) == (403, False)
    assert Client().get("/settings/audit.csv").status_code == 302
    with across_tenants("a test's"):
        Membership.objects.create(tenant=acme.globex, user=acme.alice, role=Role.ADMIN)
    client = signed_in(acme.alice)
    assert "theirs" not in {row["subject"] for row in file(client)}
    client.post("/workspace", {"tenant": str(acme.globex.id)})
    theirs = client.get("/settings/audit.csv?person=charlie").getvalue().decode()
    assert "theirs" in theirs
    assert "report" not in theirs


def test_the_file_keeps_to_its_workspace_by_the_code_alone_too(acme: SimpleNamespace) -> None:
    with across_tenants("the code's own scope, without the database's"):
        found = audit.found(acme.acme, person="charlie@globex.test")
        assert not found.exists()
        assert AuditEvent.objects.filter(actor="Charlie").exists()
