"""Real processes of the project, as somebody in a terminal would start them."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import httpx2
import psycopg
from psycopg.conninfo import make_conninfo

from tests.forked import Forked

PROJECT = Path(__file__).resolve().parent.parent
# What the test run itself has set must not decide how the processes under test are set up.
OURS = ("ATOM_", "DATABASE_URL", "REDIS_URL", "PORT", "DJANGO_", "PYTEST_")


def environment(**given: str) -> dict[str, str]:
    """This process's environment without the project's own variables, plus `given`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**kept, "PYTHONUNBUFFERED": "1", **given}


class Running:
    """A process whose output is collected as it comes. `output`: standard output and error, as a terminal shows them.

    `manage.py` is forked (see `tests.forked`) unless `anew`; for all else Python itself is started.
    """

    def __init__(self, *arguments: str, anew: bool = False, **variables: str) -> None:
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        ours, theirs = os.pipe()
        self._said = os.fdopen(ours)
        with os.fdopen(theirs, "w") as said, Path(os.devnull).open() as nothing:
            files: dict[str, Any] = {"stdin": nothing, "stdout": said, "stderr": said}
            self.process: Forked | subprocess.Popen[bytes]
            if arguments[0] == "manage.py" and not anew:
                self.process = Forked(*arguments, env=environment(**variables), **files)
            else:
                self.process = subprocess.Popen(
                    [sys.executable, *arguments], cwd=PROJECT, env=environment(**variables), **files
                )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._said:
            for line in self._said:
                self._new.put(line.rstrip("\n"))
        self._new.put(None)

    @property
    def output(self) -> str:
        self._collect()
        return "\n".join(self.lines)

    def _collect(self) -> None:
        while True:
            try:
                line = self._new.get_nowait()
            except queue.Empty:
                return
            if line is not None:
                self.lines.append(line)

    def says(self, words: str, seconds: float = 60.0) -> str:
        """The first line that contains `words`; fails when the process ends or the time is over without one."""
        until = time.monotonic() + seconds
        while True:
            found = next((line for line in self.lines if words in line), None)
            if found is not None:
                return found
            try:
                line = self._new.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"nothing said {words!r} within {seconds} s:\n{self.output}") from None
            if line is None:
                raise AssertionError(f"ended ({self.process.wait()}) without saying {words!r}:\n{self.output}")
            self.lines.append(line)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self, seconds: float = 40.0) -> int:
        """The exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.output}") from None
        self._reader.join(5)
        self._collect()
        return code

    def stop(self) -> None:
        """Ends it, politely at first."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"had to be killed:\n{self.output}") from None
        self._reader.join(5)


class Up(Running):
    """`manage.py up` on the given ATOM_HOME, serving. `address`: "http://127.0.0.1:PORT"."""

    def __init__(self, home: Path, port: int, *arguments: str, anew: bool = False) -> None:
        super().__init__("manage.py", "up", *arguments, anew=anew, ATOM_HOME=str(home), PORT=str(port))
        self.home = home
        try:
            self.address = self.says("Atom runs at", 120).rsplit(" ", 1)[-1]
            self.says("Ctrl-C")
        except AssertionError:
            self.process.kill()
            self.process.wait()
            raise

    def sandbox(self, **settings: Any) -> None:
        """Sets the stand-ins' switches: latency_ms, faults, reset, ...

        A reset raises GitHub's hourly limit: the tests of a run are one account to it, whose 5,000 requests are nearly used up by them.
        """
        if settings.get("reset"):
            settings = {"rate_limit": 1_000_000, **settings}
        reply = httpx2.post(f"{self.address}/sandbox/__control", json=settings, verify=False)
        assert reply.status_code == 200, reply.text

    def manage(self, *arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
        """A command beside it, on the same ATOM_HOME."""
        return manage(*arguments, input=input, ATOM_HOME=str(self.home))


def manage(*arguments: str, input: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """`manage.py` with `arguments`, to its end."""
    with TemporaryFile("w+") as given, TemporaryFile("w+") as out, TemporaryFile("w+") as errors:
        given.write(input)
        given.seek(0)
        process = Forked("manage.py", *arguments, env=environment(**variables), stdin=given, stdout=out, stderr=errors)
        try:
            code = process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        out.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), errors.read())


def on_the_tests_database(**given: str) -> dict[str, str]:
    """Variables for a process that works on the running test's database (which must be committed: `transactional_db`)."""
    from django.db import connection

    found = connection.settings_dict
    parts = {"host": found["HOST"], "port": found["PORT"], "user": found["USER"], "password": found["PASSWORD"]}
    return {"DATABASE_URL": make_conninfo("", dbname=found["NAME"], **{k: v for k, v in parts.items() if v}), **given}


@contextmanager
def silent_mail_server() -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """One that takes connections and says nothing, and the variables that lead a process to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(40)
        yield (
            server,
            {
                "ATOM_EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
                "ATOM_EMAIL_HOST": "127.0.0.1",
                "ATOM_EMAIL_PORT": str(server.getsockname()[1]),
            },
        )


def database_answers(address: str) -> bool:
    """Whether a server, or what stands before it, takes connections by now."""
    try:
        psycopg.connect(address).close()
    except psycopg.OperationalError:
        return False
    return True
