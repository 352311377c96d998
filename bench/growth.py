"""What a record costs as the tables grow, what memory does, and what a second worker brings."""

from __future__ import annotations

import time
from typing import Any

from bench import stage

STEP = 200_000


def measure(records: int = 2_000_000) -> dict[str, Any]:
    """steps: (records so far, microseconds a record, worker's resident MiB) every STEP records of one import."""
    from atom.tenancy import tenant_scope
    from historical_sync.actions import get_job

    stage.empty_tables()
    steps: list[tuple[int, float, float]] = []
    with stage.mock_api(records) as root, stage.workers(1) as (worker,):
        job = stage.start(stage.connect(stage.make_tenant(), root))
        at, since = 0, 0.0
        while True:
            with tenant_scope(job.tenant_id):
                now = get_job(job.tenant, job.id)
            if now.records_processed and not since:
                at, since = now.records_processed, time.perf_counter()
            elif now.records_processed >= at + STEP or (now.status == "completed" and now.records_processed > at):
                moment = time.perf_counter()
                steps.append(
                    (now.records_processed, (moment - since) / (now.records_processed - at) * 1e6, worker.rss_mib())
                )
                at, since = now.records_processed, moment
            if now.status == "completed":
                break
            assert now.status in ("pending", "running"), now.last_error_message
            time.sleep(0.05)
        peak = worker.peak_mib()
        assert now.records_processed == records
    return {"steps": steps, "peak_mib": peak}


def two_workers(records: int = 200_000) -> dict[str, float]:
    """The same import by one worker and by two: seconds each."""
    found = {}
    for number in (1, 2):
        stage.empty_tables()
        with stage.mock_api(records) as root, stage.workers(number):
            began = time.perf_counter()
            stage.finished(stage.start(stage.connect(stage.make_tenant(), root)))
            found[str(number)] = time.perf_counter() - began
    return found
