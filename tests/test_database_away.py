"""Processes whose database goes away, behind a relay that can be cut: nobody else's tests shall see it go."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from django.conf import settings
from django.db import connections
from django.utils.http import urlsafe_base64_encode
from psycopg.conninfo import make_conninfo
from websockets.exceptions import InvalidHandshake
from websockets.sync.client import connect

from atom.handler import THREADS
from tests.conftest import free_port, wait_for
from tests.processes import Running, manage
from tests.test_deployment import web_command

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("database away")]


class Relay:
    """A port that leads to the tests' database until it is cut. `variables`: of a process that goes this way."""

    def __init__(self) -> None:
        self.server = connections["default"].get_connection_params()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.ends: list[socket.socket] = []
        self.up = True
        parts = {
            "host": "127.0.0.1",
            "port": str(self.listener.getsockname()[1]),
            "dbname": self.server["dbname"],
            "user": self.server["user"],
            "password": self.server.get("password") or "none",
        }
        self.variables = {"DATABASE_URL": make_conninfo("", **parts)}
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self.listener.accept()
            except OSError:
                return
            if not self.up:
                here.close()
                continue
            there = self._connect()
            self.ends += [here, there]
            threading.Thread(target=self._serve, args=(here, there), daemon=True).start()

    def _serve(self, here: socket.socket, there: socket.socket) -> None:
        threading.Thread(target=self._pass_on, args=(there, here), daemon=True).start()
        self._pass_on(here, there)

    def _connect(self) -> socket.socket:
        host, port = str(self.server.get("host") or "/var/run/postgresql"), int(self.server.get("port") or 5432)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        there = socket.socket(socket.AF_UNIX)
        there.connect(f"{host}/.s.PGSQL.{port}")
        return there

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self.up = False
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.up = True

    def close(self) -> None:
        self.cut()
        self.listener.close()


@pytest.fixture
def relay(transactional_db: None) -> Iterator[Relay]:
    with closing(Relay()) as made:
        yield made


@pytest.mark.parametrize("connections", [1, 2, 3, 6])
def test_a_worker_whose_database_is_away_stops_in_time(relay: Relay, connections: int) -> None:
    """Also where it went away while the worker was opening its connections, which waits longer."""
    worker = Running("manage.py", "sync_worker", ATOM_SHUTDOWN_SECONDS="1", **relay.variables)
    try:
        worker.says("Working on starts")
        wait_for(lambda: len(relay.ends) >= 2 * connections, every=0.001)
        relay.cut()
        wait_for(lambda: worker.output.count("error connecting") > 2, 60)  # it asks ever less often
        worker.signal(signal.SIGTERM)
        assert worker.ends(15) == 0
        assert "trying again: \n" not in f"{worker.output}\n"
    finally:
        worker.stop()


def test_readiness_is_told_in_time_while_the_database_is_away_and_as_soon_as_it_is_back(relay: Relay) -> None:
    port = free_port()
    variables = relay.variables | {"ATOM_METRICS_TOKEN": "t"}
    web = Running("-m", *web_command(port), **variables)

    def ready(path: str = "/readyz") -> int:
        headers = {"Authorization": "Bearer t"}
        return httpx2.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=30).status_code

    try:
        wait_for(lambda: ready() == 200, 60)
        relay.cut()
        assert ready() == 503
        for probe in ("/readyz", "/metrics"):
            began = time.monotonic()
            assert ready(probe) == 503
            assert time.monotonic() - began < 5
        assert ready(f"/password/{urlsafe_base64_encode(str(uuid4()).encode())}/the-token") == 503
        assert "the-token" not in web.output
        relay.mend()
        wait_for(lambda: ready() == 200, 15)
        assert ready("/metrics") == 200
    finally:
        web.stop()
    # After hours, too: the pool's pauses grow no longer than this.
    assert settings.DATABASES["default"]["OPTIONS"]["pool"]["reconnect_timeout"] <= 10


def test_while_the_database_is_away_who_asks_is_told_and_the_log_has_a_line(
    relay: Relay, cast: SimpleNamespace, signed_in: Any
) -> None:
    port = free_port()
    web = Running("-m", *web_command(port), **relay.variables)
    cookie = f"sessionid={signed_in(cast.alice).cookies['sessionid'].value}"

    def ask(path: str, **headers: str) -> httpx2.Response:
        return httpx2.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=60)

    try:
        wait_for(lambda: ask("/readyz").status_code == 200, 60)
        assert ask("/jobs", Cookie=cookie).status_code == 200
        relay.cut()
        with ThreadPoolExecutor(THREADS) as people:
            many = [people.submit(ask, "/jobs", Cookie=cookie) for _ in range(THREADS - 3)]
            fragment = people.submit(ask, "/integrations", Cookie=cookie, **{"HX-Request": "true"})
            by_session = people.submit(ask, "/api/entities", Cookie=cookie)
            by_key = people.submit(ask, "/api/entities", Authorization="Api-Key abc.def")
            web.says("error connecting")  # they wait
            began = time.monotonic()
            assert ask("/healthz").status_code == 200
            assert time.monotonic() - began < 5, "a process that is only waiting is not to be ended"
            with pytest.raises((InvalidHandshake, OSError)):
                connect(f"ws://127.0.0.1:{port}/ws/notifications", additional_headers={"Cookie": cookie})
        for told in (*many, fragment, by_session, by_key):
            assert (told.result().status_code, told.result().headers["Retry-After"]) == (503, "10")
        words = "Atom can&#39;t reach its database just now."
        assert "<h1>Back in a moment</h1>" in many[0].result().text
        assert words in many[0].result().text
        assert words in fragment.result().text
        assert fragment.result().headers["X-Fragments"] == "1"
        for answer in (by_session.result().json(), by_key.result().json()):
            assert answer["type"] == "server_error"
            assert [(error["code"], error["attr"]) for error in answer["errors"]] == [("unavailable", None)]
        wait_for(lambda: "Exception inside application" in web.output)  # Daphne's words for the socket
        lines = web.output.splitlines()
        assert sum("/jobs" in line for line in lines) == len(many)
        assert sum("/api/entities" in line for line in lines) == 2
        assert all(re.match(r"\d{4}-\d\d-\d\d .* (WARNING|ERROR) \S", line) for line in lines), web.output
    finally:
        web.stop()


def test_a_worker_says_in_a_line_each_that_the_database_is_away_and_back(relay: Relay) -> None:
    worker = Running("manage.py", "sync_worker", **relay.variables)
    try:
        worker.says("Working on starts")
        wait_for(lambda: len(relay.ends) >= 2 * 7)
        relay.cut()
        worker.says("the database is away, trying again")
        relay.mend()
        worker.says("the database answers again")
        lines = worker.output.splitlines()[1:]
        assert all(re.match(r"\d{4}-\d\d-\d\d .* (WARNING|ERROR) \S", line) for line in lines), worker.output
    finally:
        worker.stop()


def test_a_command_says_in_words_that_the_database_is_away() -> None:
    nobody = f"postgresql://atom:secret@127.0.0.1:{free_port()}/atom"
    ended = manage("migrate", DATABASE_URL=nobody)
    assert ended.returncode == 1
    assert ended.stderr.startswith("atom: the database can't be reached"), ended.stderr
    assert "Connection refused" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "secret" not in ended.stderr
