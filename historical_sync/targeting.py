"""What a job has to bring: its streams in their partitions, minus what the ledger says is here, with the provider's counts."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from channels.db import database_sync_to_async

from historical_sync import coverage, planning
from historical_sync.coverage import BEGINNING, Place, Spans
from historical_sync.models import HistoricalSyncJob
from integrations import gateway
from integrations.errors import AccessDenied, PartlyDenied, ReauthRequired
from integrations.http import Api
from integrations.providers.base import WHOLE, Clock, Estimate, Partition, Stream, Window, WindowKind

# How far before its beginning an incremental sync reads once more where a row's window is not on its last change.
READ_AGAIN = {Clock.UPDATED: timedelta(0), Clock.CREATED: timedelta(days=1), Clock.EVENT: timedelta(days=14)}
COUNTS_AT_MOST = 60  # count probes of one plan
COUNTS_AT_ONCE = 8
COUNT_TIMEOUT = 15.0  # seconds for all of them


@dataclass(frozen=True, slots=True)
class History:
    """A connection's, as far as a job of its kind asks. By stream and partition what is here (`covered`) and what earlier imports were to
    bring and did not (`left`), by stream what was asked for; `oldest`: as far back as the plan goes."""

    covered: Mapping[Place, Spans]
    asked: Mapping[str, tuple[datetime, datetime]]
    left: Mapping[Place, Spans]
    oldest: datetime


async def gather_targets(api: Api, job: HistoricalSyncJob) -> list[planning.Target]:
    """The job's targets, with counts where they are cheap.

    When the provider does not let us list what the partitioned streams are listed by, or not all of it, these have one target each
    without a partition: the chunk made of it lists them again, and fails in words while the others finish.
    """
    provider = job.connection.provider
    streams = [stream for stream in provider.streams if stream.name in job.streams]
    partitions: Sequence[Partition] = ()
    if provider.partitions is not None and any(stream.partitioned for stream in streams):
        try:
            partitions = await gateway.partitions_of(job.connection, api)
        except PartlyDenied as error:
            partitions = (*error.found, WHOLE)
        except AccessDenied:
            partitions = (WHOLE,)
    history = await database_sync_to_async(_history)(job)
    targets = [
        planning.Target(stream, partition, missing(job, stream, partition, history))
        for stream in streams
        for partition in (partitions if stream.partitioned else (WHOLE,))
    ]
    return await count_targets(api, targets)


async def listed_targets(api: Api, job: HistoricalSyncJob, stream: Stream, window: Window) -> list[planning.Target]:
    """The targets, within `window`, of a partitioned stream that could not be listed when the job was planned."""
    assert job.connection.provider.partitions is not None
    partitions = await gateway.partitions_of(job.connection, api)
    history = await database_sync_to_async(_history)(job)
    wanted = [(partition, missing(job, stream, partition, history)) for partition in partitions]
    return await count_targets(
        api, [planning.Target(stream, partition, coverage.inside(parts, window)) for partition, parts in wanted]
    )


def missing(job: HistoricalSyncJob, stream: Stream, partition: Partition, history: History) -> tuple[Window, ...]:
    """What the job has to read of the stream in the partition: of a historical job what of its range is not here, of a repair that of what was
    asked for before, of an incremental one what `_incremental` says; what has no time, whole."""
    covered = history.covered.get((stream.name, partition.key), ())
    since, until = job.start_date, job.end_date
    if job.kind == "incremental" and stream.window is not WindowKind.SNAPSHOT:
        return _incremental(job, stream, partition, history)
    if job.kind == "repair":
        low, high = history.asked.get(stream.name, (until, until))
        since, until = max(since, low), min(until, high)
    return planning.subtract(Window(since, until), covered) if since < until else ()


def _incremental(job: HistoricalSyncJob, stream: Stream, partition: Partition, history: History) -> tuple[Window, ...]:
    """What came and changed since the partition's last import; any other hole further back is a repair's.

    It goes on from where this very partition ended, be that before the job's own beginning (it failed last time) or after it (another did).
    One of which nothing is here, as it is new or counts as imported no longer, is read as far back as the stream's others go, or was asked
    for. What earlier incremental jobs were to bring comes with it, though they brought what is newer. Nothing is older than the plan goes.
    """
    covered = history.covered.get((stream.name, partition.key), ())
    if covered:
        first, last = max(covered[0][0], history.oldest), min(covered[-1][1], job.end_date)
        # Rows whose later changes their window does not tell are read once more, as far as they are here at all.
        since = max(first, last - READ_AGAIN[stream.clock])
    else:
        asked_since, _ = history.asked.get(stream.name, (job.start_date, job.end_date))
        first = since = max(_earliest(stream, history.covered) or asked_since, history.oldest)
    left = history.left.get((stream.name, partition.key), ())
    missed = [part for span in left for part in planning.subtract(Window(*span), covered)]
    since_then = [Window(since, job.end_date)] if since < job.end_date else []
    return (*coverage.inside(missed, Window(first, since)), *since_then)


def _earliest(stream: Stream, covered: Mapping[Place, Spans]) -> datetime | None:
    return min((spans[0][0] for (name, _), spans in covered.items() if name == stream.name and spans), default=None)


def _history(job: HistoricalSyncJob) -> History:
    connection, kind, as_far = job.connection, job.kind, job.tenant.limits.history
    return History(
        {} if job.full else coverage.ledger(connection),
        coverage.asked(connection) if kind != "historical" else {},
        coverage.left_over(connection) if kind == "incremental" else {},
        BEGINNING if as_far is None else job.end_date - as_far,
    )


async def count_targets(api: Api, targets: Sequence[planning.Target]) -> list[planning.Target]:
    """The targets with the provider's counts of what is missing, as far as a few probes go; a probe that fails leaves its target
    uncounted. With more gaps than probes each target is counted from its first gap to its last, and takes its gaps' share of that."""
    wanted = [
        i
        for i, t in enumerate(targets)
        if t.stream.count is not None and t.missing and not (t.stream.partitioned and t.partition == WHOLE)
    ]
    counted = list(targets)
    if not wanted or len(wanted) > COUNTS_AT_MOST:
        return counted

    gate = asyncio.Semaphore(min(COUNTS_AT_ONCE, api.provider.budget.concurrency))

    async def probe(target: planning.Target, window: Window) -> Estimate | None:
        assert target.stream.count is not None
        async with gate:
            return await target.stream.count(api, target.partition, window)

    by_gap = sum(len(targets[i].missing) for i in wanted) <= COUNTS_AT_MOST
    asked = [(i, window) for i in wanted for window in (targets[i].missing if by_gap else (targets[i].hull,))]
    probes = [asyncio.ensure_future(probe(targets[i], window)) for i, window in asked]
    try:
        await asyncio.wait(probes, timeout=COUNT_TIMEOUT)
    finally:
        for task in probes:
            task.cancel()
        found = await asyncio.gather(*probes, return_exceptions=True)
    answers: dict[int, list[object]] = {i: [] for i in wanted}
    for (i, _), answer in zip(asked, found, strict=True):
        if isinstance(answer, ReauthRequired):
            raise answer
        answers[i].append(answer)
    for i, each in answers.items():
        estimates = [answer for answer in each if isinstance(answer, Estimate)]
        if len(estimates) == len(each):
            counted[i] = dataclasses.replace(targets[i], estimate=_of_gaps(targets[i], estimates))
    return counted


def _of_gaps(target: planning.Target, estimates: Sequence[Estimate]) -> Estimate:
    """What the target's gaps hold. estimates: one a gap, or one from the first gap to the last."""
    records, exact = sum(one.records for one in estimates), all(one.exact for one in estimates)
    if len(estimates) == len(target.missing):
        return Estimate(records, exact)
    gaps = sum((gap.until - gap.since for gap in target.missing), timedelta(0))
    return Estimate(math.ceil(records * (gaps / (target.hull.until - target.hull.since))), exact=False)
