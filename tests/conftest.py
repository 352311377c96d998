"""The cast and the stage. Alice owns Acme, Bob is a member, Vera may look; Charlie owns Globex and is a stranger to all of them."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import html
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NoReturn

import httpcore2
import httpx2
import psycopg
import pytest

from tests.processes import PROJECT, Up

CI = bool(os.environ.get("CI"))

# Containers often forbid to write bytecode; a hundred processes would compile the project anew, and each run all of its tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Every client that is made would read the authorities that it trusts for itself, for longer than most requests take.
httpcore2.default_ssl_context = cache(httpcore2.default_ssl_context)


def missing(what: str) -> NoReturn:
    """Skips in a user's hands, fails in CI."""
    if CI:
        pytest.fail(f"CI needs {what}")
    pytest.skip(f"needs {what}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups first, the longest before the others: what must run in a row on one worker would keep it alone busy at the end."""
    items.sort(key=lambda item: not item.get_closest_marker("xdist_group"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Groups that xdist does not see would start everything that they share once a worker: slowly, and without a word."""
    if getattr(session.config.option, "loadgroup", False):
        loose = [
            item.nodeid for item in session.items if item.get_closest_marker("xdist_group") and "@" not in item.nodeid
        ]
        assert not loose, f"xdist does not keep groups together with this pytest: {loose[:3]}"
    # Modules and tests stay: to look for garbage among them, again and again, takes a fourteenth of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Playwright leaves its event loop marked as running in this thread: not for tests that drive no browser."""
    loop = asyncio._get_running_loop()
    if "browser" in getattr(item, "fixturenames", ()):
        return (yield)
    asyncio._set_running_loop(None)
    try:
        return (yield)
    finally:
        asyncio._set_running_loop(loop)


@pytest.fixture
def cast(db: None) -> SimpleNamespace:
    """acme, globex and the four people. Passwords are their first names."""
    return make_cast()


@pytest.fixture
def live_cast(transactional_db: None) -> SimpleNamespace:
    """The same, committed: for code in other threads, tasks and processes."""
    return make_cast()


def make_cast() -> SimpleNamespace:
    """In three statements: a thousand tests have a cast."""
    from django.contrib.auth.hashers import make_password
    from django.utils import timezone

    from atom.models import Membership, Role, Tenant, User
    from atom.tenancy import across_tenants

    acme = Tenant(name="Acme", slug="acme", plan="enterprise")
    globex = Tenant(name="Globex", slug="globex", plan="free")
    found = SimpleNamespace(acme=acme, globex=globex)
    memberships = []
    for name, tenant, role in (
        ("alice", acme, Role.OWNER),
        ("bob", acme, Role.MEMBER),
        ("vera", acme, Role.VIEWER),
        ("charlie", globex, Role.OWNER),
    ):
        user = User(email=f"{name}@{tenant.slug}.test", password=make_password(name), name=name.capitalize())
        memberships.append(Membership(tenant=tenant, user=user, role=role, entered_at=timezone.now()))
        setattr(found, name, user)
    Tenant.objects.bulk_create([acme, globex])
    User.objects.bulk_create([membership.user for membership in memberships])
    with across_tenants("the test's cast"):
        Membership.objects.bulk_create(memberships)
    return found


@pytest.fixture
def signed_in() -> Any:
    """signed_in(user) -> a Django test client."""
    from django.test import Client

    def make(user: Any) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return make


@pytest.fixture(scope="session", autouse=True)
def _cheap_passwords() -> Iterator[None]:
    from django.conf import settings

    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    return


# What migrations made stays: content types and permissions are the same in every test.
EMPTY_ALL = """
DO $$ DECLARE name text; BEGIN
    SET LOCAL session_replication_role = replica;  -- in any order: no keys, no triggers
    FOR name IN SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'
        AND tablename NOT IN ('django_migrations', 'django_content_type', 'auth_permission')
    LOOP
        EXECUTE 'DELETE FROM ' || name;
    END LOOP;
END $$
"""


_owner: psycopg.Connection | None = None  # one connection for all: a new one learns of sixty tables first


def empty_database() -> None:
    """Deletes every row that tests have committed. A tenth of the time of `flush`, which truncates sixty tables and fills some anew."""
    global _owner
    from tests.faults.stage import database_url

    if _owner is not None and _owner.info.status == psycopg.pq.ConnStatus.OK:
        with suppress(psycopg.OperationalError):  # ended by a test
            _owner.execute(EMPTY_ALL)
            return
    _owner = psycopg.connect(database_url(), autocommit=True)
    _owner.execute(EMPTY_ALL)


@pytest.fixture(scope="session", autouse=True)
def _quick_flush() -> None:
    """After tests that commit, in the place of Django's flush."""
    from django.test import TransactionTestCase

    TransactionTestCase._fixture_teardown = lambda self: empty_database()


@pytest.fixture(autouse=True)
def _fresh_cache() -> None:
    from django.core.cache import cache

    cache.clear()


# -- providers ------------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[str]:
    """The sandbox in a process of its own; its root: "http://127.0.0.1:PORT/sandbox"."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "integrations.sandbox", "--port", str(port), "--records", "600"], cwd=PROJECT
    )
    root = f"http://127.0.0.1:{port}/sandbox"
    wait_for(lambda: httpx2.get(f"{root}/__control").status_code == 200)
    yield root
    stop(process)


@pytest.fixture
def sandbox(sandbox_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """The sandbox, in order, standing in for every provider of this process."""
    monkeypatch.setenv("ATOM_SANDBOX_URL", sandbox_server)
    sandbox = Sandbox(sandbox_server)
    with sandbox.client:
        sandbox.control(reset=True, records=600, seed=1)
        yield sandbox
        sandbox.control(reset=True)


class Sandbox:
    def __init__(self, root: str) -> None:
        self.root = root
        self.client = httpx2.Client()

    def control(self, **settings: Any) -> dict[str, Any]:
        reply = self.client.post(f"{self.root}/__control", json=settings)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def truth(self, provider: str, **query: str) -> dict[str, int]:
        return dict(self.client.get(f"{self.root}/__truth", params={"provider": provider, **query}).json())

    def ids(self, provider: str, stream: str) -> list[str]:
        return list(self.client.get(f"{self.root}/__truth", params={"provider": provider, "stream": stream}).json())

    def log(self) -> list[dict[str, Any]]:
        return list(self.client.get(f"{self.root}/__log").json())


@pytest.fixture(scope="session")
def recording() -> Iterator[str]:
    """The replayed recording of a real GitHub repository; its root. The recording is not part of the project: CI goes without it too."""
    folder = os.environ.get("ATOM_REALDATA")
    if not folder:
        pytest.skip("NO RECORDED DATA: nothing is tried on real records; ATOM_REALDATA names the folder that has them")
    script = Path(folder, "replay.py").resolve()
    if not script.exists():
        pytest.fail(f"ATOM_REALDATA has no recorded data: {script} is missing")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(script), "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    root = f"http://127.0.0.1:{port}"
    wait_for(lambda: httpx2.get(f"{root}/__truth").status_code == 200)
    yield root
    stop(process)


def connected(tenant: Any, provider: str, root: str, *, account: str = "1", by_oauth: bool = True) -> Any:
    """A connection to the sandbox as OAuth would have made it, with tokens that the sandbox takes."""
    from atom.tenancy import tenant_scope
    from integrations.models import Connection
    from integrations.sandbox.app import STAND_INS
    from integrations.sandbox.tokens import Tokens

    stand_in = next(found for found in STAND_INS if found.slug == provider)
    owner = next(iter(stand_in.accounts))
    tokens = Tokens()
    refresh = (
        tokens.make(stand_in.refresh_prefix, provider, owner, "refresh", f"grant{account}")
        if stand_in.refresh_prefix
        else ""
    )
    with tenant_scope(tenant.id):
        connection = Connection(
            tenant=tenant,
            provider_slug=provider,
            external_account_id=account,
            account_label=owner,
            by_oauth=by_oauth,
            sandbox=True,
        )
        connection.set_credentials(tokens.make(stand_in.prefix, provider, owner, "access", f"grant{account}"), refresh)
        connection.save()
    return connection


def leads_to(reply: Any) -> str:
    """Where the page of `connect-start` sends the browser: by itself and by its link, not by a redirect (form-action)."""
    assert reply.status_code == 200, reply.content
    assert "form-action 'self';" in reply["Content-Security-Policy"] + ";"
    found = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', reply.content.decode())
    assert found is not None
    assert f'href="{found[1]}"' in reply.content.decode()
    return html.unescape(found[1])


def sandbox_token(grant: str = "grant") -> str:
    """A token that GitHub's stand-in takes, of its first account."""
    from integrations.sandbox.app import make_app
    from integrations.sandbox.github import GitHub
    from integrations.sandbox.tokens import Tokens

    account = next(iter(make_app(records=50).providers["github"].accounts))
    return Tokens().make(GitHub.prefix, "github", account, "access", grant)


# -- work -----------------------------------------------------------------------------------------------------------------


class Worker:
    """A worker in a thread of this process, on the test's database."""

    def __init__(self, concurrency: int = 8) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.stop_event: asyncio.Event | None = None
        self.started = threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(concurrency,), daemon=True)
        self.thread.start()
        assert self.started.wait(10)

    def _run(self, concurrency: int) -> None:
        from historical_sync.worker import run_worker

        async def main() -> None:
            self.loop, self.stop_event = asyncio.get_running_loop(), asyncio.Event()
            self.started.set()
            await run_worker(concurrency, stop=self.stop_event)

        try:
            asyncio.run(main())
        except BaseException as error:
            self.error = error
        finally:
            from django.db import connections

            connections.close_all()

    def stop(self) -> None:
        assert self.loop is not None
        assert self.stop_event is not None
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.stop_event.set)
        self.thread.join(30)
        assert not self.thread.is_alive(), "the worker did not stop"
        if self.error is not None:
            raise self.error


@pytest.fixture
def worker(transactional_db: None) -> Iterator[Worker]:
    running = Worker()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def _one_at_a_time(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str, django_db_modify_db_settings: None
) -> Iterator[IO[str]]:
    """A file that the run's workers share, locked until the test database is made. In it: the database to copy, once there is one.

    Or ATOM_TEST_DATABASE names one (`tests.test_oldest_postgres`).
    """
    from django.db import connection

    own = tmp_path_factory.getbasetemp()
    with (own if worker_id == "master" else own.parent).joinpath("migrated").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        connection.settings_dict["TEST"]["TEMPLATE"] = file.read() or os.environ.get("ATOM_TEST_DATABASE")
        yield file


@pytest.fixture(scope="session")
def django_db_setup(
    _one_at_a_time: IO[str], django_db_setup: None, worker_id: str, django_db_blocker: Any
) -> Iterator[None]:
    """All migrations once a run, which take 4 s of CPU: the first worker copies what it made, and the others copy the copy."""
    from django.db import connection

    from tests.faults.stage import database_url

    made = f"{connection.settings_dict['NAME']}_migrated"
    first = worker_id != "master" and not connection.settings_dict["TEST"]["TEMPLATE"]
    if first:
        with django_db_blocker.unblock():
            connection.close()
            connection.close_pool()
            with psycopg.connect(database_url(), dbname="postgres", autocommit=True) as owner:
                owner.execute(f'DROP DATABASE IF EXISTS "{made}"')
                owner.execute(f'CREATE DATABASE "{made}" TEMPLATE "{connection.settings_dict["NAME"]}"')
        _one_at_a_time.write(made)
        _one_at_a_time.flush()
    fcntl.flock(_one_at_a_time, fcntl.LOCK_UN)
    yield
    if first:
        fcntl.flock(_one_at_a_time, fcntl.LOCK_EX)
        _one_at_a_time.truncate(0)
        with psycopg.connect(database_url(), dbname="postgres", autocommit=True) as owner:
            owner.execute(f'DROP DATABASE "{made}"')


@pytest.fixture(scope="session")
def _pool_closed_first(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Ends what other threads still hold before the test database is dropped: channels' test tools keep connections open."""
    yield
    from django.db import connection

    from atom.db.base import as_owner

    with django_db_blocker.unblock():
        connection.close()
        connection.close_pool()
        with as_owner(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


@pytest.fixture(autouse=True)
def _pool(request: pytest.FixtureRequest) -> None:
    if {"db", "transactional_db"} & set(request.fixturenames) or request.node.get_closest_marker("django_db"):
        request.getfixturevalue("_pool_closed_first")


def wait_for(condition: Any, seconds: float = 20.0, every: float = 0.05) -> Any:
    """The condition's first true value; fails after `seconds`."""
    until = time.monotonic() + seconds
    last: BaseException | None = None
    while time.monotonic() < until:
        try:
            if value := condition():
                return value
            last = None
        except (httpx2.HTTPError, OSError) as error:
            last = error
        time.sleep(every)
    raise AssertionError(f"not so after {seconds} s ({last})")


def job_now(job: Any) -> Any:
    """The job as it stands in the database."""
    from atom.tenancy import tenant_scope
    from historical_sync.actions import get_job

    with tenant_scope(job.tenant_id):
        return get_job(job.tenant, job.id)


def until(job: Any, *statuses: str, seconds: float = 30.0) -> Any:
    """The job once it has one of the statuses."""
    from django.db import connection

    from atom.tenancy import tenant_scope

    # Not by the ORM: looks at jobs that go on took a seventh of the time of tests with workers.
    def there() -> bool:
        with tenant_scope(job.tenant_id), connection.cursor() as cursor:
            cursor.execute("SELECT status FROM historical_sync_historicalsyncjob WHERE id = %s", [job.id])
            return cursor.fetchone()[0] in statuses

    try:
        wait_for(there, seconds)
        return job_now(job)
    except AssertionError:
        now = job_now(job)
        raise AssertionError(
            f"the job is {now.status} ({now.control}): {now.last_error_message}, {now.phase_detail}"
        ) from None


def stop(process: subprocess.Popen[Any], seconds: float = 15.0) -> int:
    """Ends the process politely; its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
    return process.returncode


# -- browser --------------------------------------------------------------------------------------------------------------


NOT_IN_THE_BROWSER = (
    # Each window has a process for what opens below its address bar, and one in reserve: half of the time that a new page takes.
    "WebUIOmniboxPopup", "WebUIOmniboxFullPopup", "WebUIOmniboxAimPopup", "SpareRendererForSitePerProcess",
    # What Playwright does without. Of two such lists the browser heeds the last.
    "AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose", "HttpsUpgrades", "HttpsFirstBalancedModeAutoEnable",
    "LensOverlay", "MediaRouter", "PaintHolding", "ThirdPartyStoragePartitioning", "AvoidCorsURLLoaderRestartOnRedirect",
    "OptimizationHints", "NetworkTimeServiceQuerying", "AimEnabled", "PreconnectToSearch",
)  # fmt: skip


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    """The installed Chromium, not a downloaded one."""
    found = os.environ.get("ATOM_CHROMIUM") or next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if found is None:
        missing("an installed Chromium (or its path in ATOM_CHROMIUM)")
    return {
        "executable_path": found,
        "args": [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            f"--disable-features={','.join(NOT_IN_THE_BROWSER)}",
        ],
    }


@pytest.fixture(scope="session")
def _browser_goes_first(browser: Any) -> Iterator[None]:
    """Torn down before the browser, whose own teardown needs its loop back (see `pytest_runtest_protocol`)."""
    loop = asyncio._get_running_loop()
    yield
    asyncio._set_running_loop(loop)


@pytest.fixture(scope="session")
def browser_context_args(_browser_goes_first: None) -> dict[str, Any]:
    return {"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce", "locale": "en-GB"}


@pytest.fixture
def page(page: Any) -> Any:
    """A page that is patient with a busy machine and fails the test when the page's own code does."""
    with watched(page):
        yield page


@contextmanager
def watched(page: Any) -> Iterator[None]:
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)
    page.set_default_timeout(20_000)
    wrong: list[str] = []

    def fails(error: Any) -> None:
        wrong.append(str(error))

    def says(said: Any) -> None:
        if "Content Security Policy" in said.text:
            wrong.append(said.text)

    page.on("pageerror", fails)
    page.on("console", says)
    yield
    page.remove_listener("pageerror", fails)
    page.remove_listener("console", says)
    assert wrong == []


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`manage.py up` with demo data and the sandbox, shared by the browser tests of a run.

    They share its database: let a test make a workspace of its own with `site.manage("create_tenant", ...)` where it matters.
    """
    up = Up(tmp_path_factory.mktemp("site"), free_port())
    yield up
    up.stop()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """REDIS_URL, or a server started for the tests."""
    if given := os.environ.get("REDIS_URL"):
        yield given
        return
    if shutil.which("redis-server") is None:
        missing("redis-server or REDIS_URL")
    port = free_port()
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    yield f"redis://127.0.0.1:{port}"
    stop(process)
