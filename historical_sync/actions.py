"""What people, programs and the scheduler want from jobs. The REST views, pages, admin, commands and scheduler all call these.

Each action checks, writes, records who did it, and announces it on commit, in one transaction; a refusal changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

from asgiref.sync import async_to_sync
from django.db import IntegrityError, transaction
from django.db import connection as database
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from atom import audit
from atom.access import Actor
from atom.db.giving_way import again_after_giving_way
from atom.errors import Refused
from atom.models import Tenant
from atom.turns import turn
from historical_sync import admission, broadcast, coverage, planning, states, tasks
from historical_sync.automation import QueuedStart
from historical_sync.models import HistoricalSyncJob, JobEvent, JobQuerySet, SyncChunk
from historical_sync.replaying import Replayed, replay
from historical_sync.settling import settle_sync, take_from_the_dead
from integrations.crypto import UndecipherableError
from integrations.models import Connection
from integrations.providers.base import Window

# Clocks, ours and the provider's, may be this far apart without a change being missed.
CLOCKS_APART = timedelta(minutes=5)
REPLAY_SECONDS = 15.0  # that a click, or a request, may take


def jobs_of(tenant: Tenant) -> JobQuerySet:
    """The tenant's jobs, newest first."""
    return HistoricalSyncJob.objects.of(tenant)


def get_job(tenant: Tenant, job_id: UUID | str) -> HistoricalSyncJob:
    """The tenant's job; HistoricalSyncJob.DoesNotExist for another tenant's as for none."""
    return jobs_of(tenant).with_names().get(id=job_id)


@again_after_giving_way
def start_sync(
    actor: Actor,
    connection: Connection,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    streams: Sequence[str] | None = None,
    full: bool = False,
    trigger: str = "manual",
    kind: str = "historical",
    idempotency_key: str = "",
    asked_at: datetime | None = None,
) -> HistoricalSyncJob:
    """Starts an import of [start, end) (aware; default: `admission.default_start` to now).

    The same `idempotency_key` gives the same job; `job.was_created` tells which it was. asked_at: since when it waits, if it does; what was
    part of the plan's history then still is.
    Raises InvalidInput (range, streams) and Refused with the contract's codes.
    """
    now = timezone.now()
    if idempotency_key and (earlier := job_of_key(actor.tenant, idempotency_key)):
        return earlier
    since, until = admission.range_of(actor.tenant, start, end, now)
    names = admission.streams_of(connection, streams)
    with transaction.atomic():
        # One start at a time per tenant: the limits below are counted under this lock.
        tenant = Tenant.objects.select_for_update(no_key=True).get(id=actor.tenant.id)
        if idempotency_key and (earlier := job_of_key(tenant, idempotency_key)):
            return earlier
        # Who disconnects it waits until the job is there to be stopped, or is done, and it is refused below.
        with database.cursor() as cursor:
            cursor.execute(
                "SELECT clock_timestamp() FROM integrations_connection WHERE id = %s FOR KEY SHARE", [connection.id]
            )
            row = cursor.fetchone()
        connection = Connection.objects.of(tenant).get(id=connection.id)
        admission.check_connection(connection)
        admission.check_plan(tenant, since, asked_at or now, scheduled=trigger == "schedule")
        admission.check_records(tenant, now)
        admission.check_idle(tenant, connection)
        admission.check_room(tenant)
        job = HistoricalSyncJob.objects.create(
            tenant=tenant,
            connection=connection,
            kind=kind,
            trigger=trigger,
            streams=names,
            start_date=since,
            end_date=until,
            full=full,
            watermark=now - max(connection.provider.settle, CLOCKS_APART),
            idempotency_key=idempotency_key,
            created_by=actor.user,
            created_by_label=actor.label,
            # By the database's clock, as what befalls it and removals are: by the web's it may come before a removal that was over.
            created_at=row[0],
        )
        record_event(job, actor.label, "started", planning.words(Window(since, until)))
        tasks.enqueue(job, 1)
        _announce(job)
    job.was_created = True  # type: ignore[attr-defined]
    return job


def start_incremental(
    actor: Actor, connection: Connection, *, trigger: str = "manual", idempotency_key: str = ""
) -> HistoricalSyncJob:
    """Brings what came and changed since the last import of what was imported before, to now. For the scheduler, people and programs.

    It goes on at the watermark of the last job's start, not at its end: what changed while that ran is not missed, and what was
    read already is met again as unchanged. Raises as `start_sync` does, and Refused when nothing has been imported yet.
    """
    now = timezone.now()
    mark = coverage.watermark(connection)
    if mark is None:
        admission.check_startable(actor.tenant, connection)
        raise Refused("invalid_state", f"Nothing of {connection} has been imported yet. Import its history first.")
    have = {stream for stream, _ in coverage.ledger(connection)} | coverage.empty_so_far(connection)
    have |= coverage.partly_here(connection)
    names = [stream.name for stream in connection.provider.streams if stream.name in have]
    start = admission.within_depth(actor.tenant, min(mark, now - CLOCKS_APART), now)
    return start_sync(
        actor, connection, start=start, streams=names, trigger=trigger, kind="incremental", idempotency_key=idempotency_key
    )  # fmt: skip


def repair_gaps(
    actor: Actor, connection: Connection, *, trigger: str = "manual", idempotency_key: str = ""
) -> HistoricalSyncJob:
    """Imports what was asked for and is not here: what failed, was cancelled, or lies between two imports.

    Raises as `start_sync` does, and Refused when nothing is missing.
    """
    now = timezone.now()
    held = [part for part in coverage.of_connection(connection) if part.missing]
    if not held:
        admission.check_startable(actor.tenant, connection)
        raise Refused("invalid_state", f"Nothing is missing of {connection}.")
    known = {part.stream for part in held}
    names = [stream.name for stream in connection.provider.streams if stream.name in known]
    start = admission.within_depth(actor.tenant, min(part.missing[0].since for part in held), now)
    end = max(part.missing[-1].until for part in held)
    return start_sync(
        actor, connection, start=min(start, end - CLOCKS_APART), end=end, streams=names, trigger=trigger, kind="repair",
        idempotency_key=idempotency_key,
    )  # fmt: skip


def replay_quarantine(actor: Actor, job: HistoricalSyncJob, seconds: float | None = None) -> Replayed:
    """Maps the job's quarantined records again, without asking the provider; what can be mapped now is stored and counted.

    seconds: after which what is left waits for another call. Raises Refused while the connection's data is being removed, and where
    no key opens the records, or nobody knows any more how to read them.
    """
    job = get_job(actor.tenant, job.id)
    admission.check_kept(job.connection)
    admission.check_known(job.connection)
    try:
        # In a loop of its own: the web's, which serves every socket, must not map records.
        with turn(actor.tenant.id):
            done = async_to_sync(replay, force_new_loop=True)(job, seconds)
    except UndecipherableError as error:
        raise Refused(error.code, str(error)) from None
    if done.mapped or done.left:
        record_event(job, actor.label, "replayed", done.words())
    broadcast.job_changed_sync(job.id, job.tenant_id)
    return done


@again_after_giving_way
def pause(actor: Actor, job: HistoricalSyncJob) -> HistoricalSyncJob:
    """Asks for a pause: at once when no worker is at it, else at the next page boundary."""
    with transaction.atomic():
        job = _locked(actor.tenant, job)
        if job.control == states.CONTROL_PAUSE and job.status in states.WORKABLE:
            return job  # asked for already; the answer may have been lost
        if not states.can_pause(job.status, job.control):
            raise Refused("invalid_state", _not_from("paused", job))
        _request(job, states.CONTROL_PAUSE)
        record_event(job, actor.label, "pause_requested", "")
        take_from_the_dead(job.id)
        settle_sync(job.id)
        _announce(job)
    return get_job(actor.tenant, job.id)


@again_after_giving_way
def cancel(actor: Actor, job: HistoricalSyncJob) -> HistoricalSyncJob:
    """Asks for the end of the job: at once when no worker is at it, else at the next page boundary. What came in is kept.

    Once this returned without a refusal the job ends cancelled, even if its last page is stored meanwhile: the request is written
    under the job's row lock, which is held when a job is found to be complete (`settling`).
    """
    with transaction.atomic():
        job = _locked(actor.tenant, job)
        if job.control == states.CONTROL_CANCEL and job.status in states.ACTIVE:
            return job  # asked for already; the answer may have been lost
        if not states.can_cancel(job.status, job.control):
            raise Refused("invalid_state", _not_from("cancelled", job))
        record_event(job, actor.label, "cancel_requested", "")
        if job.status == states.PAUSED:
            changed = HistoricalSyncJob.objects.filter(id=job.id, status=states.PAUSED).update(
                status=states.CANCELLED, pause_reason="", completed_at=Now(), revision=F("revision") + 1
            )
            assert changed == 1, "the row is locked"
            record_event(job, actor.label, "cancelled", "")
        else:
            _request(job, states.CONTROL_CANCEL)
            take_from_the_dead(job.id)
            settle_sync(job.id)
        _announce(job)
    return get_job(actor.tenant, job.id)


@again_after_giving_way
def resume(actor: Actor, job: HistoricalSyncJob) -> HistoricalSyncJob:
    """Goes on with a paused job, or tries again what is missing of a failed one."""
    try:
        with transaction.atomic():
            tenant = Tenant.objects.select_for_update(no_key=True).get(id=actor.tenant.id)
            job = _locked(tenant, job)
            if not states.can_resume(job.status):
                raise Refused("invalid_state", _not_from("resumed", job))
            admission.check_connection(job.connection)
            if job.status == states.FAILED:
                admission.check_not_removed_since(job)
                if (
                    job.planned
                    and job.parts_forgotten
                    and not job.chunks.exclude(status=states.CHUNK_COMPLETED).exists()
                ):
                    raise Refused(
                        "invalid_state", "This import ended long ago, and later ones went over what it lacks."
                    )
                if jobs_of(tenant).active().filter(connection=job.connection).exists():
                    raise Refused("job_already_active", f"{job.connection} is already being imported by another job.")
                admission.check_room(tenant)
            admission.check_records(tenant, timezone.now())
            _reopen(job, actor.label)
    except IntegrityError as error:
        raise Refused("job_already_active", "This connection is already being imported by another job.") from error
    return get_job(actor.tenant, job.id)


def reconnected(actor: Actor, connection: Connection) -> None:
    """Resumes what stopped because access to `connection` was lost. Called when it was granted again.

    What stopped stays so while the connection's data is being removed.
    """
    with transaction.atomic():
        if admission.is_being_removed(connection):
            return
        paused = jobs_of(actor.tenant).filter(
            connection=connection, status=states.PAUSED, pause_reason="reauth_required"
        )
        for job in paused.select_for_update(of=("self",)):
            _reopen(job, actor.label)


def disconnecting(actor: Actor, connection: Connection) -> None:
    """Cancels the active job of a connection that is about to lose its credentials, and takes back the start that waits.

    First that one: it would begin by itself when somebody connects again, however much later.
    """
    QueuedStart.objects.filter(tenant=actor.tenant, connection=connection).delete()
    for job in jobs_of(actor.tenant).active().filter(connection=connection):
        with suppress(Refused):  # it ended meanwhile
            cancel(actor, job)


def record_event(job: HistoricalSyncJob, actor: str, kind: str, detail: str) -> None:
    """Adds to the job's timeline, in the caller's transaction."""
    JobEvent.objects.create(tenant_id=job.tenant_id, job=job, actor=actor, kind=kind, detail=detail)
    if f"job.{kind}" in audit.PHRASES:
        audit.record(job.tenant_id, actor, f"job.{kind}", str(job.connection), detail)


def _reopen(job: HistoricalSyncJob, who: str) -> None:
    retried = 0
    if job.status == states.FAILED:
        retried = SyncChunk.objects.filter(tenant_id=job.tenant_id, job=job, status=states.CHUNK_FAILED).update(
            status=states.CHUNK_PENDING, error_code="", error_message="", completed_at=None,
            quarantine_forgiven=F("records_quarantined"),
        )  # fmt: skip
    SyncChunk.objects.filter(tenant_id=job.tenant_id, job=job, status=states.CHUNK_PENDING).update(
        not_before=None, attempts=0, restarts=0
    )
    changed = HistoricalSyncJob.objects.filter(id=job.id, status__in=states.sources(states.PENDING)).update(
        status=states.PENDING,
        pause_reason="",
        completed_at=None,
        failed_chunks=0,
        attempts=0,
        waiting_until=None,
        last_error_code="",
        last_error_message="",
        parts_forgotten=False,
        # The pause is no working time.
        pace_at=None,
        earlier_pace_at=None,
        retry_count=F("retry_count") + (1 if job.status == states.FAILED else 0),
        revision=F("revision") + 1,
    )
    assert changed == 1, "the row is locked"
    record_event(job, who, "resumed", f"{retried} failed parts are tried again" if retried else "")
    tasks.enqueue(job, tasks.parallel_chunks(job) if job.planned else 1)
    _announce(job)


def _locked(tenant: Tenant, job: HistoricalSyncJob) -> HistoricalSyncJob:
    return jobs_of(tenant).select_related("connection").select_for_update(of=("self",)).get(id=job.id)


def _request(job: HistoricalSyncJob, control: str) -> None:
    changed = HistoricalSyncJob.objects.filter(id=job.id, status__in=states.WORKABLE).update(
        control=control, control_at=Now(), revision=F("revision") + 1
    )
    assert changed == 1, "the row is locked"
    # Workers listen; their poll is the fallback.
    with database.cursor() as cursor:
        cursor.execute("SELECT pg_notify('atom_control', %s)", [str(job.id)])


def _announce(job: HistoricalSyncJob) -> None:
    job_id, tenant_id = job.id, job.tenant_id
    transaction.on_commit(lambda: broadcast.job_changed_sync(job_id, tenant_id))


def _not_from(what: str, job: HistoricalSyncJob) -> str:
    state = {"pause": "pausing", "cancel": "cancelling"}.get(job.control, job.status)
    return f"This import is {state}; it can't be {what} now."


def job_of_key(tenant: Tenant, key: str) -> HistoricalSyncJob | None:
    """The job that was started with this idempotency key."""
    job = jobs_of(tenant).with_names().filter(idempotency_key=key).first()
    if job is not None:
        job.was_created = False
    return job
