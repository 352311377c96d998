"""manage.py doctor: what is wrong or stuck in this deployment, and how to mend it."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand

from atom.words import in_a_terminal
from historical_sync import health


class Command(BaseCommand):
    help = "Lists what is wrong or stuck and how to mend it. Exit code 1 when something is."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print a list of {what, mend}")

    def handle(self, *args: Any, **options: Any) -> None:
        found = health.findings()
        if options["json"]:
            self.stdout.write(json.dumps([asdict(finding) for finding in found]))
        else:
            for finding in found:
                self.stdout.write(f"- {in_a_terminal(finding.what)}\n  {in_a_terminal(finding.mend)}")
            if not found:
                self.stdout.write("All is well.")
        if found:
            sys.exit(1)
