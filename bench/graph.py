"""What a record costs by what it is and what happens to it: stored, changed, unchanged, removed. By the store alone, 500 records a commit.

An issue is an entity of one key. A person is one of two (an e-mail address and the vendor's id), which are to be found to be one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bench import stage
from bench.mock_api import issue

BATCH = 500


@dataclass(frozen=True)
class Cost:
    """Microseconds a record: by the clock, of this process's processor time, and of PostgreSQL's."""

    what: str
    clock_us: float
    worker_us: float
    database_us: float


def people(count: int) -> Iterator[dict[str, Any]]:
    """Users as Zendesk lists them, of 700 organizations, about 1 KB each."""
    for number in range(1, count + 1):
        yield {
            "id": 9_000_000 + number,
            "name": f"Person {number} of Somewhere",
            "email": f"person.{number}@customer{number % 700}.example.com",
            "role": "end-user",
            "active": True,
            "organization_id": 4_000 + number % 700,
            "notes": "called about the invoice " * 30,
            "updated_at": "2026-11-01T00:00:00Z",
        }


def issues(count: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(1)
    return (issue(number, "2026-11-01T00:00:00Z", rng) for number in range(1, count + 1))


# (provider, stream, rows, a field that is changed)
KINDS = {"issues": ("github", "issues", issues, "title"), "people": ("zendesk", "users", people, "name")}


def measure(records: int) -> dict[str, list[Cost]]:
    """kind -> its costs. The first import's is told of its first and of its last fifth."""
    return {kind: asyncio.run(_measure(kind, records)) for kind in KINDS}


async def _measure(kind: str, count: int) -> list[Cost]:
    from asgiref.sync import sync_to_async

    from historical_sync import claims, planning, removing, storage
    from historical_sync.database import make_pool
    from historical_sync.extraction import record_rows
    from historical_sync.mapping import Mapper
    from integrations import providers
    from integrations.providers.base import Context, Partition, Record, Window

    slug, name, rows, field = KINDS[kind]
    job = await sync_to_async(_job)(slug, name)
    job_id, tenant_id = str(job.id), str(job.tenant_id)
    stream, partition = providers.get(slug).stream(name), Partition("77", "bench/r0")
    now, mapper, database = datetime.now(UTC), Mapper(), stage.DatabaseClock()
    pool = make_pool(3)
    await pool.open()
    try:
        chunk = planning.PlannedChunk(name, partition, Window(now - timedelta(days=90), now), count, float(count))
        planned = claims.Planned([chunk], count, "exact")
        claim = await claims.claim(pool, job_id, tenant_id, claims.Room(1, 1), planned)
        assert isinstance(claim, claims.Claim)
        costs: list[Cost] = []
        pages = 0

        async def costs_of(what: str, records: int, work: Any) -> None:
            clock, own, served = time.perf_counter(), time.process_time(), database.cpu_seconds()
            await work
            spent = time.perf_counter() - clock, time.process_time() - own, database.cpu_seconds() - served
            costs.append(Cost(what, *[seconds / records * 1e6 for seconds in spent]))

        async def save(batch: list[Record]) -> None:
            nonlocal pages
            for first in range(0, len(batch), BATCH):
                found, _ = record_rows(batch[first : first + BATCH], claim.lease.connection_bytes, name)
                some = storage.Pages(rows=found, pages=1, after=pages, position=now)
                await storage.save_pages(pool, claim.lease, some, stream.extract, Context(slug, partition), mapper)
                pages += 1

        batch = [Record(str(row["id"]), now - timedelta(days=9), row) for row in rows(count)]
        later = [Record(r[0], r[1] + timedelta(days=1), {**r[2], field: f"{r[2][field]}!"}) for r in batch]
        fifth = count // 5
        await costs_of("stored, the first fifth", fifth, save(batch[:fifth]))
        await save(batch[fifth:-fifth])
        await costs_of("stored, the last fifth", fifth, save(batch[-fifth:]))
        await costs_of("every one changed", count, save(later))
        await costs_of("none changed", count, save(later))
        over = storage.Pages(after=pages, done=True)
        await storage.save_pages(pool, claim.lease, over, stream.extract, Context(slug, partition), mapper)
        await costs_of("removed with its connection", count, removing.remove(pool, str(job.connection_id), tenant_id))
        return costs
    finally:
        await pool.close()


def _job(slug: str, stream: str) -> Any:
    """A job that is running, of a connection of that provider."""
    from historical_sync.models import HistoricalSyncJob

    stage.empty_tables()
    connection = stage.connect(stage.make_tenant(), "http://127.0.0.1:9", provider=slug)
    job = stage.start(connection, streams=[stream])
    HistoricalSyncJob.objects.filter(tenant=job.tenant, id=job.id).update(status="running", started_at=job.created_at)
    return job
