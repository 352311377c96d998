"""The command line: what it prints, and in what words and with which exit code it refuses."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connections

from atom.access import actor_for_key, system_actor
from atom.models import ApiKey, Membership, Tenant, User
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import actions, retrying
from historical_sync.management.commands import sync_history
from historical_sync.models import HistoricalSyncJob, SyncChunk
from integrations.models import Connection
from tests.conftest import connected, free_port, sandbox_token, wait_for
from tests.graphs import make_connection, make_job
from tests.processes import PROJECT, environment, manage

pytestmark = pytest.mark.django_db


def run(*arguments: Any, **options: Any) -> str:
    out = io.StringIO()
    call_command(*map(str, arguments), stdout=out, **options)
    return out.getvalue().strip()


def refused(*arguments: Any, **options: Any) -> str:
    """The words of a command that ends with exit code 2, having changed nothing."""
    before = counts()
    with pytest.raises(CommandError) as error:
        run(*arguments, **options)
    assert error.value.returncode == 2, error.value
    assert counts() == before
    return str(error.value)


def counts() -> tuple[int, ...]:
    with across_tenants("a test looks"):
        return tuple(
            model._default_manager.count()
            for model in (Tenant, User, Membership, ApiKey, Connection, HistoricalSyncJob)
        )


# -- create_tenant, create_api_key ----------------------------------------------------------------------------------------


def test_create_tenant_makes_a_tenant_and_its_owner(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a long enough secret\n")
    arguments = [
        "--slug",
        "initech",
        "--plan",
        "solo",
        "--owner",
        "Bill@Initech.test",
        "--password-file",
        tmp_path / "password",
    ]
    assert "initech" in run("create_tenant", "Initech", *arguments)
    tenant, user = Tenant.objects.get(slug="initech"), User.objects.get(email="bill@initech.test")
    assert user.check_password("a long enough secret")
    with tenant_scope(tenant.id):
        assert Membership.objects.get(tenant=tenant).role == "owner"
    run("create_tenant", "Initrode", "--slug", "initrode", "--plan", "free", "--owner", "bill@initech.test")
    assert User.objects.count() == 1, "who is known already owns this one as well"
    user.refresh_from_db()
    assert user.check_password("a long enough secret")


def test_create_tenant_says_how_an_owner_without_a_password_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    errors = io.StringIO()
    run(
        "create_tenant", "Initech", "--slug", "initech", "--plan", "free", "--owner", "Bill@initech.test", stderr=errors
    )
    assert "manage.py changepassword bill@initech.test" in errors.getvalue()
    assert User.objects.get(email="bill@initech.test").has_usable_password()  # "forgotten password" mails a link


@pytest.mark.parametrize(
    ("name", "slug", "owner", "password", "words"),
    [
        ("Initech", "acme", "b@initech.test", "long enough it is", "already exists"),
        ("Initech", "Not A Slug", "b@initech.test", "long enough it is", "slug"),
        ("", "initech", "b@initech.test", "long enough it is", "name"),
        ("x" * 151, "initech", "b@initech.test", "long enough it is", "name"),
        ("Initech\nInc", "initech", "b@initech.test", "long enough it is", "name"),
        ("Initech", "initech", "nobody", "long enough it is", "email"),
        ("Initech", "initech", "b@initech.test", "short", "too short"),
        ("Initech", "initech", "b@initech.test", "password123", "too common"),
        pytest.param("Initech", "initech", "b@initech.test", "ab" * 512 + "c", "too long", id="too long"),
    ],
)
def test_create_tenant_refuses_in_words(
    cast: Any, tmp_path: Path, name: str, slug: str, owner: str, password: str, words: str
) -> None:
    (tmp_path / "p").write_text(password)
    said = refused(
        "create_tenant", name, "--slug", slug, "--plan", "solo", "--owner", owner, "--password-file", tmp_path / "p"
    )
    assert words in said


def test_create_tenant_says_that_no_password_was_given(cast: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def ctrl_d(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", ctrl_d)
    said = refused("create_tenant", "X", "--slug", "x", "--plan", "solo", "--owner", "b@x.test")
    assert said == "password: None was given."


def test_create_tenant_says_when_the_password_file_is_not_there(cast: Any, tmp_path: Path) -> None:
    arguments = ["--slug", "x", "--plan", "solo", "--owner", "b@x.test", "--password-file", tmp_path / "none"]
    assert "can't be read" in refused("create_tenant", "X", *arguments)


def test_create_api_key_prints_a_key_that_works_and_cannot_be_read_again(cast: Any) -> None:
    key = run("create_api_key", "--tenant", "acme", "--role", "viewer", "--name", "report")
    actor = actor_for_key(key)
    assert actor is not None
    assert (actor.tenant, actor.role) == (cast.acme, "viewer")
    with tenant_scope(cast.acme.id):
        assert key.partition(".")[2] not in str(ApiKey.objects.values_list().get())


def test_create_api_key_refuses_in_words(cast: Any) -> None:
    assert "'nobody'" in refused("create_api_key", "--tenant", "nobody", "--role", "viewer", "--name", "x")
    assert "50" in refused("create_api_key", "--tenant", "acme", "--role", "viewer", "--name", "x" * 51)
    assert "50" in refused("create_api_key", "--tenant", "acme", "--role", "viewer", "--name", "  ")
    assert "50" in refused("create_api_key", "--tenant", "acme", "--role", "viewer", "--name", "a\nb")


# -- connect --------------------------------------------------------------------------------------------------------------


def test_connect_takes_the_token_from_where_others_cannot_see_it(
    cast: Any, sandbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, base = sandbox_token(), ["--base-url", f"{sandbox.root}/github"]
    (tmp_path / "token").write_text(token + "\n")
    ids = {run("connect", "github", "--tenant", "acme", "--token-file", tmp_path / "token", *base)}
    for way in (["-", "--tenant", "acme"], ["--tenant", "acme", "-"], ["--tenant", "acme", "--token-file", "-"]):
        monkeypatch.setattr("sys.stdin", io.StringIO(token + "\n"))
        ids.add(run("connect", "github", *way, *base))
    shown = json.loads(
        run("connect", "github", "--tenant", "acme", "--token", token, "--label", "Ours", "--json", *base)
    )
    ids.add(shown["id"])
    assert len(ids) == 1, "one account, one connection"
    assert (shown["provider"], shown["account"], shown["status"]) == ("github", "Ours", "connected")
    assert token not in json.dumps(shown)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["myspace", "--tenant", "acme", "--token", "t"], "There is no provider 'myspace'"),
        (["github", "--tenant", "nobody", "--token", "t"], "There is no tenant 'nobody'"),
        (["github", "--tenant", "acme"], "Give the token with --token"),
        (["github", "--tenant", "acme", "-", "--token", "t"], "Give the token in one way"),
        (["github", "--tenant", "acme", "--token", ""], "token: This is not a token"),
        (["github", "--tenant", "acme", "--token", "two words"], "token: This is not a token"),
        (["github", "--tenant", "acme", "--token-file", "/nothing/there"], "can't be read"),
        (["salesforce", "--tenant", "acme", "--token", "t"], "token: Salesforce is connected by signing in"),
        (["github", "--tenant", "acme", "--token", "t", "--base-url", "ftp://x"], "base_url: The address must begin"),
        (["github", "--tenant", "acme", "--token", "t", "--base-url", "http://u:p@127.0.0.1"], "base_url: The address must not"),
        (["github", "--tenant", "acme", "--token", "t", "--base-url", "http://127.0.0.1:9"], "base_url: GitHub could not be reached"),
    ],
)  # fmt: skip
def test_connect_refuses_in_words(cast: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str) -> None:
    monkeypatch.setattr("integrations.patience.TRIES", 1)
    assert words in refused("connect", *arguments)


def test_connect_says_when_the_provider_refuses_the_token(cast: Any, sandbox: Any) -> None:
    said = refused(
        "connect", "github", "--tenant", "acme", "--token", "wrong-token", "--base-url", f"{sandbox.root}/github"
    )
    assert said == "token: GitHub does not accept this token."


# -- sync_history ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def connection(cast: Any) -> Connection:
    with tenant_scope(cast.acme.id):
        return make_connection(cast.acme)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--since", "yesterday"], "--since must be an ISO date"),
        (["--until", "2026-02-30"], "--until must be an ISO date"),
        (["--since", "2026-02-01", "--until", "2026-01-01"], "must begin before it ends"),
        (["--since", "2190-01-01"], "must begin in the past"),
        (["--since", "1066-10-14"], "must not begin before 1980"),
        (["--streams", "unicorns"], "GitHub has no 'unicorns'"),
        (["--streams", ","], "at least one kind"),
    ],
)
def test_sync_history_refuses_in_words(connection: Connection, arguments: list[str], words: str) -> None:
    assert words in refused("sync_history", connection.id, *arguments)


def test_sync_history_names_no_connections_where_there_are_none(cast: Any) -> None:
    assert "There is none yet: manage.py connect makes one." in refused("sync_history", "github")


def test_sync_history_refuses_what_can_not_be_started(cast: Any, connection: Connection) -> None:
    for nobody in ("1", "", "6f9619ff-8b86-d011-b42d-00c04fc964ff"):
        words = refused("sync_history", nobody)
        assert "There is no connection" in words
        assert f"{connection.id}  {connection.tenant.slug}  {connection}" in words, "an operator can go on from here"
    with tenant_scope(cast.acme.id):
        job = make_job(connection)
    assert "already being imported" in refused("sync_history", connection.id)
    with tenant_scope(cast.acme.id):
        job.delete()
        Connection.objects.update(status="reauth_required")
    assert "Reconnect it first" in refused("sync_history", connection.id)


def test_what_others_named_moves_no_operators_cursor(cast: Any, connection: Connection) -> None:
    with tenant_scope(cast.acme.id):
        Connection.objects.update(account_label="Acme\x1b[2J\r\n\x9b31m", status="reauth_required")
    shown = r"(Acme\x1b[2J\x0d\x0a\x9b31m)"
    assert shown in refused("sync_history", "1")
    out = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("doctor", stdout=out)
    assert shown in out.getvalue()


def test_progress_moves_no_operators_cursor_by_a_name(
    cast: Any, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    with tenant_scope(cast.acme.id):
        job = make_job(
            connection, status="paused", pause_reason="user", last_error_message="They said \x1b]0;hello\x07"
        )
        sync_history._Display(quiet=False).show(actions.get_job(cast.acme, job.id))
    assert r"They said \x1b]0;hello\x07" in capsys.readouterr().err


def test_sync_history_without_wait_prints_the_jobs_id(connection: Connection) -> None:
    job_id = run("sync_history", connection.id, "--streams", "issues, commits")
    with tenant_scope(connection.tenant_id):
        job = HistoricalSyncJob.objects.get(id=job_id)
    assert (job.status, job.trigger, job.streams, job.created_by_label) == ("pending", "command", ["issues", "commits"], "command line")  # fmt: skip


def ended(*arguments: Any) -> tuple[Any, dict[str, Any]]:
    out = io.StringIO()
    with pytest.raises(SystemExit) as error:
        call_command("sync_history", *map(str, arguments), "--json", stdout=out)
    return error.value.code, json.loads(out.getvalue())


@pytest.mark.django_db(transaction=True)
def test_sync_history_works_on_the_job_itself_when_there_is_no_worker(live_cast: Any, sandbox: Any) -> None:
    row = connected(live_cast.acme, "github", sandbox.root)
    code, job = ended(row.id, "--inline")
    assert (code, job["status"]) == (0, "completed")
    assert job["records_processed"] > 0
    code, job = ended(row.id, "--inline")
    assert (code, job["status"], job["entities_extracted"]) == (0, "completed", 0)


@pytest.mark.django_db(transaction=True)
def test_sync_history_ends_with_1_when_the_job_failed(
    live_cast: Any, sandbox: Any, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "back_off", lambda attempts, jitter: timedelta(milliseconds=10))
    sandbox.control(error_every=1)
    code, job = ended(connected(live_cast.acme, "github", sandbox.root).id, "--wait")
    assert (code, job["status"]) == (1, "failed")
    assert job["last_error"]["code"] == "provider_unavailable"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("terminal", [True, False])
def test_sync_history_shows_all_there_is_to_know_however_narrow(
    live_cast: Any, sandbox: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(retrying, "back_off", lambda attempts, jitter: timedelta(milliseconds=10))
    row = connected(live_cast.acme, "github", sandbox.root)
    with pytest.raises(SystemExit):
        call_command("sync_history", str(row.id), "--inline")
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert ("━" * 40 in said) == terminal
    assert "100 %" in said
    assert re.search(r"\d records · \d[\d,]* entities · \d[\d,]* relationships", said)
    sandbox.control(error_every=1)
    with pytest.raises(SystemExit):
        call_command("sync_history", str(row.id), "--inline", "--full")
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    with tenant_scope(row.tenant_id):
        job = HistoricalSyncJob.objects.get(status="failed")
    assert " ".join(job.last_error_message.split()) in " ".join(said.split())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("action", "status", "code"), [(actions.pause, "paused", 3), (actions.cancel, "cancelled", 4)])
def test_sync_history_ends_with_3_when_paused_and_4_when_cancelled(
    live_cast: Any, sandbox: Any, worker: Any, action: Any, status: str, code: int
) -> None:
    sandbox.control(latency_ms=200)
    row = connected(live_cast.acme, "github", sandbox.root)

    def somebody_acts() -> None:
        try:
            with tenant_scope(row.tenant_id):
                job = wait_for(lambda: HistoricalSyncJob.objects.filter(status="running").first())
                action(system_actor(live_cast.acme, "Bob"), job)
        finally:
            connections.close_all()

    thread = threading.Thread(target=somebody_acts)
    thread.start()
    assert ended(row.id, "--wait")[0] == code
    thread.join(10)
    with tenant_scope(row.tenant_id):
        assert HistoricalSyncJob.objects.get().status == status


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["--inline", "--wait"])
def test_ctrl_c_cancels_and_says_so_by_the_exit_code(
    live_cast: Any, sandbox: Any, way: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "--wait":
        request.getfixturevalue("worker")
        monkeypatch.setattr(sync_history, "_wants_to_cancel", lambda: True)
    sandbox.control(latency_ms=300)
    row = connected(live_cast.acme, "github", sandbox.root)

    at_work = threading.Event()

    def ctrl_c() -> None:
        try:
            with tenant_scope(row.tenant_id):
                wait_for(lambda: HistoricalSyncJob.objects.filter(status="running", records_processed__gt=0).first())
        finally:
            connections.close_all()
        at_work.set()
        if way == "--inline":
            signal.raise_signal(signal.SIGINT)

    def pressed_in_a_query(execute: Any, *arguments: Any) -> Any:
        """The worst moment: a query that is cut short leaves a connection that no other can be asked over."""
        if at_work.is_set() and way == "--wait":
            at_work.clear()
            signal.raise_signal(signal.SIGINT)
            finished.append(execute(*arguments))
            return finished[0]
        return execute(*arguments)

    finished: list[Any] = []
    thread = threading.Thread(target=ctrl_c)
    thread.start()
    with connections["default"].execute_wrapper(pressed_in_a_query):
        code, job = ended(row.id, way)
    thread.join(10)
    assert (code, job["status"]) == (4, "cancelled")
    assert finished or way == "--inline"
    with tenant_scope(row.tenant_id):
        assert not SyncChunk.objects.filter(status="running").exists()


# -- sync_worker, provider_check ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", ["0", "-1", "1001"])
def test_sync_worker_refuses_a_concurrency_that_is_none(concurrency: str) -> None:
    assert "--concurrency must be from 1 to 1000" in refused("sync_worker", "--concurrency", concurrency)


@pytest.mark.parametrize("queues", ["", " , ", "foo", "history,foo"])
def test_sync_worker_refuses_queues_that_are_none(queues: str) -> None:
    assert "--queues takes some of starts, history, upkeep" in refused("sync_worker", "--queues", queues)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--fact", "bla"), "--fact takes NAME=VALUE, not 'bla'."),
        (("--base-url", "ftp:/foo"), "--base-url: The address must begin with https:// or http:// and name a host."),
        (("--base-url", "nonsense"), "--base-url: The address must begin with https:// or http:// and name a host."),
    ],
)
def test_provider_check_refuses_what_it_cannot_ask(given: tuple[str, str], said: str) -> None:
    assert refused("provider_check", "github", "--token", "t", *given) == said


def test_provider_check_reports_what_each_stream_holds(sandbox: Any) -> None:
    said = run("provider_check", "github", "--token", sandbox_token(), "--base-url", f"{sandbox.root}/github")
    for stream in ("repositories", "issues", "pull_requests", "comments", "review_comments", "commits"):
        assert f"  {stream}" in said
    assert "FAILED" not in said
    assert "0 rejected" in said


def test_provider_check_refuses_in_words(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATOM_CHECK_TOKEN", raising=False)
    assert "There is no provider" in refused("provider_check", "myspace", "--token", "t")
    assert "Give a token" in refused("provider_check", "github")
    with pytest.raises(CommandError, match="connection_reauth_required") as error:
        run("provider_check", "github", "--token", "wrong", "--base-url", f"{sandbox.root}/github")
    assert error.value.returncode == 3


def test_a_terminal_gets_words_and_an_exit_code_not_a_traceback() -> None:
    """Once as a process; the rest of this file asks in this one."""
    ended = manage("connect", "myspace", "--tenant", "acme", "--token", "t")
    assert ended.returncode == 2
    assert "There is no provider 'myspace'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [("doctor", "--json"), ("help",)])
def test_who_has_read_enough_gets_no_traceback_and_no_failure(command: tuple[str, ...], unbuffered: str) -> None:
    """Whether it is noticed while writing or only when Python writes what is left. `doctor` would exit with 1."""
    read, write = os.pipe()
    os.close(read)
    nobody = f"postgresql://atom@127.0.0.1:{free_port()}/atom"
    ended = subprocess.run(
        [sys.executable, "manage.py", *command],
        cwd=PROJECT,
        env=environment(PYTHONUNBUFFERED=unbuffered, DATABASE_URL=nobody),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    "command",
    [
        ("create_api_key", "--tenant", "acm\udcff", "--role", "member", "--name", "test"),
        ("create_api_key", "--tenant", "acme", "--role", "member", "--name", "t\udcff"),
    ],
)
def test_what_is_no_utf_8_is_bad_input(command: tuple[str, ...]) -> None:
    ended = manage(*command, DATABASE_URL=f"postgresql://atom@127.0.0.1:{free_port()}/atom")
    assert (ended.returncode, ended.stderr) == (2, "atom: what is given to a command must be UTF-8\n")
