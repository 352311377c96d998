"""From commit to a client's socket, through Redis and one web process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import stage

SCENES = (("spread", 350, 350.0), ("one", 1, 2.0))  # name, jobs, changes a second over all of them


class Changes:
    """Jobs that change as workers would change them: a commit, then a broadcast. Each change has a number of its own, which the
    job shows as its records; `committed` says when it was committed (monotonic ns, one clock for all processes of a machine)."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.committed: dict[int, int] = {}

    async def make(self, job: Any) -> None:
        from historical_sync import broadcast
        from historical_sync.database import tenant_transaction

        number = len(self.committed) + 1
        self.committed[number] = 0
        async with tenant_transaction(self.pool, str(job.tenant_id)) as cursor:
            await cursor.execute(
                "UPDATE historical_sync_historicalsyncjob SET revision = revision + 1, records_processed = %s WHERE id = %s",
                [number, job.id],
            )
        self.committed[number] = time.monotonic_ns()
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


@contextmanager
def watching(address: str, jobs: list[tuple[Any, str]], sockets: int) -> Iterator[Any]:
    """That many sockets over the jobs, in a process of their own; yields what ends them and says what arrived."""
    host, _, port = address.removeprefix("http://").partition(":")
    paths = [(f"/ws/historical-sync/{job.id}", key) for job, key in jobs]
    asked = {"host": host, "port": int(port), "sockets": [paths[n % len(paths)] for n in range(sockets)]}
    clients = subprocess.Popen(
        [sys.executable, "-m", "bench.sockets"],
        cwd=stage.PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert clients.stdin is not None
        assert clients.stdout is not None
        clients.stdin.write(json.dumps(asked) + "\n")
        clients.stdin.flush()
        assert clients.stdout.readline() == "ready\n", "not every socket opened"
        yield lambda: json.loads(clients.communicate()[0])
    finally:
        clients.kill()
        clients.wait()


async def change_all(jobs: list[Any], changes_a_second: float, seconds: float) -> dict[int, int]:
    """Changes the jobs in turn, evenly over time; when each change was committed."""
    from historical_sync.database import make_pool

    async with make_pool(4) as pool:
        changes = Changes(pool)
        began = time.monotonic()
        under_way = set()
        for number in range(int(changes_a_second * seconds)):
            await asyncio.sleep(max(0.0, began + number / changes_a_second - time.monotonic()))
            task = asyncio.create_task(changes.make(jobs[number % len(jobs)]))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
        await asyncio.sleep(1)
    return changes.committed


def measure(sockets: int = 1000, seconds: float = 15) -> dict[str, Any]:
    """`spread` (sockets over jobs, each job changing once a second) and `one` (all on one job, twice a second): p50 and p99 in ms,
    and the web process's CPU microseconds a message."""
    found: dict[str, Any] = {}
    for name, number, rate in SCENES:
        stage.empty_tables()
        with stage.redis_server() as redis_url, stage.web(redis_url) as (address, process):
            _use_redis(redis_url)
            made = make_jobs(number)
            with watching(address, made, sockets) as arrivals:
                asyncio.run(change_all([job for job, _ in made], rate, 2))  # connections, prepared statements
                cpu = process.cpu_seconds()
                began = time.monotonic_ns()
                committed = asyncio.run(change_all([job for job, _ in made], rate, seconds))
                cpu = process.cpu_seconds() - cpu
                seen, memory = arrivals(), process.peak_mib()
        waits = [(at - committed[change]) / 1e6 for change, at in seen["arrived"] if at > began]
        expected = len(committed) * sockets / number
        assert len(waits) >= 0.98 * expected, f"{len(waits)} of about {expected:.0f} messages came"
        found[name] = {
            "p50_ms": stage.percentile(waits, 0.5),
            "p99_ms": stage.percentile(waits, 0.99),
            "messages": len(waits),
            "web_us": cpu / len(waits) * 1e6,
            "client_us": seen["cpu_seconds"] / len(seen["arrived"]) * 1e6,
            "web_mib": memory,
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
