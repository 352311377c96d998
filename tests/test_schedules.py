"""Regular syncs: when they start, when they don't, and what is said of it. Time is given, not waited for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.utils import timezone

from atom.access import system_actor
from atom.errors import InvalidInput, Refused
from atom.models import AuditEvent, Tenant
from atom.tenancy import tenant_scope
from historical_sync import actions, schedules
from historical_sync.models import Coverage, HistoricalSyncJob, SyncSchedule
from historical_sync.upkeep import by_the_clock
from integrations.models import Connection
from tests.conftest import Sandbox, connected, until, wait_for
from tests.graphs import had, imported, make_connection, make_job
from tests.processes import Running, on_the_tests_database

DAY = timedelta(days=1)


def due(connection: Connection, **fields: Any) -> SyncSchedule:
    values = {"interval": timedelta(hours=1), "next_run_at": timezone.now() - timedelta(minutes=1)} | fields
    return SyncSchedule.objects.create(tenant=connection.tenant, connection=connection, **values)


def now_of(schedule: SyncSchedule) -> SyncSchedule:
    with tenant_scope(schedule.tenant_id):
        return SyncSchedule.objects.select_related("last_job").get(id=schedule.id)


def jobs_of(tenant: Any) -> list[HistoricalSyncJob]:
    with tenant_scope(tenant.id):
        return list(actions.jobs_of(tenant))


def test_what_is_due_starts_from_the_watermark_and_knows_its_next_run(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        connection = imported(cast.acme)
        schedule = due(connection)
    now = timezone.now()
    assert schedules.start_due(now) == 1
    (job,) = jobs_of(cast.acme)
    assert (job.kind, job.trigger, job.created_by_label, job.streams) == (
        "incremental",
        "schedule",
        "Schedule",
        ["issues"],
    )
    assert now - DAY - timedelta(hours=1) < job.start_date < now - DAY + timedelta(hours=1)
    after = now_of(schedule)
    assert (after.last_result, after.last_job_id, after.last_run_at) == ("started", job.id, now)
    assert after.next_run_at == schedule.next_run_at + timedelta(hours=1)
    assert schedules.start_due(now) == 0


def test_runs_that_were_missed_are_made_up_once(cast: SimpleNamespace) -> None:
    now = timezone.now()
    with tenant_scope(cast.acme.id):
        schedule = due(imported(cast.acme), next_run_at=now - timedelta(days=3, minutes=20))
    assert schedules.start_due(now) == 1
    after = now_of(schedule)
    assert after.next_run_at == now + timedelta(minutes=40), "in step with where it was"
    assert len(jobs_of(cast.acme)) == 1


def test_a_run_that_falls_into_a_running_import_is_skipped_and_says_so(cast: SimpleNamespace) -> None:
    now = timezone.now()
    with tenant_scope(cast.acme.id):
        connection = imported(cast.acme)
        make_job(connection)
        schedule = due(connection)
    assert schedules.start_due(now) == 0
    after = now_of(schedule)
    assert after.last_result == "skipped"
    assert "already being imported" in after.last_detail
    assert after.next_run_at > now
    (job,) = jobs_of(cast.acme)
    with tenant_scope(cast.acme.id):
        actions.pause(system_actor(cast.acme, "Test"), job)
    assert schedules.start_due(after.next_run_at) == 0
    after = now_of(schedule)
    assert (after.last_result, after.last_detail) == (
        "skipped",
        "An import of GitHub (acme-github) is paused. Resume it, or cancel it first.",
    )


def test_a_run_that_falls_into_the_first_import_of_all_is_skipped_too(cast: SimpleNamespace) -> None:
    """It was told to import the history first, which was under way."""
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        make_job(connection)
        schedule = due(connection)
    assert schedules.start_due(timezone.now()) == 0
    after = now_of(schedule)
    assert after.last_result == "skipped"
    assert "already being imported" in after.last_detail


def test_without_room_a_run_waits_and_starts_when_there_is_some(cast: SimpleNamespace) -> None:
    now = timezone.now()
    with tenant_scope(cast.acme.id):
        schedule = due(imported(cast.acme))
        busy = [make_job(make_connection(cast.acme, "linear")) for _ in range(3)]
    assert schedules.start_due(now) == 0
    after = now_of(schedule)
    assert (after.last_result, after.next_run_at) == ("waiting", schedule.next_run_at)
    assert "3 imports are active" in after.last_detail
    with tenant_scope(cast.acme.id):
        actions.cancel(system_actor(cast.acme, "Test"), busy[0])
    assert schedules.start_due(now + timedelta(minutes=1)) == 1
    assert now_of(schedule).last_result == "started"


def test_what_the_plan_stopped_goes_on_in_the_next_month_and_so_does_its_schedule(cast: SimpleNamespace) -> None:
    Tenant.objects.filter(id=cast.acme.id).update(plan="solo")
    with time_machine.travel(datetime(2026, 10, 30, 12, tzinfo=UTC), tick=False), tenant_scope(cast.acme.id):
        connection = imported(cast.acme)
        stopped = make_job(
            connection, status="paused", pause_reason="plan", planned=True, records_processed=250_000
        )  # fmt: skip
        had(connection, 250_000)
        schedule = due(connection, interval=DAY)
        by_the_clock()
        assert actions.get_job(cast.acme, stopped.id).status == "paused"
        assert now_of(schedule).last_result == "refused"
    with time_machine.travel(datetime(2026, 11, 1, 0, 1, tzinfo=UTC), tick=False), tenant_scope(cast.acme.id):
        by_the_clock()
        job = actions.get_job(cast.acme, stopped.id)
        assert job.status == "pending"
        actions.cancel(system_actor(cast.acme, "Test"), job)
    with time_machine.travel(datetime(2026, 11, 2, 12, tzinfo=UTC), tick=False):
        by_the_clock()
    assert now_of(schedule).last_result == "started"


def test_a_schedule_pauses_with_its_connection_and_runs_once_after_the_reconnect(cast: SimpleNamespace) -> None:
    now = timezone.now()
    with tenant_scope(cast.acme.id):
        connection = imported(cast.acme)
        schedule = due(connection)
        Connection.objects.filter(id=connection.id).update(status="reauth_required")
    for hours in range(3):
        assert schedules.start_due(now + timedelta(hours=hours)) == 0
    assert now_of(schedule).last_result == ""
    with tenant_scope(cast.acme.id):
        Connection.objects.filter(id=connection.id).update(status="connected")
    assert schedules.start_due(now + timedelta(hours=3)) == 1
    assert schedules.start_due(now + timedelta(hours=3)) == 0


def test_a_run_whose_connection_loses_access_as_it_starts_is_made_up_after_the_reconnect(
    cast: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, now = actions.start_incremental, timezone.now()

    def too_late(actor: Any, connection: Connection, **options: Any) -> Any:
        Connection.objects.filter(id=connection.id).update(status="reauth_required")
        return start(actor, connection, **options)

    with tenant_scope(cast.acme.id):
        schedule = due(imported(cast.acme))
    with monkeypatch.context() as patched:
        patched.setattr(actions, "start_incremental", too_late)
        assert schedules.start_due(now) == 0
    after = now_of(schedule)
    assert (after.last_result, after.next_run_at) == ("waiting", schedule.next_run_at)
    with tenant_scope(cast.acme.id):
        Connection.objects.filter(id=schedule.connection_id).update(status="connected")
    assert schedules.start_due(now) == 1


def test_what_is_turned_off_or_not_yet_due_does_not_run(cast: SimpleNamespace) -> None:
    now = timezone.now()
    with tenant_scope(cast.acme.id):
        due(imported(cast.acme), enabled=False)
        due(imported(cast.acme), next_run_at=now + timedelta(minutes=1))
    assert schedules.start_due(now) == 0


def test_a_refusal_is_the_last_result_and_does_not_stop_the_others(cast: SimpleNamespace) -> None:
    now = timezone.now()
    with tenant_scope(cast.globex.id):
        locked = due(imported(cast.globex))
    with tenant_scope(cast.acme.id):
        empty = due(make_connection(cast.acme))
        well = due(imported(cast.acme))
    by_the_clock(now)
    assert (now_of(locked).last_result, now_of(empty).last_result) == ("refused", "refused")
    assert "Solo plan" in now_of(locked).last_detail
    assert "Nothing of" in now_of(empty).last_detail
    assert now_of(empty).next_run_at > now
    assert now_of(well).last_result == "started"
    assert jobs_of(cast.globex) == []


def test_choosing_an_interval_sets_the_next_run_and_choosing_it_again_changes_nothing(cast: SimpleNamespace) -> None:
    now = datetime(2026, 11, 1, 12, tzinfo=UTC)
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        actor = system_actor(cast.acme, "Alice")
        first = schedules.choose(actor, connection, "6h", enabled=True, now=now)
        assert first.next_run_at == now + timedelta(hours=6)
        again = schedules.choose(actor, connection, "6h", enabled=True, now=now + timedelta(hours=2))
        assert again.next_run_at == first.next_run_at
        other = schedules.choose(actor, connection, "15m", enabled=True, now=now)
        assert (other.id, other.next_run_at) == (first.id, now + timedelta(minutes=15))
        with pytest.raises(InvalidInput):
            schedules.choose(actor, connection, "1s", enabled=True)
    with tenant_scope(cast.globex.id):
        connection = make_connection(cast.globex)
        with pytest.raises(Refused, match="The Solo plan includes them"):
            schedules.choose(system_actor(cast.globex, "Charlie"), connection, "1d", enabled=True)
        assert schedules.choose(system_actor(cast.globex, "Charlie"), connection, "1d", enabled=False).enabled is False


@pytest.mark.parametrize(
    ("choice", "hour", "at", "first"),
    [
        ("1d", "", "2026-11-01T12:30:00", "2026-11-02T12:30:00"),
        ("1d", "02", "2026-11-01T12:30:00", "2026-11-02T02:00:00"),
        ("1d", "13", "2026-11-01T12:30:00", "2026-11-01T13:00:00"),
        ("1d", "12", "2026-11-01T12:30:00", "2026-11-02T12:00:00"),
        ("1d", "12", "2026-11-01T12:00:00", "2026-11-02T12:00:00"),
        ("1d", "00", "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
        ("7d", "02", "2026-11-01T12:30:00", "2026-11-08T02:00:00"),
        ("7d", "13", "2026-11-01T12:30:00", "2026-11-07T13:00:00"),
        ("6h", "02", "2026-11-01T12:30:00", "2026-11-01T18:30:00"),
    ],
)
def test_at_an_hour_of_the_day_a_schedule_runs_first_no_later_than_without(
    cast: SimpleNamespace, choice: str, hour: str, at: str, first: str
) -> None:
    now = datetime.fromisoformat(f"{at}+00:00")
    with tenant_scope(cast.acme.id):
        actor, connection = system_actor(cast.acme, "Alice"), make_connection(cast.acme)
        chosen = schedules.choose(actor, connection, choice, enabled=True, hour=hour, now=now)
    assert chosen.next_run_at.isoformat() == f"{first}+00:00"
    assert chosen.hour == (int(hour) if hour and choice != "6h" else None)


@pytest.mark.parametrize(
    ("weekday", "hour", "first"),
    [  # chosen on a Sunday
        ("monday", "02", "2026-11-02T02:00:00"),
        ("saturday", "13", "2026-11-07T13:00:00"),
        ("sunday", "13", "2026-11-01T13:00:00"),
        ("sunday", "12", "2026-11-08T12:00:00"),
        ("wednesday", "", "2026-11-04T12:30:00"),
        ("sunday", "", "2026-11-08T12:30:00"),
    ],
)
def test_on_a_day_of_the_week_a_schedule_runs_first_within_a_week_and_on_that_day_from_then_on(
    cast: SimpleNamespace, weekday: str, hour: str, first: str
) -> None:
    now = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)
    with tenant_scope(cast.acme.id):
        actor, connection = system_actor(cast.acme, "Alice"), imported(cast.acme)
        chosen = schedules.choose(actor, connection, "7d", enabled=True, hour=hour, weekday=weekday, now=now)
        assert chosen.next_run_at.isoformat() == f"{first}+00:00"
        again = schedules.choose(actor, connection, "7d", enabled=True, hour=hour, weekday=weekday, now=now + 2 * DAY)
        assert again.next_run_at == chosen.next_run_at, "as it was"
    schedules.start_due(chosen.next_run_at + 16 * DAY)  # two are missed
    assert now_of(chosen).next_run_at == chosen.next_run_at + 21 * DAY


def test_another_day_of_the_week_is_within_a_week_and_of_days_there_is_none(cast: SimpleNamespace) -> None:
    now = datetime(2026, 11, 6, 12, 30, tzinfo=UTC)  # a Friday
    with tenant_scope(cast.acme.id):
        actor, connection = system_actor(cast.acme, "Alice"), imported(cast.acme)

        def chosen(choice: str, weekday: str) -> SyncSchedule:
            return schedules.choose(actor, connection, choice, enabled=True, hour="02", weekday=weekday, now=now)

        assert chosen("7d", "thursday").next_run_at == datetime(2026, 11, 12, 2, tzinfo=UTC)
        assert chosen("7d", "monday").next_run_at == datetime(2026, 11, 9, 2, tzinfo=UTC)
        assert chosen("7d", "friday").next_run_at == datetime(2026, 11, 13, 2, tzinfo=UTC)
        assert chosen("7d", "").next_run_at == datetime(2026, 11, 13, 2, tzinfo=UTC)
        daily = chosen("1d", "monday")
        assert (daily.weekday, daily.next_run_at) == (None, datetime(2026, 11, 7, 2, tzinfo=UTC))
        for weekday in ("Monday", "0", "7", "someday"):
            with pytest.raises(InvalidInput) as error:
                chosen("7d", weekday)
            assert error.value.attr == "weekday"
        told = AuditEvent.objects.filter(tenant_id=cast.acme.id, action="schedule.changed").order_by("at").first()
        assert told.detail == "every week on Thursday at 02:00 UTC"


def test_what_is_chosen_of_a_schedule_that_is_off_changes_nothing_that_runs(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    """The log said at each choice that it was changed to off, and the page nothing: who forgot to turn it on was not told."""
    with tenant_scope(cast.acme.id):
        actor, connection = system_actor(cast.acme, "Alice"), imported(cast.acme)
        for choice, weekday, enabled in (
            ("7d", "", False), ("7d", "monday", False), ("7d", "monday", True), ("7d", "monday", False), ("1d", "", False)
        ):  # fmt: skip
            schedules.choose(actor, connection, choice, enabled=enabled, weekday=weekday)
        told = AuditEvent.objects.filter(tenant_id=cast.acme.id, action="schedule.changed").order_by("at")
        assert [event.detail for event in told] == ["every week on Monday", "off"]
    page = signed_in(cast.alice).get("/schedules").content.decode()
    assert '<td data-label="Next run"><span class="muted">Off</span></td>' in page


def test_the_page_offers_days_of_the_week_for_weeks(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = imported(cast.acme)
    client, path = signed_in(cast.bob), f"/connections/{connection.id}/schedule"

    def asked(**form: str) -> str:
        return str(client.post(path, form, headers={"HX-Request": "true"}).content.decode())

    assert 'name="weekday"' not in asked(interval="1d", hour="02", enabled="on")
    assert '<option value="" selected>on any day</option>' in asked(interval="7d", hour="02", enabled="on")
    row = asked(interval="7d", hour="02", weekday="tuesday", enabled="on")
    assert '<option value="tuesday" selected>on Tuesday</option>' in row
    assert "Every week on Tuesday at 02:00 UTC" in signed_in(cast.vera).get("/schedules").content.decode()
    refused = client.post(path, {"interval": "7d", "weekday": "x", "enabled": "on"}, follow=True).content.decode()
    assert "Choose one of the days of the week." in refused


def test_an_hour_of_the_day_stays_whatever_is_missed_and_wherever_clocks_are_changed(cast: SimpleNamespace) -> None:
    """Summer time ended on 1 November in New York; the run of that day waits for room for hours, and two days are missed."""
    new_york = ZoneInfo("America/New_York")
    with tenant_scope(cast.acme.id):
        actor, connection = system_actor(cast.acme, "Alice"), imported(cast.acme)
        evening = datetime(2026, 10, 31, 22, 15, tzinfo=new_york)
        schedule = schedules.choose(actor, connection, "1d", enabled=True, hour="05", now=evening)
        assert schedule.next_run_at == datetime(2026, 11, 1, 5, tzinfo=UTC)
        busy = [make_job(make_connection(cast.acme, "linear")) for _ in range(3)]
    assert schedules.start_due(datetime(2026, 11, 1, 4, 59, tzinfo=UTC)) == 0
    assert schedules.start_due(datetime(2026, 11, 1, 5, tzinfo=UTC)) == 0
    with tenant_scope(cast.acme.id):
        actions.cancel(actor, busy[0])
    assert schedules.start_due(datetime(2026, 11, 3, 6, 20, tzinfo=UTC)) == 1
    assert now_of(schedule).next_run_at == datetime(2026, 11, 4, 5, tzinfo=UTC)
    # A clock that is put back meets what has been run already.
    assert schedules.start_due(datetime(2026, 11, 3, 5, tzinfo=UTC)) == 0


def test_an_hour_that_is_chosen_again_changes_nothing_and_another_the_next_run(cast: SimpleNamespace) -> None:
    noon = datetime(2026, 11, 1, 12, tzinfo=UTC)
    with tenant_scope(cast.acme.id):
        actor, connection = system_actor(cast.acme, "Alice"), make_connection(cast.acme)

        def next_run(choice: str, hour: str, now: datetime = noon) -> datetime:
            return schedules.choose(actor, connection, choice, enabled=True, hour=hour, now=now).next_run_at

        assert next_run("7d", "02") == next_run("7d", "02", noon + 5 * DAY) == datetime(2026, 11, 8, 2, tzinfo=UTC)
        assert next_run("1d", "02") == datetime(2026, 11, 2, 2, tzinfo=UTC)
        assert next_run("1d", "14") == datetime(2026, 11, 1, 14, tzinfo=UTC)
        assert next_run("1d", "") == noon + DAY
        for hour in ("24", "2", "-1", "noon", "02:30", "9" * 5000):
            with pytest.raises(InvalidInput) as error:
                next_run("1d", hour)
            assert error.value.attr == "hour"
        told = AuditEvent.objects.filter(tenant_id=cast.acme.id, action="schedule.changed").order_by("at")
        assert [event.detail for event in told] == [
            "every week at 02:00 UTC", "every day at 02:00 UTC", "every day at 14:00 UTC", "every day"
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("planned", "hour", "first"),
    [
        ("2026-11-08T15:20:00", "02", "2026-11-08T02:00:00"),
        ("2026-11-08T15:20:00", "16", "2026-11-07T16:00:00"),
        ("2026-11-06T15:20:00", "02", "2026-11-07T02:00:00"),  # later on the same day, and that hour is over
        ("2026-11-03T15:20:00", "16", "2026-11-06T16:00:00"),  # it waits for room
        ("2026-11-03T15:20:00", "02", "2026-11-07T02:00:00"),
    ],
)
def test_a_weekly_schedule_that_gets_an_hour_goes_on_with_the_run_that_it_had_planned(
    cast: SimpleNamespace, planned: str, hour: str, first: str
) -> None:
    """What was due the day after was put off by a week."""
    now = datetime(2026, 11, 6, 12, 30, tzinfo=UTC)
    with tenant_scope(cast.acme.id):
        schedule = due(imported(cast.acme), interval=7 * DAY, next_run_at=datetime.fromisoformat(f"{planned}+00:00"))
        actor, of = system_actor(cast.acme, "Alice"), schedule.connection
        chosen = schedules.choose(actor, of, "7d", enabled=True, hour=hour, now=now)
        assert chosen.next_run_at.isoformat() == f"{first}+00:00"
        later = now + timedelta(hours=1)
        assert schedules.choose(actor, of, "7d", enabled=True, now=later).next_run_at <= later + 2 * DAY
        schedules.choose(actor, of, "7d", enabled=False, hour=hour, now=now)
        again = schedules.choose(actor, of, "7d", enabled=True, hour=hour, now=now)
        assert again.next_run_at > now + 6 * DAY, "who turns it on again has a week"


def test_the_page_offers_hours_where_they_say_something(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = imported(cast.acme)
    client, path = signed_in(cast.bob), f"/connections/{connection.id}/schedule"

    def asked(**form: str) -> str:
        return str(client.post(path, form, headers={"HX-Request": "true"}).content.decode())

    page = client.get("/schedules").content.decode()
    assert '<option value="" selected>at any time</option>' in page, "as it was without a choice"
    row = asked(interval="1d", hour="02", enabled="on")
    assert '<option value="02" selected>at 02:00 UTC</option>' in row
    assert "Every day at 02:00 UTC" in signed_in(cast.vera).get("/schedules").content.decode()
    assert 'name="hour"' not in asked(interval="1h", hour="02", enabled="on")
    with tenant_scope(cast.acme.id):
        schedule = SyncSchedule.objects.get()
        assert schedule.hour is None
    assert '<option value="" selected>at any time</option>' in asked(interval="7d", enabled="on")
    # Without scripts.
    said = client.post(path, {"interval": "7d", "hour": "23", "enabled": "on"}, follow=True).content.decode()
    assert "GitHub (acme-github): every week at 23:00 UTC." in said
    refused = client.post(path, {"interval": "7d", "hour": "24", "enabled": "on"}, follow=True).content.decode()
    assert "Choose one of the hours." in refused
    assert now_of(schedule).hour == 23


def test_a_schedule_from_before_there_were_hours_stays_as_it_is(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        schedule = due(imported(cast.acme), interval=DAY, next_run_at=timezone.now() + timedelta(minutes=7))
    path = f"/connections/{schedule.connection_id}/schedule"
    for form in ({"interval": "1d", "enabled": "on"}, {"interval": "1d", "hour": "", "enabled": "on"}):
        signed_in(cast.bob).post(path, form)
        after = now_of(schedule)
        assert (after.hour, after.next_run_at) == (None, schedule.next_run_at)


def test_the_page_sets_a_schedule_and_shows_what_became_of_it(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = imported(cast.acme)
    client = signed_in(cast.alice)
    path = f"/connections/{connection.id}/schedule"
    row = client.post(path, {"interval": "1h", "enabled": "on"}, headers={"HX-Request": "true"}).content.decode()
    assert row.startswith(f'<tr id="schedule-{connection.id}"')
    assert "Not yet" in row
    with tenant_scope(cast.acme.id):
        schedule = SyncSchedule.objects.get()
    schedules.start_due(schedule.next_run_at)
    page = client.get("/schedules").content.decode()
    assert "Every hour" in page
    assert "Queued" in page
    followed = client.get("/schedules", headers={"HX-Request": "true", "HX-Target": "schedules"}).content.decode()
    assert followed.startswith('<div class="scroll" id="schedules" data-follows>')
    assert "Queued" in followed
    assert "<h1" not in followed
    with tenant_scope(cast.acme.id):
        Connection.objects.filter(id=connection.id).update(status="reauth_required")
    assert "Paused: needs reconnect" in client.get("/schedules").content.decode()
    assert "<select" not in signed_in(cast.vera).get("/schedules").content.decode()


def row_of(page: str, connection: Connection) -> str:
    return page.partition(f'<tr id="schedule-{connection.id}"')[2].partition("</tr>")[0]


def test_what_is_new_is_asked_for_beside_the_schedule_and_on_the_card(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection, _ = imported(cast.acme), make_connection(cast.acme)
        lost, removed = imported(cast.acme), imported(cast.acme)
        Connection.objects.filter(id=lost.id).update(status="reauth_required")
        Coverage.objects.filter(connection=removed).update(ranges=[])
    client, path = signed_in(cast.bob), f"/connections/{connection.id}/sync-new"
    for address in ("/schedules", "/integrations"):
        page = client.get(address).content.decode()
        assert page.count("Sync what is new") == page.count(f'formaction="{path}"') == 1, address
        assert "Sync what is new" not in signed_in(cast.vera).get(address).content.decode()
    # Whether it is scheduled or not: turning that on leaves the button where it is.
    row = client.post(f"/connections/{connection.id}/schedule", {"interval": "1d"}, headers={"HX-Request": "true"})
    assert path in row.content.decode()

    reply = client.post(path)
    (job,) = jobs_of(cast.acme)
    assert reply["Location"] == f"/jobs/{job.id}"
    assert (job.kind, job.trigger, job.created_by, job.streams) == ("incremental", "manual", cast.bob, ["issues"])
    assert path not in row_of(client.get("/schedules").content.decode(), connection), "while it is being imported"
    with tenant_scope(cast.acme.id):
        actions.cancel(system_actor(cast.acme, "Test"), job)
    again = client.post(path, headers={"HX-Request": "true"})
    assert again["HX-Redirect"] == f"/jobs/{jobs_of(cast.acme)[0].id}"


def test_why_what_is_new_does_not_start_is_said_where_it_was_asked_for(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection, empty = imported(cast.acme), make_connection(cast.acme)
        Connection.objects.filter(id=connection.id).update(status="reauth_required")
    client = signed_in(cast.bob)
    for back in ("schedules", "integrations"):
        reply = client.post(f"/connections/{connection.id}/sync-new", {"back": back})
        assert reply["Location"] == f"/{back}"
        assert "Reconnect it first." in client.get(f"/{back}").content.decode()
    toast = client.post(f"/connections/{empty.id}/sync-new", headers={"HX-Request": "true"})
    assert (toast.status_code, toast["X-Fragments"]) == (200, "1")
    assert "Import its history first." in toast.content.decode()
    for stranger, status in ((cast.charlie, 404), (cast.vera, 403)):
        assert signed_in(stranger).post(f"/connections/{connection.id}/sync-new").status_code == status
    assert jobs_of(cast.acme) == []


def test_what_is_new_needs_no_plan_with_schedules(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.globex.id):
        connection = imported(cast.globex)
    client = signed_in(cast.charlie)
    assert "Sync what is new" in client.get("/schedules").content.decode()
    client.post(f"/connections/{connection.id}/sync-new")
    assert [job.kind for job in jobs_of(cast.globex)] == ["incremental"]


def test_a_plan_without_schedules_says_which_plan_has_them(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.globex.id):
        connection = imported(cast.globex)
    client = signed_in(cast.charlie)
    page = client.get("/schedules").content.decode()
    assert "Scheduled syncs are not part of the Free plan. The Solo plan includes them." in page
    assert "<select" not in page
    client.post(f"/connections/{connection.id}/schedule", {"interval": "1h", "enabled": "on"})
    with tenant_scope(cast.globex.id):
        assert not SyncSchedule.objects.exists()


def test_the_card_says_why_a_scheduled_sync_did_not_start(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        due(make_connection(cast.acme))
    schedules.start_due(timezone.now())
    assert "Scheduled sync not started" in signed_in(cast.alice).get("/integrations").content.decode()


@pytest.mark.processes
@pytest.mark.django_db(transaction=True)
def test_a_worker_starts_what_is_due_and_brings_it_in(live_cast: SimpleNamespace, sandbox: Sandbox) -> None:
    acme = live_cast.acme
    connection = connected(acme, "github", sandbox.root)
    with tenant_scope(acme.id):
        now = timezone.now()
        for stream in ("issues", "repositories"):
            Coverage.objects.create(
                tenant=acme,
                connection=connection,
                stream=stream,
                ranges=[DateTimeTZRange(now - 30 * DAY, now - 3 * DAY)],
            )
        schedule = due(connection)
    worker = Running("manage.py", "sync_worker", **on_the_tests_database(ATOM_SANDBOX_URL=sandbox.root))
    try:
        job = wait_for(lambda: now_of(schedule).last_job, 40)
        assert until(job, "completed").kind == "incremental"
    finally:
        worker.stop()
