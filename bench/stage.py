"""What every measurement needs: a database of its own, the mock API, workers, and clocks."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

PROJECT = Path(__file__).resolve().parent.parent
SINCE_DAYS = 90
GIVING_WAY = 12  # nice: 70 of 1024 shares of the processor; compose.yaml's workers have 64


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def set_up_django() -> None:
    """The project in this process, on a fresh embedded server or DATABASE_URL's, with bench's tenant."""
    os.environ.setdefault("ATOM_HOME", tempfile.mkdtemp(prefix="atom-bench-"))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "atom.settings")
    os.environ.setdefault("ATOM_LOG_LEVEL", "ERROR")
    os.environ.setdefault("ATOM_API_RATE", "1000000/min")
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0, interactive=False)


def tear_down() -> None:
    home = os.environ.get("ATOM_HOME", "")
    if Path(home).name.startswith("atom-bench-"):
        from django.db import connections

        connections.close_all()
        shutil.rmtree(home, ignore_errors=True)


def dsn() -> str:
    """The owner's address of the bench's database, for psycopg and for peers."""
    if given := os.environ.get("DATABASE_URL"):
        return given
    from atom.embedded import connection_settings

    found = connection_settings()
    return f"postgresql://{found['USER']}@/atom?host={found['HOST']}&port={found['PORT'] or 5432}"


def empty_tables() -> None:
    """No connections, and nothing that came in through them; statistics and indexes as new. SystemExit where others' data is."""
    with psycopg.connect(dsn(), autocommit=True) as owner:
        others = owner.execute("SELECT slug FROM atom_tenant WHERE slug NOT LIKE 'bench%' LIMIT 1").fetchone()
        if others:
            raise SystemExit(
                f"The database of DATABASE_URL or ATOM_HOME has a workspace {others[0]!r}: the bench empties its database."
            )
        # By name: the database knows no foreign keys of the large tables that CASCADE could follow.
        tables = owner.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE 'historical_sync_%'").fetchall()
        emptied = ["integrations_connection", "procrastinate_jobs", *[name for (name,) in tables]]
        owner.execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.SQL(", ").join(map(sql.Identifier, emptied))))
        owner.execute("CHECKPOINT")


@contextmanager
def mock_api(records: int, latency_ms: float = 0, repositories: int = 1) -> Iterator[str]:
    """The mock API in a process of its own; its root."""
    port = free_port()
    command = [sys.executable, "-m", "bench.mock_api", "--port", str(port), "--records", str(records)]
    command += ["--latency-ms", str(latency_ms), "--repositories", str(repositories)]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _peak_mib(process: psutil.Process) -> float:
    try:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return float(process.memory_info().rss) / 1024 / 1024


class Process:
    """A process of the project, with its peak memory. In a session of its own: the kernel shares the processor out among sessions, as it
    does among services and containers, and only then among their processes."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=PROJECT,
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def give_way(self) -> None:
        """The others go first, as before a container of compose.yaml's workers."""
        os.setpriority(os.PRIO_PROCESS, self.process.pid, GIVING_WAY)
        with contextlib.suppress(OSError):  # a kernel that shares out among processes only
            Path(f"/proc/{self.process.pid}/autogroup").write_text(str(GIVING_WAY))

    def own(self) -> list[psutil.Process]:
        """It, and the processes that it has started."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def peak_mib(self) -> float:
        """The most memory that it and its own have had resident so far, each by itself."""
        return sum(map(_peak_mib, self.own()))

    def rss_mib(self) -> float:
        return sum(float(process.memory_info().rss) for process in self.own()) / 1024 / 1024

    def cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self.own()]
        return float(sum(time.user + time.system for time in times))

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class DatabaseClock:
    """The processor's time of PostgreSQL, which must run on this machine: all its processes, those that ended, too."""

    def __init__(self) -> None:
        with psycopg.connect(dsn()) as owner:
            self.server = psutil.Process(owner.info.backend_pid).parent()

    def cpu_seconds(self) -> float:
        assert self.server is not None
        times = self.server.cpu_times()
        seconds = times.user + times.system + times.children_user + times.children_system
        for process in self.server.children():
            try:
                own = process.cpu_times()
                seconds += own.user + own.system
            except psutil.NoSuchProcess:
                pass
        return float(seconds)


@contextmanager
def workers(
    number: int, concurrency: int = 20, *, give_way: bool = False, **environment: str
) -> Iterator[list[Process]]:
    """Worker processes that are ready for work."""
    running = [
        Process("manage.py", "sync_worker", "--concurrency", str(concurrency), **environment) for _ in range(number)
    ]
    for worker in running if give_way else ():
        worker.give_way()
    try:
        wait_for(lambda: alive_workers() >= number, 60)
        yield running
    finally:
        for worker in running:
            worker.stop()


def alive_workers() -> int:
    """Processes that are ready: each has three loops at the queue."""
    with psycopg.connect(dsn()) as owner:
        row = owner.execute(
            "SELECT count(*) FROM procrastinate_workers WHERE last_heartbeat > now() - interval '10 seconds'"
        ).fetchone()
    assert row is not None
    return int(row[0]) // 3


def wait_for(condition: Any, seconds: float, every: float = 0.02) -> Any:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        if value := condition():
            return value
        time.sleep(every)
    raise TimeoutError(f"not so after {seconds} s")


def make_tenant(slug: str = "bench", plan: str = "enterprise") -> Any:
    from atom.models import Tenant

    slug = slug if slug.startswith("bench") else f"bench-{slug}"  # what `empty_tables` knows as its own
    return Tenant.objects.get_or_create(slug=slug, defaults={"name": slug.capitalize(), "plan": plan})[0]


def connect(tenant: Any, root: str, account: str = "bench", token: str = "token", provider: str = "github") -> Any:
    """A connection to the mock API."""
    from atom.tenancy import tenant_scope
    from integrations.models import Connection

    with tenant_scope(tenant.id):
        row = Connection(
            tenant=tenant,
            provider_slug=provider,
            external_account_id=account,
            account_label=account,
            base_url=root,
            private_host_allowed=True,
        )
        row.set_credentials(token)
        row.save()
    return row


def start(connection: Any, streams: Sequence[str] = ("issues",), **options: Any) -> Any:
    """A job for the connection's issues, or other streams, of the last 90 days."""
    from datetime import UTC, datetime, timedelta

    from atom.access import system_actor
    from atom.tenancy import tenant_scope
    from historical_sync import actions

    with tenant_scope(connection.tenant_id):
        return actions.start_sync(
            system_actor(connection.tenant, "bench"),
            connection,
            start=datetime.now(UTC) - timedelta(days=SINCE_DAYS),
            streams=list(streams),
            **options,
        )


def finished(job: Any, seconds: float = 900) -> Any:
    """The job once it is completed."""
    from atom.tenancy import tenant_scope
    from historical_sync.actions import get_job

    # By a query that takes next to nothing from what is measured.
    with psycopg.connect(dsn(), autocommit=True) as owner:

        def look() -> bool:
            row = owner.execute(
                "SELECT status, last_error_message FROM historical_sync_historicalsyncjob WHERE id = %s", [job.id]
            ).fetchone()
            assert row is not None
            assert row[0] not in ("failed", "paused", "cancelled"), row[1]
            return bool(row[0] == "completed")

        wait_for(look, seconds, 0.05)
    with tenant_scope(job.tenant_id):
        return get_job(job.tenant, job.id)


def outside(command: list[str], **environment: str) -> dict[str, Any]:
    """Runs a program that prints one line of JSON at its end; that, with the process's peak memory."""
    done = subprocess.run(
        ["/usr/bin/env", "python3", str(PROJECT / "bench" / "measured.py"), *command],
        cwd=PROJECT, env=os.environ | environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@contextmanager
def web(redis_url: str) -> Iterator[tuple[str, Process]]:
    """Daphne on a free port, with the Redis layer; its address and process."""
    import httpx2

    port = free_port()
    environment = {"REDIS_URL": redis_url, "ATOM_SANDBOX": "0", "DATABASE_URL": dsn()}
    process = Process("-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "atom.asgi:application", **environment)
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx2.get(f"{address}/healthz").status_code == 200
        except httpx2.TransportError:
            return False

    try:
        wait_for(answers, 60)
        yield address, process
    finally:
        process.stop()


@contextmanager
def redis_server() -> Iterator[str]:
    """REDIS_URL's, or a server of the bench's own."""
    if given := os.environ.get("REDIS_URL"):
        yield given
        return
    port = free_port()
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def api_key(tenant: Any, role: str = "owner") -> str:
    from atom.models import ApiKey
    from atom.tenancy import tenant_scope

    with tenant_scope(tenant.id):
        return str(ApiKey.objects.create_key(tenant=tenant, role=role, name="bench")[1])


def percentile(values: list[float], share: float) -> float:
    """The least value that so large a share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median(values: list[float]) -> float:
    return statistics.median(values)
