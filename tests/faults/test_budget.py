"""Four worker processes on one connection, and a provider that counts."""

from __future__ import annotations

import pytest

from tests.conftest import until
from tests.faults.stage import Stage

pytestmark = pytest.mark.processes


def test_four_processes_together_never_ask_more_than_the_provider_allows(theatre: Stage) -> None:
    theatre.sandbox.control(rate_limit=100, rate_window=3)
    for _ in range(4):
        theatre.worker(concurrency=3)
    job = until(theatre.job(), "completed", seconds=90)
    state = theatre.sandbox.control()
    assert state["calls"] > 100, "one window would have been enough"
    assert not {"403", "429"} & set(state["statuses"]), f"the provider had to refuse: {state['statuses']}"
    assert job.failed_chunks == 0
