"""Workers that die, stop, freeze and change: what they leave is what an undisturbed run leaves."""

from __future__ import annotations

from tests.conftest import until
from tests.faults.stage import Picture, Stage, damage, picture


def test_two_undisturbed_imports_look_the_same(theatre: Stage, undisturbed: list[Picture]) -> None:
    theatre.worker()
    job = until(theatre.job(), "completed", seconds=60)
    found = damage(undisturbed[0], picture(job.tenant))
    assert not found, str(found)
    assert len(undisturbed[0]["records"]) > 500
