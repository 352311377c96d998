"""What the deployment tells of itself: the doctor, the admin's first page, and the words for who starts an import."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.db import NotSupportedError, connection
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from atom.tenancy import across_tenants, tenant_scope
from historical_sync import health
from historical_sync.actions import get_job
from historical_sync.health import Facts, judge
from historical_sync.models import HistoricalSyncJob, SyncChunk
from historical_sync.progress import describe
from integrations.models import Connection
from tests.conftest import PROJECT, connected
from tests.faults.stage import database_url
from tests.graphs import make_connection, make_job, one_of_everything

WELL = Facts(workers=1)


@pytest.mark.parametrize(
    ("wrong", "what", "mend"),
    [
        ({"database": "connection refused"}, "database does not answer: connection refused", "DATABASE_URL"),
        ({"unapplied": ["atom 0002_x"]}, "Migrations are missing: atom 0002_x", "manage.py migrate"),
        ({"unknown": ["atom 0099_x"]}, "a later version's, which made atom 0099_x", "backup"),
        ({"keys": "ATOM_ENCRYPTION_KEYS must be"}, "ATOM_ENCRYPTION_KEYS must be", "ATOM_ENCRYPTION_KEYS"),
        ({"workers": 0}, "No worker is running", "manage.py sync_worker"),
        ({"workers": 0, "workable_jobs": 3}, "3 imports wait for one", "manage.py sync_worker"),
        ({"starts": 6}, "Workers were started 6 times within ten minutes", "log"),
        ({"overdue": 1}, "1 part of imports", "restart it"),
        ({"unheard": 2}, "2 imports should have been paused or cancelled", "restart it"),
        ({"queue_age": 600.0}, "waiting in the queue for 10 min", "--concurrency"),
        ({"reconnect": ["GitHub (acme) of Acme"]}, "Access was lost to GitHub (acme) of Acme", "Reconnect"),
        ({"unreadable": ["GitHub (acme) of Acme"]}, "No key opens the credentials of GitHub", "ATOM_ENCRYPTION_KEYS"),
        ({"layer": "TimeoutError"}, "channel layer does not answer: TimeoutError", "REDIS_URL"),
    ],
)  # fmt: skip
def test_each_thing_that_can_be_wrong_is_named_with_its_remedy(wrong: dict[str, Any], what: str, mend: str) -> None:
    found = judge(replace(WELL, **wrong))
    assert len(found) == 1
    assert what in found[0].what
    assert mend in found[0].mend


def test_a_postgresql_that_is_too_old_is_refused_by_name(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "get_database_version", lambda: (14, 12))
    with pytest.raises(NotSupportedError, match=r"PostgreSQL 15 or later is required \(found 14.12\)"):
        connection.check_database_version_supported()


def test_a_healthy_deployment_has_no_findings() -> None:
    assert judge(WELL) == []
    assert judge(replace(WELL, queue_age=5.0, workable_jobs=4)) == []
    assert judge(replace(WELL, workers=30, starts=10)) == [], (
        "ten that were started anew, each with three loops at the queue"
    )


def heartbeat(seconds_ago: float = 0) -> None:
    """A worker that was heard of then."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM procrastinate_workers")
        cursor.execute(
            "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - make_interval(secs => %s))",
            [seconds_ago],
        )


def nobody() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM procrastinate_workers")
        cursor.execute("DELETE FROM procrastinate_jobs")


def doctor() -> tuple[int, str]:
    out = io.StringIO()
    try:
        call_command("doctor", stdout=out)
    except SystemExit as ended:
        return int(str(ended.code)), out.getvalue()
    return 0, out.getvalue()


def test_the_doctor_finds_a_healthy_deployment_well(cast: SimpleNamespace) -> None:
    nobody()
    heartbeat()
    assert doctor() == (0, "All is well.\n")


def test_the_doctor_lists_what_is_stuck_and_exits_with_1(cast: SimpleNamespace) -> None:
    nobody()
    heartbeat(seconds_ago=3600)  # a worker that was killed an hour ago
    acme = one_of_everything(cast.acme)
    long_ago = timezone.now() - timedelta(minutes=5)
    with tenant_scope(cast.acme.id):
        HistoricalSyncJob.objects.filter(tenant=cast.acme, id=acme.job.id).update(
            status="running", control="cancel", control_at=long_ago
        )
        SyncChunk.objects.filter(tenant=cast.acme, id=acme.chunk.id).update(
            status="running", lease=acme.job.id, lease_until=long_ago
        )
        Connection.objects.of(cast.acme).filter(id=acme.connection.id).update(status="reauth_required")
        broken = make_connection(cast.acme)
        Connection.objects.of(cast.acme).filter(id=broken.id).update(sealed_credentials=b"of another key")
    code, said = doctor()
    assert code == 1
    for words in (
        "No worker is running. 1 import waits", "1 part of imports", "1 import should have been", "Access was lost to GitHub",
        "No key opens the credentials of GitHub",
    ):  # fmt: skip
        assert words in said
    assert "secret-access-token" not in said


def test_a_database_of_a_later_version_is_not_well(cast: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat()
    applied = MigrationRecorder(connection).applied_migrations()
    later: Any = {**applied, ("historical_sync", "0999_later"): None, ("sessions", "0999_given_up"): None}
    monkeypatch.setattr(MigrationRecorder, "applied_migrations", lambda _: later)
    code, said = doctor()
    assert code == 1
    assert "historical_sync 0999_later" in said
    assert "sessions" not in said


def test_the_doctor_speaks_json(cast: SimpleNamespace) -> None:
    nobody()
    out = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("doctor", "--json", stdout=out)
    assert [set(finding) for finding in json.loads(out.getvalue())] == [{"what", "mend"}]


def test_work_that_waits_too_long_in_the_queue_is_found(cast: SimpleNamespace) -> None:
    nobody()
    heartbeat()
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO procrastinate_jobs (queue_name, task_name, status, scheduled_at)
            VALUES ('history', 'historical_sync.work', 'todo', now() - interval '10 minutes')
            """
        )
    assert [finding.what for finding in health.findings()] == ["Work has been waiting in the queue for 10 min."]


def test_workers_that_end_soon_after_they_start_are_found(
    cast: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end(*_: Any, **__: Any) -> None:
        pass

    cache.clear()
    monkeypatch.setattr("historical_sync.management.commands.sync_worker.run_worker", end)
    nobody()
    heartbeat()  # which is all that one leaves that was killed
    for _ in range(health.FEW_STARTS):
        call_command("sync_worker", stderr=io.StringIO())
    assert doctor()[0] == 0
    call_command("sync_worker", stderr=io.StringIO())
    assert "started 6 times within ten minutes" in doctor()[1]
    cache.clear()


def test_the_admins_first_page_says_the_same(cast: SimpleNamespace, signed_in: Any) -> None:
    nobody()
    with across_tenants("a test makes Alice staff"):
        cast.alice.is_staff = cast.alice.is_superuser = True
        cast.alice.save()
    page = signed_in(cast.alice).get("/admin/").content.decode()
    assert "No worker is running." in page
    assert "manage.py sync_worker" in page
    heartbeat()
    assert "All is well" in signed_in(cast.alice).get("/admin/").content.decode()


def test_who_starts_an_import_is_told_that_no_worker_is_running(cast: SimpleNamespace, signed_in: Any) -> None:
    nobody()
    with tenant_scope(cast.acme.id):
        job = make_job(make_connection(cast.acme))
        assert describe(get_job(cast.acme, job.id)).phase == "Waiting: no worker is running"
    client = signed_in(cast.alice)
    assert "Waiting: no worker is running" in client.get(f"/jobs/{job.id}").content.decode()
    heartbeat()
    with tenant_scope(cast.acme.id):
        assert describe(get_job(cast.acme, job.id)).phase == "Waiting for a worker"


def test_a_running_import_whose_workers_are_gone_says_so(cast: SimpleNamespace) -> None:
    nobody()
    with tenant_scope(cast.acme.id):
        job = make_job(make_connection(cast.acme), status="running", planned=True)
        assert describe(get_job(cast.acme, job.id)).phase == "Interrupted: no worker is running"


def test_the_command_line_does_not_wait_in_silence(live_cast: SimpleNamespace) -> None:
    nobody()
    mine = connected(live_cast.acme, "github", "")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "manage.py", "sync_history", str(mine.id), "--wait"],
        cwd=PROJECT,
        env={**os.environ, "DATABASE_URL": database_url()},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    )
    assert process.stderr is not None
    too_late = threading.Timer(60, process.kill)
    too_late.start()
    try:
        assert any("No worker is running" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, "it goes on in the background"
    finally:
        too_late.cancel()
        process.kill()
        process.stderr.close()
