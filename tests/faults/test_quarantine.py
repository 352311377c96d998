"""What can't be mapped: kept, counted, replayed after a fix without asking the provider; too much of it fails its part."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import call_command

from atom.errors import Refused
from historical_sync import actions, storage
from historical_sync.allowance import records_this_month
from historical_sync.models import DailyTotals, DataRemoval, HistoricalSyncJob, QuarantinedRecord, SyncRecord
from historical_sync.replaying import replay
from integrations.errors import RecordRejected
from integrations.providers import PROVIDERS
from integrations.providers.base import JSON, Context, Graph, Record
from tests.conftest import Worker, until
from tests.faults import toy as toys
from tests.faults.toy import END, START
from tests.faults.toy_stage import ToyStage

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def unmapped(toy: ToyStage, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[JSON], bool]], Callable[[], None]]:
    """unmapped(which) makes our own mapping unable to take some rows; what it returns is the fix."""

    def breaks(which: Callable[[JSON], bool]) -> Callable[[], None]:
        real = toys._extract

        def broken(row: JSON, context: Context) -> Graph:
            if which(row):
                raise RecordRejected("a shape we have not seen")
            return real(row, context)

        with monkeypatch.context() as patched:
            patched.setattr(toys, "_extract", broken)
            monkeypatch.setitem(PROVIDERS, "toy", toys.provider(toy.server.root))
        return lambda: monkeypatch.setitem(PROVIDERS, "toy", toys.provider(toy.server.root))

    return breaks


def some(row: JSON) -> bool:
    return int(row["id"][1:]) % 10 == 3


def test_a_replay_after_a_fix_leaves_what_a_calm_import_leaves(toy: ToyStage, worker: Worker, unmapped: Any) -> None:
    fix = unmapped(some)
    job = toy.done(toy.job())
    assert job.records_quarantined == 37
    assert job.records_processed == 370 - 37
    fix()
    asked = len(toy.server.calls)
    done = toy.within(actions.replay_quarantine, toy.actor, job)
    assert (done.mapped, done.left) == (37, 0)
    assert len(toy.server.calls) == asked, "the provider was not asked"
    assert not toy.damage("quarantine")
    assert toy.within(records_this_month, toy.tenant, datetime.now(UTC)) == 370
    rows = toy.within(lambda: QuarantinedRecord.objects.filter(job_id=job.id))
    assert all(row.replayed_at for row in rows)
    assert toy.events(job, "replayed") == ["37 of 37 quarantined records were mapped"]


def test_a_replay_without_a_fix_changes_nothing(toy: ToyStage, worker: Worker, unmapped: Any) -> None:
    unmapped(some)
    job = toy.done(toy.job())
    done = toy.within(actions.replay_quarantine, toy.actor, job)
    assert (done.mapped, done.left) == (0, 37)
    job = toy.done(job)
    assert (job.records_quarantined, job.records_processed) == (37, 333)


def test_a_replay_without_the_key_of_the_rows_is_refused(
    toy: ToyStage, worker: Worker, unmapped: Any, settings: Any
) -> None:
    unmapped(some)
    job = toy.done(toy.job())
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    with pytest.raises(Refused, match="No key of ATOM_ENCRYPTION_KEYS") as refused:
        toy.within(actions.replay_quarantine, toy.actor, job)
    assert refused.value.code == "provider_misconfigured"
    assert len(kept(toy)) == 37


def test_a_replay_without_time_says_how_many_are_untried(toy: ToyStage, worker: Worker, unmapped: Any) -> None:
    fix = unmapped(some)
    job = toy.done(toy.job())
    fix()
    done = toy.within(actions.replay_quarantine, toy.actor, job, 0)
    assert (done.mapped, done.left, done.untried) == (0, 0, 37)
    assert "37 are still to be tried" in done.words()
    assert toy.within(actions.replay_quarantine, toy.actor, job, 30).mapped == 37


def test_two_replays_at_once_map_each_record_once(toy: ToyStage, worker: Worker, unmapped: Any) -> None:
    from django.db import connection as database

    fix = unmapped(some)
    job = toy.done(toy.job())
    fix()
    results: list[Any] = []

    def replay() -> None:
        results.append(toy.within(actions.replay_quarantine, toy.actor, job))
        database.close()

    threads = [threading.Thread(target=replay) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(done.mapped for done in results) == 37
    assert not toy.damage("quarantine")


def kept(toy: ToyStage) -> list[QuarantinedRecord]:
    found: list[QuarantinedRecord] = toy.within(
        lambda: QuarantinedRecord.objects.filter(connection=toy.connection, replayed_at=None)
    )
    return found


def titles(toy: ToyStage) -> set[str]:
    rows = toy.within(lambda: SyncRecord.objects.filter(stream="events"))
    return {row.payload["title"] for row in rows if some(row.payload)}


def test_a_row_that_every_import_meets_is_kept_once_as_it_is_now(toy: ToyStage, worker: Worker, unmapped: Any) -> None:
    fix = unmapped(some)
    first = toy.done(toy.job())
    toy.done(toy.job(full=True))
    for row in toy.server.world["events"]:
        row["title"] = "as it is now"
    last = toy.done(toy.job(full=True))
    assert last.records_quarantined == 37
    assert {row.job_id for row in kept(toy)} == {last.id}
    assert len(kept(toy)) == 37
    totals = toy.within(lambda: HistoricalSyncJob.objects.filter(connection=toy.connection))
    assert sum(job.records_quarantined for job in totals) == 37
    assert sum(chunk.records_quarantined for chunk in toy.chunks(first)) == 0
    assert sum(row.quarantined for row in toy.within(lambda: DailyTotals.objects.filter(tenant=toy.tenant))) == 37
    fix()
    assert toy.within(actions.replay_quarantine, toy.actor, first).mapped == 0
    assert toy.within(actions.replay_quarantine, toy.actor, last).mapped == 37
    assert titles(toy) == {"as it is now"}
    assert not kept(toy)


def test_a_row_without_an_id_that_every_import_meets_is_kept_once(toy: ToyStage, worker: Worker) -> None:
    toy.server.world["events"][70].pop("id")
    toy.done(toy.job(streams=["events"]))
    last = toy.done(toy.job(streams=["events"], full=True))
    assert [row.job_id for row in kept(toy)] == [last.id]


def test_a_row_whose_id_can_be_read_by_now_is_kept_no_more(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(found: JSON) -> Record:
        if not found["id"]:
            raise ValueError("no id")
        return real(found)

    real = toys.to_record
    monkeypatch.setattr(toys, "to_record", unreadable)
    row = toy.server.world["events"][70]
    row["id"] = ""
    toy.done(toy.job(streams=["events"]))
    assert [one.external_id for one in kept(toy)] == [""]
    monkeypatch.setattr(toys, "to_record", lambda found: real(found)._replace(external_id=found["id"] or "n777"))
    later = toy.done(toy.job(streams=["events"], full=True))
    assert later.records_processed == 1
    assert not kept(toy)


def test_a_row_that_comes_in_after_all_is_kept_no_more(toy: ToyStage, worker: Worker, unmapped: Any) -> None:
    fix = unmapped(some)
    first = toy.done(toy.job())
    fix()
    later = toy.done(toy.job(full=True))
    assert (later.records_processed, later.records_quarantined) == (37, 0)
    assert not kept(toy)
    assert toy.done(first).records_quarantined == 0
    assert sum(chunk.records_quarantined for chunk in toy.chunks(first)) == 0


def test_a_row_that_cannot_be_mapped_any_more_is_kept_again(toy: ToyStage, worker: Worker, unmapped: Any) -> None:
    fix = unmapped(some)
    first = toy.done(toy.job())
    fix()
    toy.within(actions.replay_quarantine, toy.actor, first)
    for row in toy.server.world["events"]:
        row["title"] = "as it is now"
    unmapped(some)
    later = toy.done(toy.job(streams=["events"], full=True))
    assert later.records_quarantined == 9
    assert {row.job_id for row in kept(toy)} == {later.id}


def test_a_row_that_went_over_to_an_import_of_another_range_is_replayed(
    toy: ToyStage, worker: Worker, unmapped: Any
) -> None:
    """A page may bring rows of other times than the import asked for; an earlier one had asked for them."""
    fix = unmapped(some)
    toy.done(toy.job(streams=["events"]))
    middle = START + (END - START) / 2
    later = toy.done(toy.job(streams=["events"], start=middle, full=True))
    early = [row for row in kept(toy) if row.occurred_at and row.occurred_at < middle]
    assert early
    chunk = toy.chunks(later)[0]
    ids = [row.id for row in early]
    toy.within(lambda: QuarantinedRecord.objects.filter(id__in=ids).update(job_id=later.id, chunk_id=chunk.id))
    fix()
    toy.within(actions.replay_quarantine, toy.actor, later)
    stored = toy.within(lambda: SyncRecord.objects.filter(stream="events"))
    assert {row.external_id for row in early} <= {row.external_id for row in stored}


def test_a_replay_puts_nothing_over_what_came_later(toy: ToyStage, worker: Worker, unmapped: Any) -> None:
    """Also where a row's time stays the same whatever becomes of it."""
    fix = unmapped(some)
    job = toy.done(toy.job(streams=["events"]))
    old = kept(toy)
    for row in toy.server.world["events"]:
        row["title"] = "as it is now"
    fix()
    toy.done(toy.job(streams=["events"], full=True))
    assert titles(toy) == {"as it is now"}
    toy.within(QuarantinedRecord.objects.bulk_create, old)
    assert toy.within(actions.replay_quarantine, toy.actor, job).mapped == 9
    assert titles(toy) == {"as it is now"}


def test_a_replay_brings_nothing_back_of_what_is_being_removed(toy: ToyStage, worker: Worker, unmapped: Any) -> None:
    fix = unmapped(some)
    job = toy.done(toy.job())
    worker.stop()  # which would find the removal, and do it
    fix()
    removal = toy.within(
        lambda: DataRemoval.objects.create(tenant=toy.tenant, connection=toy.connection, records_total=0)
    )
    with pytest.raises(Refused) as refused:
        toy.within(actions.replay_quarantine, toy.actor, job)
    assert refused.value.code == "invalid_state"
    # One that had begun before finds out, too.
    assert asyncio.run(replay(toy.within(lambda: actions.get_job(toy.tenant, job.id)))).mapped == 0
    toy.within(removal.delete)
    assert toy.within(actions.replay_quarantine, toy.actor, job).mapped == 37


def test_a_reconnect_opens_nothing_again_while_data_is_being_removed(toy: ToyStage) -> None:
    job = toy.job()
    stopped = HistoricalSyncJob.objects.filter(id=job.id)
    toy.within(lambda: stopped.update(status="paused", pause_reason="reauth_required"))
    removal = toy.within(
        lambda: DataRemoval.objects.create(tenant=toy.tenant, connection=toy.connection, records_total=0)
    )
    toy.within(actions.reconnected, toy.actor, toy.connection)
    assert toy.within(stopped.get).status == "paused"
    toy.within(removal.delete)
    toy.within(actions.reconnected, toy.actor, toy.connection)
    assert toy.within(stopped.get).status == "pending"


def test_a_row_without_a_time_is_replayed_by_the_providers_own_reading(
    toy: ToyStage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(found: JSON) -> Any:
        if some(found):
            raise ValueError("a date as we have not seen it")
        return real(found)

    real = toys.to_record
    monkeypatch.setattr(toys, "to_record", unreadable)
    job = toy.done(toy.job(streams=["events", "visits"]))
    assert job.records_quarantined == 9 + 7
    monkeypatch.setattr(toys, "to_record", real)
    done = toy.within(actions.replay_quarantine, toy.actor, job)
    assert (done.mapped, done.left) == (9, 7), "visits' rows can't be read without asking again"
    left = toy.within(lambda: QuarantinedRecord.objects.filter(job_id=job.id, replayed_at=None))
    assert {row.stream for row in left} == {"visits"}
    assert all("import its part again" in row.reason for row in left)


def test_too_large_a_share_fails_the_chunk_even_on_its_last_page(toy: ToyStage, worker: Worker, unmapped: Any) -> None:
    fix = unmapped(lambda row: row["id"].startswith("n3") and int(row["id"][1:]) % 3)
    job = toy.done(toy.job(), "failed")
    assert (job.failed_chunks, job.last_error_code) == (2, "too_many_quarantined")
    assert "events" in job.last_error_message
    assert "are kept aside; Retry goes on without them" in job.last_error_message
    from historical_sync import coverage

    held = {part.stream: part for part in toy.within(coverage.of_connection, toy.connection)}
    assert held["events"].missing
    assert held["events"].failed

    # After the fix: a replay, then a retry of that part.
    fix()
    toy.within(actions.replay_quarantine, toy.actor, job)
    toy.within(actions.resume, toy.actor, job)
    job = toy.done(job)
    assert job.records_quarantined == 0
    assert not toy.damage("quarantine")


def test_too_large_a_share_fails_the_next_import_of_the_same_as_well(
    toy: ToyStage, worker: Worker, unmapped: Any
) -> None:
    unmapped(lambda row: row["id"].startswith("n3") and int(row["id"][1:]) % 3)
    for _ in range(2):
        job = toy.done(toy.job(streams=["events"]), "failed")
        assert (job.failed_chunks, job.last_error_code) == (2, "too_many_quarantined"), "nobody has said that it may be"


def test_a_retry_after_too_many_counts_only_what_is_new(toy: ToyStage, worker: Worker, unmapped: Any) -> None:
    """Who tries again knows of those: the rest of the part is judged by itself."""
    fix = unmapped(lambda row: row["id"].startswith("n30"))
    toy.server.world["events"] += toys.spread(60, 3900)
    job = toy.done(toy.job(streams=["events"]), "failed")
    fix()
    toy.within(actions.resume, toy.actor, job)
    job = toy.done(job)
    assert job.records_quarantined > 20


@pytest.mark.parametrize(("mapped", "more", "fails"), [(60, 30, True), (600, 30, False), (0, 20, False), (0, 21, True)])
def test_what_somebody_let_be_says_nothing_of_the_rest_for_good_or_ill(mapped: int, more: int, fails: bool) -> None:
    chunk = storage.LockedChunk(0.5, 1.0, seen=1000, quarantined=1000, forgiven=1000, generation=0, kept_aside=True)
    assert bool(storage._too_many(chunk, mapped, more)) == fails


def test_rows_that_somebody_let_be_fail_no_later_import(toy: ToyStage, worker: Worker, unmapped: Any) -> None:
    """As of a stream that is read whole each time."""
    unmapped(lambda row: row["id"].startswith("n3") and int(row["id"][1:]) % 3)
    job = toy.done(toy.job(streams=["events"]), "failed")
    while job.status == "failed":  # part by part, as each is read to its end
        toy.within(actions.resume, toy.actor, job)
        job = until(job, "completed", "failed")
    kept_by_now = job.records_quarantined
    assert kept_by_now > 20
    again = toy.done(toy.job(streams=["events"], full=True))
    assert again.records_quarantined == kept_by_now
    # What is new is judged as ever.
    toy.server.world["events"] += toys.spread(120, 3800)
    assert toy.done(toy.job(streams=["events"], full=True), "failed").last_error_code == "too_many_quarantined"


def test_the_command_replays_a_job(toy: ToyStage, worker: Worker, unmapped: Any) -> None:
    fix = unmapped(some)
    job = toy.done(toy.job())
    fix()
    out = io.StringIO()
    call_command("replay_quarantine", str(job.id), stdout=out)
    assert out.getvalue() == "37 of 37 quarantined records were mapped.\n"
    call_command("replay_quarantine", str(job.id), stdout=out)
    assert "Nothing is in quarantine" in out.getvalue()
