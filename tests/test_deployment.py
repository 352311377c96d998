"""Web and workers in processes of their own, on DATABASE_URL and REDIS_URL, with production settings."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import psycopg
import pytest
import websockets
from cryptography.fernet import Fernet
from django.db import connections

from tests.conftest import free_port, sandbox_token, wait_for
from tests.processes import PROJECT, Running, manage

pytestmark = [pytest.mark.processes, pytest.mark.redis, pytest.mark.xdist_group("deployment")]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, redis_url: str, migrated: Migrated) -> Iterator[Deployment]:
    """daphne and two `sync_worker` on DATABASE_URL and REDIS_URL with production settings."""
    made = Deployment(redis_url, migrated, tmp_path_factory.mktemp("static"))
    yield made
    made.stop()


def make_static_files(static: Path) -> None:
    """The step of the image that does so, as Dockerfile has it."""
    text = (PROJECT / "Dockerfile").read_text().replace("\\\n", " ")
    (step,) = re.findall(r"^RUN (.*\bcollectstatic\b.*)$", text, re.M)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        step,
        shell=True,
        cwd=PROJECT,
        env={"PATH": path, "ATOM_STATIC_ROOT": str(static)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def web_command(port: int) -> list[str]:
    """The image's, as Dockerfile has it, at a port of this machine alone."""
    (command,) = re.findall(r"^CMD (.*)$", (PROJECT / "Dockerfile").read_text(), re.M)
    given = {"0.0.0.0": "127.0.0.1", "8000": str(port)}
    return [given.get(word, word) for word in json.loads(command)]


def test_the_images_user_reads_its_files_whatever_the_umask_of_who_builds_it(tmp_path: Path) -> None:
    (tmp_path / "atom").mkdir(mode=0o700)
    (tmp_path / "atom" / "settings.py").touch(mode=0o600)
    after_copying = (PROJECT / "Dockerfile").read_text().partition("\nCOPY . .\n")[2].partition("\nUSER ")[0]
    for step in re.findall(r"^RUN (chmod .*)$", after_copying, re.M):
        subprocess.run(step, shell=True, cwd=tmp_path, check=True)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"atom": 0o755, "settings.py": 0o644}


# What the proxy in front adds.
BEHIND_TLS = {"X-Forwarded-Proto": "https"}


class Deployment:
    def __init__(self, redis_url: str, migrated: Migrated, static: Path) -> None:
        self.variables = {
            "ATOM_ENV": "production",
            "ATOM_SECRET_KEY": "a secret key for the tests " * 3,
            "ATOM_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
            "ATOM_ALLOWED_HOSTS": "127.0.0.1",
            "ATOM_PUBLIC_URL": "https://atom.example",
            "ATOM_TRUST_FORWARDED_PROTO": "true",
            "ATOM_STATIC_ROOT": str(static),
            **migrated.database,
            "REDIS_URL": redis_url,
            "ATOM_REDIS_PREFIX": f"atom_deployment_{os.getpid()}",
        }
        self.running: list[Running] = []
        make_static_files(static)
        self.manage("create_tenant", "Acme", "--slug", "acme", "--plan", "team", "--owner", "alice@acme.test")
        self.key = self.manage("create_api_key", "--tenant", "acme", "--role", "member", "--name", "test")
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.web = self._start("-m", *web_command(port))
        wait_for(lambda: httpx2.get(f"http://{self.address}/healthz").status_code == 200, 60)
        self.workers = [self.start_worker(), self.start_worker()]
        self.api = httpx2.Client(
            base_url=f"http://{self.address}", headers={**BEHIND_TLS, "Authorization": f"Api-Key {self.key}"}
        )

    def _start(self, *arguments: str) -> Running:
        running = Running(*arguments, **self.variables)
        self.running.append(running)
        return running

    def start_worker(self) -> Running:
        worker = self._start("manage.py", "sync_worker", "--concurrency", "4")
        worker.says("Working on starts, history")
        return worker

    def manage(self, *arguments: str) -> str:
        ended = manage(*arguments, **self.variables)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def connect(self, sandbox: Any, grant: str) -> str:
        """A connection to GitHub's stand-in by token, as an operator makes it; its id."""
        return self.manage(
            "connect", "github", "--tenant", "acme", "--token", sandbox_token(grant), "--base-url", f"{sandbox.root}/github"
        )  # fmt: skip

    def start(self, connection: str, **body: Any) -> dict[str, Any]:
        reply = self.api.post(f"/api/integrations/{connection}/historical-sync/start", json=body)
        assert reply.status_code == 202, reply.text
        return dict(reply.json()["job"])

    def job(self, job_id: str) -> dict[str, Any]:
        reply = self.api.get(f"/api/integrations/historical-sync/jobs/{job_id}")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    async def watch(self, job_id: str, enough: Any) -> list[dict[str, Any]]:
        """The socket's events until `enough(event)`."""
        headers = {"Authorization": f"Api-Key {self.key}"}
        events = []
        async with websockets.connect(
            f"ws://{self.address}/ws/historical-sync/{job_id}", additional_headers=headers
        ) as socket_:
            async with asyncio.timeout(60):
                async for text in socket_:
                    events.append(json.loads(text))
                    if enough(events[-1]):
                        return events
        raise AssertionError(f"the socket closed: {events[-1:]}")

    def stop(self) -> None:
        self.api.close()
        for running in self.running:
            running.stop()


@contextmanager
def database(name: str) -> Iterator[dict[str, str]]:
    """DATABASE_URL of a database of its own on the tests' server, in which there is nothing."""
    parameters = connections["default"].get_connection_params()
    server = {name: parameters[name] for name in ("host", "port", "user", "password") if parameters.get(name)}
    name = f"atom_{name}_{os.getpid()}"
    with psycopg.connect(**server, dbname="postgres", autocommit=True) as owner:
        owner.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        owner.execute(f"CREATE DATABASE {name}")
        yield {"DATABASE_URL": f"postgresql:///?{urlencode({**server, 'dbname': name})}"}
        owner.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database() -> Iterator[dict[str, str]]:
    with database("empty") as made:
        yield made


@dataclass
class Migrated:
    """The deployment's database, which three machines at once have migrated; how that went on each of them."""

    database: dict[str, str]
    codes: list[int]
    outputs: list[str]


@pytest.fixture(scope="module")
def migrated() -> Iterator[Migrated]:
    with database("deployment") as made:
        started = [Running("manage.py", "migrate", **made) for _ in range(3)]
        yield Migrated(made, [running.ends(120) for running in started], [running.output for running in started])


def test_machines_that_start_together_migrate_one_after_the_other(migrated: Migrated) -> None:
    assert migrated.codes == [0, 0, 0], migrated.outputs
    assert sum("No migrations to apply." in output for output in migrated.outputs) == 2


def test_a_worker_that_finds_no_tables_says_so(empty_database: dict[str, str]) -> None:
    worker = Running("manage.py", "sync_worker", **empty_database)
    try:
        assert "does not exist" in worker.says("trying again")
    finally:
        worker.stop()


def test_the_doctor_knows_why_a_database_does_not_answer(empty_database: dict[str, str]) -> None:
    address = empty_database["DATABASE_URL"]
    missing = manage("doctor", **empty_database)
    assert "Migrations are missing" in missing.stdout
    nowhere = manage("doctor", DATABASE_URL=address.replace("atom_empty", "atom_none"))
    assert nowhere.stdout.startswith("- The database does not answer: ")
    assert "does not exist" in nowhere.stdout
    assert missing.returncode == nowhere.returncode == 1


def ended(event: dict[str, Any]) -> bool:
    return event["job"]["status"] in ("completed", "failed", "cancelled")


def test_a_job_started_by_rest_is_followed_over_the_socket_to_its_end(deployment: Deployment, sandbox: Any) -> None:
    ready = httpx2.get(f"http://{deployment.address}/readyz")
    assert (ready.status_code, ready.text.splitlines()) == (200, ["database: ok", "queue: ok", "channel layer: ok"])
    sandbox.control(latency_ms=60)
    connection = deployment.connect(sandbox, "first")
    job = deployment.start(connection, start_date="2025-01-01")
    assert job["status"] in ("pending", "running")  # a worker may have it before the answer is written

    events = asyncio.run(deployment.watch(job["id"], ended))

    assert events[0]["type"] == "snapshot"
    assert events[-1]["type"] == "completed"
    assert {event["type"] for event in events[1:-1]} == {"progress"}
    for name, numbers in {
        "seq": [event["seq"] for event in events],
        "percentage": [event["job"]["progress_percentage"] for event in events],
        "records": [event["job"]["records_processed"] for event in events],
    }.items():
        assert numbers == sorted(numbers), name
    last = events[-1]["job"]
    assert last["progress_percentage"] == 100
    assert last == deployment.job(job["id"])
    assert last["records_processed"] == sum(sandbox.truth("github", since="2025-01-01T00:00:00Z").values())


def test_a_stranger_opens_no_socket(deployment: Deployment, sandbox: Any) -> None:
    async def status(**headers: str) -> int:
        try:
            async with websockets.connect(f"ws://{deployment.address}/ws/notifications", additional_headers=headers):
                return 101
        except websockets.InvalidStatus as refused:
            return refused.response.status_code

    assert asyncio.run(status()) == 403
    assert asyncio.run(status(Authorization="Api-Key nonsense.nonsense")) == 403
    assert asyncio.run(status(Authorization=f"Api-Key {deployment.key}", Origin="https://evil.example")) == 403
    assert asyncio.run(status(Authorization=f"Api-Key {deployment.key}")) == 101


def test_pages_of_the_deployment_are_whole_and_sealed(deployment: Deployment) -> None:
    plain = httpx2.get(f"http://{deployment.address}/sign-in")
    assert (plain.status_code, plain.headers["location"]) == (301, f"https://{deployment.address}/sign-in")
    page = httpx2.get(f"http://{deployment.address}/sign-in", headers=BEHIND_TLS)
    assert page.status_code == 200
    assert page.headers["strict-transport-security"].startswith("max-age=31536000")
    assert "'unsafe-inline'" not in page.headers["content-security-policy"]
    style = re.search(r'href="(/static/atom/atom\.[0-9a-f]+\.css)"', page.text)
    assert style, "named by its content"
    assert (
        httpx2.get(f"http://{deployment.address}{style[1]}", headers=BEHIND_TLS)
        .headers["cache-control"]
        .endswith("immutable")
    )
    assert httpx2.get(f"http://{deployment.address}/sandbox/__control", headers=BEHIND_TLS).status_code == 404


def test_the_log_holds_no_secret_and_of_a_wrong_host_a_line(deployment: Deployment) -> None:
    at = f"http://{deployment.address}"
    asked = {**BEHIND_TLS, "Authorization": "Api-Key asked.withthiskey"}
    for path in ("/password/Mg/the-token", "/integrations/github/callback?code=the-code&state=x", "/api/entities"):
        assert httpx2.get(f"{at}{path}", headers=asked).status_code < 500
    assert httpx2.get(f"{at}/welcome/Mg/the-token/and-more", headers=BEHIND_TLS).status_code == 404
    assert httpx2.post(f"{at}/password/Mg/the-token", headers=BEHIND_TLS).status_code == 403
    assert httpx2.get(f"{at}/sign-in", headers={**BEHIND_TLS, "Host": "elsewhere.example"}).status_code == 400
    deployment.web.says("elsewhere.example")
    logged = deployment.web.output
    assert "Not Found: /welcome/..." in logged
    assert re.search(r"Forbidden \(.*\): /password/\.\.\.$", logged, re.M)
    assert not [secret for secret in ("the-token", "the-code", "withthiskey") if secret in logged]
    assert "Traceback" not in logged


def test_a_try_to_sign_in_is_told_with_the_address_that_the_proxy_sees(deployment: Deployment) -> None:
    seen = {**BEHIND_TLS, "X-Forwarded-For": "203.0.113.5"}
    page = httpx2.get(f"http://{deployment.address}/sign-in", headers=seen)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert token
    # By hand: they are for https alone.
    cookies = "; ".join(f"{name}={value}" for name, value in page.cookies.items())
    reply = httpx2.post(
        f"http://{deployment.address}/sign-in",
        headers={**seen, "Cookie": cookies, "Referer": f"https://{deployment.address}/sign-in"},
        data={"csrfmiddlewaretoken": token[1], "email": "nobody@acme.test", "password": "wrong"},
    )
    assert reply.status_code == 400, reply.text
    assert "do not match" in reply.text
    said = "somebody failed to sign in, and there is no such account, from 203.0.113.5"
    wait_for(lambda: any(said in worker.output for worker in deployment.workers), 20)


def test_workers_that_are_told_to_stop_give_their_work_back(deployment: Deployment, sandbox: Any) -> None:
    sandbox.control(latency_ms=150)
    connection = deployment.connect(sandbox, "second")
    job = deployment.start(connection, start_date="2024-06-01", full=True)
    asyncio.run(deployment.watch(job["id"], lambda e: e["job"]["records_processed"] + e["job"]["records_skipped"] > 0))

    for worker in deployment.workers:
        worker.signal(signal.SIGTERM)
    assert [worker.ends() for worker in deployment.workers] == [0, 0]
    assert all("Traceback" not in worker.output for worker in deployment.workers)
    left = deployment.job(job["id"])
    assert left["status"] == "running", "the job waits for a worker"

    deployment.workers = [deployment.start_worker()]
    sandbox.control(latency_ms=0)
    last = asyncio.run(deployment.watch(job["id"], ended))[-1]["job"]
    assert (last["status"], last["failed_chunks"]) == ("completed", 0)
    assert last["records_processed"] + last["records_skipped"] >= left["records_processed"] + left["records_skipped"]
