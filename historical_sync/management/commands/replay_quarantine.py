"""manage.py replay_quarantine: maps a job's quarantined records again, after a fix."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from atom.access import system_actor
from atom.errors import Refused
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import actions
from historical_sync.models import HistoricalSyncJob


class Command(BaseCommand):
    help = "Maps a job's quarantined records again, without asking the provider. Exit codes: 0 none is left, 1 some are, 2 bad input."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("job", metavar="JOB", help="a job's id")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with across_tenants("an operator names a job by its id"):
                job = HistoricalSyncJob.objects.select_related("tenant").get(id=UUID(options["job"]))
        except (ValueError, HistoricalSyncJob.DoesNotExist):
            raise CommandError(f"There is no job {options['job']!r}.", returncode=2) from None
        with tenant_scope(job.tenant_id):
            try:
                done = actions.replay_quarantine(system_actor(job.tenant, "command line"), job)
            except Refused as error:
                raise CommandError(error.detail, returncode=2) from None
        self.stdout.write(f"{done.words()}.")
        if done.left:
            raise SystemExit(1)
