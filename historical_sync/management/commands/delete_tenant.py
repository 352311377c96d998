"""manage.py delete_tenant: a tenant leaves, with all that is its."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from atom.errors import Refused
from atom.models import Tenant
from atom.words import in_a_terminal
from historical_sync import offboarding


class Command(BaseCommand):
    help = (
        "Deletes a tenant with all that it connected and imported, its members and its log, for good; says what there is and does nothing"
        " without --yes-delete. Ended half-way it can be run again and goes on. Exit codes: 0 done, 1 run it again, 2 bad input."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug", metavar="SLUG")
        parser.add_argument("--yes-delete", metavar="SLUG", help="the same once more: delete it")

    def handle(self, *args: Any, **options: Any) -> None:
        slug, again = options["slug"], options["yes_delete"]
        tenant = Tenant.objects.filter(slug=slug).first()
        if tenant is None:
            raise CommandError(f"There is no tenant {slug!r}.", returncode=2)
        if again not in (None, slug):
            raise CommandError(f"--yes-delete must name the tenant once more, {slug!r}, not {again!r}.", returncode=2)
        called = in_a_terminal(f"{tenant} ({slug})")
        self.stdout.write(
            "\n".join([f"Of {called} there are:", *(f"  {one}" for one in offboarding.belongings(tenant))])
        )
        if again is None:
            self.stdout.write(f"Nothing was deleted. To delete all of it for good: --yes-delete {slug}")
            return
        try:
            offboarding.delete(
                tenant, lambda words: self.stdout.write(words), lambda words: self.stderr.write(in_a_terminal(words))
            )
        except Refused as error:
            raise CommandError(in_a_terminal(error.detail)) from None
        self.stdout.write(f"{called} is deleted.")
