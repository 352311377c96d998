"""What each plan includes. The only place that knows; whatever begins work asks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

DAY = timedelta(days=1)
ACTIVE_JOBS = 3  # pending, running or paused jobs of one tenant at a time, on every plan


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan. None means without limit.

    history: how far back an import may reach. records_a_month: records stored in a calendar month (UTC).
    connections: connected at once. schedules: scheduled incremental syncs. parallel_chunks: chunks of one job worked on at once.
    chunks_at_once: the same of all jobs together; not less than ACTIVE_JOBS.
    """

    slug: str
    name: str
    history: timedelta | None
    records_a_month: int | None
    connections: int | None
    schedules: bool
    parallel_chunks: int
    chunks_at_once: int


PLANS: dict[str, Plan] = {
    plan.slug: plan
    for plan in (
        Plan("free", "Free", 92 * DAY, 10_000, 2, False, 2, 3),
        Plan("solo", "Solo", 366 * DAY, 250_000, 5, True, 4, 8),
        Plan("team", "Team", 3 * 366 * DAY, 5_000_000, 25, True, 8, 16),
        Plan("enterprise", "Enterprise", None, None, None, True, 16, 32),
    )
}


def cheapest(allows: Callable[[Plan], bool]) -> Plan | None:
    """The first plan for which `allows(plan)` holds: what an error names as the way on. None if no plan does."""
    return next((plan for plan in PLANS.values() if allows(plan)), None)
