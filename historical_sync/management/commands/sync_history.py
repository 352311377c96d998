"""manage.py sync_history: starts an import, and watches it if asked to."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from channels.db import database_sync_to_async
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from atom.access import system_actor
from atom.errors import Refused
from atom.tenancy import across_tenants, tenant_scope
from atom.words import in_a_terminal
from historical_sync import actions, states
from historical_sync.models import HistoricalSyncJob
from historical_sync.moments import moment
from historical_sync.progress import describe
from historical_sync.serializers import job_json
from historical_sync.worker import run_worker
from integrations.models import Connection

EXIT_CODES = {states.COMPLETED: 0, states.FAILED: 1, states.PAUSED: 3, states.CANCELLED: 4}
LOOK_EVERY = 0.3  # seconds
LINE_EVERY = 5.0  # seconds, where there is no terminal
LET_GO_SECONDS = 15.0  # that workers have for letting go of a job that was cancelled
LISTED = 30  # connections named where an id is none
NOBODY = "No worker is running: the import waits for one. Start it with manage.py sync_worker, or use --inline."


class Command(BaseCommand):
    help = "Starts an import of a connection's history. Exit codes: 0 completed, 1 failed, 2 bad input, 3 paused, 4 cancelled."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("connection", metavar="CONNECTION", help="a connection's id")
        parser.add_argument(
            "--since", metavar="D", help="ISO date or date-time, UTC (default: the day three months back)"
        )
        parser.add_argument("--until", metavar="D", help="ISO date or date-time, UTC (default: now)")
        parser.add_argument("--streams", metavar="a,b", help="what to bring (default: all)")
        parser.add_argument("--full", action="store_true", help="import again what is covered already")
        parser.add_argument("--wait", action="store_true", help="show the progress until the import ends")
        parser.add_argument("--inline", action="store_true", help="work on it in this process: no worker needed")
        parser.add_argument("--json", action="store_true", help="print the job as the API shows it")

    def handle(self, *args: Any, **options: Any) -> None:
        connection = self._connection(options["connection"])
        actor = system_actor(connection.tenant, "command line")
        with tenant_scope(connection.tenant_id):
            try:
                job = actions.start_sync(
                    actor,
                    connection,
                    start=_moment(options["since"], "--since"),
                    end=_moment(options["until"], "--until", whole_day=True),
                    streams=None
                    if options["streams"] is None
                    else [s.strip() for s in options["streams"].split(",") if s.strip()],
                    full=options["full"],
                    trigger="command",
                )
            except Refused as error:
                raise CommandError(in_a_terminal(error.detail), returncode=2) from None
            if options["wait"] or options["inline"]:
                job = self._watch(actor, job, inline=options["inline"], quiet=options["json"])
            if options["json"]:
                self.stdout.write(json.dumps(job_json(actions.get_job(connection.tenant, job.id))))
            elif not (options["wait"] or options["inline"]):
                self.stdout.write(str(job.id))
            if options["wait"] or options["inline"]:
                # What was cancelled and is not yet let go of is cancelled all the same.
                sys.exit(EXIT_CODES.get(job.status, 4 if job.control == states.CONTROL_CANCEL else 1))

    def _connection(self, given: str) -> Connection:
        try:
            with across_tenants("an operator names a connection by its id"):
                return Connection.objects.select_related("tenant").get(id=UUID(given))
        except (ValueError, Connection.DoesNotExist):
            raise CommandError(f"There is no connection {given!r}. {_connections()}", returncode=2) from None

    def _watch(self, actor: Any, job: HistoricalSyncJob, *, inline: bool, quiet: bool) -> HistoricalSyncJob:
        """Shows the job until it ends or needs a person; Ctrl-C offers to cancel it or to leave it running."""
        tenant_id = job.tenant_id
        with _Display(quiet) as display:

            def over() -> bool:
                nonlocal job
                job = actions.get_job(actor.tenant, job.id)
                display.show(job)
                return job.status not in states.WORKABLE

            try:
                if inline:
                    if asyncio.run(_work_until(over, str(tenant_id))):
                        raise KeyboardInterrupt
                else:
                    told = False
                    with _ctrl_c_between_looks() as pressed:
                        while not over() and not pressed():
                            if not (told or job.worker_alive):  # type: ignore[attr-defined]
                                told = True
                                print(NOBODY, file=sys.stderr, flush=True)
                            time.sleep(LOOK_EVERY)
                    if pressed() and job.status in states.WORKABLE:
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                display.stop()
                if inline or _wants_to_cancel():
                    job = actions.get_job(actor.tenant, job.id)
                    if states.can_cancel(job.status, job.control):
                        job = actions.cancel(actor, job)
                        until = time.monotonic() + LET_GO_SECONDS
                        while not over() and time.monotonic() < until:
                            time.sleep(LOOK_EVERY)
                        print("Cancelled. What came in is kept.", file=sys.stderr)
                else:
                    print("It goes on in the background.", file=sys.stderr)
                    sys.exit(0)
            over()
        return job


def _connections() -> str:
    """The connections that there are, in words: their ids are written nowhere else that an operator looks."""
    with across_tenants("an operator looks for a connection's id"):
        rows = list(Connection.objects.select_related("tenant").order_by("tenant__slug", "created_at")[: LISTED + 1])
    if not rows:
        return "There is none yet: manage.py connect makes one."
    lines = [f"  {row.id}  {row.tenant.slug}  {in_a_terminal(str(row))}" for row in rows[:LISTED]]
    return "\n".join(["There are:", *lines, *(["  and more"] if len(rows) > LISTED else [])])


@contextmanager
def _ctrl_c_between_looks() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, which must not strike in a query: its connection could not be asked to cancel. A second one strikes."""
    times = 0

    def press(*_: object) -> None:
        nonlocal times
        times += 1
        if times > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: times > 0
    finally:
        signal.signal(signal.SIGINT, before)


async def _work_until(over: Any, tenant_id: str) -> bool:
    """Works until the job is over, or until Ctrl-C: True. Pages in hand are finished and the rest is given back."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)

    async def once() -> bool:
        with tenant_scope(tenant_id):
            return bool(await database_sync_to_async(over)())

    await run_worker(16, stop=stop, once=once)
    return stop.is_set()


def _wants_to_cancel() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input("\nCancel the import? [y/N] ").strip().lower().startswith("y")
    except (EOFError, KeyboardInterrupt):
        return False


def _moment(value: str | None, option: str, *, whole_day: bool = False) -> datetime | None:
    """A date (its beginning, or its end when `whole_day`) or date-time, UTC unless it says otherwise."""
    if value is None:
        return None
    try:
        return moment(value, end=whole_day)
    except ValueError:
        raise CommandError(
            f"{option} must be an ISO date or date-time, such as 2026-01-31, not {value!r}.", returncode=2
        ) from None


class _Display:
    """How far the job is, on standard error; nothing when `quiet`, lines instead of a bar where there is no terminal."""

    def __init__(self, quiet: bool) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.bar = Progress(
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[left]}"),
            console=self.console,
        )
        self.task = self.bar.add_task("", total=100, left="")
        self.live = Live(console=self.console, auto_refresh=False)
        self.said, self.next_at = "", 0.0

    def __enter__(self) -> _Display:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.live.stop()

    def show(self, job: HistoricalSyncJob) -> None:
        seen = describe(job)
        numbers = f"{job.records_processed:,} records · {job.brought:,} entities · {job.relationships_extracted:,} relationships"
        if job.records_skipped:
            numbers += f" · {job.records_skipped:,} unchanged"
        if seen.records_per_second:
            numbers += f" · {seen.records_per_second:,.0f}/s"
        left = "" if seen.seconds_remaining is None else f"{seen.seconds_remaining:,.0f} s left"
        phase = seen.phase
        if job.last_error_message and job.status in (states.FAILED, states.PAUSED):
            phase += f": {job.last_error_message}"
        phase = in_a_terminal(phase)
        if self.console.is_terminal:
            self.bar.update(self.task, completed=seen.percentage, left=left)
            self.live.update(Group(Text(phase), self.bar, Text(numbers)), refresh=True)
            return
        line = " · ".join(filter(None, (f"{seen.percentage:.0f} %", phase, numbers, left)))
        ended = job.status not in states.WORKABLE
        if line != self.said and (ended or time.monotonic() >= self.next_at):
            self.said, self.next_at = line, time.monotonic() + LINE_EVERY
            self.console.print(Text(line), soft_wrap=True)
