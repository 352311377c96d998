"""What a worker's log says of providers' troubles."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from historical_sync import trouble
from historical_sync.retrying import Action
from integrations.errors import AccessDenied, Throttled

AT = datetime(2026, 10, 20, 12, tzinfo=UTC)
JOB = cast(Any, SimpleNamespace(id="j1", connection=SimpleNamespace(provider_name="GitHub")))


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, trouble.log.name)
    return caplog


def test_a_limit_that_meets_twenty_parts_is_a_line_and_one_more_each_minute(
    told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([1000.0] * 20 + [1059.0, 1060.0])
    monkeypatch.setattr(trouble, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    troubles = trouble.Trouble()
    for number in range(22):
        error = Throttled("GitHub's rate limit is used up.")
        troubles.tell(JOB, f"stream_{number}", error, error.code, Action.WAIT, AT)
    until = "waits for the limit until 2026-10-20 12:00:00 UTC; provider_throttled: GitHub's rate limit is used up."
    assert told.messages == [
        f"job j1 of GitHub, stream_0 {until}",
        f"job j1 of GitHub, stream_21 {until} (20 more like this since the last line)",
    ]
    assert {record.levelname for record in told.records} == {"INFO"}


def test_what_is_given_up_is_told_at_once_and_says_nothing_of_what_the_tenant_has(
    told: pytest.LogCaptureFixture,
) -> None:
    troubles = trouble.Trouble()
    error = AccessDenied("GitHub does not let this connection read /repos/acme/secret (403).")
    troubles.tell(JOB, "issues", error, error.code, Action.RETRY, AT)
    troubles.tell(JOB, "issues", error, error.code, Action.FAIL)
    troubles.tell(JOB, "", error, error.code, Action.FAIL)
    assert told.messages[1:] == ["job j1 of GitHub, issues gave up; provider_access_denied"]
    assert "secret" not in told.text
    assert told.records[1].levelname == "WARNING"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(number) for number in range(10_000))
    monkeypatch.setattr(trouble, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    troubles = trouble.Trouble()
    for number in range(3 * trouble.REMEMBERED):
        job = cast(Any, SimpleNamespace(id=number, connection=JOB.connection))
        troubles.tell(job, "", Throttled("x"), "c", Action.WAIT, AT)
    assert len(troubles.told) <= trouble.REMEMBERED
