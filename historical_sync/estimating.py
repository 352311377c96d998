"""How much a choice of range and streams would bring, before anything is started."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from asgiref.sync import async_to_sync
from django.utils import timezone

from atom.access import Actor
from atom.errors import Refused
from atom.turns import turn
from historical_sync import admission, planning
from historical_sync.budget import HEADROOM, pace
from historical_sync.models import HistoricalSyncJob
from historical_sync.targeting import gather_targets
from historical_sync.tasks import parallel_chunks
from integrations import gateway
from integrations.errors import ProviderError
from integrations.models import Connection
from integrations.providers.base import Window

TIMEOUT = 10.0  # seconds that a person waits for it
SECONDS_A_CALL = 0.6  # of a provider of ordinary speed
RECORDS_A_SECOND = 3000  # what storing takes when the provider is quick
YOUNG = timedelta(hours=1)  # what came since then and is not here is no missing history


@dataclass(frozen=True, slots=True)
class RangeEstimate:
    """records, calls, seconds: None when unknown. quality: exact, about or unknown (of `records`).

    partly: they are the least there is, as not all could be counted; uncounted: the labels of the streams that could not.
    """

    records: int | None
    quality: str
    calls: int | None
    seconds: float | None
    covered: bool = False
    partly: bool = False
    uncounted: tuple[str, ...] = ()


def estimate(
    actor: Actor,
    connection: Connection,
    *,
    start: datetime | None,
    end: datetime | None,
    streams: Sequence[str] | None,
    full: bool = False,
) -> RangeEstimate:
    """What an import of the range would bring, or read where it is `full`. Asks the provider for counts where it can count.

    Raises the refusals that `actions.start_sync` would raise for the range, and Refused when the provider can't be asked.
    """
    (found,) = estimates(actor, [connection], start=start, end=end, streams=streams, full=full)
    if isinstance(found, Refused):
        raise found
    return found


def estimates(
    actor: Actor,
    connections: Sequence[Connection],
    *,
    start: datetime | None,
    end: datetime | None,
    streams: Sequence[str] | None = None,
    full: bool = False,
) -> list[RangeEstimate | Refused]:
    """The same for several connections, whose providers are asked at the same time: an estimate or a refusal for each.

    Raises Refused when too much of the tenant's waits for providers.
    """
    jobs: list[HistoricalSyncJob | Refused] = []
    for connection in connections:
        try:
            since, until, names = admission.check_range(actor.tenant, connection, start, end, streams)
        except Refused as error:
            jobs.append(error)
            continue
        jobs.append(
            HistoricalSyncJob(
                tenant=actor.tenant,
                connection=connection,
                streams=names,
                start_date=since,
                end_date=until,
                full=full,
                created_at=timezone.now(),
            )
        )
    with turn(actor.tenant.id):
        return async_to_sync(_of_all)(jobs)


async def _of_all(jobs: Sequence[HistoricalSyncJob | Refused]) -> list[RangeEstimate | Refused]:
    return list(await asyncio.gather(*map(_of_one, jobs)))


async def _of_one(job: HistoricalSyncJob | Refused) -> RangeEstimate | Refused:
    if isinstance(job, Refused):
        return job
    try:
        targets = await _targets(job)
    except TimeoutError:
        return RangeEstimate(None, "unknown", None, None)
    except ProviderError as error:
        return Refused(error.code, str(error))
    records, quality = planning.total(targets)
    missing = [target for target in targets if target.missing]
    if all(_is_young(window, job) for target in missing for window in target.missing):
        return RangeEstimate(0, "exact", 0, 0.0, covered=True)
    if records is None:
        return RangeEstimate(None, "unknown", None, None)
    calls = 0
    for target in missing:
        counted = target.estimate.records if target.estimate is not None else 0
        calls += max(1, math.ceil(counted / target.stream.page_size))
    seconds = seconds_for(job, calls, records)
    uncounted = tuple(dict.fromkeys(target.stream.label for target in missing if target.estimate is None))
    return RangeEstimate(records, quality, calls, seconds, partly=bool(uncounted), uncounted=uncounted)


def _is_young(window: Window, job: HistoricalSyncJob) -> bool:
    """It is what an import that ended just now could not bring yet: what came while it ran, and what had not settled before."""
    return window.since > job.start_date and window.since >= job.created_at - YOUNG


def seconds_for(job: HistoricalSyncJob, calls: int, records: int) -> float:
    """How long so many calls and records take: at an ordinary pace, and by the provider's limits: once its first window is used up, and in
    any minute."""
    budget = job.connection.provider.budget
    burst, apart = pace(gateway.limit_a_minute(job.connection))
    allowed = (job.connection.budget_limit or budget.requests) * (1 - HEADROOM)
    return max(
        calls * SECONDS_A_CALL / parallel_chunks(job),
        records / RECORDS_A_SECOND,
        (calls / allowed - 1) * budget.seconds,
        (calls - burst) * (apart or 0.0),
    )


def together(found: Sequence[RangeEstimate], at_once: int) -> RangeEstimate:
    """All of them as one, `at_once` running at a time: what is known is added up, and is no better than the least known."""
    known = [one for one in found if one.records is not None]
    quality = next((q for q in ("unknown", "about") if any(one.quality == q for one in found)), "exact")
    if not known:
        return RangeEstimate(None, "unknown", None, None)
    seconds = [one.seconds or 0.0 for one in known]
    return RangeEstimate(
        sum(one.records or 0 for one in known),
        quality,
        sum(one.calls or 0 for one in known),
        max(max(seconds), sum(seconds) / at_once),
        covered=all(one.covered for one in found),
        partly=len(known) < len(found) or any(one.partly for one in known),
    )


async def _targets(job: HistoricalSyncJob) -> list[planning.Target]:
    async with asyncio.timeout(TIMEOUT), gateway.visit_api(job.connection) as api:
        return await gather_targets(api, job)
