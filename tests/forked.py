"""Processes of the project without the second of CPU in which Python imports a thousand modules of other packages.

They are forked from a process that has imported these and nothing of the project. From there on it is `python manage.py ...` from its first
line: arguments, environment and settings, files, signals and exit are its own. `tests.test_journey` starts Python itself.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

PROJECT = Path(__file__).resolve().parent.parent
# Most of what commands import of other packages, as far as it asks for no settings.
IMPORTED = (
    "aiohttp", "channels.db", "cryptography.fernet", "django.contrib.admin", "django.contrib.auth.password_validation",
    "django.contrib.postgres.fields", "django.core.management", "django.db.backends.postgresql.base", "django.db.migrations.loader",
    "environs", "httpx2", "lucide", "orjson", "procrastinate", "rich.console", "standardwebhooks",
)  # fmt: skip
LENGTH = struct.Struct("!I")


class Forked:
    """As `subprocess.Popen` for `python *arguments` in the project's folder. Of Python's own options it knows -W, by its name alone.

    A signal that ended it is its `returncode`, negative.
    """

    def __init__(self, *arguments: str, env: dict[str, str], stdin: IO[Any], stdout: IO[Any], stderr: IO[Any]) -> None:
        self.returncode: int | None = None
        self._told, theirs = socket.socketpair()
        with theirs:
            _ask_for({"arguments": arguments, "environment": env}, theirs, stdin, stdout, stderr)
        self.pid = int(self._told.recv(16))

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.returncode = int(self._told.recv(16))
            self._told.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            select.select([self._told], [], [], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


_lock = threading.Lock()
_parent: tuple[subprocess.Popen[bytes], socket.socket] | None = None


def _ask_for(what: dict[str, Any], *files: Any) -> None:
    """Has a process forked with these files, of which it is told by the first. The parent is started once and ends with this process."""
    global _parent
    with _lock:
        if _parent is None:
            ours, theirs = socket.socketpair()
            with theirs:
                arguments = [sys.executable, "-u", __file__, str(theirs.fileno())]
                started = subprocess.Popen(arguments, cwd=PROJECT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
            _parent = started, ours
        text = json.dumps(what).encode()
        socket.send_fds(_parent[1], [LENGTH.pack(len(text))], [file.fileno() for file in files])
        _parent[1].sendall(text)


# -- the parent ---------------------------------------------------------------------------------------------------------------


def be_the_parent(asked: socket.socket) -> list[str]:
    """Forks what is asked for until nobody asks any more. Returns in each of the forked, with its arguments."""
    for name in IMPORTED:
        import_module(name)
    gc.collect()
    gc.freeze()
    told: dict[int, socket.socket] = {}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake)
    while True:
        ready, _, _ = select.select([asked, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _bury(told)
        if asked not in ready:
            continue
        head, files, _, _ = socket.recv_fds(asked, LENGTH.size, 4)
        if not head:
            sys.exit()
        text = b""
        while len(text) < LENGTH.unpack(head)[0]:
            text += asked.recv(65536)
        pid = os.fork()
        if pid:
            told[pid] = socket.socket(fileno=files[0])
            told[pid].sendall(b"%-15d\n" % pid)
            for file in files[1:]:
                os.close(file)
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which a test run that `nohup` started ignores
        for number, file in enumerate(files[1:]):
            os.dup2(file, number)
        for inherited in (*files, woken, wake):
            os.close(inherited)
        for end in (asked, *told.values()):
            end.close()
        what = json.loads(text)
        os.environ.clear()
        os.environ.update(what["environment"])
        return list(what["arguments"])


def _bury(told: dict[int, socket.socket]) -> None:
    while told:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with told.pop(pid) as end, suppress(OSError):  # who asked for it may not care
            end.sendall(b"%d" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    sys.path[0] = str(PROJECT)
    try:
        given = be_the_parent(socket.socket(fileno=int(sys.argv[1])))
    except KeyboardInterrupt:
        sys.exit(130)
    if given[0] == "-W":
        warnings.simplefilter(given[1])
        del given[:2]
    sys.argv = given
    runpy.run_path(given[0], run_name="__main__")
