"""manage.py up: everything in one process, from nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import threading
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from atom import demo, embedded
from atom.models import User
from atom.stopping import stopping_signals

HOST = "127.0.0.1"
STOP_SECONDS = 15.0  # for the worker to finish its pages
LOOK_SECONDS = 1.0  # between two looks at the database's server
AGAIN_SECONDS = 5.0  # until another try to start it


class Command(BaseCommand):
    help = (
        "Runs database, web, worker and sandbox in one process, with demo data on an empty database. Ctrl-C stops it."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=None, help="port on 127.0.0.1 (default: PORT, else 8000)")
        parser.add_argument("--no-demo", action="store_true", help="no demo data on an empty database")

    def handle(self, *args: Any, **options: Any) -> None:
        port = self._port(options["port"])
        home: Path = settings.ATOM_HOME
        try:
            home.mkdir(parents=True, exist_ok=True)
            opened = (home / "up.lock").open("w")
        except OSError as error:
            raise CommandError(f"ATOM_HOME can't be used: {error}") from None
        with opened as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CommandError(f"Atom is already running with ATOM_HOME {home}.") from None
            self._check_port(port)
            for number in set(stopping_signals()) - {signal.SIGINT}:
                signal.signal(number, _give_up)  # until there is something to finish: see `Serving`
            self._prepare(options["no_demo"])
            address = f"http://{HOST}:{port}"
            state = home / "up.json"
            state.write_text(json.dumps({"pid": os.getpid(), "address": address}))
            try:
                Serving(port, self._ready(address)).run()
            finally:
                state.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.stdout.write("Stopped.")

    def _port(self, given: int | None) -> int:
        if given is None:
            try:
                given = int(os.environ.get("PORT") or 8000)
            except ValueError:
                raise CommandError("PORT must be a number from 1 to 65535", returncode=2) from None
        if not 1 <= given <= 65_535:
            raise CommandError("The port must be a number from 1 to 65535", returncode=2)
        return given

    def _check_port(self, port: int) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                raise CommandError(f"Port {port} of {HOST} is in use: choose another with --port or PORT.") from None

    def _prepare(self, no_demo: bool) -> None:
        call_command("migrate", verbosity=0, interactive=False)
        if not no_demo and not settings.PRODUCTION and demo.is_empty():
            with transaction.atomic():
                demo.create()

    def _ready(self, address: str) -> Any:
        def say() -> None:
            lines = [f"Atom runs at {address}", "Ctrl-C stops it."]
            if not settings.PRODUCTION and User.objects.filter(email=demo.PEOPLE[0][0]).exists():
                people = ", ".join(email for email, *_ in demo.PEOPLE)
                lines.insert(1, f"Sign in as {people} with the password {demo.PASSWORD!r}.")
            with contextlib.suppress(OSError):  # who read along has had enough
                for line in lines:
                    self.stdout.write(line)
                self.stdout.flush()

        return say


def _give_up(number: int, frame: Any) -> None:
    """An exit in order: nothing else stops the embedded server."""
    sys.exit(128 + number)


async def _keep_database() -> None:
    """The embedded server runs, whoever kills it; the pools of web and worker find their way back by themselves."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            if embedded.is_gone():
                await asyncio.to_thread(embedded.start_again)
                print("The database's server was gone and has been started again.", file=sys.stderr, flush=True)
        except Exception as error:  # what it leaves behind may take a moment to end
            print(f"The database's server can't be started yet: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(AGAIN_SECONDS)


class Serving:
    """Daphne and a worker on one event loop, which the in-memory channel layer needs."""

    def __init__(self, port: int, say: Any) -> None:
        self.port, self.say = port, say
        self.stop: asyncio.Event | None = None
        self.worker: asyncio.Task[None] | None = None

    def run(self) -> None:
        import daphne.server  # noqa: F401 - installs the asyncio reactor
        from daphne.server import Server

        from atom.asgi import application

        self.server = Server(
            application=application,
            endpoints=[f"tcp:port={self.port}:interface={HOST}"],
            signal_handlers=False,
            ready_callable=self._started,
            http_timeout=None,
            websocket_handshake_timeout=20,
            server_name="atom",
        )
        self.server.run()

    def _started(self) -> None:
        from historical_sync.worker import run_worker

        loop = asyncio.get_event_loop()
        self.stop = asyncio.Event()
        self.worker = loop.create_task(run_worker(20, stop=self.stop))
        self.worker.add_done_callback(self._worker_ended)
        self.keeper = loop.create_task(_keep_database())
        for number in stopping_signals():
            loop.add_signal_handler(number, self._asked_to_stop)
        threading.Thread(target=self.say, daemon=True).start()

    def _asked_to_stop(self) -> None:
        assert self.stop is not None
        if self.stop.is_set():
            os._exit(130)  # the second one: at once
        self.stop.set()
        with contextlib.suppress(OSError):  # the terminal was closed
            print("Stopping: pages in hand are finished first. Once more to stop at once.", file=sys.stderr, flush=True)
        asyncio.get_event_loop().call_later(STOP_SECONDS, self._end)

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            print(f"The worker ended: {task.exception()!r}", file=sys.stderr, flush=True)
        self._end()

    def _end(self) -> None:
        from twisted.internet import reactor as current

        reactor: Any = current
        if reactor.running:
            reactor.stop()
