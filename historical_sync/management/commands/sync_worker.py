"""manage.py sync_worker: works on queued imports until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from atom.stopping import stopping_signals
from historical_sync import health
from historical_sync.tasks import QUEUES
from historical_sync.worker import run_worker


class Command(BaseCommand):
    help = "Works on queued imports. SIGTERM or Ctrl-C: finish the page, give the rest back, exit."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--concurrency",
            type=int,
            default=20,
            help="chunks worked on at once, beside what new imports begin with and upkeep (default 20)",
        )
        parser.add_argument("--queues", default=",".join(QUEUES), help="comma-separated queues (default: all)")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["concurrency"] <= 1000:
            raise CommandError("--concurrency must be from 1 to 1000", returncode=2)
        queues = [name.strip() for name in options["queues"].split(",") if name.strip()]
        if not queues or not set(queues) <= set(QUEUES):
            raise CommandError(
                f"--queues takes some of {', '.join(QUEUES)}, comma-separated, not {options['queues']!r}.", returncode=2
            )
        health.count_start()
        asyncio.run(self._run(options["concurrency"], queues))

    async def _run(self, concurrency: int, queues: list[str]) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in stopping_signals():
            loop.add_signal_handler(number, stop.set)
        with contextlib.suppress(OSError):  # no room for the log keeps nobody from working
            self.stderr.write(f"Working on {', '.join(queues)} with {concurrency} chunks at once")
        await run_worker(concurrency, queues=queues, stop=stop)
