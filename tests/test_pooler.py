"""A DATABASE_URL that leads to a pooler: nothing starts on it. By a relay that treats what connections ask for as PgBouncer does, and by
PgBouncer itself where it is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from atom.db.pooler import Answer, ask, in_between
from tests.conftest import free_port, missing, stop, wait_for
from tests.processes import Running, database_answers, manage
from tests.test_database_away import Relay

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("database away")]

LENGTH = struct.Struct("!I")
ENCRYPTION = {LENGTH.pack(80877103), LENGTH.pack(80877104)}  # requests for TLS and for Kerberos
REFUSES, DROPS = "refuses what connections ask for at their start", "drops what connections ask for at their start"


class Pooler(Relay):
    """Passes on what it is asked at the start of a connection without its `options`, or refuses it."""

    drops = True

    def _serve(self, here: socket.socket, there: socket.socket) -> None:
        while (message := _message(here))[:4] in ENCRYPTION:
            here.sendall(b"N")
        words = message[4:].rstrip(b"\0").split(b"\0")
        asked = dict(zip(words[::2], words[1::2], strict=True))
        if b"options" in asked and not self.drops:
            error = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"
            here.sendall(b"E" + LENGTH.pack(len(error) + 4) + error)
            here.close()
            there.close()
            return
        asked.pop(b"options", None)
        start = message[:4] + b"".join(name + b"\0" + value + b"\0" for name, value in asked.items()) + b"\0"
        there.sendall(LENGTH.pack(len(start) + 4) + start)
        super()._serve(here, there)


def _message(end: socket.socket) -> bytes:
    """The next one of those before the first answer, which have no type."""
    (length,) = LENGTH.unpack(end.recv(4, socket.MSG_WAITALL))
    return end.recv(length - 4, socket.MSG_WAITALL)


@pytest.fixture
def pooler(transactional_db: None) -> Iterator[Pooler]:
    with closing(Pooler()) as made:
        yield made


@pytest.fixture
def relay(transactional_db: None) -> Iterator[Relay]:
    with closing(Relay()) as made:
        yield made


def told(code: int, output: str, what: str) -> None:
    assert code == 1, output
    assert f"DATABASE_URL leads to a pooler such as PgBouncer, which {what}." in output
    assert "address of PostgreSQL itself" in output
    assert "Traceback" not in output


def test_no_process_starts_on_a_pooler_and_each_says_why(pooler: Pooler, tmp_path: Path) -> None:
    variables = {**pooler.variables, "ATOM_HOME": str(tmp_path), "PORT": str(free_port())}
    for command in ("up", "sync_worker", "doctor"):
        ended = manage(command, **variables)
        told(ended.returncode, ended.stdout + ended.stderr, DROPS)
    web = Running("-m", "daphne", "-b", "127.0.0.1", "-p", variables["PORT"], "atom.asgi:application", **variables)
    try:
        told(web.ends(), web.output, DROPS)
    finally:
        web.stop()


def test_nor_on_one_that_refuses_what_connections_ask_for(pooler: Pooler) -> None:
    pooler.drops = False
    ended = manage("sync_worker", **pooler.variables)
    told(ended.returncode, ended.stderr, REFUSES)


def test_a_relay_that_passes_everything_on_is_no_pooler(relay: Relay) -> None:
    assert in_between(ask(conninfo_to_dict(relay.variables["DATABASE_URL"]))) == ""


@pytest.mark.parametrize(
    ("pids", "what"),
    [
        ([1, 1, 2, 1], ""),
        ([1, 1, 1, 1], "has one server process for several connections"),
        ([1, 2, 1, 2], "passes a connection's statements to one server process after another"),
        ([1, 1, 2, 2], "passes a connection's statements to one server process after another"),
    ],
)
def test_connections_that_share_server_processes_are_a_poolers(pids: list[int], what: str) -> None:
    """Whatever it makes of what they ask for at their start."""
    assert in_between([Answer(name, name, pid) for name, pid in zip("aaba", pids, strict=True)]) == what


# -- PgBouncer itself -----------------------------------------------------------------------------------------------------


@contextmanager
def pgbouncer(home: Path, leads_to: str, mode: str, ignores: str) -> Iterator[str]:
    """The address of one that pools in `mode` before the address `leads_to`."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        missing("pgbouncer")
    user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None  # it refuses to run as root
    port, server = free_port(), conninfo_to_dict(leads_to)
    settings = home / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\natom = {leads_to}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = {mode}\nignore_startup_parameters = {ignores}\n"
    )
    with settings.open() as given:  # the folder is for nobody else
        process = subprocess.Popen([program, "/dev/stdin"], user=user, stdin=given, stderr=subprocess.DEVNULL)
    address = make_conninfo("", host="127.0.0.1", port=str(port), dbname="atom", user=str(server["user"]))
    try:
        wait_for(lambda: database_answers(address))
        yield address
    finally:
        stop(process)


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize(("ignores", "what"), [("options", DROPS), ("extra_float_digits", REFUSES)])
def test_pgbouncer_is_told_from_postgresql(relay: Relay, tmp_path: Path, mode: str, ignores: str, what: str) -> None:
    with pgbouncer(tmp_path, relay.variables["DATABASE_URL"], mode, ignores) as address:
        ended = manage("doctor", DATABASE_URL=address)
        told(ended.returncode, ended.stdout, what)


@pytest.mark.parametrize(
    ("mode", "what"), [("session", ""), ("transaction", "has one server process for several connections")]
)
def test_pgbouncers_server_processes_are_shared_in_transaction_mode_only(
    relay: Relay, tmp_path: Path, mode: str, what: str
) -> None:
    with pgbouncer(tmp_path, relay.variables["DATABASE_URL"], mode, "options") as address:
        answers: list[Any] = ask(conninfo_to_dict(address))
        assert in_between([answer._replace(found=answer.asked) for answer in answers]) == what
