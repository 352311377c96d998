"""Django's flush, run as the owner of the schema: the run-time role may not truncate."""

from __future__ import annotations

from typing import Any

from django.core.management.commands import flush

from atom.db.base import as_owner


class Command(flush.Command):
    def handle(self, **options: Any) -> None:
        with as_owner():
            super().handle(**options)
