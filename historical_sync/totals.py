"""Imports by the day they ended: what analytics draws from, however many jobs there are.

A trigger on the table of jobs keeps the totals (`migrations/*_daily_totals.py`), in the transaction that ends a job, opens it again,
moves an ended job's counters (a replay) or deletes it; so they equal the jobs by construction, whoever changes them. While a job runs
the trigger's condition is false and nothing happens: an unfinished job is read live.
"""

from __future__ import annotations

from typing import ClassVar

from django.db import models

from atom.models import Tenant
from integrations.models import Connection


class DailyTotals(models.Model):
    """The jobs of a connection that ended on a day (UTC). `seconds`: from their starts to their ends, without those in which
    they were paused, had failed and were not yet tried again, or waited for their provider."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    connection = models.ForeignKey(Connection, on_delete=models.CASCADE, related_name="+", db_index=False)
    day = models.DateField()
    completed = models.IntegerField(db_default=0, default=0)
    failed = models.IntegerField(db_default=0, default=0)
    cancelled = models.IntegerField(db_default=0, default=0)
    records = models.BigIntegerField(db_default=0, default=0)
    unchanged = models.BigIntegerField(db_default=0, default=0)
    quarantined = models.BigIntegerField(db_default=0, default=0)
    seconds = models.FloatField(db_default=0, default=0)

    objects: ClassVar[models.Manager[DailyTotals]] = models.Manager()

    class Meta:
        verbose_name_plural = "daily totals"
        indexes = [models.Index(fields=["tenant", "day"], name="totals_of_tenant")]
        constraints = [models.UniqueConstraint(fields=["connection", "day"], name="totals_once")]

    def __str__(self) -> str:
        return f"{self.connection} on {self.day}"
