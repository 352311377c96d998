"""What Atom does by itself: once a minute over all tenants, and at once after a job of a tenant ended.

The first makes up for what the second missed: notices of ends can be lost, and each part may be run at any time.
"""

from __future__ import annotations

import logging
from datetime import datetime

from django.utils import timezone

from atom.tenancy import tenant_scope
from historical_sync import queueing, schedules

log = logging.getLogger(__name__)


def by_the_clock(now: datetime | None = None) -> None:
    """Does all that is due at `now`. What goes wrong in one part keeps no other from its turn."""
    now = now or timezone.now()
    for part in (queueing.start_all_waiting, schedules.start_due):
        try:
            part(now)
        except Exception:
            log.exception("upkeep failed, trying again in a minute")


def after_an_end(tenant_id: str) -> None:
    """What follows from the end, or pause, of a job of the tenant."""
    with tenant_scope(tenant_id):
        queueing.start_waiting(tenant_id)
