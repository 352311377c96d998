"""Starts that wait for room: several imports asked for at once, of which the limits let some begin.

Each start goes through `actions.start_sync`, whose limits are counted under the tenant's lock: nothing here decides that there is
room. What waits is tried in its order when a job ends and once a minute.
"""

from __future__ import annotations

import logging
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from atom.access import Actor, Right
from atom.errors import Refused
from atom.models import Membership, Tenant
from atom.plans import ACTIVE_JOBS
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import actions
from historical_sync.automation import QueuedStart
from historical_sync.models import HistoricalSyncJob
from integrations.models import Connection

log = logging.getLogger(__name__)

WAITS = f"{ACTIVE_JOBS} imports are active; it starts by itself when one of them ends."
WAITS_FOR_THE_MONTH = "Your plan's records for this month are used up; it starts by itself with the next month (UTC)."
TOO_MANY_JOBS = "too_many_concurrent_jobs"
_WORDS = {TOO_MANY_JOBS: WAITS, "plan_records_exhausted": WAITS_FOR_THE_MONTH}
# Refusals that pass by themselves, or when somebody reconnects: what is queued goes on waiting.
_PASSING = (*_WORDS, "job_already_active", "connection_reauth_required")


def waiting_of(tenant: Tenant) -> QuerySet[QueuedStart]:
    """The tenant's starts that wait, in their order."""
    return QueuedStart.objects.filter(tenant=tenant)


def start_or_queue(
    actor: Actor, connection: Connection, *, start: datetime | None = None, end: datetime | None = None
) -> HistoricalSyncJob | QueuedStart:
    """Starts an import of everything in the range, or has it wait when there is no room for it. Else raises as `start_sync` does."""
    try:
        return actions.start_sync(actor, connection, start=start, end=end)
    except Refused as error:
        if error.code != TOO_MANY_JOBS:
            raise
        values = {
            "start_date": start, "end_date": end, "reason": WAITS, "refused": False,
            "created_by": actor.user, "created_by_label": actor.label,
        }  # fmt: skip
        queued, _ = QueuedStart.objects.update_or_create(
            tenant=actor.tenant, connection=connection, defaults=values, create_defaults=values
        )
        return queued


def take_back(tenant: Tenant, queued_id: UUID) -> bool:
    """What waits does not start; False when it does not wait (any more)."""
    return waiting_of(tenant).filter(id=queued_id).delete()[0] > 0


def start_waiting(tenant_id: UUID | str) -> int:
    """Starts what waits of the tenant as far as there is room; how many were started. The caller is in the tenant's scope."""
    tenant = Tenant.objects.filter(id=tenant_id).first()
    if tenant is None:  # deleted since
        return 0
    started = 0
    for queued_id in list(waiting_of(tenant).filter(refused=False).values_list("id", flat=True)):
        outcome = _start(tenant, queued_id)
        if outcome == TOO_MANY_JOBS:
            break
        started += outcome == ""
    return started


def start_all_waiting(now: datetime) -> None:
    """The same for every tenant: for what was not noticed when a job ended."""
    with across_tenants("the scheduler looks after every tenant"):
        tenants = list(
            QueuedStart.objects.filter(refused=False).order_by().values_list("tenant_id", flat=True).distinct()
        )
    for tenant_id in tenants:
        with tenant_scope(tenant_id):
            try:
                start_waiting(tenant_id)
            except Exception:
                log.exception("what waits of tenant %s could not be started", tenant_id)


def _start(tenant: Tenant, queued_id: UUID) -> str:
    """Starts one; "" when it was started, else the code of why not."""
    with transaction.atomic():
        queued = (
            waiting_of(tenant)
            .filter(id=queued_id, refused=False)
            .select_for_update(of=("self",), skip_locked=True)
            .select_related("connection", "created_by")
            .first()
        )
        if queued is None:
            return "gone"
        try:
            actions.start_sync(
                _who(tenant, queued),
                queued.connection,
                start=queued.start_date,
                end=queued.end_date,
                asked_at=queued.created_at,
            )
        except Refused as error:
            queued.reason = _WORDS.get(error.code, error.detail)
            queued.refused = error.code not in _PASSING
            queued.save(update_fields=["reason", "refused"])
            return error.code
        queued.delete()
        return ""


def _who(tenant: Tenant, queued: QueuedStart) -> Actor:
    """Whoever asked for it, with the rights that they have now."""
    membership = Membership.objects.filter(tenant=tenant, user=queued.created_by, user__is_active=True).first()
    if membership is not None:
        actor = Actor(tenant, membership.role, queued.created_by_label, queued.created_by)
        if actor.may(Right.OPERATE):
            return actor
    raise Refused(
        "permission_denied", f"{queued.created_by_label} may not start imports here any more.", status_code=403
    )
