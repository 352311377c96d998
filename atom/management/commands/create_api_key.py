"""manage.py create_api_key: a program's access to a tenant."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from atom import audit
from atom.models import ApiKey, Role, Tenant
from atom.tenancy import tenant_scope


class Command(BaseCommand):
    help = "Creates an API key and prints it; it can't be shown again."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--tenant", required=True, metavar="SLUG")
        parser.add_argument("--role", required=True, choices=Role.values)
        parser.add_argument("--name", required=True, metavar="N")

    def handle(self, *args: Any, **options: Any) -> None:
        tenant = Tenant.objects.filter(slug=options["tenant"]).first()
        if tenant is None:
            raise CommandError(f"There is no tenant {options['tenant']!r}.", returncode=2)
        name = options["name"].strip()
        if not name or len(name) > 50 or not name.isprintable():
            raise CommandError("--name must have from 1 to 50 printable characters.", returncode=2)
        with tenant_scope(tenant.id):
            _, key = ApiKey.objects.create_key(tenant=tenant, role=options["role"], name=name)
            audit.record(tenant.id, audit.OPERATOR, "key.created", name, f"as {options['role']}")
        self.stdout.write(key)
