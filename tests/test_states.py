"""The job's state machine: every edge that there is, and every one that there is not."""

from __future__ import annotations

import itertools

import pytest

from historical_sync import states

LEGAL = {
    ("pending", "running"), ("pending", "paused"), ("pending", "cancelled"), ("pending", "failed"),
    ("running", "paused"), ("running", "completed"), ("running", "failed"), ("running", "cancelled"),
    ("paused", "pending"), ("paused", "cancelled"), ("failed", "pending"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "target"), list(itertools.product(states.STATUSES, repeat=2)))
def test_an_edge_is_legal_exactly_if_the_design_draws_it(source: str, target: str) -> None:
    assert (source in states.sources(target)) is ((source, target) in LEGAL)


def test_every_edge_says_when() -> None:
    assert all(words for words in states.TRANSITIONS.values())


@pytest.mark.parametrize("status", ["completed", "cancelled"])
def test_nothing_leaves_a_final_state(status: str) -> None:
    assert not any(status in states.sources(target) for target in states.STATUSES)
    assert not states.can_cancel(status)
    assert not states.can_pause(status)
    assert not states.can_resume(status)


def test_what_can_be_done_leads_along_legal_edges() -> None:
    for status in states.STATUSES:
        if states.can_cancel(status):
            assert (status, "cancelled") in LEGAL
        if states.can_pause(status):
            assert (status, "paused") in LEGAL
        if states.can_resume(status):
            assert (status, "pending") in LEGAL
