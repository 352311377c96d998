"""A thousand jobs of a thousand records at once, over 350 tenants, on two workers."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from bench import stage

JOBS, RECORDS, TENANTS = 1000, 1000, 350


def measure() -> dict[str, Any]:
    """seconds until the last job's first page and until all are completed; the processor's microseconds a record; memory and connections
    at their most."""
    stage.empty_tables()
    with stage.mock_api(JOBS * RECORDS, repositories=JOBS) as root:
        for number in range(JOBS):
            tenant = stage.make_tenant(f"many-{number % TENANTS}")
            stage.start(stage.connect(tenant, root, f"many-{number}", f"only-{number}"))
        with stage.workers(2) as running, psycopg.connect(stage.dsn(), autocommit=True) as owner:
            database = stage.DatabaseClock()
            worked, served = sum(worker.cpu_seconds() for worker in running), database.cpu_seconds()
            began = time.perf_counter()
            first_page = None
            connections = 0
            while True:
                row = owner.execute(
                    """
                    SELECT count(*) FILTER (WHERE last_page_at IS NULL), count(*) FILTER (WHERE status <> 'completed'),
                           count(*) FILTER (WHERE status IN ('failed', 'paused', 'cancelled')),
                           (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()), sum(records_processed)::bigint
                    FROM historical_sync_historicalsyncjob
                    """
                ).fetchone()
                assert row is not None
                without, open_jobs, broken, connected, records = row
                connections = max(connections, connected)
                assert broken == 0, f"{broken} jobs did not complete"
                if first_page is None and without == 0:
                    first_page = time.perf_counter() - began
                if open_jobs == 0:
                    break
                assert time.perf_counter() - began < 900, f"{open_jobs} jobs are not done"
                time.sleep(0.1)
            seconds = time.perf_counter() - began
            assert records == JOBS * RECORDS, records
            assert first_page is not None
            worked = sum(worker.cpu_seconds() for worker in running) - worked
            served = database.cpu_seconds() - served
            peak = max(worker.peak_mib() for worker in running)
    return {
        "first_page_seconds": first_page,
        "seconds": seconds,
        "records": int(records),
        "worker_us": worked / records * 1e6,
        "database_us": served / records * 1e6,
        "worker_mib": peak,
        "connections": connections,
    }
