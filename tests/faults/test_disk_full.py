"""The database's disk is full: what is under way waits in words, and goes on when there is room again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from procrastinate.contrib.django.models import ProcrastinateJob as Entries

from atom.tenancy import tenant_scope
from historical_sync import engine, states, tasks
from historical_sync.models import SyncChunk
from historical_sync.progress import describe
from tests.conftest import Worker, job_now, wait_for
from tests.faults.stage import database_url
from tests.faults.toy_stage import ToyStage
from tests.processes import PROJECT, environment

pytestmark = pytest.mark.django_db(transaction=True)

FULL = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'could not extend file "base/16384/16999": No space left on device' USING ERRCODE = '53100';
END $$;
CREATE TRIGGER no_room BEFORE INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION no_room();
"""


@contextmanager
def no_room_for(table: str) -> Iterator[None]:
    """PostgreSQL's own error where a table's file can't grow."""
    with psycopg.connect(database_url(), autocommit=True) as owner:
        owner.execute(FULL.format(table=table))
        try:
            yield
        finally:
            owner.execute("DROP FUNCTION no_room CASCADE")


def is_waiting(job: Any) -> bool:
    now = job_now(job)
    return now.last_error_code == states.NO_ROOM and now.waiting_until is not None


def test_an_import_waits_for_room_and_says_so(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The provider is not asked for the same pages again and again meanwhile, and no retry is spent."""
    monkeypatch.setattr(engine, "DISK_AGAIN", timedelta(seconds=2))
    with no_room_for("historical_sync_syncrecord"):
        job = toy.job()
        wait_for(lambda: is_waiting(job))
        assert "no room left" in describe(job_now(job)).phase
        assert "No space left on device" in caplog.text
        wait_for(lambda: caplog.text.count("has no room for job") > 8)
    toy.done(job)
    assert not toy.damage()
    assert job_now(job).last_error_code == ""
    with tenant_scope(toy.tenant.id):
        assert set(SyncChunk.objects.filter(job=job).values_list("attempts", flat=True)) == {0}


def test_a_plan_waits_for_room_as_well(toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "DISK_AGAIN", timedelta(seconds=1))
    with no_room_for("historical_sync_syncchunk"):
        job = toy.job()
        wait_for(lambda: is_waiting(job))
    toy.done(job)
    assert not toy.damage()


def test_a_worker_whose_log_has_no_room_works(transactional_db: None) -> None:
    tasks.tick.defer(timestamp=0)
    with Path("/dev/full").open("w") as log:
        command = [sys.executable, "manage.py", "sync_worker"]
        worker = subprocess.Popen(command, cwd=PROJECT, env=environment(DATABASE_URL=database_url()), stderr=log)
    try:
        wait_for(lambda: worker.poll() is not None or not Entries.objects.exists(), 60)
    finally:
        worker.terminate()
    assert worker.wait(30) == 0
