"""One stage a test, and the picture of an undisturbed import to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from historical_sync import retrying
from integrations import http, transport
from integrations.providers import PROVIDERS
from tests.conftest import Sandbox, Worker, empty_database, until
from tests.faults import toy as toys
from tests.faults.stage import Picture, Stage, picture, stage
from tests.faults.toy_stage import ToyStage

SANDBOX = {"records": 700, "page_size": 15}  # small pages, so that chunks have several
_undisturbed: dict[tuple[str, int], Picture] = {}


@pytest.fixture
def theatre(undisturbed: Callable[[int], Picture], sandbox: Sandbox) -> Iterator[Stage]:
    """A stage with the sandbox in order, each of its answers a little late so that faults find work under way."""
    sandbox.control(**SANDBOX, latency_ms=25)
    with stage(sandbox) as made:
        yield made


@pytest.fixture
def undisturbed(transactional_db: None, sandbox: Sandbox) -> Callable[[int], Picture]:
    """What the import of tenant `number` looks like when nothing goes wrong; made once a session."""

    def look(number: int = 0) -> Picture:
        key = (sandbox.root, number)
        if key not in _undisturbed:
            sandbox.control(**SANDBOX)
            with stage(sandbox) as calm:
                worker = calm.worker()
                job = until(calm.job(number), "completed", seconds=60)
                assert worker.stop() == 0, worker.words()
                _undisturbed[key] = picture(job.tenant)
            empty_database()
        return _undisturbed[key]

    look(0)
    return look


def describe(workers: list[Any]) -> str:
    """The workers' logs, for a failure."""
    return "\n".join(worker.words() for worker in workers)


# -- the toy: a provider of the tests' own ------------------------------------------------------------------------------------

_calm: list[Picture] = []


@pytest.fixture(scope="session")
def toy_server() -> Iterator[toys.Server]:
    with toys.serving() as server:
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits and time-outs of a test's length."""
    monkeypatch.setattr(retrying, "BACK_OFF", 0.02)
    monkeypatch.setattr(retrying, "THROTTLE_DEFAULT", timedelta(seconds=0.3))
    monkeypatch.setattr(retrying, "DAILY_QUOTA_DEFAULT", timedelta(seconds=0.6))
    monkeypatch.setattr(transport, "READ_TIMEOUT", 0.6)
    monkeypatch.setattr(http, "TOTAL_TIMEOUT", 1.2)


@pytest.fixture
def toy(
    transactional_db: None, toy_server: toys.Server, quick: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ToyStage]:
    """The toy's server in order, the toy registered, a tenant with a connection to it, and the picture of a calm import."""
    monkeypatch.setitem(PROVIDERS, "toy", toys.provider(toy_server.root))
    monkeypatch.setenv("ATOM_PROVIDER_TOY_CLIENT_ID", "toy")
    monkeypatch.setenv("ATOM_PROVIDER_TOY_CLIENT_SECRET", "secret")
    toy_server.reset()
    if not _calm:
        running = Worker()
        calm = ToyStage(toy_server)
        calm.done(calm.job())
        running.stop()
        _calm.append(picture(calm.tenant))
        empty_database()
    toy_server.reset()
    yield ToyStage(toy_server, _calm[0])
    toy_server.reset()
