"""What a worker stands on goes away and comes back: PostgreSQL, Redis, a database that is not there yet.

In a process of its own with servers of its own, as nobody else's tests shall see them go: the bench's rounds for these faults.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.conftest import PROJECT, missing

pytestmark = pytest.mark.processes


def test_postgresql_redis_and_a_late_database_cost_an_import_nothing() -> None:
    if shutil.which("redis-server") is None:
        missing("redis-server")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.faults", "--rounds", "3", "--only", "postgres,first,redis"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = [line.split()[-7:-4] for line in done.stdout.splitlines() if line.rstrip().endswith(" s")]
    assert rows == [["1", "0", "0"]] * 3, done.stdout
