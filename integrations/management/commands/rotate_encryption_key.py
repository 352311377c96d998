"""manage.py rotate_encryption_key: re-encrypts what is sealed with the newest key."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError
from django.db import models, transaction

from atom.tenancy import across_tenants
from integrations.crypto import UndecipherableError, rotate

BATCH = 200
NAMED = 5  # of those that no key opens


class Command(BaseCommand):
    help = "Re-encrypts all credentials and quarantined records with the first of ATOM_ENCRYPTION_KEYS. May be interrupted and run again."

    def handle(self, *args: Any, **options: Any) -> None:
        lost: list[str] = []
        with across_tenants("every tenant's secrets move to the new key"):
            for model in apps.get_models():
                for field in model._meta.fields:
                    if isinstance(field, models.BinaryField) and field.name.startswith("sealed_"):
                        lost += self._rotate(model, field.name)
        if lost:
            more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
            raise CommandError(f"{', '.join(lost[:NAMED])}{more}: {UndecipherableError()}")

    def _rotate(self, model: type[models.Model], field: str) -> list[str]:
        """Those that no key opens, which keep nobody else from the new one."""
        lost: list[str] = []
        manager, last, done = model._default_manager, None, 0
        while True:
            with transaction.atomic():
                rows = manager.order_by("pk").select_for_update()
                batch = list((rows.filter(pk__gt=last) if last else rows)[:BATCH])
                for row in batch:
                    try:
                        setattr(row, field, rotate(getattr(row, field)))
                    except UndecipherableError:
                        lost.append(f"{model._meta.verbose_name} {row.pk}")
                    else:
                        row.save(update_fields=[field])
            if not batch:
                break
            last, done = batch[-1].pk, done + len(batch)
        self.stdout.write(f"{model._meta.verbose_name}: {done - len(lost)} re-encrypted")
        return lost
