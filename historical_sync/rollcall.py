"""What is gone at a provider that does not tell so: found by a full import, asked for at the provider, and marked.

    a full import notes ids of all that it meets, of streams with `Stream.gone`    `note`, in the transaction that stores the page
    it has ended: what is stored of what it has read to its end, and was not met, is missed    `_find_missed`
    the provider is asked for what is missed, a few records at a time    `Stream.gone`
    -> what it says is there no more has `gone_at`; what all records are gone of, the property `deleted`    `_mark`
    -> how much that was stands in the import's timeline    `_tell`

A job's notes are the list of what is left to do, so this may end anywhere: whoever comes next goes on, and to do a step again changes
nothing. It comes after the import and holds nothing up, and takes turns in the queue as the parts of imports do.

Nothing is gone for not having been met: lists shift while they are read, and access may have been lost. It is marked only if the
provider said so of that record, as it is stored, after the import that missed it had begun. A mark that can't be made (nobody
reconnects for days, the provider is away, there are too many) is made after the next full import. Whichever import meets the record
again takes the mark away (`records.py`): an import may so bring back what was deleted since it read the page, until the next full one.
And what is restored between the answer and the mark, and met by another import in that moment, is marked until it is met again.
Why it asks: docs/decisions/0014-gone.md.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from channels.db import database_sync_to_async
from django.db import connection as database

from atom.tenancy import across_tenants, tenant_scope
from atom.words import plural
from historical_sync import broadcast, job_changes, tasks
from historical_sync import pgarrays as pg
from historical_sync.budget import ConnectionBudget, bring_back
from historical_sync.database import AWAY, Connection, Pool, retried, system_transaction, tenant_transaction
from historical_sync.extraction import RecordRow, Rejected
from historical_sync.identity import record_id
from historical_sync.leases import Lease
from historical_sync.models import HistoricalSyncJob
from historical_sync.retrying import Action, decide
from historical_sync.runs import LONGEST_WAIT_IN_A_LIST
from historical_sync.stale import mark
from historical_sync.states import COMPLETED, FAILED
from historical_sync.tidying import alone
from integrations import gateway
from integrations.http import Api
from integrations.providers.base import Partition, Record, Stream, WindowKind

if TYPE_CHECKING:
    from historical_sync.engine import Engine

log = logging.getLogger(__name__)

ASKED_AT_ONCE = 25  # records, before others have their turn
MOST_ASKED = 10_000  # records of one import; of the others any are asked for after the next one
KEPT = timedelta(days=7)  # what nobody could ask for by then is left to the next full import
OVER = (COMPLETED, FAILED)


async def note(db: Connection, lease: Lease, rows: dict[bytes, RecordRow], rejected: Sequence[Rejected]) -> None:
    """Notes that a page's records were met, those that can't be stored as well, in the transaction that stores it."""
    unread = [record_id(lease.connection_bytes, lease.stream, row.external_id) for row in rejected if row.external_id]
    await db.execute(
        """
        INSERT INTO historical_sync_rollcall (id, tenant_id, job_id, stream, partition, state, ids)
        VALUES (gen_random_uuid(), %s, %s, %s, %s, 'met', %s)
        """,
        [lease.tenant_id, lease.job_id, lease.stream, lease.partition, pg.uuids([*rows, *unread])],
    )


# Asked for each by itself (LATERAL with a limit, which is never turned round): what was marked since the table was last looked through is
# none to the planner, which would begin with all that is gone, of every tenant, for each page that is stored.
LOOK_AGAIN = """
    INSERT INTO historical_sync_staleentity (tenant_id, entity_id, aliases)
    SELECT DISTINCT %s::uuid, r.entity_id, '{}'::uuid[] FROM historical_sync_syncrecord r
    CROSS JOIN LATERAL (
        SELECT FROM historical_sync_syncrecord other WHERE other.entity_id = r.entity_id AND other.gone_at IS NOT NULL LIMIT 1) gone
    WHERE r.id = ANY(%s) AND r.gone_at IS NULL ORDER BY r.entity_id
    ON CONFLICT (entity_id) DO NOTHING
"""


async def look_again(db: Connection, tenant_id: str, rows: dict[bytes, RecordRow]) -> None:
    """Has things looked at anew of which there is a record now, and of which another was found to be gone: in the transaction that stores
    the records."""
    await db.execute(LOOK_AGAIN, [tenant_id, pg.uuids(list(rows))])


# Whether there is something to do for `job`, which has notes: beside what it met of that which was not read to its end.
DUE = """
    job.status IN ('completed', 'failed') AND EXISTS (
        SELECT FROM historical_sync_rollcall call
        WHERE call.job_id = job.id AND (call.state <> 'met' OR NOT EXISTS (
            SELECT FROM historical_sync_syncchunk c
            WHERE c.job_id = job.id AND c.status IN ('pending', 'running', 'failed')
              AND c.stream = call.stream AND c.partition = call.partition)))
"""


async def hand_out(engine: Engine) -> None:
    """Puts entries into the queue for jobs whose provider is to be asked, and can be, that nobody has in hand or will get."""
    async with system_transaction(engine.pool, "what is gone, of all tenants") as cursor:
        await cursor.execute(
            f"""
            SELECT job.id::text, job.tenant_id::text FROM historical_sync_historicalsyncjob job
            JOIN integrations_connection account ON account.id = job.connection_id AND account.status = 'connected'
            WHERE job.id IN (SELECT job_id FROM historical_sync_rollcall) AND {DUE} AND NOT EXISTS (
                SELECT FROM procrastinate_jobs entry
                WHERE entry.task_name = %s AND entry.status IN ('todo', 'doing') AND entry.args ->> 'job_id' = job.id::text)
            """,  # noqa: S608 - a condition of this module's own
            [tasks.CALL_ROLL],
        )
        jobs = await cursor.fetchall()
    for job_id, tenant_id in jobs:
        await engine.defer.call_roll(job_id, tenant_id)


def forget_old(now: datetime) -> None:
    """Forgets what was noted for jobs that were cancelled, or that ended long ago."""
    with across_tenants("notes of old imports of every tenant go"), database.cursor() as cursor:
        cursor.execute(
            """
            DELETE FROM historical_sync_rollcall call USING historical_sync_historicalsyncjob job
            WHERE job.id = call.job_id AND (job.status = 'cancelled' OR job.completed_at < %s)
            """,
            [now - KEPT],
        )


# -- asking -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Missed:
    """Some records of a stream and partition that are to be asked for. hashes: by external id, of what is stored."""

    id: UUID
    stream: str
    partition: Partition
    records: list[Record]
    hashes: dict[str, tuple[UUID, UUID]]


async def call(engine: Engine, job_id: str, tenant_id: str, tries: int) -> None:
    """Does what is due for the job, and has itself called again where there is more. Never raises. tries: that failed since the last
    answer."""
    with tenant_scope(tenant_id):
        try:
            job = await database_sync_to_async(_load)(job_id, tenant_id)
            if job is not None:
                await _call(engine, job, tries)
        except AWAY as error:
            # The reaper puts the entry back.
            log.warning("database unavailable while asking for job %s: %s", job_id, " ".join(str(error).split()))
        except Exception:
            log.exception("unexpected failure while asking what is gone, after job %s", job_id)


def _load(job_id: str, tenant_id: str) -> Any:
    jobs = HistoricalSyncJob.objects.filter(tenant_id=tenant_id, id=job_id, status__in=OVER)
    return jobs.select_related("connection").first()


async def _call(engine: Engine, job: HistoricalSyncJob, tries: int) -> None:
    pool, job_id, tenant_id = engine.pool, str(job.id), str(job.tenant_id)
    provider, missed, api = job.connection.provider, None, None
    a_minute = gateway.limit_a_minute(job.connection)
    budget = ConnectionBudget(pool, tenant_id, str(job.connection_id), provider, job.kind, a_minute)
    try:
        await _find_missed(pool, job)
        while (missed := await _next(pool, job)) is not None:
            if api is None:
                api = await gateway.open_api(job.connection, limiter=budget, longest_wait=LONGEST_WAIT_IN_A_LIST)
            await _mark(pool, tenant_id, missed, await _ask(provider.stream(missed.stream), api, missed))
            tries = 0
            if engine.closing.is_set() or await engine.defer.others_wait():
                await engine.defer.call_roll(job_id, tenant_id)
                return
        if await _tell(pool, job):
            await broadcast.job_changed(job_id, tenant_id)
            await engine.defer.tidy(tenant_id)
    except AWAY:
        raise
    except Exception as error:
        await _went_wrong(engine, job, error, missed, api, budget, tries)
    finally:
        await bring_back(pool, [budget])


async def _ask(stream: Stream, api: Api, missed: Missed) -> set[str]:
    """External ids of those that are gone."""
    if stream.gone is None or not missed.records:
        return set()
    return set(await stream.gone(api, missed.partition, missed.records))


async def _went_wrong(
    engine: Engine,
    job: HistoricalSyncJob,
    error: Exception,
    missed: Missed | None,
    api: Api | None,
    budget: ConnectionBudget,
    tries: int,
) -> None:
    """Has the provider asked again later, or gives up what it was asked for, as the error's class says."""
    pool, job_id, tenant_id = engine.pool, str(job.id), str(job.tenant_id)
    decision = decide(error, now=datetime.now(UTC), jitter=random(), attempts=tries)  # noqa: S311
    engine.trouble.tell(job, missed.stream if missed else "", error, decision.code, decision.action, decision.at)
    if decision.code == "internal_error":
        log.error("unexpected failure while asking what is gone, after job %s", job_id, exc_info=error)
    if decision.action is Action.RECONNECT:
        token = (api.token if api else job.connection.credentials["access_token"]) or ""
        # The reaper puts the entry back when somebody has reconnected.
        if not await job_changes.lost_access(pool, job_id, tenant_id, token, decision.message):
            await engine.defer.call_roll(job_id, tenant_id)
    elif decision.action in (Action.WAIT, Action.LOOK_AGAIN, Action.RETRY):
        if decision.action is Action.WAIT and decision.at is not None:
            await budget.block(decision.at)
        failed = decision.action is Action.RETRY
        await engine.defer.call_roll(job_id, tenant_id, at=decision.at, tries=tries + failed)
    else:
        await _give_up(pool, job, missed if api else None, decision.message)
        await engine.defer.call_roll(job_id, tenant_id)


# -- in the database ------------------------------------------------------------------------------------------------------------

# What is stored of that which was read to its end, but for what was met, and what was stored since the job began: that was met, too.
# `whole`: streams without a time.
FIND_MISSED = """
WITH place AS (
    SELECT c.stream, c.partition, range_agg(tstzrange(c.since, c.until)) FILTER (WHERE c.status = 'completed') AS spans
    FROM historical_sync_syncchunk c
    WHERE c.job_id = %(job)s AND EXISTS (
        SELECT FROM historical_sync_rollcall call
        WHERE call.job_id = %(job)s AND call.state = 'met' AND call.stream = c.stream AND call.partition = c.partition)
    GROUP BY c.stream, c.partition HAVING bool_and(c.status IN ('completed', 'split'))
), read_through AS (
    DELETE FROM historical_sync_rollcall call USING place
    WHERE call.job_id = %(job)s AND call.state = 'met' AND call.stream = place.stream AND call.partition = place.partition
), missed AS (
    -- Any of them, where they are too many: the same ones each time might be there all along.
    SELECT r.id, r.stream, r.partition, row_number() OVER (ORDER BY random()) AS nth
    FROM historical_sync_syncrecord r JOIN place ON place.stream = r.stream AND place.partition = r.partition
    WHERE r.connection_id = %(connection)s AND r.gone_at IS NULL AND r.stored_at < %(began)s AND r.stream = ANY(%(streams)s)
      AND (r.stream = ANY(%(whole)s) OR r.occurred_at <@ place.spans)
      AND NOT EXISTS (
          SELECT FROM (SELECT unnest(ids) AS id FROM historical_sync_rollcall WHERE job_id = %(job)s AND state = 'met') met
          WHERE met.id = r.id)
), numbered AS (
    SELECT id, stream, partition, (row_number() OVER (PARTITION BY stream, partition) - 1) / %(at_once)s AS question
    FROM missed WHERE nth <= %(most)s
), noted AS (
    INSERT INTO historical_sync_rollcall (id, tenant_id, job_id, stream, partition, state, ids)
    SELECT gen_random_uuid(), %(tenant)s, %(job)s, stream, partition, 'missed', array_agg(id)
    FROM numbered GROUP BY stream, partition, question
)
SELECT stream, count(*) FROM missed WHERE nth > %(most)s GROUP BY stream ORDER BY stream
"""


@retried
async def _find_missed(pool: Pool, job: HistoricalSyncJob) -> None:
    """Makes what was missed of what was met. There is nothing to do, and nothing is done, when that was done before."""
    streams = [stream for stream in job.connection.provider.streams if stream.gone is not None]
    async with tenant_transaction(pool, str(job.tenant_id), "missed") as cursor:
        # All records of the connection are compared with all that was met: once, by hash, whatever the planner takes them for.
        await cursor.execute("SET LOCAL enable_nestloop = off")
        await cursor.execute(
            FIND_MISSED,
            {
                "job": job.id,
                "tenant": job.tenant_id,
                "connection": job.connection_id,
                "began": job.started_at or job.created_at,
                "streams": [stream.name for stream in streams],
                "whole": [stream.name for stream in streams if stream.window is WindowKind.SNAPSHOT],
                "at_once": ASKED_AT_ONCE,
                "most": MOST_ASKED,
            },
        )
        for stream, records in await cursor.fetchall():
            why = f"{MOST_ASKED:,} at most are asked for after one import"
            await _note_unasked(cursor, job, stream, records, why)


async def _next(pool: Pool, job: HistoricalSyncJob) -> Missed | None:
    """The next that are to be asked for; those that are stored as they were found."""
    async with tenant_transaction(pool, str(job.tenant_id)) as cursor:
        await cursor.execute(
            """
            SELECT call.id, call.stream, call.partition, part.partition_label, part.partition_facts, call.ids
            FROM historical_sync_rollcall call
            LEFT JOIN LATERAL (
                SELECT partition_label, partition_facts FROM historical_sync_syncchunk c
                WHERE c.job_id = call.job_id AND c.stream = call.stream AND c.partition = call.partition LIMIT 1) part ON true
            WHERE call.job_id = %s AND call.state = 'missed' LIMIT 1
            """,
            [job.id],
        )
        row = await cursor.fetchone()
        if row is None:
            return None
        call_id, stream, partition, label, facts, ids = row
        await cursor.execute(
            """
            SELECT id, external_id, occurred_at, payload, content_hash FROM historical_sync_syncrecord
            WHERE id = ANY(%s) AND gone_at IS NULL
            """,
            [ids],
        )
        stored = await cursor.fetchall()
    return Missed(
        call_id,
        stream,
        Partition(partition, label or "", facts or {}),
        [Record(external_id, at, payload) for _, external_id, at, payload, _ in stored],
        {external_id: (key, content) for key, external_id, _, _, content in stored},
    )


@retried
async def _mark(pool: Pool, tenant_id: str, missed: Missed, gone: set[str]) -> None:
    """Marks those that are gone, and what they alone are about; not what was written anew since it was looked up. They have been asked
    for then.

    What is left of a thing that other records are about as well, or which of them has the last word where all are gone, is found by
    looking at it anew (`tidying.py`)."""
    found = [missed.hashes[external_id] for external_id in gone if external_id in missed.hashes]
    async with tenant_transaction(pool, tenant_id, "gone") as cursor:
        if not found:
            await cursor.execute("DELETE FROM historical_sync_rollcall WHERE id = %s", [missed.id])
            return
        await alone(cursor.connection, tenant_id)
        await cursor.execute(
            "SELECT FROM historical_sync_rollcall WHERE id = %s AND state = 'missed' FOR UPDATE", [missed.id]
        )
        if await cursor.fetchone() is None:
            return  # somebody else has asked as well
        await cursor.execute(
            """
            WITH gone AS (
                UPDATE historical_sync_syncrecord r SET gone_at = clock_timestamp()
                FROM unnest(%s::uuid[], %s::uuid[]) AS u(id, hash)
                WHERE r.id = u.id AND r.content_hash = u.hash AND r.gone_at IS NULL RETURNING r.id, r.entity_id
            ), told_by_others AS (
                SELECT DISTINCT gone.entity_id FROM gone JOIN historical_sync_syncrecord r ON r.entity_id = gone.entity_id
                WHERE NOT EXISTS (SELECT FROM gone WHERE gone.id = r.id)
            ), deleted AS (
                UPDATE historical_sync_entity e SET properties = e.properties || '{"deleted": true}'
                FROM gone WHERE e.id = gone.entity_id AND e.record_id = gone.id AND NOT EXISTS (
                    SELECT FROM told_by_others WHERE entity_id = e.id)
            ), noted AS (
                UPDATE historical_sync_rollcall SET state = 'gone', ids = ARRAY(SELECT id FROM gone) WHERE id = %s
            )
            SELECT entity_id FROM told_by_others
            """,
            [[key for key, _ in found], [content for _, content in found], missed.id],
        )
        if others := await cursor.fetchall():
            await mark(cursor.connection, tenant_id, {entity_id.bytes: () for (entity_id,) in others})


@retried
async def _give_up(pool: Pool, job: HistoricalSyncJob, missed: Missed | None, why: str) -> None:
    """Nothing more of the stream and partition is asked for; None: nothing at all."""
    async with tenant_transaction(pool, str(job.tenant_id), "unasked") as cursor:
        await cursor.execute(
            """
            WITH given_up AS (
                DELETE FROM historical_sync_rollcall
                WHERE job_id = %(job)s AND state = 'missed'
                  AND (%(stream)s::text IS NULL OR (stream = %(stream)s AND partition = %(partition)s)) RETURNING stream, cardinality(ids) AS n
            ) SELECT stream, sum(n) FROM given_up GROUP BY stream ORDER BY stream
            """,
            {
                "job": job.id,
                "stream": missed and missed.stream,
                "partition": missed and missed.partition.key,
            },
        )
        for stream, records in await cursor.fetchall():
            await _note_unasked(cursor, job, stream, int(records), why)


async def _note_unasked(cursor: Any, job: HistoricalSyncJob, stream: str, records: int, why: str) -> None:
    words = f"{plural(records, 'record that was not met again is,records that were not met again are')} not asked for: {why}"
    await job_changes.job_note(cursor, job.id, job.tenant_id, "left_out", f"{_label(job, stream)}: {words}")


@retried
async def _tell(pool: Pool, job: HistoricalSyncJob) -> bool:
    """Once all have been asked for, notes how many are gone; whether any are."""
    async with tenant_transaction(pool, str(job.tenant_id), "told") as cursor:
        await cursor.execute(
            """
            WITH told AS (
                DELETE FROM historical_sync_rollcall call
                WHERE job_id = %(job)s AND state = 'gone' AND NOT EXISTS (
                    SELECT FROM historical_sync_rollcall WHERE job_id = %(job)s AND state = 'missed')
                RETURNING stream, cardinality(ids) AS n
            ) SELECT stream, sum(n) FROM told GROUP BY stream HAVING sum(n) > 0 ORDER BY stream
            """,
            {"job": job.id},
        )
        found = await cursor.fetchall()
        for stream, records in found:
            words = f"{_label(job, stream)}: {plural(int(records), 'record is,records are')} gone from {job.connection.provider_name}"
            await job_changes.job_note(cursor, job.id, job.tenant_id, "gone", words)
        if found:
            await cursor.execute(
                "UPDATE historical_sync_historicalsyncjob SET revision = revision + 1 WHERE id = %s", [job.id]
            )
        return bool(found)


def _label(job: HistoricalSyncJob, stream: str) -> str:
    return next((one.label for one in job.connection.provider.streams if one.name == stream), stream)
