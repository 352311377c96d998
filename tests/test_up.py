"""`manage.py up`: everything in one process, from nothing."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import httpx2
import pytest
from cryptography.fernet import Fernet
from django.core.management import call_command
from django.core.management.base import CommandError

from atom import embedded
from tests.conftest import free_port, missing, sandbox_token, wait_for
from tests.forked import Forked
from tests.processes import PROJECT, Running, Up, environment, manage

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("up")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ATOM_HOME that the tests of `up` share, so that only the first start makes it."""
    return tmp_path_factory.mktemp("home") / ".atom"


@pytest.fixture
def up(home: Path) -> Iterator[Up]:
    running = Up(home, free_port())
    yield running
    running.stop()


def test_up_serves_from_nothing_says_where_and_stops_cleanly(up: Up) -> None:
    assert up.address.startswith("http://127.0.0.1:")
    assert "alice@acme.test" in up.output
    assert "'demo'" in up.output
    assert httpx2.get(f"{up.address}/healthz").status_code == 200
    ready = httpx2.get(f"{up.address}/readyz")
    assert (ready.status_code, ready.text.splitlines()) == (200, ["database: ok", "queue: ok", "channel layer: ok"])
    page = httpx2.get(f"{up.address}/", follow_redirects=True)
    assert "Sign in" in page.text
    assert httpx2.get(f"{up.address}/sandbox/__control").json()["records"] == 2000
    up.signal(signal.SIGINT)
    assert up.ends() == 0
    assert up.lines[-1] == "Stopped."
    assert "Traceback" not in up.output


VERIFIES = """
from datetime import UTC, datetime

secret, body, now = "whsec_" + "c2VjcmV0" * 4, '{"type": "job.completed", "data": {"status": "completed"}}', datetime.now(UTC)
signed = {"webhook-id": "msg_1", "webhook-timestamp": str(int(now.timestamp()))}
signed["webhook-signature"] = Webhook(secret).sign("msg_1", now, body)
print("received", *received(secret, body, signed))
"""


def test_the_examples_of_the_api_are_a_program_that_works(up: Up) -> None:
    examples = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "api.md").read_text(), re.DOTALL)
    assert len(examples) == 6
    made = up.manage("create_tenant", "Reader", "--slug", "reader", "--plan", "team", "--owner", "rita@reader.test")
    assert made.returncode == 0, made.stderr
    at = ("--token", sandbox_token("reader"), "--base-url", f"{up.address}/sandbox/github")
    connected = up.manage("connect", "github", "--tenant", "reader", *at)
    assert connected.returncode == 0, connected.stderr
    key = up.manage("create_api_key", "--tenant", "reader", "--role", "member", "--name", "examples").stdout.strip()
    program = Running("-c", "\n".join([*examples, VERIFIES]), ATOM_HOST=up.address, ATOM_KEY=key)
    assert program.ends(120) == 0, program.output
    assert "completed" in program.lines[program.lines.index("snapshot 100") - 1]
    assert any(line.startswith("incremental from ") for line in program.lines)
    assert any(" authored " in line for line in program.lines)
    assert any("'title': " in line and "'comments': " in line for line in program.lines)
    assert any(line.startswith("{'id': ") and "'payload': " in line for line in program.lines)
    assert any(
        line.startswith("{'id': ") and "'properties': " in line and line.endswith(" None") for line in program.lines
    )
    assert program.lines[-1] == "received job.completed completed"


def test_any_command_makes_the_embedded_database_where_there_is_none(tmp_path: Path) -> None:
    done = manage("create_tenant", "Initech", "--slug", "initech", "--plan", "solo", "--owner", "bill@initech.test", ATOM_HOME=str(tmp_path))  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "Tenant initech with owner bill@initech.test\n"), done.stderr


def test_a_home_may_be_called_what_its_user_likes(tmp_path: Path) -> None:
    """The first command makes the database and restarts its server, the second starts it."""
    home = tmp_path / "Alice & Bob's (50%), Köln"
    made = manage("create_tenant", "Initech", "--slug", "initech", "--plan", "solo", "--owner", "bill@initech.test", ATOM_HOME=str(home))  # fmt: skip
    assert made.returncode == 0, made.stderr
    again = manage("create_api_key", "--tenant", "initech", "--role", "member", "--name", "test", ATOM_HOME=str(home))
    assert again.returncode == 0, again.stderr


CONNECTS = """
import django
django.setup()
from django.db import connection
from atom.db.base import as_owner
with as_owner():
    connection.ensure_connection()
"""


def test_processes_that_find_no_server_at_once_start_one_between_them(tmp_path: Path) -> None:
    started = [
        Running("-c", CONNECTS, ATOM_HOME=str(tmp_path), DJANGO_SETTINGS_MODULE="atom.settings") for _ in range(3)
    ]
    assert [process.ends(60) for process in started] == [0, 0, 0], [process.output for process in started]


def test_a_server_that_is_stopping_is_waited_for(tmp_path: Path) -> None:
    """It stops with its last connection, as it was told, and the process that started it lives on for a while."""
    code = f"{CONNECTS}    print('connected')\n    __import__('time').sleep(4)\n"
    holder = Running("-c", code, ATOM_HOME=str(tmp_path), DJANGO_SETTINGS_MODULE="atom.settings")
    holder.says("connected", 60)
    noted = tmp_path / "postgres" / "postmaster.pid"
    os.kill(int(noted.read_text().split()[0]), signal.SIGTERM)
    wait_for(lambda: "stopping" in noted.read_text())
    other = Running("-c", CONNECTS, ATOM_HOME=str(tmp_path), DJANGO_SETTINGS_MODULE="atom.settings")
    assert other.ends(60) == 0, other.output
    assert holder.ends(60) == 0, holder.output


def test_the_folder_of_sockets_is_its_users_own_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel opens it to all where root's ATOM_HOME has a long path, and what anybody may write is taken by nobody."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = embedded._runtime_folder()
    folder.chmod(0o777)
    assert embedded._runtime_folder() == folder
    assert folder.stat().st_mode & 0o777 == 0o700


def test_who_starts_a_server_closes_no_folder_of_sockets_from_which_another_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """Root's server runs as somebody else, for whom it is open meanwhile; another user's needs no opening."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = embedded._runtime_folder()
    folder.chmod(0o755)
    settings.ATOM_HOME = tmp_path / "other"
    embedded._runtime_folder()
    assert folder.stat().st_mode & 0o777 == (0o755 if os.getuid() == 0 else 0o700)


def test_a_home_of_an_earlier_version_gets_the_settings_of_this_one(home: Path) -> None:
    def asked(statement: str) -> str:
        code = f"{CONNECTS}    with connection.cursor() as cursor:\n        cursor.execute({statement!r})\n"
        code += "        print(cursor.fetchall() if cursor.description else '')\n"
        running = Running("-c", code, ATOM_HOME=str(home), DJANGO_SETTINGS_MODULE="atom.settings")
        assert running.ends(60) == 0, running.output
        return running.lines[-1]

    asked("ALTER SYSTEM SET wal_compression = 'pglz'")
    assert asked("SHOW wal_compression") == "[('off',)]"


def test_the_second_start_is_quick_and_keeps_what_was_there(home: Path) -> None:
    before = manage("create_tenant", "Initech", "--slug", "initech", "--plan", "solo", "--owner", "bill@initech.test", ATOM_HOME=str(home))  # fmt: skip
    assert before.returncode == 0, before.stderr
    began = time.monotonic()
    running = Up(home, free_port())
    took = time.monotonic() - began
    try:
        assert took < 15, "5 s on a machine that does nothing else"
        again = running.manage("create_tenant", "Initech", "--slug", "initech", "--plan", "solo", "--owner", "bill@initech.test")  # fmt: skip
        assert again.returncode == 2
        assert "already exists" in again.stderr
    finally:
        running.stop()


def test_a_second_one_on_the_same_home_says_so_and_exits_1(up: Up) -> None:
    second = Running("manage.py", "up", ATOM_HOME=str(up.home), PORT=str(free_port()))
    assert second.ends() == 1
    assert "already running" in second.output
    assert "Traceback" not in second.output
    assert httpx2.get(f"{up.address}/healthz").status_code == 200


@pytest.mark.parametrize("port", ["0", "65536", "nine"])
def test_a_port_that_is_none_is_bad_input(settings: Any, tmp_path: Path, monkeypatch: Any, port: str) -> None:
    settings.ATOM_HOME = tmp_path
    monkeypatch.setenv("PORT", port)
    with pytest.raises(CommandError, match="must be a number from 1 to 65535") as refused:
        call_command("up")
    assert refused.value.returncode == 2


def test_a_port_in_use_is_told_in_words(settings: Any, tmp_path: Path) -> None:
    settings.ATOM_HOME = tmp_path
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(CommandError, match="is in use: choose another with --port or PORT") as refused:
            call_command("up", port=other.getsockname()[1])
    assert refused.value.returncode == 1


def test_sigterm_in_the_middle_of_an_import_stops_cleanly_and_the_next_start_goes_on(home: Path) -> None:
    running = Up(home, free_port())
    try:
        running.sandbox(latency_ms=120)
        connection = running.manage(
            "connect", "github", "--tenant", "acme", "--token", sandbox_token(), "--base-url", f"{running.address}/sandbox/github"
        )  # fmt: skip
        assert connection.returncode == 0, connection.stderr
        started = running.manage("sync_history", connection.stdout.strip(), "--json")
        job = json.loads(started.stdout)
        key = running.manage("create_api_key", "--tenant", "acme", "--role", "member", "--name", "test").stdout.strip()

        def now() -> dict[str, Any]:
            reply = httpx2.get(
                f"{running.address}/api/integrations/historical-sync/jobs/{job['id']}",
                headers={"Authorization": f"Api-Key {key}"},
            )
            return dict(reply.json())

        wait_for(lambda: now()["records_processed"] > 0)
        running.signal(signal.SIGTERM)
        assert running.ends() == 0
        assert "Traceback" not in running.output
        # The stand-in's address is part of the connection, so the next start takes the same port.
        running = Up(home, int(running.address.rsplit(":", 1)[1]))
        wait_for(lambda: now()["status"] == "completed", seconds=60)
        assert now()["failed_chunks"] == 0
    finally:
        running.stop()


@pytest.fixture
def never_reaping() -> Iterator[None]:
    """Orphans become this process's, which never asks how they ended, as where `up` is a container's first process."""
    if sys.platform != "linux":
        missing("Linux")
    subreaper, libc = 36, ctypes.CDLL(None)
    assert libc.prctl(subreaper, 1) == 0
    yield
    assert libc.prctl(subreaper, 0) == 0


@pytest.mark.usefixtures("never_reaping")
def test_a_database_server_that_is_killed_comes_back_and_the_import_goes_on(up: Up) -> None:
    up.sandbox(reset=True, latency_ms=60)
    connection = up.manage(
        "connect", "github", "--tenant", "acme", "--token", sandbox_token("killed"), "--base-url", f"{up.address}/sandbox/github"
    )  # fmt: skip
    started = json.loads(up.manage("sync_history", connection.stdout.strip(), "--full", "--json").stdout)
    key = up.manage("create_api_key", "--tenant", "acme", "--role", "member", "--name", "test").stdout.strip()

    def now() -> dict[str, Any]:
        reply = httpx2.get(
            f"{up.address}/api/integrations/historical-sync/jobs/{started['id']}",
            headers={"Authorization": f"Api-Key {key}"},
            timeout=30,
        )
        return dict(reply.json()) if reply.status_code == 200 else {}

    wait_for(lambda: now()["records_processed"] + now()["records_skipped"] > 0)
    server = up.home / "postgres" / "postmaster.pid"
    killed = int(server.read_text().split()[0])
    os.kill(killed, signal.SIGKILL)
    up.says("database's server was gone")
    assert os.waitpid(killed, os.WNOHANG)[0] == killed, "it had not been asked for"
    assert int(server.read_text().split()[0]) != killed
    wait_for(lambda: httpx2.get(f"{up.address}/readyz").status_code == 200)
    wait_for(lambda: now().get("status") == "completed", seconds=60)
    assert now()["failed_chunks"] == 0
    up.sandbox(latency_ms=0)


def test_a_page_that_waits_for_a_provider_keeps_nothing_from_stopping(up: Up) -> None:
    """The loop that asks the provider ends; so must the thread that waits for it."""
    done = up.manage(
        "connect", "github", "--tenant", "acme", "--token", sandbox_token(), "--base-url", f"{up.address}/sandbox/github"
    )  # fmt: skip
    with httpx2.Client(base_url=up.address, headers={"Referer": up.address}) as person:
        person.get("/sign-in")
        form = {"email": "alice@acme.test", "password": "demo", "csrfmiddlewaretoken": person.cookies["csrftoken"]}
        assert person.post("/sign-in", data=form).status_code == 302
        up.sandbox(latency_ms=2000)
        asked = threading.Thread(
            target=_ask, args=(person, f"/connections/{done.stdout.strip()}/import/estimate?streams=issues")
        )
        asked.start()
        wait_for(lambda: "/user/repos" in httpx2.get(f"{up.address}/sandbox/__log").text)
        up.signal(signal.SIGTERM)
        assert up.ends(20) == 0
        asked.join()
    assert "Traceback" not in up.output


def _ask(person: httpx2.Client, path: str) -> None:
    with suppress(httpx2.TransportError):
        person.get(path, timeout=30)


@pytest.mark.parametrize("serving", [True, False])
def test_a_terminal_that_is_closed_leaves_no_server_behind(tmp_path: Path, serving: bool) -> None:
    running = Running("manage.py", "up", ATOM_HOME=str(tmp_path / "closed"), PORT=str(free_port()))
    server = tmp_path / "closed" / "postgres" / "postmaster.pid"
    try:
        if serving:
            running.says("Ctrl-C stops it", 120)
        else:
            wait_for(server.exists, 60)
        running.signal(signal.SIGHUP)
        assert running.ends() == (0 if serving else 128 + signal.SIGHUP), running.output
        wait_for(lambda: not server.exists(), 60)  # it writes all it has first
    finally:
        running.stop()


def test_a_closed_terminal_stops_nothing_that_was_started_by_nohup(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which its children inherit
    try:
        up = Running("manage.py", "up", anew=True, ATOM_HOME=str(tmp_path / "nohup"), PORT=str(free_port()))
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        up.signal(signal.SIGHUP)
        address = up.says("Atom runs at", 120).split()[-1]
        up.signal(signal.SIGHUP)
        assert httpx2.get(f"{address}/healthz").status_code == 200
        up.signal(signal.SIGTERM)
        assert up.ends() == 0
        assert up.output.count("Stopping") == 1
    finally:
        up.stop()


def test_who_reads_only_where_it_runs_leaves_it_running(home: Path) -> None:
    port = free_port()
    read, write = os.pipe()
    with TemporaryFile("w+") as errors, Path(os.devnull).open() as nothing, os.fdopen(read) as said:
        with os.fdopen(write, "w") as told:
            variables = environment(ATOM_HOME=str(home), PORT=str(port))
            running = Forked("manage.py", "up", env=variables, stdin=nothing, stdout=told, stderr=errors)
        try:
            assert said.readline() == f"Atom runs at http://127.0.0.1:{port}\n"
            said.close()
            time.sleep(1)
            assert httpx2.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        finally:
            running.terminate()
            running.wait(40)
        errors.seek(0)
        assert "Traceback" not in errors.read()


def test_no_demo_leaves_the_database_empty(tmp_path: Path) -> None:
    running = Up(tmp_path / "bare", free_port(), "--no-demo")
    try:
        assert "alice@acme.test" not in running.output
        refused = running.manage("create_api_key", "--tenant", "acme", "--role", "owner", "--name", "k")
        assert refused.returncode == 2
        assert "There is no tenant 'acme'" in refused.stderr
    finally:
        running.stop()


IN_PRODUCTION = {
    "ATOM_ENV": "production",
    "ATOM_SECRET_KEY": "a secret key",
    "ATOM_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
    "ATOM_ALLOWED_HOSTS": "atom.example",
    "DATABASE_URL": "postgresql://nobody@localhost/none",
}

ISSUER = {
    "ATOM_OIDC_ISSUER": "https://login.example.com/realms/acme",
    "ATOM_OIDC_CLIENT_ID": "atom",
    "ATOM_OIDC_CLIENT_SECRET": "secret",
}


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"ATOM_ENV": "production"}, "ATOM_SECRET_KEY"),
        ({"ATOM_ENV": "staging"}, "ATOM_ENV"),
        ({"DATABASE_URL": "mysql://somewhere"}, "DATABASE_URL"),
        ({"ATOM_DEBUG": "perhaps"}, "ATOM_DEBUG"),
        ({"ATOM_DATABASE_POOL": "many"}, "ATOM_DATABASE_POOL"),
        ({"ATOM_DATABASE_POOL": "0"}, "ATOM_DATABASE_POOL"),
        ({"ATOM_API_RATE": "100/fortnight"}, "ATOM_API_RATE"),
        ({"ATOM_ENCRYPTION_KEYS": "abc"}, "ATOM_ENCRYPTION_KEYS"),
        ({"ATOM_ENV": "production", "ATOM_SECRET_KEY": ""}, "ATOM_SECRET_KEY"),
        ({"ATOM_LOG_LEVEL": "LOUD"}, "ATOM_LOG_LEVEL"),
        ({"REDIS_URL": "somewhere"}, "REDIS_URL"),
        ({"ATOM_PUBLIC_URL": "atom.example.com"}, "ATOM_PUBLIC_URL"),
        ({"ATOM_CSRF_TRUSTED_ORIGINS": "atom.example.com"}, "ATOM_CSRF_TRUSTED_ORIGINS"),
        ({"ATOM_ALLOWED_HOSTS": "https://atom.example.com"}, "ATOM_ALLOWED_HOSTS"),
        ({"ATOM_ALLOWED_HOSTS": "atom.example.com:443"}, "ATOM_ALLOWED_HOSTS"),
        ({"ATOM_STATIC_ROOT": ""}, "ATOM_STATIC_ROOT"),
        ({"ATOM_HOME": "/dev/null/atom"}, "ATOM_HOME"),
        ({"ATOM_PROVIDER_GITHUB_BASE_URL": "foo"}, "ATOM_PROVIDER_GITHUB_BASE_URL"),
        ({"ATOM_PROVIDER_GITHUB_AUTH_URL": "github.corp"}, "ATOM_PROVIDER_GITHUB_AUTH_URL"),
        ({"ATOM_SANDBOX_URL": "foo"}, "ATOM_SANDBOX_URL"),
        ({"ATOM_EMAIL_BACKEND": "smtp"}, "ATOM_EMAIL_BACKEND"),
        ({"ATOM_EMAIL_BACKEND": "django.core.mail.backends.smtp"}, "ATOM_EMAIL_BACKEND"),
        ({"ATOM_EMAIL_PORT": "99999"}, "ATOM_EMAIL_PORT"),
        ({**ISSUER, "ATOM_OIDC_ISSUER": ""}, "ATOM_OIDC_ISSUER"),
        ({**ISSUER, "ATOM_OIDC_ISSUER": "http://login.example.com"}, "ATOM_OIDC_ISSUER"),
        ({**ISSUER, "ATOM_OIDC_ISSUER": "login.example.com"}, "ATOM_OIDC_ISSUER"),
        ({**ISSUER, "ATOM_OIDC_ISSUER": "https://"}, "ATOM_OIDC_ISSUER"),
        ({**ISSUER, "ATOM_OIDC_ISSUER": "https://me:secret@login.example.com"}, "ATOM_OIDC_ISSUER"),
        ({**ISSUER, "ATOM_OIDC_ISSUER": "https://login.example.com/?a=b"}, "ATOM_OIDC_ISSUER"),
        ({**ISSUER, "ATOM_OIDC_ISSUER": "https://login.example.com:x"}, "ATOM_OIDC_ISSUER"),
        ({**ISSUER, "ATOM_OIDC_CLIENT_ID": ""}, "ATOM_OIDC_CLIENT_ID"),
        ({"ATOM_OIDC_ISSUER": "https://login.example.com", "ATOM_OIDC_CLIENT_ID": "atom"}, "ATOM_OIDC_CLIENT_SECRET"),
        ({**ISSUER, "ATOM_OIDC_NAME": ""}, "ATOM_OIDC_NAME"),
        ({**ISSUER, "ATOM_PASSWORDS": "perhaps"}, "ATOM_PASSWORDS"),
        ({"ATOM_PASSWORDS": "false"}, "ATOM_PASSWORDS"),
        ({**IN_PRODUCTION, "DATABASE_URL": ""}, "DATABASE_URL"),
        ({**IN_PRODUCTION, "ATOM_DEBUG": "true"}, "ATOM_DEBUG"),
        ({**IN_PRODUCTION, "ATOM_HSTS_SECONDS": "-1"}, "ATOM_HSTS_SECONDS"),
    ],
)
def test_a_variable_that_is_missing_or_malformed_is_named_at_the_start(
    home: Path, variables: dict[str, str], named: str
) -> None:
    ended = manage("check", **{"ATOM_HOME": str(home), **variables})
    assert ended.returncode != 0
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["up", "doctor"])
def test_a_server_that_cannot_be_made_is_told_with_its_reason(tmp_path: Path, command: str) -> None:
    """As on a disk that is full."""
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "something").touch()
    ended = manage(command, ATOM_HOME=str(tmp_path), PORT=str(free_port()))
    assert ended.returncode == 1
    assert "not empty" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("atom: ATOM_HOME can't be used")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("up",),
        ("doctor",),
        ("create_api_key", "--tenant", "acme", "--role", "member", "--name", "test"),
    ],
)
def test_a_home_that_cannot_be_written_in_is_told_in_a_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    """As of somebody else, where its secrets can be read; a folder is in the way of root, too."""
    for name in ("up.lock", "postgres.lock"):
        (tmp_path / name).mkdir()
    ended = manage(*command, ATOM_HOME=str(tmp_path), PORT=str(free_port()))
    assert ended.returncode == 1
    assert "ATOM_HOME can't be used" in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"secret_key": "s"}', '{"secret_key": "s", "encryption_key": "abc"}', "\x00\ud800"]
)
def test_damaged_secrets_are_told_in_a_line(tmp_path: Path, text: str) -> None:
    secrets = tmp_path / "secrets.json"
    secrets.write_text(text, errors="surrogatepass")
    ended = manage("check", ATOM_HOME=str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"atom: {secrets} is damaged: bring it back from a copy."), ended.stderr
    assert secrets.exists()


@pytest.mark.parametrize(
    ("variables", "ways"),
    [
        ({}, "passwords"),
        (ISSUER, "passwords, the issuer"),
        ({**ISSUER, "ATOM_PASSWORDS": "false"}, "the issuer"),
        ({**ISSUER, "ATOM_OIDC_ISSUER": "http://127.0.0.1:8080"}, "passwords, the issuer"),
    ],
)
def test_the_ways_in_are_those_of_the_settings(variables: dict[str, str], ways: str) -> None:
    code = "from django.conf import settings as s; print(*s.AUTHENTICATION_BACKENDS, sep=', ')"
    done = manage("shell", "--no-imports", "-c", code, **{**IN_PRODUCTION, **variables})
    names = {"passwords": "django.contrib.auth.backends.ModelBackend", "the issuer": "atom.single_sign_on.Backend"}
    assert done.stdout.strip() == ", ".join(names[way] for way in ways.split(", ")), done.stderr


def test_no_home_is_the_default() -> None:
    code = "from django.conf import settings as s; print(s.ATOM_HOME)"
    done = manage("shell", "--no-imports", "-c", code, **{**IN_PRODUCTION, "ATOM_HOME": ""})
    assert done.stdout.strip() == str(PROJECT / ".atom"), done.stderr


def test_lists_are_read_as_people_write_them(home: Path) -> None:
    lists = {
        "ATOM_ALLOWED_HOSTS": "atom.example, .example.com, [::1]",
        "ATOM_CSRF_TRUSTED_ORIGINS": "https://a.example/, https://b.example",
    }
    code = "from django.conf import settings as s; print(s.ALLOWED_HOSTS, s.CSRF_TRUSTED_ORIGINS)"
    said = manage("shell", "--no-imports", "-c", code, **{"ATOM_HOME": str(home), **lists}).stdout
    assert said.strip() == "['atom.example', '.example.com', '[::1]'] ['https://a.example', 'https://b.example']"
