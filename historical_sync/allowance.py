"""How many records a tenant has had in this month (UTC), against the plan's number of a month.

Each connection has a row a month, which grows in the transaction that stores what it counts. Only one job of a connection is active at
a time, so nobody waits for it who would not wait for the job's row; and what a tenant has had is the sum of as many rows as it has
connections, however many jobs brought it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

from django.db import models
from django.db.models import Sum
from django.utils import timezone

from atom.access import Actor
from atom.models import Tenant
from integrations.models import Connection

# Counts `stored` records of the tenant's connection; before the job's row is written, as that is locked until the end.
COUNT = """
INSERT INTO historical_sync_monthlyrecords AS had (tenant_id, connection_id, month, records)
VALUES (%(tenant)s, %(connection)s, %(month)s, %(stored)s)
ON CONFLICT (connection_id, month) DO UPDATE SET records = had.records + excluded.records
"""

# Whether the tenant has had the month's records. Costs nothing where the plan has no such number.
USED_UP = """
(CASE WHEN %(records_a_month)s::bigint IS NULL THEN false
      ELSE %(records_a_month)s::bigint <= (
          SELECT COALESCE(sum(had.records), 0) FROM historical_sync_monthlyrecords had
          WHERE had.tenant_id = %(tenant)s AND had.month = %(month)s) END)
"""


class MonthlyRecords(models.Model):
    """Records that a connection brought in a calendar month (UTC), by the time they were stored. month: its first day."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    connection = models.ForeignKey(Connection, on_delete=models.CASCADE, related_name="+", db_index=False)
    month = models.DateField()
    records = models.BigIntegerField(db_default=0, default=0)

    objects: ClassVar[models.Manager[MonthlyRecords]] = models.Manager()

    class Meta:
        verbose_name_plural = "monthly records"
        indexes = [models.Index(fields=["tenant", "month"], name="months_of_tenant")]
        constraints = [models.UniqueConstraint(fields=["connection", "month"], name="month_once")]

    def __str__(self) -> str:
        return f"{self.connection} in {self.month:%Y-%m}"


def month_of(moment: datetime) -> datetime:
    """The beginning of its calendar month (UTC)."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def records_this_month(tenant: Tenant, now: datetime) -> int:
    """Records of the tenant that were stored in this calendar month (UTC)."""
    had = MonthlyRecords.objects.filter(tenant=tenant, month=month_of(now).date())
    return had.aggregate(total=Sum("records"))["total"] or 0


def usage_of(actor: Actor) -> tuple[int, int]:
    """What of the plan is used: records this month, connections."""
    return records_this_month(actor.tenant, timezone.now()), Connection.objects.of(actor.tenant).live().count()
