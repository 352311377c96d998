"""What Atom does by itself: once a minute over all tenants, and at once after a job of a tenant ended.

The first makes up for what the second missed: notices of ends can be lost, and each part may be run at any time.
"""

from __future__ import annotations

import logging
from datetime import datetime

from django.contrib.sessions.models import Session
from django.db import OperationalError, connection
from django.utils import timezone
from psycopg_pool import PoolTimeout

from atom import audit
from atom.access import system_actor
from atom.errors import Refused
from atom.models import Tenant
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import (
    actions,
    delivering,
    ending,
    forgetting,
    notices,
    queueing,
    rollcall,
    schedules,
    states,
    tasks,
)
from historical_sync.models import HistoricalSyncJob, StaleEntity

log = logging.getLogger(__name__)


def by_the_clock(now: datetime | None = None) -> None:
    """Does all that is due at `now`. What goes wrong in one part keeps no other from its turn."""
    now = now or timezone.now()
    parts = (
        _go_on, queueing.start_all_waiting, schedules.start_due, _tell, ending.tell_of_ends, _tidy, notices.forget_old, forgetting.forget_parts,
        rollcall.forget_old, _forget_sessions, audit.forget_addresses,
    )  # fmt: skip
    for part in parts:
        try:
            part(now)
        except OperationalError as error:
            log.warning("upkeep failed, trying again in a minute: %s", error)
            if isinstance(error.__cause__, PoolTimeout):
                return  # the database is away: each other part would wait as long, and a worker that is to stop for all of them
        except Exception:
            log.exception("upkeep failed, trying again in a minute")


def _go_on(now: datetime) -> None:
    """Resumes what the plan's limit of a month stopped, where there are records again: schedules skip what is paused."""
    with across_tenants("the scheduler looks after every tenant"):
        paused = HistoricalSyncJob.objects.filter(status=states.PAUSED, pause_reason="plan").order_by("created_at")
        found = list(paused.values_list("id", "tenant_id"))
    for job_id, tenant_id in found:
        with tenant_scope(tenant_id):
            try:
                tenant = Tenant.objects.get(id=tenant_id)
                actions.resume(system_actor(tenant, "Atom"), actions.get_job(tenant, job_id))
            except Refused:
                pass  # not yet, or it can't: its page says why it waits
            except Exception:
                log.exception("job %s could not be resumed", job_id)


def _tell(now: datetime) -> None:
    """Has delivered what is due and what nobody noticed."""
    for tenant_id in delivering.tenants_with_something_due(now):
        tasks.tell(tenant_id)


def _tidy(now: datetime) -> None:
    """Has graphs tidied that updates left something in: of jobs that run on, or that ended unnoticed."""
    with across_tenants("what updated records no longer say"):
        tenants = set(StaleEntity.objects.values_list("tenant_id", flat=True).distinct())
    for tenant_id in tenants:
        tasks.tidy_soon(tenant_id)


def _forget_sessions(now: datetime) -> None:
    """Django leaves those that ran out where they are."""
    Session.objects.filter(expire_date__lt=now).delete()


def _note_successes(tenant_id: str) -> None:
    """When an import of each connection last completed."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE integrations_connection connection SET last_success_at = done.at
            FROM integrations_connection c
            -- Of the newest few: a schedule leaves tens of thousands.
            CROSS JOIN LATERAL (
                SELECT max(newest.completed_at) FILTER (WHERE newest.status = 'completed') AS at
                FROM (SELECT status, completed_at FROM historical_sync_historicalsyncjob
                      WHERE connection_id = c.id AND tenant_id = c.tenant_id ORDER BY created_at DESC LIMIT 10) newest) done
            WHERE connection.id = c.id AND c.tenant_id = %(tenant)s
              AND (connection.last_success_at IS NULL OR connection.last_success_at < done.at)
            """,
            {"tenant": tenant_id},
        )


def _tidy_after(tenant_id: str) -> None:
    if StaleEntity.objects.filter(tenant_id=tenant_id).exists():
        tasks.tidy_soon(tenant_id)


def after_an_end(tenant_id: str) -> None:
    """What follows from the end, or pause, of a job of the tenant; telling of it is still to be done (`delivering`)."""
    with tenant_scope(tenant_id):
        for part in (
            lambda: _note_successes(tenant_id),
            lambda: notices.spread(tenant_id),
            lambda: queueing.start_waiting(tenant_id),
            lambda: _tidy_after(tenant_id),
        ):
            try:
                part()
            except Exception:
                log.exception("what follows from an end failed, trying again within a minute")
