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
    assert states.is_legal(source, target) is ((source, target) in LEGAL)


def test_every_edge_says_when() -> None:
    assert all(words for words in states.TRANSITIONS.values())


@pytest.mark.parametrize("status", states.FINAL)
def test_nothing_leaves_a_final_state(status: str) -> None:
    assert not any(states.is_legal(status, target) for target in states.STATUSES)
    assert not states.can_cancel(status)
    assert not states.can_pause(status)
    assert not states.can_resume(status)


def test_what_can_be_done_leads_along_legal_edges() -> None:
    for status in states.STATUSES:
        if states.can_cancel(status):
            assert states.is_legal(status, states.CANCELLED)
        if states.can_pause(status):
            assert states.is_legal(status, states.PAUSED)
        if states.can_resume(status):
            assert states.is_legal(status, states.PENDING)
