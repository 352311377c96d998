"""A tenant that leaves: `manage.py delete_tenant` takes all that is its, at whatever moment, and nothing of anybody else's."""

from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, connections

from atom.access import system_actor
from atom.models import Membership, Tenant, User
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import actions, offboarding, tasks
from historical_sync.models import HistoricalSyncJob, SyncChunk, SyncRecord
from integrations.models import Connection
from tests.conftest import Sandbox, Worker, connected, wait_for
from tests.faults.stage import database_url
from tests.faults.toy import Call
from tests.faults.toy_stage import ToyStage
from tests.graphs import make_connection, make_job, one_of_everything
from tests.test_connect import is_accepted
from tests.test_locks import Aside
from tests.test_tenancy import tenant_owned

pytestmark = pytest.mark.django_db(transaction=True)


def offboard(slug: str = "acme", *arguments: str) -> tuple[str, str]:
    """What the command says, and what it warns of."""
    out, err = io.StringIO(), io.StringIO()
    call_command("delete_tenant", slug, *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def gone(slug: str = "acme") -> tuple[str, str]:
    return offboard(slug, "--yes-delete", slug)


def rows_of(tenant: Any) -> dict[str, list[str]]:
    """All that is the tenant's, table by table, as the database has it."""
    found = {}
    with across_tenants("a test looks"), connection.cursor() as cursor:
        for table in tenant_owned():
            cursor.execute(f"SELECT to_jsonb(t)::text FROM {table} t WHERE tenant_id = %s ORDER BY 1", [tenant.id])
            found[table] = [row for (row,) in cursor.fetchall()]
        cursor.execute(
            "SELECT task_name || args FROM procrastinate_jobs WHERE args->>'tenant_id' = %s ORDER BY 1",
            [str(tenant.id)],
        )
        found["the queue"] = [row for (row,) in cursor.fetchall()]
        cursor.execute("SELECT to_jsonb(t)::text FROM atom_tenant t WHERE id = %s", [tenant.id])
        found["the tenant"] = [row for (row,) in cursor.fetchall()]
    return found


def left_of(tenant: Any) -> dict[str, int]:
    return {table: len(rows) for table, rows in rows_of(tenant).items() if rows}


def emails() -> set[str]:
    return set(User.objects.values_list("email", flat=True))


def furnish(tenant: Any) -> SimpleNamespace:
    """A row of the tenant's in every table, and entries in the queue."""
    made = one_of_everything(tenant)
    with tenant_scope(tenant.id):
        tasks.enqueue(made.job, 2)
        tasks.tidy_soon(tenant.id)
    return made


@pytest.fixture
def two(live_cast: SimpleNamespace) -> SimpleNamespace:
    """Acme and Globex with something of everything. No tool that anybody connected answers."""
    live_cast.of_acme, live_cast.of_globex = furnish(live_cast.acme), furnish(live_cast.globex)
    return live_cast


# -- asking, and refusing -------------------------------------------------------------------------------------------------


def test_it_says_what_would_go_and_does_nothing(two: SimpleNamespace) -> None:
    before, people = rows_of(two.acme), emails()
    said, _ = offboard()
    assert "Acme (acme)" in said
    for words in (
        "1 sync record\n",
        "3 memberships\n",
        "1 connection\n",
        "1 audit event\n",
        "3 accounts of people who are in no other",
    ):
        assert words in said, said
    assert "Nothing was deleted" in said
    assert "--yes-delete acme" in said
    assert rows_of(two.acme) == before
    assert emails() == people


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nobody"], "There is no tenant 'nobody'."),
        (["nobody", "--yes-delete", "nobody"], "There is no tenant 'nobody'."),
        (["acme", "--yes-delete", "globex"], "'globex'"),
        (["acme", "--yes-delete", "Acme"], "'Acme'"),
        (["acme", "--yes-delete", ""], "''"),
    ],
)
def test_what_is_not_meant_is_refused_in_words(two: SimpleNamespace, arguments: list[str], words: str) -> None:
    before = rows_of(two.acme), rows_of(two.globex), emails()
    with pytest.raises(CommandError) as refused:
        offboard(*arguments)
    assert refused.value.returncode == 2
    assert words in str(refused.value)
    assert (rows_of(two.acme), rows_of(two.globex), emails()) == before


# -- everything, and nothing else -----------------------------------------------------------------------------------------


def test_everything_of_the_tenant_goes_and_of_another_nothing(two: SimpleNamespace) -> None:
    before = rows_of(two.acme)
    assert {name for name, rows in before.items() if not rows} == set(), "the test sees to every table"
    globex = rows_of(two.globex)
    said, _ = gone()
    assert left_of(two.acme) == {}
    assert rows_of(two.globex) == globex
    assert emails() == {"charlie@globex.test"}
    assert "Acme (acme) is deleted" in said
    assert {model._meta.db_table for model in offboarding.owned()} == set(tenant_owned()), "every table there is"


def test_who_works_elsewhere_too_or_runs_the_deployment_keeps_their_account(two: SimpleNamespace) -> None:
    with across_tenants("a test's second membership"):
        Membership.objects.create(tenant=two.globex, user=two.bob, role="viewer")
    User.objects.filter(id=two.vera.id).update(is_staff=True)
    mine = make_in(two.globex, created_by=two.alice)  # of when she worked there
    said, _ = gone()
    assert emails() == {"bob@acme.test", "vera@acme.test", "charlie@globex.test"}
    assert "1 account" in said
    with tenant_scope(two.globex.id):
        assert Membership.objects.filter(user=two.bob).exists()
        assert Connection.objects.get(id=mine.id).created_by is None


def make_in(tenant: Any, **fields: Any) -> Connection:
    with tenant_scope(tenant.id):
        row = make_connection(tenant, "notion")
        Connection.objects.filter(id=row.id).update(**fields)
        return row


def test_large_tables_go_a_bounded_part_at_a_time(two: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offboarding, "BLOCKS_AT_ONCE", 2)
    for tenant, made in ((two.globex, two.of_globex), (two.acme, two.of_acme)):
        with tenant_scope(tenant.id):
            SyncRecord.objects.bulk_create(
                SyncRecord(
                    id=uuid.uuid4(), tenant=tenant, connection=made.connection, job_id=made.job.id, stream="issues",
                    external_id=str(n), occurred_at=made.record.occurred_at, payload={"text": uuid.uuid4().hex * 20},
                    content_hash=uuid.uuid4(),
                )
                for n in range(200)
            )  # fmt: skip
    deleted: list[int] = []

    def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if sql.startswith("DELETE FROM historical_sync_syncrecord"):
            deleted.append(context["cursor"].rowcount)
        return result

    globex = rows_of(two.globex)
    with connection.execute_wrapper(count):
        gone()
    assert sum(deleted) == 201
    assert max(deleted) < 60
    assert left_of(two.acme) == {}
    assert rows_of(two.globex) == globex


# -- half-way -------------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@contextmanager
def ended_before(number: int) -> Iterator[None]:
    """The command ends before so many changes of the database; at most."""
    changes = 0

    def execute(run: Any, sql: str, *rest: Any) -> Any:
        nonlocal changes
        if sql.startswith(("DELETE", "UPDATE", "INSERT")):
            changes += 1
            if changes == number:
                raise Killed
        return run(sql, *rest)

    with connection.execute_wrapper(execute):
        yield


def test_ended_anywhere_it_can_be_run_again_and_goes_on(two: SimpleNamespace) -> None:
    globex, went = rows_of(two.globex), []
    for number in range(1, 1000):
        try:
            with ended_before(number):
                gone()
        except Killed:
            went.append(sum(left_of(two.acme).values()))
            continue
        break
    assert left_of(two.acme) == {}
    assert emails() == {"charlie@globex.test"}
    assert rows_of(two.globex) == globex
    assert len(went) > 20
    assert len(set(went)) > 10, "what had gone before stayed so"


def add_record(tenant: Any, row: Connection) -> None:
    with tenant_scope(tenant.id):
        SyncRecord.objects.create(
            id=uuid.uuid4(), tenant=tenant, connection=row, job_id=uuid.uuid4(), stream="issues", external_id=uuid.uuid4().hex,
            occurred_at=row.created_at, payload={}, content_hash=uuid.uuid4(),
        )  # fmt: skip


@pytest.mark.parametrize("table", ["historical_sync_syncchunk", "integrations_connection", "atom_tenant"])
def test_what_comes_in_meanwhile_goes_as_well(two: SimpleNamespace, table: str) -> None:
    """A page is stored just before its part goes; somebody finishes connecting a tool, and its records come, when all else has gone."""
    came: list[Connection] = []

    def late() -> None:
        of_acme = two.of_acme.connection
        came.append(make_in(two.acme) if table == "atom_tenant" else of_acme)
        add_record(two.acme, came[0])
        connections.close_all()

    def execute(run: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith(f"DELETE FROM {table} ") and not came:
            thread = threading.Thread(target=late)
            thread.start()
            thread.join(20)
        return run(sql, *rest)

    with connection.execute_wrapper(execute):
        gone()
    assert len(came) == 1
    assert left_of(two.acme) == {}


def test_who_was_signed_in_and_programs_are_out(two: SimpleNamespace, signed_in: Any) -> None:
    alice = signed_in(two.alice)
    assert alice.get("/integrations").status_code == 200
    gone()
    reply = alice.get("/integrations")
    assert (reply.status_code, reply["Location"].partition("?")[0]) == (302, "/sign-in")


# -- providers ------------------------------------------------------------------------------------------------------------


def test_what_was_granted_is_taken_back(live_cast: SimpleNamespace, sandbox: Sandbox) -> None:
    row = connected(live_cast.acme, "github", sandbox.root)
    other = connected(live_cast.globex, "github", sandbox.root, account="2")
    tokens = [one.credentials["access_token"] for one in (row, other)]
    _, warned = gone()
    assert [is_accepted(sandbox, "github", token) for token in tokens] == [False, True]
    assert warned == ""


def test_a_provider_that_is_away_is_told_of_and_keeps_nothing(
    live_cast: SimpleNamespace, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected(live_cast.acme, "github", sandbox.root)
    monkeypatch.setenv("ATOM_SANDBOX_URL", "http://127.0.0.1:9/sandbox")
    _, warned = gone()
    assert "GitHub" in warned
    assert "could not be taken back" in warned
    assert ".." not in warned
    assert left_of(live_cast.acme) == {}


def test_what_no_program_can_take_back_is_told_of(live_cast: SimpleNamespace, sandbox: Sandbox) -> None:
    connected(live_cast.acme, "github", sandbox.root, by_oauth=False)
    connected(live_cast.acme, "microsoft365", sandbox.root)
    with tenant_scope(live_cast.acme.id):
        make_connection(live_cast.acme, "bygone")  # a provider that this version does not know
    _, warned = gone()
    by_token, by_oauth = (
        next(line for line in warned.splitlines() if name in line) for name in ("GitHub", "Microsoft 365")
    )
    assert "token" in by_token
    assert "Microsoft 365 has no way" in by_oauth
    assert "bygone" in warned
    assert left_of(live_cast.acme) == {}


def test_an_access_that_another_workspace_goes_on_by_is_left_to_it(
    live_cast: SimpleNamespace, sandbox: Sandbox
) -> None:
    connected(live_cast.acme, "google", sandbox.root)
    other = connected(live_cast.globex, "google", sandbox.root)
    _, warned = gone()
    assert is_accepted(sandbox, "google", other.credentials["access_token"])
    assert "what Google granted is left as it is" in warned


def test_a_connection_that_no_key_opens_goes_as_well(live_cast: SimpleNamespace) -> None:
    with tenant_scope(live_cast.acme.id):
        row = make_connection(live_cast.acme)
        Connection.objects.filter(id=row.id).update(sealed_credentials=b"of another key")
    _, warned = gone()
    assert "No key of ATOM_ENCRYPTION_KEYS" in warned
    assert left_of(live_cast.acme) == {}


# -- workers --------------------------------------------------------------------------------------------------------------


def test_a_worker_that_does_not_answer_is_not_waited_for(live_cast: SimpleNamespace) -> None:
    """Frozen, with a lease that is good for a while: what it has in hand is taken from it."""
    with tenant_scope(live_cast.acme.id):
        job = make_job(make_connection(live_cast.acme), status="running", planned=True)
        SyncChunk.objects.create(
            tenant=live_cast.acme, job=job, ordinal=0, stream="issues", since=job.start_date, until=job.end_date,
            status="running", lease=uuid.uuid4(), lease_until=job.end_date.replace(year=2999),
        )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO procrastinate_workers DEFAULT VALUES")
    gone()
    assert left_of(live_cast.acme) == {}


def test_a_page_that_is_on_its_way_is_not_written_back(
    toy: ToyStage, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    asked, answer = threading.Semaphore(0), threading.Event()

    def slowly(call: Call) -> Any:
        if not call.path.startswith("/rows/"):
            return None

        def act(handler: Any) -> None:
            asked.release()
            answer.wait(20)
            handler.send(toy.server.proper(call))

        return act

    toy.server.faults.append(slowly)
    tenant, job = toy.tenant, toy.job()
    for _ in range(3):
        assert asked.acquire(timeout=20)
    gone("toys")
    # An entry that the worker has just taken is its own to take out.
    wait_for(lambda: left_of(tenant) == {}, 20)
    answer.set()
    toy.server.faults.clear()
    # The worker goes on with others' work, and is at rest after it.
    made = toy.job()
    assert made.id != job.id
    toy.done(made)
    assert not toy.damage()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_page_that_is_being_stored_is_waited_for_and_goes(
    toy: ToyStage, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """What its transaction has written is not to be seen yet, and its last lock is the job's, which whoever cancels has first."""
    tenant, job = toy.tenant, toy.job()
    wait_for(lambda: toy.chunks(job, status="completed"))
    with psycopg.connect(database_url()) as other:
        other.execute("SELECT FROM historical_sync_historicalsyncjob WHERE id = %s FOR UPDATE", [job.id])
        wait_for(lambda: stores() > 0)
        leaving = Aside(tenant, gone, "toys")
        wait_for(lambda: waits_for_a_job("atom engine") and waits_for_a_job(""))
        other.rollback()
        leaving.ends()
    worker.stop()
    assert left_of(tenant) == {}
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def stores() -> int:
    """Transactions of workers that have written records and wait for their job."""
    with psycopg.connect(database_url(), autocommit=True) as owner:
        row = owner.execute(
            """
            SELECT count(DISTINCT a.pid) FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
            WHERE a.datname = current_database() AND a.wait_event_type = 'Lock'
              AND l.relation = 'historical_sync_syncrecord'::regclass AND l.mode = 'RowExclusiveLock'
            """
        ).fetchone()
        return int(row[0]) if row else 0


def waits_for_a_job(application: str) -> int:
    """Such transactions of the engine ("atom engine") or of others ("")."""
    with psycopg.connect(database_url(), autocommit=True) as owner:
        row = owner.execute(
            """
            SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
              AND (application_name = 'atom engine') = %s
            """,
            [application != ""],
        ).fetchone()
        return int(row[0]) if row else 0


@pytest.mark.parametrize("pages", range(1, 9, 2))
def test_nothing_comes_back_whatever_a_worker_is_at(
    toy: ToyStage, worker: Worker, caplog: pytest.LogCaptureFixture, pages: int
) -> None:
    """While pages come as fast as they can: some are being fetched, mapped and stored, and names indexed."""
    tenant = toy.tenant
    toy.job()
    wait_for(lambda: len(toy.server.pages()) >= 2 * pages, every=0.001)
    gone("toys")
    worker.stop()
    assert left_of(tenant) == {}
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_removal_of_data_that_is_under_way_ends(
    toy: ToyStage, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    from integrations import disconnecting

    tenant = toy.tenant
    toy.done(toy.job())
    with tenant_scope(tenant.id):
        disconnecting.disconnect(system_actor(tenant, "Alice"), toy.connection, delete_data=True)
    gone("toys")
    worker.stop()
    assert left_of(tenant) == {}
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_no_import_starts_of_a_tenant_that_is_going(live_cast: SimpleNamespace) -> None:
    """Ended half-way it stays closed: nobody comes in, and no schedule or program starts anything."""
    furnish(live_cast.acme)
    with pytest.raises(Killed), ended_before(25):
        gone()
    assert Tenant.objects.filter(slug="acme").exists()
    with across_tenants("a test looks"):
        assert not Membership.objects.filter(tenant=live_cast.acme).exists()
        assert not HistoricalSyncJob.objects.filter(tenant=live_cast.acme, status__in=("pending", "running")).exists()
        for row in Connection.objects.filter(tenant=live_cast.acme):
            with pytest.raises(Exception, match="given up"):
                actions.start_sync(system_actor(live_cast.acme, "a program"), row)


def test_of_two_at_once_both_end_well(two: SimpleNamespace) -> None:
    errors: list[BaseException] = []

    def other() -> None:
        try:
            gone()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=other) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [error for error in errors if not isinstance(error, CommandError)] == []
    assert left_of(two.acme) == {}
