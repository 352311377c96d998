"""The oldest PostgreSQL of this machine in place of the embedded one: the whole schema, an import, the search and the policies."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import free_port, missing, sandbox_token, wait_for
from tests.processes import PROJECT, environment, manage

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("oldest-postgres")]
SUPPORTED = 15


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server of its own from the system's packages; the address of its database."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb") if path.parts[4].isdigit()]
    programs = min(
        (path for path in found if int(path.parts[4]) >= SUPPORTED), default=None, key=lambda p: int(p.parts[4])
    )
    if programs is None:
        missing(f"PostgreSQL {SUPPORTED} or newer in /usr/lib/postgresql")
    # PostgreSQL refuses to run as root.
    user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="atom-postgres-"))
    if user is not None:
        shutil.chown(home, user)
    port = free_port()
    subprocess.run(
        [f"{programs}/initdb", "-D", home / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"],
        user=user, cwd=home, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    process = subprocess.Popen(
        [f"{programs}/postgres", "-D", home / "data", "-p", str(port), "-k", home, "-c", "fsync=off"],
        user=user, cwd=home, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        wait_for(lambda: _answers(address))
        yield address
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(home)


def _answers(address: str) -> bool:
    try:
        psycopg.connect(address).close()
    except psycopg.OperationalError:
        return False
    return True


def test_it_is_set_up_and_imports_from_the_command_line(server: str, sandbox: Any) -> None:
    def do(*arguments: str) -> str:
        ended = manage(*arguments, DATABASE_URL=server)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout.strip()

    do("migrate", "--verbosity", "0")
    do("create_tenant", "Acme", "--slug", "acme", "--plan", "team", "--owner", "alice@acme.test")
    connection = do(
        "connect", "github", "--tenant", "acme", "--token", sandbox_token(), "--base-url", f"{sandbox.root}/github"
    )
    do("sync_history", connection, "--since", "2026-01-01", "--inline")
    assert "migrat" not in manage("doctor", DATABASE_URL=server).stdout.lower(), "nothing is missing but a worker"
    with psycopg.connect(server) as owner:
        found = owner.execute("SELECT count(*) FROM historical_sync_syncrecord").fetchone()
    assert found == (sum(sandbox.truth("github", since="2026-01-01T00:00:00Z").values()),)


def test_searches_the_graph_and_the_policies_hold(server: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_explorer.py", "tests/test_tenancy.py"],
        cwd=PROJECT, env=environment(DATABASE_URL=server), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
