"""The states of a job and every legal way between them. Pure: no database, no clock.

Every change of a job's status is a conditional UPDATE that names the statuses it may leave, in Python or, where workers do it, in
SQL; `tests/test_state_machine.py` holds each of them to this table. Database constraints say what a job in each status looks like.
"""

from __future__ import annotations

from typing import Final

PENDING: Final = "pending"
RUNNING: Final = "running"
PAUSED: Final = "paused"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"

STATUSES: Final = (PENDING, RUNNING, PAUSED, COMPLETED, FAILED, CANCELLED)
ACTIVE: Final = (PENDING, RUNNING, PAUSED)  # holds the connection, counts against the tenant's limit
WORKABLE: Final = (PENDING, RUNNING)  # workers may take its chunks
FINISHED: Final = (COMPLETED, CANCELLED, FAILED)  # nothing happens without a person

# (from, to): when
TRANSITIONS: Final[dict[tuple[str, str], str]] = {
    (PENDING, RUNNING): "a worker takes it up",
    (PENDING, PAUSED): "paused before a worker took it up, or the connection needs a reconnect",
    (PENDING, CANCELLED): "cancelled before a worker took it up",
    (PENDING, FAILED): "planning failed",
    (RUNNING, PAUSED): "a person paused it, access was lost, or the plan's records of the month are used up",
    (RUNNING, COMPLETED): "every chunk is done, but for what a scheduled job was refused as the one before it",
    (RUNNING, FAILED): "every chunk is done or failed, and at least one failed",
    (RUNNING, CANCELLED): "cancelled; workers have let go of its chunks",
    (PAUSED, PENDING): "resumed by a person, by a reconnect, or when the plan has records again",
    (PAUSED, CANCELLED): "cancelled while paused",
    (FAILED, PENDING): "resumed: what is missing is tried again",
}

CHUNK_PENDING: Final = "pending"
CHUNK_RUNNING: Final = "running"
CHUNK_COMPLETED: Final = "completed"
CHUNK_FAILED: Final = "failed"
CHUNK_SPLIT: Final = "split"  # replaced by two halves
CHUNK_STATUSES: Final = (CHUNK_PENDING, CHUNK_RUNNING, CHUNK_COMPLETED, CHUNK_FAILED, CHUNK_SPLIT)

CONTROL_NONE: Final = "none"
CONTROL_PAUSE: Final = "pause"
CONTROL_CANCEL: Final = "cancel"
CONTROLS: Final = (CONTROL_NONE, CONTROL_PAUSE, CONTROL_CANCEL)

# provider_quota: for clients to know; so far a job waits for a provider's quota, however long, and does not pause.
PAUSE_REASONS: Final = ("user", "reauth_required", "provider_quota", "plan")

NO_ROOM: Final = "no_room"  # a job's last_error_code while it waits for room on the database's disk


def sources(target: str) -> tuple[str, ...]:
    """The statuses from which `target` can be reached: what a conditional UPDATE names."""
    return tuple(a for a, b in TRANSITIONS if b == target)


def can_cancel(status: str, control: str = CONTROL_NONE) -> bool:
    return status in ACTIVE and control != CONTROL_CANCEL


def can_pause(status: str, control: str = CONTROL_NONE) -> bool:
    return status in WORKABLE and control == CONTROL_NONE


def can_resume(status: str) -> bool:
    return status in (PAUSED, FAILED)
