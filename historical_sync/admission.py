"""Whether an import may begin or go on, and what of: its range and streams, and the refusals of the contract.

What refuses raises Refused with the contract's code. Nothing is written here. Who starts or resumes an import asks under the locks that keep the answer true (`actions.py`).
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from django.utils import timezone

from atom.errors import InvalidInput, Refused
from atom.models import Tenant
from atom.plans import ACTIVE_JOBS, Plan, cheapest
from atom.words import span
from historical_sync import states
from historical_sync.allowance import records_this_month
from historical_sync.models import DataRemoval, HistoricalSyncJob
from integrations.models import Connection, ConnectionStatus
from integrations.providers import PROVIDERS

DEFAULT_MONTHS = 3
# Someone who asks for "three months" on a plan that has three months is not off by the hours of a day, nor by another where their calendar
# is on the day before, or UTC's on the day after the one on which they were offered that.
DEPTH_GRACE = timedelta(days=2)
RETRY_TOO_MANY = 60  # seconds; when one of three jobs may be done


def default_start(tenant: Tenant, until: datetime) -> datetime:
    """Where an import up to `until` (UTC) begins that names no beginning: with the day three months before, or the earliest of the plan.

    With the day, as a date does: of two imports that were started one after the other neither asks for moments that the other left out.
    """
    start = months_back(until, DEFAULT_MONTHS)
    earliest = within_depth(tenant, start, timezone.now())
    # A range that ends before that is refused by what the plan says of its own three months.
    return (earliest if earliest < until else start).replace(hour=0, minute=0, second=0, microsecond=0)


def months_back(moment: datetime, months: int) -> datetime:
    """`months` calendar months before; the day is cut to the month's last."""
    index = moment.year * 12 + moment.month - 1 - months
    year, month = divmod(index, 12)
    return moment.replace(year=year, month=month + 1, day=min(moment.day, calendar.monthrange(year, month + 1)[1]))


def check_range(
    tenant: Tenant, connection: Connection, start: datetime | None, end: datetime | None, streams: Sequence[str] | None
) -> tuple[datetime, datetime, list[str]]:
    """(since, until, streams) as `start_sync` would take them; raises what it would raise for them."""
    now = timezone.now()
    since, until = range_of(tenant, start, end, now)
    names = streams_of(connection, streams)
    check_connection(connection)
    check_plan(tenant, since, now, scheduled=False)
    check_records(tenant, now)
    return since, until, names


def range_of(tenant: Tenant, start: datetime | None, end: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """(since, until) in UTC of what was asked for, or of what is usual where it was not. Raises InvalidInput."""
    until = end or now
    if until.year < 1980:
        raise InvalidInput("invalid", "The range must not end before 1980.", "end_date")
    since = start or default_start(tenant, min(until, now).astimezone(UTC))
    if since >= now:
        raise InvalidInput("range_in_future", "The range must begin in the past.", "start_date")
    if until > now + timedelta(days=1):
        raise InvalidInput("range_in_future", "The range must not end in the future.", "end_date")
    until = min(until, now)
    if since >= until:
        raise InvalidInput("start_after_end", "The range must begin before it ends.", "start_date")
    if since.year < 1980:
        at_fault = "end_date" if start is None else "start_date"
        raise InvalidInput("invalid", "The range must not begin before 1980.", at_fault)
    return since.astimezone(UTC), until.astimezone(UTC)


def streams_of(connection: Connection, wanted: Sequence[str] | None) -> list[str]:
    """Names of the streams to import, in the provider's order; None wants all. Raises InvalidInput."""
    check_known(connection)
    known = [stream.name for stream in connection.provider.streams]
    if wanted is None:
        return known
    if not wanted:
        raise InvalidInput("invalid", "Choose at least one kind of object.", "streams")
    for name in wanted:
        if name not in known:
            raise InvalidInput(
                "unknown_stream", f"{connection.provider_name} has no {name!r}; it has {', '.join(known)}.", "streams"
            )
    return [name for name in known if name in set(wanted)]


def check_connection(connection: Connection) -> None:
    """Refuses while the account can't be read, or is not to be."""
    check_kept(connection)
    check_known(connection)
    if connection.status != ConnectionStatus.CONNECTED:
        raise Refused("connection_reauth_required", f"Access to {connection} was lost or given up. Reconnect it first.")


def check_known(connection: Connection) -> None:
    """Refuses where the provider is none of ours any more."""
    if connection.provider_slug not in PROVIDERS:
        raise Refused("invalid_state", f"Nothing of {connection.provider_name} can be read here any more.")


def check_idle(tenant: Tenant, connection: Connection) -> None:
    """Refuses while another import of the connection goes on."""
    if (other := HistoricalSyncJob.objects.of(tenant).active().filter(connection=connection).first()) is not None:
        words = f"{connection} is already being imported. Wait for it, or cancel it first."
        if other.status == states.PAUSED:  # it does not end by itself
            words = f"An import of {connection} is paused. Resume it, or cancel it first."
        raise Refused("job_already_active", words)


def check_startable(tenant: Tenant, connection: Connection) -> None:
    """Why no import of the connection could start anyway: who is told that there is nothing to go on from would try one next."""
    check_connection(connection)
    check_idle(tenant, connection)


def check_kept(connection: Connection) -> None:
    """Refuses while what the connection brought is being removed."""
    if is_being_removed(connection):
        raise Refused("invalid_state", f"The data of {connection} is being removed. Import it again once that is done.")


def check_not_removed_since(job: HistoricalSyncJob) -> None:
    """A job remembers what it brought, and would be taken for complete without it."""
    if DataRemoval.objects.filter(
        tenant=job.tenant_id, connection=job.connection, completed_at__gt=job.created_at
    ).exists():
        raise Refused(
            "invalid_state", "What this import brought was removed with its connection's data. Start a new import."
        )


def is_being_removed(connection: Connection) -> bool:
    return DataRemoval.objects.filter(tenant=connection.tenant_id, connection=connection, completed_at=None).exists()


def check_room(tenant: Tenant) -> None:
    """Refuses while the tenant has as many active imports as it may."""
    if HistoricalSyncJob.objects.of(tenant).active().count() >= ACTIVE_JOBS:
        raise Refused(
            "too_many_concurrent_jobs",
            f"{ACTIVE_JOBS} imports are active already. Wait for one to end, or cancel one.",
            status_code=429,
            retry_after=RETRY_TOO_MANY,
        )


def check_plan(tenant: Tenant, since: datetime, asked_at: datetime, *, scheduled: bool) -> None:
    """Refuses what the plan does not include, and says which does. asked_at: the moment that the plan's history is counted from."""
    plan = tenant.limits
    if scheduled and not plan.schedules:
        raise _plan_refusal("plan_feature", "Scheduled syncs are", plan, cheapest(lambda p: p.schedules))
    if plan.history is not None and since < asked_at - plan.history - DEPTH_GRACE:
        way_on = cheapest(lambda p: p.history is None or since >= asked_at - p.history - DEPTH_GRACE)
        refusal = _plan_refusal("plan_history_depth", f"History older than {span(plan.history)} is", plan, way_on)
        refusal.attr = "start_date"
        raise refusal


def check_records(tenant: Tenant, now: datetime) -> None:
    """Refuses when the plan leaves no records for the rest of this month."""
    limit = tenant.limits.records_a_month
    if limit is not None and records_this_month(tenant, now) >= limit:
        way_on = cheapest(lambda p: p.records_a_month is None or p.records_a_month > limit)
        raise _plan_refusal("plan_records_exhausted", f"More than {limit:,} records a month are", tenant.limits, way_on)


def within_depth(tenant: Tenant, start: datetime, now: datetime) -> datetime:
    """The start, or the earliest that the plan allows."""
    history = tenant.limits.history
    return start if history is None else max(start, now - history)


def _plan_refusal(code: str, what: str, plan: Plan, way_on: Plan | None) -> Refused:
    offer = f" The {way_on.name} plan includes it." if way_on else ""
    return Refused(code, f"{what} not part of the {plan.name} plan.{offer}", status_code=403)
