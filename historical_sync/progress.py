"""What a job's numbers mean to a person: percentage, speed, time left, phase in words. Pure.

Everything comes from committed work. The percentage never goes back (a chunk's progress only grows) and is 100 only at the end.
Speed is that of the recent past; a job that waits for its provider has no speed and no end time, but a time when it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from django.utils import timezone

from historical_sync import states

MEASURE_AT_LEAST = 1.0  # seconds of work before a speed means anything
QUIET_SECONDS = 10  # without a page, after which that is no slow page any more


class Work(Protocol):
    """The fields of HistoricalSyncJob that a percentage is made of."""

    @property
    def status(self) -> str: ...

    @property
    def progress(self) -> float: ...

    @property
    def progress_total(self) -> float: ...


class JobNumbers(Protocol):
    """The fields that progress is made of."""

    status: str
    control: str
    pause_reason: str
    planned: bool
    phase_detail: str
    progress: float
    progress_total: float
    records_processed: int
    records_skipped: int
    total_chunks: int
    failed_chunks: int
    waiting_until: datetime | None
    last_error_code: str
    last_error_at: datetime | None
    last_page_at: datetime | None
    earlier_pace_at: datetime | None
    earlier_pace_progress: float
    earlier_pace_records: int


@dataclass(frozen=True, slots=True)
class JobProgress:
    """percentage: 0-100. records_per_second, seconds_*: None when unknown or waiting. phase: words for people.

    quiet: it is at work, and no page has come in for a while; erring: but errors have.
    """

    percentage: int
    records_per_second: float | None
    seconds_remaining: float | None
    seconds_low: float | None
    seconds_high: float | None
    waiting_until: datetime | None
    phase: str
    quiet: bool
    erring: bool


def describe(job: JobNumbers, now: datetime | None = None) -> JobProgress:
    """The job as a person sees it at `now` (aware UTC, default: the present)."""
    now = now or timezone.now()
    waiting = (
        job.waiting_until if job.waiting_until and job.waiting_until > now and job.status in states.WORKABLE else None
    )
    at_work = job.status == states.RUNNING and waiting is None and not _nobody_works(job)
    pace = _pace(job, now) if at_work else None
    records_per_second = low = high = remaining = None
    if pace is not None:
        records_per_second, work_per_second = pace
        left = max(job.progress_total - job.progress, 0.0)
        if work_per_second > 0:
            remaining = left / work_per_second
            # Early on little has been measured and much is ahead; the range settles as the work goes on.
            done = job.progress / job.progress_total if job.progress_total else 0.0
            spread = 0.1 + 0.5 * (1 - done) ** 2
            low, high = remaining * (1 - min(spread, 0.8)), remaining * (1 + spread)
    quiet = at_work and _is_quiet(job, now)
    erring = (
        quiet and job.last_error_at is not None and (job.last_page_at is None or job.last_error_at > job.last_page_at)
    )
    return JobProgress(
        percentage(job), records_per_second, remaining, low, high, waiting, _phase(job, waiting), quiet, erring
    )


def percentage(job: Work) -> int:
    """How far the job is: 100 only when it is completed."""
    if job.status == states.COMPLETED:
        return 100
    if job.progress_total <= 0:
        return 0
    return max(0, min(99, int(100 * job.progress / job.progress_total)))


def _nobody_works(job: JobNumbers) -> bool:
    """As `JobQuerySet.with_names` read it; who did not ask is not told."""
    return not getattr(job, "worker_alive", True)


def _is_quiet(job: JobNumbers, now: datetime) -> bool:
    return job.last_page_at is None or (now - job.last_page_at).total_seconds() > QUIET_SECONDS


def _pace(job: JobNumbers, now: datetime) -> tuple[float, float] | None:
    """(records per second, work per second) since the earlier pace point."""
    since, until = job.earlier_pace_at, job.last_page_at
    if since is None or until is None:
        return None
    # Up to the last commit, not up to now: a slow page must not look like a slow-down before it is one.
    if _is_quiet(job, now):
        until = now
    seconds = (until - since).total_seconds()
    if seconds < MEASURE_AT_LEAST:
        return None
    handled = job.records_processed + job.records_skipped
    return max(0, handled - job.earlier_pace_records) / seconds, max(
        0.0, job.progress - job.earlier_pace_progress
    ) / seconds


def _phase(job: JobNumbers, waiting: datetime | None) -> str:
    if job.control == states.CONTROL_CANCEL:
        return "Cancelling"
    if job.control == states.CONTROL_PAUSE:
        return "Pausing"
    nobody = _nobody_works(job)
    if job.status == states.PENDING:
        return "Waiting: no worker is running" if nobody else "Waiting for a worker"
    if job.status == states.RUNNING:
        if nobody:
            return "Interrupted: no worker is running"
        if waiting is not None:
            if job.last_error_code == states.NO_ROOM:
                return f"Atom's database has no room left; trying again at {waiting:%H:%M:%S} UTC"
            if job.last_error_code == "provider_throttled":
                return f"Waiting for the provider's limit until {waiting:%H:%M} UTC"
            if job.last_error_code == "provider_preparing":
                return f"The provider prepares an answer; looking again at {waiting:%H:%M:%S} UTC"
            return f"The provider had a problem; trying again at {waiting:%H:%M:%S} UTC"
        if not job.planned:
            return "Planning"
        return f"Importing {job.phase_detail}" if job.phase_detail else "Importing"
    if job.status == states.PAUSED:
        return {
            "reauth_required": "Access was lost: reconnect to go on",
            "provider_quota": "The provider's quota is used up",
            "plan": "Your plan's records for this month are used up: it goes on with the next month",
        }.get(job.pause_reason, "Paused")
    if job.status == states.COMPLETED:
        if job.total_chunks == 0:
            return "Nothing to import: this range is already here"
        if job.failed_chunks:
            return "Completed without what is refused"
        if job.records_processed == 0:
            return "Completed: nothing new"
        return "Completed"
    if job.status == states.FAILED:
        return "Failed: some of the range is missing" if job.failed_chunks else "Failed"
    return "Cancelled"
