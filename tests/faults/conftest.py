"""One stage a test, and the picture of an undisturbed import to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Sandbox, until
from tests.faults.stage import Picture, Stage, picture, stage

TENANTS = 2
RECORDS = 1500  # of the sandbox: chunks of several pages
_undisturbed: dict[str, list[Picture]] = {}


@pytest.fixture
def theatre(undisturbed: list[Picture], sandbox: Sandbox) -> Iterator[Stage]:
    """A stage with the sandbox in order, each of its answers a little late so that faults find work under way."""
    sandbox.control(latency_ms=25)
    with stage(sandbox) as made:
        yield made


@pytest.fixture
def undisturbed(transactional_db: None, sandbox: Sandbox) -> list[Picture]:
    """What the imports of tenants 0, 1, ... look like when nothing goes wrong; made once a session."""
    from django.core.management import call_command

    sandbox.control(records=RECORDS)
    if sandbox.root not in _undisturbed:
        with stage(sandbox) as calm:
            worker = calm.worker()
            jobs = [until(calm.job(number), "completed", seconds=60) for number in range(TENANTS)]
            assert worker.stop() == 0, worker.words()
        _undisturbed[sandbox.root] = [picture(job.tenant) for job in jobs]
        call_command("flush", verbosity=0, interactive=False)
    return _undisturbed[sandbox.root]


def describe(workers: list[Any]) -> str:
    """The workers' logs, for a failure."""
    return "\n".join(worker.words() for worker in workers)
