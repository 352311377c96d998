"""From commit to a client's socket, through Redis and one web process."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from bench import stage

_STAMP = re.compile(r'"records_processed":(\d+)')


def now_us() -> int:
    return time.monotonic_ns() // 1000  # one clock for all processes of a machine


class Watched:
    """Jobs that change as workers would change them: a commit, then a broadcast. Each carries the time of its commit."""

    def __init__(self, jobs: list[Any]) -> None:
        self.jobs = jobs

    async def change(self, pool: Any, job: Any) -> None:
        from historical_sync import broadcast
        from historical_sync.database import tenant_transaction

        async with tenant_transaction(pool, str(job.tenant_id)) as cursor:
            await cursor.execute(
                "UPDATE historical_sync_historicalsyncjob SET revision = revision + 1, records_processed = %s WHERE id = %s",
                [now_us(), job.id],
            )
        await broadcast.job_changed(job.id, job.tenant_id)


def make_jobs(number: int) -> list[tuple[Any, str]]:
    """(running job, API key of its tenant), three a tenant at most."""
    from datetime import UTC, datetime, timedelta

    from atom.tenancy import tenant_scope
    from historical_sync.models import HistoricalSyncJob

    made, key = [], ""
    end = datetime.now(UTC)
    for n in range(number):
        tenant = stage.make_tenant(f"live-{n // 3}")
        if n % 3 == 0:
            key = stage.api_key(tenant)
        connection = stage.connect(tenant, "http://127.0.0.1:1", f"live-{n}")
        with tenant_scope(tenant.id):
            job = HistoricalSyncJob.objects.create(
                tenant=tenant,
                connection=connection,
                streams=["issues"],
                start_date=end - timedelta(days=90),
                end_date=end,
                status="running",
                started_at=end,
                planned=True,
            )
        made.append((job, key))
    return made


async def watch(address: str, job: Any, key: str, waits: list[float]) -> None:
    import websockets

    url = f"{address.replace('http', 'ws')}/ws/historical-sync/{job.id}"
    async with websockets.connect(
        url, additional_headers={"Authorization": f"Api-Key {key}"}, open_timeout=60, compression=None
    ) as socket:
        await socket.recv()
        READY.append(1)
        async for message in socket:
            found = _STAMP.search(str(message))
            if found:
                waits.append((now_us() - int(found[1])) / 1000)


READY: list[int] = []


async def scene(
    address: str, jobs: list[tuple[Any, str]], sockets: int, updates_a_second: float, seconds: float
) -> list[float]:
    from historical_sync.database import make_pool

    READY.clear()
    waits: list[float] = []
    watchers = []
    for n in range(sockets):
        watchers.append(asyncio.create_task(watch(address, *jobs[n % len(jobs)], waits)))
        if n % 20 == 19:
            await asyncio.sleep(0.2)
    until = time.monotonic() + 120
    while len(READY) < sockets and time.monotonic() < until:
        await asyncio.sleep(0.1)
    assert len(READY) == sockets, f"{len(READY)} of {sockets} sockets opened"
    pool = make_pool(4)
    await pool.open(wait=True)
    watched = Watched([job for job, _ in jobs])
    for job in watched.jobs[:50]:
        await watched.change(pool, job)
    await asyncio.sleep(1)
    waits.clear()
    began, sent = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        due = began + sent / updates_a_second
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await watched.change(pool, watched.jobs[sent % len(jobs)])
        sent += 1
    await asyncio.sleep(1.5)
    for task in watchers:
        task.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)
    await pool.close()
    expected = sent * sockets / len(jobs)
    assert len(waits) >= 0.98 * expected, f"{len(waits)} of about {expected:.0f} messages came"
    return waits


def measure(sockets: int = 1000, jobs: int = 350, seconds: float = 15) -> dict[str, Any]:
    """p50 and p99 in ms: `spread` (sockets over jobs, each job changing once a second), `one` (all on one job, twice a second)."""
    found: dict[str, Any] = {}
    for name, number, rate in (("spread", jobs, float(jobs)), ("one", 1, 2.0)):
        stage.empty_tables()
        with stage.redis_server() as redis_url, stage.web(redis_url) as (address, process):
            _use_redis(redis_url)
            waits = asyncio.run(scene(address, make_jobs(number), sockets, rate, seconds))
            found[name] = {
                "p50_ms": stage.percentile(waits, 0.5),
                "p99_ms": stage.percentile(waits, 0.99),
                "messages": len(waits),
                "web_mib": process.peak_mib(),
            }
    return found


def _use_redis(url: str) -> None:
    """This process's channel layer becomes that of the web process."""
    from channels.layers import channel_layers
    from django.conf import settings

    settings.CHANNEL_LAYERS["default"] = {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [url], "prefix": "atom"},
    }
    channel_layers.backends.clear()
