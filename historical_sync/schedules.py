"""Regular incremental syncs: a connection's interval, for days with an hour and for weeks with a weekday if wanted, and starting what is due.

A run that was missed (nobody worked, the connection was not to be reached) is made up once, whatever number of them was missed. A run
that falls into a running import is skipped. One for which there is no room waits for it. While access is lost nothing runs.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from atom import audit
from atom.access import Actor, system_actor
from atom.errors import InvalidInput, Refused
from atom.models import Tenant
from atom.plans import cheapest
from atom.tenancy import across_tenants, tenant_scope
from atom.words import uncapfirst
from historical_sync import actions
from historical_sync.models import WEEKDAYS, SyncSchedule
from integrations.models import Connection, ConnectionStatus

log = logging.getLogger(__name__)

LABEL = "Schedule"  # who starts what is due
# Choice -> (words, interval).
INTERVALS: dict[str, tuple[str, timedelta]] = {
    "15m": ("Every 15 minutes", timedelta(minutes=15)),
    "1h": ("Every hour", timedelta(hours=1)),
    "6h": ("Every 6 hours", timedelta(hours=6)),
    "1d": ("Every day", timedelta(days=1)),
    "7d": ("Every week", timedelta(days=7)),
}
# Choice -> the hour of the day, in UTC; "": none in particular.
HOURS: dict[str, int | None] = {"": None} | {f"{hour:02}": hour for hour in range(24)}
# Choice -> the day of the week, in UTC; "": none in particular.
DAYS: dict[str, int | None] = {"": None} | {name.lower(): day for day, name in enumerate(WEEKDAYS)}
STARTED, SKIPPED, WAITING, REFUSED = "started", "skipped", "waiting", "refused"
# What the refusals of a start mean for a schedule; any other: this run is given up and says why.
_OUTCOMES = {"job_already_active": SKIPPED, "too_many_concurrent_jobs": WAITING, "connection_reauth_required": WAITING}


def schedules_of(tenant: Tenant) -> QuerySet[SyncSchedule]:
    """The tenant's schedules."""
    return SyncSchedule.objects.filter(tenant=tenant)


def plan_refusal(tenant: Tenant) -> str:
    """Why the tenant's plan has no schedules, in words; "" when it has."""
    if tenant.limits.schedules:
        return ""
    way_on = cheapest(lambda plan: plan.schedules)
    offer = f" The {way_on.name} plan includes them." if way_on else ""
    return f"Scheduled syncs are not part of the {tenant.limits.name} plan.{offer}"


def takes_hour(interval: timedelta) -> bool:
    """Whether an hour of the day says anything beside the interval."""
    return interval >= timedelta(days=1)


def takes_weekday(interval: timedelta) -> bool:
    """Whether a day of the week says anything beside the interval."""
    return interval >= timedelta(days=7)


def in_words(choice: str, hour: int | None, weekday: int | None) -> str:
    """Every week on Monday at 02:00 UTC; of a key of INTERVALS."""
    words, interval = INTERVALS[choice]
    if weekday is not None and takes_weekday(interval):
        words += f" on {WEEKDAYS[weekday]}"
    if hour is not None and takes_hour(interval):
        words += f" at {hour:02}:00 UTC"
    return words


def choose(
    actor: Actor,
    connection: Connection,
    choice: str,
    *,
    enabled: bool,
    hour: str = "",
    weekday: str = "",
    now: datetime | None = None,
) -> SyncSchedule:
    """Sets how often `connection` is synced (a key of INTERVALS), and whether it is; for days at which hour (of HOURS), for weeks on
    which day (of DAYS).

    The next run is one interval from now; with an hour or a day, when it was last that by then, and never later than without. Who only
    chooses another hour, or none, puts nothing off: it goes by the run that was planned. Another day comes within a week.

    What is chosen again as it was stays as it is. Raises InvalidInput, and Refused when the plan has no schedules: turning off is
    always allowed.
    """
    now = now or timezone.now()
    if choice not in INTERVALS:
        raise InvalidInput("invalid", "Choose one of the intervals.", "interval")
    if hour not in HOURS:
        raise InvalidInput("invalid", "Choose one of the hours.", "hour")
    if weekday not in DAYS:
        raise InvalidInput("invalid", "Choose one of the days of the week.", "weekday")
    if enabled and (words := plan_refusal(actor.tenant)):
        raise Refused("plan_feature", words, status_code=403)
    interval = INTERVALS[choice][1]
    at = HOURS[hour] if takes_hour(interval) else None
    on = DAYS[weekday] if takes_weekday(interval) else None
    with transaction.atomic():
        # The connection's row: two first choices at once make one schedule.
        connection = Connection.objects.of(actor.tenant).select_for_update(no_key=True).get(id=connection.id)
        schedule = schedules_of(actor.tenant).filter(connection=connection).first()
        chosen: dict[str, Any] = {"interval": interval, "hour": at, "weekday": on, "enabled": enabled}
        if schedule is not None and all(getattr(schedule, name) == value for name, value in chosen.items()):
            return schedule
        was_on = schedule is not None and schedule.enabled
        planned = None
        if schedule is not None and schedule.interval == interval and enabled and schedule.enabled:
            planned = schedule.next_run_at
        chosen["next_run_at"] = _first_run(now, interval, at, on, planned)
        schedule, _ = SyncSchedule.objects.update_or_create(tenant=actor.tenant, connection=connection, defaults=chosen)
        if enabled or was_on:  # what was off and stays it has changed nothing that runs
            detail = uncapfirst(in_words(choice, at, on)) if enabled else "off"
            audit.record(actor.tenant.id, actor.label, "schedule.changed", str(connection), detail)
        return schedule


def _first_run(
    now: datetime, interval: timedelta, hour: int | None, weekday: int | None, planned: datetime | None
) -> datetime:
    now = now.astimezone(UTC)
    latest = now + interval
    if planned is not None:
        latest = min(latest, max(planned.astimezone(UTC), now))
    elif hour is None and weekday is None:
        return latest
    step = timedelta(days=1)
    at = datetime.combine(latest, time(hour, tzinfo=UTC) if hour is not None else now.timetz())
    if weekday is not None:
        at -= timedelta(days=(at.weekday() - weekday) % 7)
        step = timedelta(days=7)
    if at > latest:
        at -= step
    return at if at > now else at + step


def start_due(now: datetime) -> int:
    """Starts what is due at `now`, of every tenant; how many imports were started."""
    with across_tenants("the scheduler looks after every tenant"):
        due = list(
            SyncSchedule.objects.filter(
                enabled=True, next_run_at__lte=now, connection__status=ConnectionStatus.CONNECTED
            )
            .order_by("next_run_at")
            .values_list("id", "tenant_id")
        )
    started = 0
    for schedule_id, tenant_id in due:
        with tenant_scope(tenant_id):
            try:
                started += _start(tenant_id, schedule_id, now)
            except Exception:
                # One tenant's trouble must not keep the others waiting; it is tried again in a minute.
                log.exception("schedule %s could not be run", schedule_id)
    return started


def _start(tenant_id: UUID, schedule_id: UUID, now: datetime) -> bool:
    """Runs one schedule that was seen to be due, unless somebody else just did; whether an import was started."""
    with transaction.atomic():
        tenant = Tenant.objects.get(id=tenant_id)
        schedule = (
            schedules_of(tenant)
            .filter(id=schedule_id, enabled=True, next_run_at__lte=now)
            .select_for_update(of=("self",), skip_locked=True)
            .select_related("connection")
            .first()
        )
        if schedule is None:
            return False
        try:
            job = actions.start_incremental(system_actor(tenant, LABEL), schedule.connection, trigger="schedule")
        except Refused as error:
            schedule.last_result, schedule.last_detail = _OUTCOMES.get(error.code, REFUSED), error.detail
        else:
            schedule.last_result, schedule.last_detail, schedule.last_job = STARTED, "", job
        if schedule.last_result != WAITING:
            schedule.last_run_at = now
            # In steps of whole days, or weeks, an hour of the day stays what it is: UTC has no summer time.
            schedule.next_run_at += schedule.interval * ((now - schedule.next_run_at) // schedule.interval + 1)
        schedule.save(update_fields=["last_run_at", "last_result", "last_detail", "last_job", "next_run_at"])
        return schedule.last_result == STARTED
