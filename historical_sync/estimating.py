"""How much a choice of range and streams would bring, before anything is started."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from asgiref.sync import async_to_sync
from django.utils import timezone

from atom.access import Actor
from atom.errors import Refused
from historical_sync import actions, planning
from historical_sync.models import HistoricalSyncJob
from historical_sync.targeting import gather_targets
from historical_sync.tasks import parallel_chunks
from integrations import gateway
from integrations.errors import ProviderError
from integrations.models import Connection

TIMEOUT = 10.0  # seconds that a person waits for it
SECONDS_A_CALL = 0.6  # of a provider of ordinary speed
RECORDS_A_SECOND = 3000  # what storing takes when the provider is quick


@dataclass(frozen=True, slots=True)
class RangeEstimate:
    """records, calls, seconds: None when unknown. quality: exact, about or unknown (of `records`)."""

    records: int | None
    quality: str
    calls: int | None
    seconds: float | None
    covered: bool = False


def estimate(
    actor: Actor, connection: Connection, *, start: datetime | None, end: datetime | None, streams: Sequence[str] | None
) -> RangeEstimate:
    """What an import of the range would bring. Asks the provider for counts where it can count.

    Raises the refusals that `actions.start_sync` would raise for the range, and Refused when the provider can't be asked.
    """
    since, until, names = actions.check_range(actor.tenant, connection, start, end, streams)
    job = HistoricalSyncJob(
        tenant=actor.tenant,
        connection=connection,
        streams=names,
        start_date=since,
        end_date=until,
        created_at=timezone.now(),
    )
    try:
        targets = async_to_sync(_targets)(job)
    except TimeoutError:
        return RangeEstimate(None, "unknown", None, None)
    except ProviderError as error:
        raise Refused(error.code, str(error)) from None
    records, quality = planning.total(targets)
    missing = [target for target in targets if target.missing]
    if not missing:
        return RangeEstimate(0, "exact", 0, 0.0, covered=True)
    if records is None:
        return RangeEstimate(None, "unknown", None, None)
    calls = 0
    for target in missing:
        counted = target.estimate.records if target.estimate is not None else 0
        calls += max(1, math.ceil(counted / target.stream.page_size))
    return RangeEstimate(
        records, quality, calls, max(calls * SECONDS_A_CALL / parallel_chunks(job), records / RECORDS_A_SECOND)
    )


async def _targets(job: HistoricalSyncJob) -> list[planning.Target]:
    async with asyncio.timeout(TIMEOUT):
        api = await gateway.open_api(job.connection)
        return await gather_targets(api, job)
