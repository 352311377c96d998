"""Django's makemigrations, looking at the database as its owner: before the first migrate there is no run-time role."""

from __future__ import annotations

from typing import Any

from django.core.management.commands import makemigrations

from atom.db.base import as_owner


class Command(makemigrations.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        with as_owner():
            super().handle(*args, **options)
