"""Django's migrate, run as the owner of the schema, ending with the run-time roles' rights."""

from __future__ import annotations

from typing import Any

from django.core.management.commands import migrate
from django.db import connections

from atom.db.base import as_owner
from atom.rls import CREATE_ROLES, GRANT_MEMBERSHIP, GRANTS


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        with as_owner():
            connection = connections[options["database"]]
            with connection.cursor() as cursor:
                cursor.execute(CREATE_ROLES)
                cursor.execute(
                    "SELECT bool_and(pg_has_role(current_user, oid, 'member')) FROM pg_roles WHERE rolname IN ('atom_app', 'atom_system')"
                )
                if not cursor.fetchone()[0]:
                    cursor.execute(GRANT_MEMBERSHIP)
            super().handle(*args, **options)
            with connection.cursor() as cursor:
                cursor.execute(GRANTS)
