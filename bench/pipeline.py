"""The main measurement: the same rows through Atom, the floor and the peers, in turn, so that the machine's moods hit all alike."""

from __future__ import annotations

import sys
import time
from typing import Any

from bench import peers, stage

IN_FLIGHT = 16


def atom(root: str, records: int, *, full_again: bool) -> dict[str, Any]:
    """One worker process, default settings: a connection, a job, chunks, checkpoints, graph, progress."""
    stage.empty_tables()
    connection = stage.connect(stage.make_tenant(), root)
    with stage.workers(1) as (worker,):
        began = time.perf_counter()
        job = stage.finished(stage.start(connection))
        seconds = time.perf_counter() - began
        assert job.records_processed == records, job.records_processed
        found = {"seconds": seconds, "records": records, "peak_mib": worker.peak_mib(), "chunks": job.total_chunks}
        found["entities"], found["relationships"] = job.entities_extracted, job.relationships_extracted
        if full_again:
            began = time.perf_counter()
            job = stage.finished(stage.start(connection, full=True))
            found["again_seconds"] = time.perf_counter() - began
            assert (job.records_processed, job.records_skipped) == (0, records)
    return found


def floor(root: str, records: int) -> dict[str, Any]:
    return stage.outside([sys.executable, "-m", "bench.floor", root, stage.dsn(), str(records), str(IN_FLIGHT)])


def measure(records: int, rounds: int, latency_ms: float, with_peers: bool) -> dict[str, list[dict[str, Any]]]:
    """name -> one result a round."""
    runs: dict[str, Any] = {"floor": floor, "Atom": lambda root, n: atom(root, n, full_again=latency_ms == 0)}
    if with_peers:
        runs |= peers.runs(parallel=latency_ms > 0)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    with stage.mock_api(records, latency_ms) as root:
        for number in range(rounds):
            for name, run in runs.items():
                found = run(root, records)
                assert found["records"] == records, (name, found)
                results[name].append(found)
                print(f"  round {number + 1}, {latency_ms:g} ms, {name}: {found['seconds']:.1f} s", flush=True)
    return results
