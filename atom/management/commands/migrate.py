"""Django's migrate, run as the owner of the schema, one at a time, ending with the run-time roles' rights."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import ProgrammingError, connections

from atom.db.base import as_owner
from atom.rls import CREATE_ROLES, GRANT_MEMBERSHIP, GRANTS, IS_MEMBER

LOOK_EVERY = 0.5  # seconds


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        with as_owner():
            connection = connections[options["database"]]
            with connection.cursor() as cursor:
                _wait_for_others(cursor)
                _have_roles(cursor)
            super().handle(*args, **options)
            with connection.cursor() as cursor:
                cursor.execute(GRANTS)


def _wait_for_others(cursor: Any) -> None:
    """Where several machines of a deployment start at once, the second finds what the first has done. Held until the connection's end.

    Asked again and again rather than waited for: who waits in a statement keeps its view of the database, for which others may wait.
    """
    while True:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended('migrate', 0))")
        if cursor.fetchone()[0]:
            return
        time.sleep(LOOK_EVERY)


def _have_roles(cursor: Any) -> None:
    """The run-time roles exist and the user is a member of them, or CommandError says what a superuser has to do."""
    try:
        cursor.execute(CREATE_ROLES)
        cursor.execute(IS_MEMBER)
        if cursor.fetchone()[0]:
            return
        cursor.execute(GRANT_MEMBERSHIP)
        cursor.execute(IS_MEMBER)
        if not cursor.fetchone()[0]:
            raise ProgrammingError("the user does not inherit the rights of its roles")
    except ProgrammingError as error:
        cursor.execute("SELECT current_user")
        [name] = cursor.fetchone()
        raise CommandError(
            f"The run-time roles can't be had: {str(error).strip()}. As a superuser: CREATE ROLE atom_app NOLOGIN; "
            f'CREATE ROLE atom_system NOLOGIN; ALTER ROLE "{name}" INHERIT; GRANT atom_app, atom_system TO "{name}";'
        ) from None
