"""What is gone at a provider that does not tell: a full import finds it, and nothing else counts as gone."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync
from django.db import connection as database
from django.utils import timezone

from atom.models import Membership, Role, User
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import actions, removing, replaying, rollcall, upkeep
from historical_sync.models import DataRemoval, Entity, JobEvent, RollCall, StaleEntity, SyncRecord
from integrations.models import Connection
from integrations.providers import PROVIDERS
from tests.conftest import Sandbox, Worker, job_now, until, wait_for
from tests.faults import toy as toys
from tests.faults.stage import KILLED, database_url, stage
from tests.faults.toy import END, START, Answer, says, throttled
from tests.faults.toy_stage import ToyStage

pytestmark = pytest.mark.django_db(transaction=True)


def take_out(toy: ToyStage, *own: str) -> None:
    """The provider has these no more."""
    toy.server.world = {name: [r for r in rows if r["id"] not in own] for name, rows in toy.server.world.items()}


def asked(toy: ToyStage) -> list[str]:
    return [call.path.removeprefix("/row/") for call in toy.server.calls if call.path.startswith("/row/")]


def gone(toy: ToyStage) -> set[str]:
    """External ids of the records that are marked."""
    found = toy.within(lambda: SyncRecord.objects.exclude(gone_at=None).values_list("external_id", flat=True))
    return set(found)


def deleted(toy: ToyStage) -> set[str]:
    """Names of the things that are marked."""
    return set(toy.within(lambda: Entity.objects.filter(properties__deleted=True).values_list("name", flat=True)))


def over(toy: ToyStage, job: Any, status: str = "completed") -> None:
    """Waits until the job is over, and until all has been asked for after it."""
    toy.done(job, status)
    wait_for(lambda: not toy.within(lambda: RollCall.objects.filter(job_id=job.id).exists()), 30)


def read_again(toy: ToyStage, **options: Any) -> Any:
    job = toy.job(full=True, **options)
    over(toy, job)
    return job


def test_what_a_full_import_does_not_meet_is_asked_for_and_marked(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job())
    take_out(toy, "n1003", "n1129", "n2000", "n5007")
    job = read_again(toy)
    assert sorted(asked(toy)) == ["n1003", "n1129", "n2000", "n5007"]
    assert gone(toy) == {"n1003", "n1129", "n2000", "n5007"}
    assert deleted(toy) == {"Row 1003", "Row 1129", "Row 2000", "Row 5007"}
    assert sorted(toy.events(job, "gone")) == [
        "Labels: 1 record is gone from Toy",
        "Things: 3 records are gone from Toy",
    ]
    now = job_now(job)
    assert (now.status, now.records_processed) == ("completed", 0)
    again = read_again(toy)
    assert len(asked(toy)) == 4, "what is known to be gone is not asked for again"
    assert not toy.events(again, "gone")


def test_what_is_met_again_as_it_was_comes_back(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job())
    before = {name: list(rows) for name, rows in toy.server.world.items()}
    take_out(toy, "n1003", "n5007")
    read_again(toy)
    toy.server.world = before
    read_again(toy)
    assert gone(toy) == deleted(toy) == set()
    assert not toy.damage("counters", "by kind")


def test_an_import_of_what_is_new_brings_back_what_it_meets(toy: ToyStage, worker: Worker) -> None:
    """It was restored, and touched by that."""
    until_then = END - timedelta(days=1)
    toy.done(toy.job(end=until_then))
    restored = next(r for r in toy.server.world["attic"] if r["id"] == "n1003")
    take_out(toy, "n1003")
    read_again(toy, end=until_then)
    assert gone(toy) == {"n1003"}
    toy.server.world["attic"].append({**restored, "at": (END - timedelta(hours=1)).isoformat()})
    toy.done(toy.job())
    assert gone(toy) == deleted(toy) == set()


def test_other_imports_note_and_ask_nothing(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job(end=END - timedelta(days=10)))
    take_out(toy, "n1003", "n5007")
    toy.within(Connection.objects.filter(id=toy.connection.id).update, updated_at=timezone.now())
    with database.cursor() as cursor, across_tenants("a test"):
        cursor.execute("SELECT pg_relation_size('historical_sync_rollcall')")
        (before,) = cursor.fetchone()
        toy.done(toy.job())
        cursor.execute("SELECT pg_relation_size('historical_sync_rollcall')")
        assert cursor.fetchone() == (before,)
    assert not asked(toy)
    assert not gone(toy)


def test_what_moves_while_it_is_read_is_not_gone(toy: ToyStage, worker: Worker) -> None:
    """It was touched, and is to be found after the span that is read."""
    toy.done(toy.job())
    for found in toy.server.world["attic"]:
        if found["id"] in ("n1003", "n1004"):
            found["at"] = (END + timedelta(hours=1)).isoformat()
    read_again(toy)
    assert sorted(asked(toy)) == ["n1003", "n1004"]
    assert gone(toy) == set()


def test_what_lies_outside_of_what_was_read_is_not_asked_for(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job())
    take_out(toy, "n1003", "n1129")
    read_again(toy, start=START + timedelta(days=30), streams=["things"])
    assert gone(toy) == {"n1129"}
    assert asked(toy) == ["n1129"]


def test_a_part_that_may_not_be_read_has_nothing_gone(toy: ToyStage, worker: Worker) -> None:
    """Nor may one that is not listed any more."""
    toy.done(toy.job())
    take_out(toy, "n1003", "n5007")
    toy.server.inject(says(403, {"error": "no"}), every=1, times=10**6, path="/rows/attic")
    job = toy.job(full=True)
    toy.done(job, "failed")
    wait_for(lambda: toy.events(job, "gone"))
    assert gone(toy) == {"n5007"}
    assert asked(toy) == ["n5007"]
    met = toy.within(lambda: RollCall.objects.filter(job_id=job.id).exclude(state=RollCall.MET).count())
    assert met == 0


def test_what_was_missed_is_found_when_a_failed_import_is_resumed(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job())
    take_out(toy, "n1003", "n2003")
    # Some pages of it come in, and one does not.
    toy.server.inject(says(403, {"error": "no"}), every=3, times=1, path="/rows/attic")
    job = toy.job(full=True, streams=["things"])
    toy.done(job, "failed")
    wait_for(lambda: gone(toy) == {"n2003"})
    toy.within(lambda: actions.resume(toy.actor, job_now(job)))
    over(toy, job)
    assert gone(toy) == {"n1003", "n2003"}


@pytest.mark.parametrize("fault", [says(503), throttled("seconds", 0.3), toys.reset, toys.half_json, toys.cut_off])
def test_a_provider_that_can_not_answer_now_is_asked_again(toy: ToyStage, worker: Worker, fault: Any) -> None:
    toy.done(toy.job())
    take_out(toy, "n1003", "n1129", "n5007")
    toy.server.inject(fault, every=2, times=3, path="/row/")
    job = read_again(toy)
    assert toy.server.hits > 1
    assert gone(toy) == {"n1003", "n1129", "n5007"}
    assert not toy.events(job, "left_out")


@pytest.mark.parametrize(
    ("status", "words"), [(403, "does not let this connection read"), (503, "a problem of its own")]
)
def test_a_provider_that_does_not_answer_has_nothing_gone(
    toy: ToyStage, worker: Worker, status: int, words: str
) -> None:
    toy.done(toy.job())
    take_out(toy, "n1003", "n2003", "n5007")
    toy.server.inject(says(status, {"error": "no"}), every=1, times=10**6, path="/row/n1003")
    job = read_again(toy)
    assert gone(toy) == {"n2003", "n5007"}
    (left_out,) = toy.events(job, "left_out")
    assert left_out.startswith("Things: 1 record that was not met again is not asked for: ")
    assert words in left_out
    toy.server.faults.clear()
    read_again(toy)
    assert gone(toy) == {"n1003", "n2003", "n5007"}


def test_it_is_asked_when_somebody_has_reconnected(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job())
    take_out(toy, "n1003")
    refused = Answer(401, {"error": "token"})
    toy.server.faults.append(lambda call: refused if call.path.startswith("/row/") else None)
    toy.server.refresh_tokens.clear()
    job = toy.job(full=True)
    toy.done(job)
    wait_for(lambda: toy.connection.status == "reauth_required")
    assert gone(toy) == set()
    toy.server.faults.clear()
    toy.within(Connection.objects.filter(id=toy.connection.id).update, status="connected")
    over(toy, job)
    assert gone(toy) == {"n1003"}


def test_more_than_is_asked_for_is_told_and_left_to_the_next_full_import(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollcall, "MOST_ASKED", 3)
    monkeypatch.setattr(rollcall, "ASKED_AT_ONCE", 2)
    toy.done(toy.job())
    take_out(toy, *[f"n{number}" for number in range(1000, 1005)])
    job = read_again(toy)
    assert len(gone(toy)) == 3
    assert toy.events(job, "gone") == ["Things: 3 records are gone from Toy"]
    (left_out,) = toy.events(job, "left_out")
    assert (
        left_out
        == "Things: 2 records that were not met again are not asked for: 3 at most are asked for after one import"
    )
    read_again(toy)
    assert len(gone(toy)) == 5


def test_a_cancelled_import_asks_nothing_and_its_notes_go(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job())
    take_out(toy, "n1003")
    job = toy.job(full=True)
    wait_for(lambda: toy.within(lambda: RollCall.objects.filter(job_id=job.id).exists()))
    toy.within(lambda: actions.cancel(toy.actor, job_now(job)))
    until(job, "cancelled")
    upkeep.by_the_clock()
    assert not toy.within(lambda: RollCall.objects.exists())
    assert not asked(toy)


def test_notes_of_an_import_that_ended_long_ago_go(toy: ToyStage) -> None:
    def note(ended: timedelta) -> Any:
        ended_at = timezone.now() - ended
        job = actions.HistoricalSyncJob.objects.create(
            tenant=toy.tenant, connection=toy.connection, streams=["things"], start_date=START, end_date=END, full=True,
            status="failed", completed_at=ended_at,
        )  # fmt: skip
        return RollCall.objects.create(tenant=toy.tenant, job=job, stream="things", state=RollCall.MISSED, ids=[])

    kept, old = toy.within(note, timedelta(days=6)), toy.within(note, timedelta(days=8))
    upkeep.by_the_clock()
    assert toy.within(lambda: [row.id for row in RollCall.objects.all()]) == [kept.id] != [old.id]


def test_it_stays_marked_when_what_is_said_of_it_is_found_anew(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job())
    take_out(toy, "n1003")
    read_again(toy)
    thing = toy.within(lambda: Entity.objects.get(properties__deleted=True))
    as_it_was = (thing.name, thing.properties, thing.as_of, thing.record_id)
    assert thing.properties == {"title": "Row 1003", "note": None, "deleted": True}
    toy.within(
        lambda: Entity.objects.filter(id=thing.id).update(name="?", properties={}, as_of=END, record_id=thing.id)
    )
    toy.within(lambda: StaleEntity.objects.create(tenant=toy.tenant, entity_id=thing.id))
    upkeep.by_the_clock()
    wait_for(lambda: not toy.within(lambda: StaleEntity.objects.exists()))
    found = toy.within(lambda: Entity.objects.get(id=thing.id))
    assert (found.name, found.properties, found.as_of, found.record_id) == as_it_was


def test_a_record_that_is_met_and_can_not_be_read_is_not_gone(toy: ToyStage, worker: Worker) -> None:
    toy.done(toy.job())
    for found in toy.server.world["attic"]:
        if found["id"] == "n1003":
            found["broken"] = True
        if found["id"] == "n1004":
            found["at"] = f"{found['at'][:10]}Tnoon"
    toy.server.inject(lambda server, call: Answer(200, {"there": False}), every=1, times=10**6, path="/row/")
    job = read_again(toy)
    assert job_now(job).records_quarantined > 0
    assert gone(toy) == set()


def test_a_former_version_that_was_kept_aside_brings_nothing_back(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.done(toy.job())
    for found in toy.server.world["attic"]:
        if found["id"] == "n1003":
            found["broken"] = True
    kept = read_again(toy)
    take_out(toy, "n1003")
    read_again(toy)
    assert gone(toy) == {"n1003"}
    whole = [
        replace(one, extract=lambda row, context, own=one.extract: own({**row, "broken": False}, context))
        for one in PROVIDERS["toy"].streams
    ]
    monkeypatch.setitem(PROVIDERS, "toy", replace(PROVIDERS["toy"], streams=tuple(whole)))
    replayed = toy.within(lambda: async_to_sync(replaying.replay)(job_now(kept)))
    assert replayed.mapped == 1
    assert gone(toy) == {"n1003"}
    assert deleted(toy) == {"Row 1003"}


def of_two_accounts(toy: ToyStage, own: set[str]) -> tuple[Any, Any, set[str]]:
    """Two connections that have the same things, and the names of those that they both have."""
    other = toy.other_connection()
    return toy.connection, other, {f"Row {one.removeprefix('n')}" for one in own}


def tidied(toy: ToyStage) -> None:
    upkeep.by_the_clock()
    wait_for(lambda: not toy.within(lambda: StaleEntity.objects.exists()))


SOME = {f"n{number}" for number in range(1000, 1010)}  # of which each account's record is the newest of some


def test_a_thing_is_there_as_long_as_one_account_has_it(toy: ToyStage, worker: Worker) -> None:
    one, other, names = of_two_accounts(toy, SOME)
    toy.done(toy.job(connection=one))
    toy.done(toy.job(connection=other))
    take_out(toy, *SOME)
    read_again(toy, connection=one)
    tidied(toy)
    assert gone(toy) == SOME
    assert deleted(toy) == set()
    words = toy.within(lambda: list(Entity.objects.filter(name__in=names).values_list("record_id", flat=True)))
    left = toy.within(lambda: set(SyncRecord.objects.filter(connection=other).values_list("id", flat=True)))
    assert len(words) == len(names)
    assert set(words) <= left, "what is left of it speaks for it"
    read_again(toy, connection=other)
    tidied(toy)
    assert deleted(toy) == names


def test_what_is_gone_from_one_account_is_there_again_when_another_brings_it(toy: ToyStage, worker: Worker) -> None:
    """Of equal age: by their ids, the records of either count for some."""
    one, other, names = of_two_accounts(toy, SOME)
    toy.done(toy.job(connection=one))
    before = {name: list(rows) for name, rows in toy.server.world.items()}
    take_out(toy, *SOME)
    read_again(toy, connection=one)
    assert deleted(toy) == names
    toy.server.world = before
    toy.done(toy.job(connection=other))
    tidied(toy)
    assert gone(toy) == SOME
    assert deleted(toy) == set()


@pytest.mark.parametrize("slug", ["asana", "google", "jira", "microsoft365"])
def test_what_one_account_may_have_alone_is_looked_at_when_it_comes(slug: str) -> None:
    """Hidden from another, thrown away by another, or back from the bin, which leaves the times of what hangs on a thing as they were."""
    asked_for = [stream for stream in PROVIDERS[slug].streams if stream.gone is not None]
    assert asked_for
    assert all(stream.shared for stream in asked_for)


def test_the_last_word_of_what_is_gone_everywhere_is_the_newest_records(toy: ToyStage, worker: Worker) -> None:
    """Whichever went first: the graph is what the records say."""
    one, other, names = of_two_accounts(toy, SOME)
    toy.done(toy.job(connection=one))
    toy.done(toy.job(connection=other))
    take_out(toy, *SOME)
    for connection in (one, other):
        read_again(toy, connection=connection)
        tidied(toy)
    last = toy.within(
        lambda: dict(
            SyncRecord.objects.exclude(gone_at=None)
            .order_by("entity_id", "-occurred_at", "-id")
            .distinct("entity_id")
            .values_list("entity_id", "id")
        )
    )
    assert toy.within(lambda: dict(Entity.objects.filter(name__in=names).values_list("id", "record_id"))) == last
    assert deleted(toy) == names


def test_a_page_that_is_stored_costs_no_more_for_all_that_is_gone(toy: ToyStage, worker: Worker) -> None:
    """Though the planner has not heard of it yet."""
    toy.done(toy.job())
    with psycopg.connect(database_url(), autocommit=True) as owner:
        owner.execute("ANALYZE historical_sync_syncrecord")
    with across_tenants("a test"), database.cursor() as cursor:
        stored = list(SyncRecord.objects.values_list("id", flat=True)[:5])
        SyncRecord.objects.exclude(id__in=stored).update(gone_at=timezone.now())
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {rollcall.LOOK_AGAIN}", [toy.tenant.id, stored])
        ((found,),) = cursor.fetchall()
    assert most_rows(found[0]["Plan"]) <= len(stored)


def most_rows(node: dict[str, Any]) -> float:
    return max([node["Actual Rows"] * node["Actual Loops"], *map(most_rows, node.get("Plans", ()))])


def test_with_a_connections_data_go_its_notes(toy: ToyStage, worker: Worker) -> None:
    job = toy.done(toy.job())
    for state in (RollCall.MET, RollCall.MISSED, RollCall.GONE):
        toy.within(
            lambda state=state: RollCall.objects.create(tenant=toy.tenant, job=job, stream="x", state=state, ids=[])
        )
    toy.within(lambda: removing.request(toy.actor, toy.connection))
    wait_for(lambda: toy.within(lambda: DataRemoval.objects.exclude(completed_at=None).exists()))
    assert not toy.within(lambda: RollCall.objects.exists())


def test_records_tell_that_they_are_gone(toy: ToyStage, worker: Worker, signed_in: Any) -> None:
    toy.done(toy.job())
    take_out(toy, "n1003")
    read_again(toy)
    owner = User.objects.create(email="alice@toys.test")
    with across_tenants("a test"):
        Membership.objects.create(tenant=toy.tenant, user=owner, role=Role.OWNER, entered_at=timezone.now())
    api, of = signed_in(owner), f"/api/connections/{toy.connection.id}/records?stream=things&external_id="
    (there,), (left,) = (api.get(of + own).json()["results"] for own in ("n1003", "n1004"))
    assert there["gone_at"] is not None
    assert left["gone_at"] is None
    thing = api.get(f"/api/entities/{there['entity_id']}").json()
    assert thing["properties"]["deleted"] is True
    assert thing["records"][0]["gone_at"] == there["gone_at"]
    shown = " ".join(re.sub(r"<[^>]+>", " ", api.get(f"/entities/{there['entity_id']}").content.decode()).split())
    assert "Deleted Properties" in shown
    assert "gone since, as found just now" in shown


@pytest.mark.processes
def test_a_worker_killed_at_every_step_marks_all_of_it_once(sandbox: Sandbox) -> None:
    points = ("before_missed:1", "after_missed:1", "before_gone:2", "after_gone:1", "before_told:1", "after_told:1")
    sandbox.control(records=700)
    with stage(sandbox, lease=1) as on:
        on.worker()
        until(on.job(streams=["issues"]), "completed", seconds=60)
        on.clear()
        sandbox.control(delete_every=4)
        job = on.job(streams=["issues"], full=True)
        for point in points:
            worker = on.worker(fault=point)
            wait_for(lambda worker=worker: not worker.alive, 30)
            assert worker.process.poll() == KILLED, f"{point} was not reached: {worker.words()}"
        with tenant_scope(job.tenant_id):
            assert not RollCall.objects.exists()
            records = SyncRecord.objects.filter(tenant=job.tenant)
            marks = [(r.payload["number"], r.gone_at is not None) for r in records]
            told = list(JobEvent.objects.filter(job=job, kind="gone").values_list("detail", flat=True))
    assert marks
    assert all(is_gone == (number % 4 == 3) for number, is_gone in marks)
    assert told == [f"Issues: {sum(is_gone for _, is_gone in marks)} records are gone from GitHub"]
