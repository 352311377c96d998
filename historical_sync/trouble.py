"""What goes wrong with providers, as a worker's log tells it: who reads that sees no tenant's pages."""

from __future__ import annotations

import logging
import time
from datetime import datetime

from historical_sync.models import HistoricalSyncJob
from historical_sync.retrying import Action
from integrations.errors import ReauthRequired, RetryLater

log = logging.getLogger(__name__)

AGAIN_SECONDS = 60.0  # between two lines of one job's same trouble, which may meet each of its parts
REMEMBERED = 1000  # troubles, before those are forgotten that were told longer ago than that
OUTCOMES = {
    Action.WAIT: "waits for the limit until",
    Action.LOOK_AGAIN: "looks again at",
    Action.RETRY: "tries again at",
    Action.RESTART: "begins the part anew at",
    Action.RECONNECT: "waits for a person to reconnect",
    Action.FAIL: "gave up",
}
USUAL = (Action.WAIT, Action.LOOK_AGAIN)  # what an import has to expect, and no trouble to an operator


class Trouble:
    """A worker's. Each of a job's troubles is told at once, and then once a minute with how often it came in between."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str, Action], tuple[float, int]] = {}

    def tell(
        self,
        job: HistoricalSyncJob,
        stream: str,
        error: Exception,
        code: str,
        action: Action,
        at: datetime | None = None,
    ) -> None:
        """stream: its name, "" for the job as a whole. at: when it goes on, if it does by itself."""
        key, now = (str(job.id), code, action), time.monotonic()
        told_at, kept_back = self.told.get(key, (-AGAIN_SECONDS, 0))
        if now < told_at + AGAIN_SECONDS:
            self.told[key] = told_at, kept_back + 1
            return
        self.told[key] = now, 0
        if len(self.told) > REMEMBERED:
            self.told = {key: told for key, told in self.told.items() if now < told[0] + AGAIN_SECONDS}
        whose = f"{job.connection.provider_name}{', ' if stream else ''}{stream}"
        # Of the others the words may hold what is the tenant's: a path, or the provider's own answer.
        words = f"{code}: {error}" if isinstance(error, RetryLater | ReauthRequired) else code
        when = f" {at:%Y-%m-%d %H:%M:%S} UTC" if at is not None else ""
        more = f" ({kept_back} more like this since the last line)" if kept_back else ""
        level = logging.INFO if action in USUAL else logging.WARNING
        log.log(level, "job %s of %s %s%s; %s%s", job.id, whose, OUTCOMES[action], when, words, more)
