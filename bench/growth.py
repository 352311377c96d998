"""What a record costs as the tables grow, what memory does, and what a second worker brings."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from bench import stage

FIRST, STEP = 20_000, 200_000


@dataclass(frozen=True)
class Step:
    """What the records up to `records` cost since the step before. Microseconds a record: by the clock, and of the processor."""

    records: int
    clock_us: float
    worker_us: float
    database_us: float
    worker_mib: float

    @property
    def processor_us(self) -> float:
        return self.worker_us + self.database_us


def measure(records: int = 2_000_000) -> dict[str, Any]:
    """steps: a Step about every STEP records of one import, the first from FIRST records on. peak_mib: of the worker.

    The processor's time is what tells whether the cost grows: others on the machine don't change it much.
    """
    from atom.tenancy import tenant_scope
    from historical_sync.actions import get_job

    stage.empty_tables()
    steps: list[Step] = []
    with stage.mock_api(records) as root, stage.workers(1) as (worker,):
        database = stage.DatabaseClock()
        job = stage.start(stage.connect(stage.make_tenant(), root))

        def mark(at: int) -> tuple[int, float, float, float]:
            return at, time.perf_counter(), worker.cpu_seconds(), database.cpu_seconds()

        last = None
        while True:
            with tenant_scope(job.tenant_id):
                now = get_job(job.tenant, job.id)
            assert now.status in ("pending", "running", "completed"), now.last_error_message
            done = now.status == "completed"
            if last is None:
                if now.records_processed >= FIRST:
                    last = mark(now.records_processed)
            elif now.records_processed >= last[0] + STEP or (done and now.records_processed > last[0] + FIRST):
                here = mark(now.records_processed)
                costs = [(b - a) / (here[0] - last[0]) * 1e6 for a, b in zip(last[1:], here[1:], strict=True)]
                steps.append(Step(here[0], *costs, worker.rss_mib()))
                print(
                    f"  {steps[-1].records:,}: {costs[0]:.0f} µs, of the processor {steps[-1].processor_us:.0f}",
                    flush=True,
                )
                last = here
            if done:
                break
            time.sleep(0.05)
        peak = worker.peak_mib()
        assert now.records_processed == records
    return {"steps": steps, "peak_mib": peak, "growth": steps[-1].processor_us / steps[0].processor_us}


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
