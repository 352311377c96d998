"""What is due by the clock, over all tenants. Run by one worker of all once a minute (`tasks.tick`); each part may be run at any time."""

from __future__ import annotations

import logging
from datetime import datetime

from django.utils import timezone

from historical_sync import schedules

log = logging.getLogger(__name__)


def by_the_clock(now: datetime | None = None) -> None:
    """Does all that is due at `now`. What goes wrong in one part keeps no other from its turn."""
    now = now or timezone.now()
    for part in (schedules.start_due,):
        try:
            part(now)
        except Exception:
            log.exception("upkeep failed, trying again in a minute")
