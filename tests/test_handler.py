"""The site behind Daphne: requests at once, bodies, and what clients may send wrong."""

from __future__ import annotations

import asyncio
import logging
from io import StringIO
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.db import connection as database
from django.db import utils
from django.db.models import QuerySet
from django.test import Client
from psycopg_pool import PoolTimeout

from atom import audit
from atom.models import ApiKey
from atom.tenancy import tenant_scope
from tests.conftest import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


async def ask(
    path: str, *, body: tuple[bytes, ...] = (b"",), headers: Any = (), method: str = "GET"
) -> tuple[int, bytes, Any]:
    from atom.asgi import application

    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
        "scheme": "http", "root_path": "", "headers": [(b"host", b"testserver"), *headers], "server": ("testserver", 80),
        "client": ("127.0.0.1", 1),
    }  # fmt: skip
    talk = ApplicationCommunicator(application, scope)
    for number, part in enumerate(body, 1):
        await talk.send_input({"type": "http.request", "body": part, "more_body": number < len(body)})
    start = await talk.receive_output(10)
    content = b""
    while True:
        message = await talk.receive_output(10)
        content += message.get("body", b"")
        if not message.get("more_body"):
            break
    await talk.wait(10)
    return start["status"], content, dict(start["headers"])


def signed_in(user: Any) -> list[tuple[bytes, bytes]]:
    client = Client()
    client.force_login(user)
    return [
        (b"cookie", f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}".encode())
    ]


def test_a_body_sent_in_chunks_is_read(live_cast: SimpleNamespace) -> None:
    """Without a length, which parsers take for no body at all."""
    with tenant_scope(live_cast.acme.id):
        _, key = ApiKey.objects.create_key(tenant=live_cast.acme, role="member", name="k")
    headers = [(b"authorization", f"Api-Key {key}".encode()), (b"content-type", b"application/json")]
    path = "/api/integrations/github/historical-sync/start"
    status, content, _ = asyncio.run(ask(path, method="POST", headers=headers, body=(b'{"unheard', b'_of": 1}')))
    assert status == 400
    assert b"unheard_of" in content


@pytest.mark.parametrize("charset", ["punycode", "latin-1", "utf-16"])
def test_bodies_are_utf_8_whatever_charset_they_name(live_cast: SimpleNamespace, client: Client, charset: str) -> None:
    """Of Python's charsets some take minutes for a megabyte, and who is not signed in may send that much, too."""
    with tenant_scope(live_cast.acme.id):
        _, key = ApiKey.objects.create_key(tenant=live_cast.acme, role="member", name="k")
    # `post` would write it in the charset.
    reply = client.generic(
        "POST",
        "/api/integrations/github/historical-sync/start",
        '{"unheard-é": 1}'.encode(),
        content_type=f"application/json; charset={charset}",
        headers={"Authorization": f"Api-Key {key}"},
    )
    assert reply.json()["errors"][0]["attr"] == "unheard-é"

    body = '--x\r\nContent-Disposition: form-data; name="email"\r\n\r\nnobody-é@acme.test\r\n--x--\r\n'.encode()
    reply = client.generic("POST", "/sign-in", body, content_type=f"multipart/form-data; boundary=x; charset={charset}")
    assert "nobody-é@acme.test" in reply.content.decode()


@pytest.mark.parametrize(
    "path", ["/api/schema", "/sign-in", "/integrations", "/static/historical_sync/client.js", "/nowhere"]
)
def test_head_is_get_without_its_body(live_cast: SimpleNamespace, path: str) -> None:
    """However long the body is: the schema has more than one part of it, and Daphne holds back only the first."""
    headers = signed_in(live_cast.alice)
    status, _, told = asyncio.run(ask(path, headers=headers))
    bare, content, said = asyncio.run(ask(path, headers=headers, method="HEAD"))
    assert (bare, content) == (status, b"")
    assert said[b"Content-Type"] == told[b"Content-Type"]
    assert abs(int(said[b"Content-Length"]) - int(told[b"Content-Length"])) < 100  # times and tokens differ


def test_head_of_what_takes_no_get_is_refused(live_cast: SimpleNamespace) -> None:
    assert asyncio.run(ask("/sign-out", headers=signed_in(live_cast.alice), method="HEAD"))[:2] == (405, b"")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_load_balancers_may_ask_by_head(live_cast: SimpleNamespace, path: str) -> None:
    assert asyncio.run(ask(path, method="HEAD"))[0] == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_ask_by_address(live_cast: SimpleNamespace, client: Client, path: str) -> None:
    """Kubernetes asks a pod by its own address, which nobody lists among the site's names."""
    assert client.get(path, headers={"host": "10.1.2.3:8000"}).status_code == 200
    assert client.get("/sign-in", headers={"host": "10.1.2.3:8000"}).status_code == 400


def test_headers_that_say_what_cannot_be_are_refused() -> None:
    status, _, _ = asyncio.run(ask("/healthz", headers=[(b"content-type", b"a/b; x*=bogus''%ff")]))
    assert status == 400


def test_each_of_many_requests_at_once_sees_its_own_tenant(live_cast: SimpleNamespace) -> None:
    alice, charlie = signed_in(live_cast.alice), signed_in(live_cast.charlie)

    async def scene() -> list[tuple[int, bytes, Any]]:
        return await asyncio.gather(*(ask("/integrations", headers=charlie if n % 2 else alice) for n in range(40)))

    for number, (status, page, _) in enumerate(asyncio.run(scene())):
        assert status == 200
        ours, theirs = (live_cast.globex, live_cast.acme) if number % 2 else (live_cast.acme, live_cast.globex)
        assert ours.name.encode() in page
        assert theirs.name.encode() not in page


@pytest.mark.parametrize("path", ["/jobs", "/settings/audit.csv"])
def test_connections_go_back_to_the_pool(
    live_cast: SimpleNamespace, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More requests than there are threads or connections, one after the other and at once; also what is read in parts, by any thread."""
    monkeypatch.setattr(audit, "AT_ONCE", 5)
    with tenant_scope(live_cast.acme.id):
        for number in range(20):
            audit.record(live_cast.acme.id, "Alice", "key.created", str(number))
    alice = signed_in(live_cast.alice)
    database.close()  # this thread's own
    out: set[Any] = set()
    pool = database.pool

    def getconn(*arguments: Any) -> Any:
        out.add(taken := take(*arguments))
        return taken

    def putconn(given: Any) -> None:
        out.remove(given)
        give(given)

    take, give = pool.getconn, pool.putconn
    monkeypatch.setattr(pool, "getconn", getconn)
    monkeypatch.setattr(pool, "putconn", putconn)

    async def scene() -> set[int]:
        found = {(await ask(path, headers=alice))[0] for _ in range(30)}
        return found | {status for status, _, _ in await asyncio.gather(*(ask(path, headers=alice) for _ in range(30)))}

    assert asyncio.run(scene()) == {200}
    # The pool takes them back in a thread of its own. Its numbers tell also of those that it is only about to make.
    wait_for(lambda: not out)


def test_a_body_in_parts_is_one_body(live_cast: SimpleNamespace) -> None:
    from atom.models import ApiKey
    from atom.tenancy import tenant_scope

    with tenant_scope(live_cast.acme.id):
        key = ApiKey.objects.create_key(tenant=live_cast.acme, role="member", name="t")[1]
    headers = [(b"authorization", f"Api-Key {key}".encode()), (b"content-type", b"application/json")]
    parts = (b'{"str', b'eams": ', b'["issues"], "wrong": 1}')
    headers.append((b"content-length", str(sum(map(len, parts))).encode()))
    status, content, _ = asyncio.run(
        ask("/api/integrations/github/historical-sync/start", method="POST", body=parts, headers=headers)
    )
    assert (status, b"There is no such field" in content) == (400, True)


def test_who_goes_away_while_sending_leaves_nothing_behind() -> None:
    from atom.asgi import application

    async def scene() -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/sign-in",
            "query_string": b"",
            "headers": [],
            "root_path": "",
        }
        talk = ApplicationCommunicator(application, scope)
        await talk.send_input({"type": "http.request", "body": b"half", "more_body": True})
        await talk.send_input({"type": "http.disconnect"})
        await talk.wait(5)
        assert await talk.receive_nothing()

    asyncio.run(scene())


def test_static_files_come_whole() -> None:
    status, content, headers = asyncio.run(ask("/static/django_htmx/htmx-2.min.js"))
    assert status == 200
    assert int(headers[b"Content-Length"]) == len(content) > 10_000


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (psycopg.OperationalError("the connection is closed"), 503),
        (PoolTimeout("couldn't get a connection after 10.00 sec"), 503),
        (psycopg.errors.AdminShutdown("terminating connection due to administrator command"), 503),
        (psycopg.errors.TooManyConnections("sorry, too many clients already"), 503),
        (psycopg.errors.QueryCanceled("canceling statement due to statement timeout"), 500),
        (psycopg.errors.DeadlockDetected("deadlock detected"), 500),
        (psycopg.errors.UndefinedTable('relation "gone" does not exist'), 500),
        (psycopg.InterfaceError("the cursor is closed"), 500),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("path", ["/jobs", "/api/entities"])
def test_only_a_database_that_is_away_is_no_bug(
    path: str, cause: Exception, status: int, live_cast: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug keeps its traceback in the log."""
    client = Client(raise_request_exception=False)
    client.force_login(live_cast.alice)

    def broken(*_: Any, **__: Any) -> Any:
        error = getattr(utils, next(c.__name__ for c in type(cause).__mro__ if c.__module__ == "psycopg"))
        raise error(str(cause)) from cause

    said = StringIO()
    (stderr,) = [handler for handler in logging.getLogger().handlers if handler.get_name() == "stderr"]
    monkeypatch.setattr(stderr, "stream", said)
    monkeypatch.setattr(QuerySet, "_fetch_all", broken)
    answer = client.get(path)
    monkeypatch.undo()
    assert answer.status_code == status
    assert ("Retry-After" in answer) == (status == 503)
    assert f": {path}" in said.getvalue()
    assert ("Traceback" in said.getvalue()) == (status == 500)
    if status == 503:
        assert len(said.getvalue().splitlines()) == 1
