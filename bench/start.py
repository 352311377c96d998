"""From POST start to the provider's first request, with a hundred jobs running."""

from __future__ import annotations

import time
from typing import Any

import httpx2

from bench import stage

RUNNING, TRIES = 100, 300


def measure() -> dict[str, Any]:
    """{"p50_ms", "p99_ms", "most_ms"} over TRIES starts."""
    stage.empty_tables()
    waits: list[float] = []
    with (
        stage.redis_server() as redis_url,
        # A slow provider, so that the hundred go on for as long as is measured.
        stage.mock_api(800_000, latency_ms=8000, repositories=RUNNING) as slow,
        stage.mock_api(100) as quick,
        stage.workers(2, concurrency=250, REDIS_URL=redis_url),
        stage.web(redis_url) as (address, _),
    ):
        for number in range(RUNNING):
            tenant = stage.make_tenant(f"running-{number // 3}", "solo")
            stage.start(stage.connect(tenant, slow, f"slow-{number}", f"only-{number}"))
        stage.wait_for(lambda: _running() >= RUNNING, 90)
        connections = []
        for number in range(TRIES):
            tenant = stage.make_tenant(f"starting-{number}")
            connections.append(
                (stage.connect(tenant, quick, f"quick-{number}", f"start-{number}"), stage.api_key(tenant))
            )
        with httpx2.Client() as client:
            for number, (connection, key) in enumerate(connections):
                began = time.time()
                reply = client.post(
                    f"{address}/api/integrations/{connection.id}/historical-sync/start",
                    json={"streams": ["issues"]},
                    headers={"Authorization": f"Api-Key {key}"},
                )
                assert reply.status_code == 202, reply.text
                first = stage.wait_for(
                    lambda token=f"start-{number}": httpx2.get(f"{quick}/__first", params={"token": token}).json(),
                    10,
                    0.01,
                )
                waits.append((first - began) * 1000)
        assert _running() >= RUNNING
    return {"p50_ms": stage.percentile(waits, 0.5), "p99_ms": stage.percentile(waits, 0.99), "most_ms": max(waits)}


def _running() -> int:
    from atom.tenancy import across_tenants
    from historical_sync.models import HistoricalSyncJob

    with across_tenants("a benchmark"):
        return int(HistoricalSyncJob.objects.filter(status="running", planned=True).count())
