"""How many records a tenant has had in this month (UTC), against the plan's number of a month."""

from __future__ import annotations

from datetime import UTC, datetime

from django.db.models import F, Q, Sum

from atom.models import Tenant
from historical_sync.models import HistoricalSyncJob

# Whether a job may bring no more: it has had what was left when it began, or all jobs of the tenant together have had the month's. The
# latter costs nothing where the plan has no such number. {job}: the job's row.
USED_UP = """
(COALESCE({job}.records_processed >= {job}.records_allowance, false)
 OR CASE WHEN %(records_a_month)s::bigint IS NULL THEN false
         ELSE %(records_a_month)s::bigint <= (
            SELECT COALESCE(sum(of_month.records_processed - of_month.records_before), 0)
            FROM historical_sync_historicalsyncjob of_month
            WHERE of_month.tenant_id = %(tenant)s AND (of_month.created_at >= %(month)s OR of_month.renewed_at >= %(month)s)) END)
"""


def month_of(moment: datetime) -> datetime:
    """The beginning of its calendar month (UTC)."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def records_this_month(tenant: Tenant, now: datetime) -> int:
    """Records stored by the jobs that were started in this calendar month (UTC), and since they were resumed in it by older ones."""
    month = month_of(now)
    jobs = HistoricalSyncJob.objects.filter(tenant=tenant).filter(Q(created_at__gte=month) | Q(renewed_at__gte=month))
    return jobs.aggregate(total=Sum(F("records_processed") - F("records_before")))["total"] or 0
