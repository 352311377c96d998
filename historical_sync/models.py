"""Jobs, their chunks, and what they bring in.

Counters live in the row they describe and change in the transaction that stores what they count (`storage.py`). Status changes
go through `actions.py` and the engine; nobody assigns `status` and saves.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import ClassVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateWorker

from atom.models import Tenant, User
from historical_sync import states
from historical_sync.allowance import MonthlyRecords as MonthlyRecords
from historical_sync.fields import TimestamptzMultirangeField
from historical_sync.graph_models import Address as Address
from historical_sync.graph_models import Entity as Entity
from historical_sync.graph_models import EntityAlias as EntityAlias
from historical_sync.graph_models import GraphGeneration as GraphGeneration
from historical_sync.graph_models import Relationship as Relationship
from historical_sync.graph_models import StaleEntity as StaleEntity
from historical_sync.graph_models import Statement as Statement
from historical_sync.graph_models import SyncRecord as SyncRecord
from historical_sync.totals import DailyTotals as DailyTotals
from integrations.models import Connection

KINDS = ("historical", "incremental", "repair")
TRIGGERS = ("manual", "prompt", "api", "command", "schedule", "admin")


def _choices(values: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(value, value.replace("_", " ").capitalize()) for value in values]


# What no view of a job shows of its connection: the secret, and what takes time to read.
NOT_SHOWN = (
    "sealed_credentials", "token_expires_at", "scopes", "facts", "only", "grant_expires_at", "end_told_at", "last_error",
    "last_success_at", "prompted_at", "budget_left", "budget_limit", "budget_resets_at", "blocked_until", "paced_until", "created_by", "created_at",
    "updated_at",
)  # fmt: skip


class JobQuerySet(models.QuerySet):
    def of(self, tenant: Tenant) -> JobQuerySet:
        """The tenant's jobs: the one way to reach them."""
        return self.filter(tenant=tenant)

    def active(self) -> JobQuerySet:
        return self.filter(status__in=states.ACTIVE)

    def with_names(self) -> JobQuerySet:
        """With the connection that every view of a job names, `worker_alive`: whether anybody can work on it, and `paused_at`."""
        heard_of = ProcrastinateWorker.objects.filter(
            last_heartbeat__gt=Now() - timedelta(seconds=settings.LEASE_SECONDS)
        )
        jobs = self.select_related("connection").defer(*[f"connection__{name}" for name in NOT_SHOWN])
        paused = JobEvent.objects.filter(job=models.OuterRef("pk"), kind=states.PAUSED).order_by("-at").values("at")[:1]
        paused_at = models.Case(models.When(status=states.PAUSED, then=models.Subquery(paused)))
        return jobs.annotate(worker_alive=models.Exists(heard_of), paused_at=paused_at)


class HistoricalSyncJob(models.Model):
    """One import of a range of a connection's history.

    `control` is a person's request; workers honour it at the next page boundary. `revision` grows with every change and
    numbers the socket's messages. `progress` is work done and `progress_total` work planned, in the planner's units.
    """

    paused_at: datetime | None = None  # of a paused one that was read `with_names`

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="jobs", db_index=False)
    connection = models.ForeignKey(Connection, on_delete=models.CASCADE, related_name="jobs", db_index=False)
    kind = models.CharField(max_length=20, choices=_choices(KINDS), default="historical")
    trigger = models.CharField(max_length=20, choices=_choices(TRIGGERS), default="manual")
    streams = ArrayField(models.TextField())
    start_date = models.DateTimeField()
    end_date = models.DateTimeField()
    full = models.BooleanField(default=False)

    status = models.CharField(max_length=10, choices=_choices(states.STATUSES), default=states.PENDING)
    control = models.CharField(max_length=6, choices=_choices(states.CONTROLS), default=states.CONTROL_NONE)
    pause_reason = models.CharField(max_length=20, choices=_choices(states.PAUSE_REASONS), blank=True)
    control_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When the request to stop was made."
    )
    planned = models.BooleanField(default=False)
    attempts = models.PositiveIntegerField(
        db_default=0,
        default=0,
        editable=False,
        help_text="How often planning failed, or the provider could not be reached at all, since the last progress.",
    )
    parts_forgotten = models.BooleanField(
        db_default=False,
        default=False,
        editable=False,
        help_text="It ended long ago: of its parts those are left that later imports have not gone over.",
    )
    watermark = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="What is older had settled at the provider when the job started: coverage grows up to here.",
    )
    phase_detail = models.CharField(max_length=200, blank=True, help_text="What is being imported, in words.")

    total_chunks = models.PositiveIntegerField(default=0)
    completed_chunks = models.PositiveIntegerField(default=0)
    failed_chunks = models.PositiveIntegerField(default=0)
    total_records_estimate = models.PositiveBigIntegerField(null=True, blank=True)
    estimate_quality = models.CharField(
        max_length=10, choices=_choices(("exact", "about", "unknown")), default="unknown"
    )
    records_processed = models.PositiveBigIntegerField(default=0)
    records_skipped = models.PositiveBigIntegerField(default=0)
    records_quarantined = models.PositiveBigIntegerField(default=0)
    entities_extracted = models.BigIntegerField(default=0)
    relationships_extracted = models.PositiveBigIntegerField(default=0)
    entities_by_kind = models.JSONField(default=dict, blank=True)
    relationships_by_kind = models.JSONField(default=dict, blank=True)
    progress = models.FloatField(default=0)
    progress_total = models.FloatField(default=0)
    # Two points in time with the work done by then, `storage.PACE_SECONDS` apart or more: the speed of the recent past, for the rate
    # and the time left.
    last_page_at = models.DateTimeField(null=True, blank=True, editable=False)
    pace_at = models.DateTimeField(null=True, blank=True, editable=False)
    pace_progress = models.FloatField(default=0, editable=False)
    pace_records = models.PositiveBigIntegerField(default=0, editable=False)
    earlier_pace_at = models.DateTimeField(null=True, blank=True, editable=False)
    earlier_pace_progress = models.FloatField(default=0, editable=False)
    earlier_pace_records = models.PositiveBigIntegerField(default=0, editable=False)

    waiting_until = models.DateTimeField(null=True, blank=True)
    last_error_code = models.CharField(max_length=60, blank=True)
    last_error_message = models.TextField(blank=True)
    last_error_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="When it was met; later than the last page, it is what holds up the next.",
    )
    retry_count = models.PositiveIntegerField(default=0)
    revision = models.PositiveBigIntegerField(default=0)
    idempotency_key = models.CharField(max_length=200, blank=True)

    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_by_label = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    # Kept by a trigger on `status` (`migrations/*_idle.py`).
    stopped_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When it ran last; none while it runs, and before it did."
    )
    idle_seconds = models.FloatField(
        db_default=0, default=0, editable=False, help_text="Between its first start and its end, without running."
    )

    # Kept by a trigger on `waiting_until` (`migrations/*_waited.py`).
    waiting_since = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When its present wait for the provider began."
    )
    waited_seconds = models.FloatField(
        db_default=0, default=0, editable=False, help_text="Of the time that it ran, waiting for its provider."
    )

    objects: ClassVar[models.Manager[HistoricalSyncJob]] = JobQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["tenant", "-created_at"], name="job_newest"),
            # The tenant is there for the policies: jobs are counted without being read.
            models.Index(fields=["connection", "-created_at"], include=["tenant"], name="job_of_connection"),
            models.Index(fields=["status"], condition=Q(status__in=states.ACTIVE), name="job_active"),
            models.Index(
                fields=["completed_at"],
                condition=Q(parts_forgotten=False, completed_at__isnull=False),
                name="job_parts",
            ),
            models.Index(fields=["tenant", "-completed_at"], condition=Q(status=states.FAILED), name="job_failed"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["connection"], condition=Q(status__in=states.ACTIVE), name="job_one_active"
            ),
            models.UniqueConstraint(
                fields=["tenant", "idempotency_key"], condition=~Q(idempotency_key=""), name="job_idempotency_key"
            ),
            models.CheckConstraint(condition=Q(status__in=states.STATUSES), name="job_status"),
            models.CheckConstraint(condition=Q(control__in=states.CONTROLS), name="job_control"),
            models.CheckConstraint(condition=Q(start_date__lt=models.F("end_date")), name="job_range"),
            models.CheckConstraint(
                condition=Q(status=states.PAUSED, pause_reason__in=states.PAUSE_REASONS)
                | (~Q(status=states.PAUSED) & Q(pause_reason="")),
                name="job_pause_reason",
            ),
            models.CheckConstraint(
                condition=Q(status__in=states.FINISHED, completed_at__isnull=False)
                | (~Q(status__in=states.FINISHED) & Q(completed_at__isnull=True)),
                name="job_completed_at",
            ),
            # A request to stop is only open while workers may be at it.
            models.CheckConstraint(
                condition=Q(control=states.CONTROL_NONE) | Q(status__in=states.WORKABLE), name="job_control_open"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.connection} {self.start_date:%Y-%m-%d} to {self.end_date:%Y-%m-%d}"

    @property
    def has_uncounted(self) -> bool:
        """Some of its streams can't be counted beforehand, so that the estimate is the least that there is."""
        return any(s.count is None for s in self.connection.provider.streams if s.name in self.streams)

    @property
    def brought_by_kind(self) -> dict[str, int]:
        """Entities that came in, by kind, as everybody is shown them. `entities_by_kind` says by how many the job changed the tenant's,
        and where it joined more of a kind than it brought, that is less than none."""
        return {kind: n for kind, n in sorted(self.entities_by_kind.items()) if n > 0}

    @property
    def brought(self) -> int:
        """How many these are."""
        return sum(self.brought_by_kind.values())


class SyncChunk(models.Model):
    """One stream, one partition, one half-open window [since, until): what one worker works on at a time.

    Whoever holds `lease` may write; everyone else's page is refused (`storage.save_pages`). `cursor` is the provider's place in
    the window, `position` how far in time it has come.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    job = models.ForeignKey(HistoricalSyncJob, on_delete=models.CASCADE, related_name="chunks", db_index=False)
    ordinal = models.PositiveIntegerField(help_text="Order of work within the job.")
    stream = models.CharField(max_length=60)
    partition = models.CharField(max_length=255, blank=True)
    partition_label = models.CharField(max_length=255, blank=True)
    partition_facts = models.JSONField(default=dict, blank=True)
    since = models.DateTimeField()
    until = models.DateTimeField()

    status = models.CharField(max_length=10, choices=_choices(states.CHUNK_STATUSES), default=states.CHUNK_PENDING)
    cursor = models.JSONField(null=True, blank=True)
    position = models.DateTimeField(null=True, blank=True)
    lease = models.UUIDField(null=True, blank=True, editable=False)
    lease_until = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0, help_text="Failures since the last progress.")
    restarts = models.PositiveIntegerField(
        db_default=0, default=0, help_text="Dead cursors since the last page with something new."
    )
    not_before = models.DateTimeField(null=True, blank=True)
    estimate = models.PositiveBigIntegerField(null=True, blank=True)
    weight = models.FloatField(default=1)
    progress = models.FloatField(default=0, help_text="Share of the chunk that is done, 0 to 1.")
    pages = models.PositiveIntegerField(default=0)
    records_processed = models.PositiveBigIntegerField(default=0)
    records_skipped = models.PositiveBigIntegerField(default=0)
    records_quarantined = models.PositiveBigIntegerField(default=0)
    quarantine_forgiven = models.PositiveBigIntegerField(
        db_default=0,
        default=0,
        editable=False,
        help_text="Quarantined records that somebody knew of and tried the chunk again.",
    )
    error_code = models.CharField(max_length=60, blank=True)
    error_message = models.TextField(blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["job", "ordinal"]
        indexes = [
            models.Index(fields=["job", "status", "ordinal"], name="chunk_next"),
            models.Index(fields=["lease_until"], condition=Q(status=states.CHUNK_RUNNING), name="chunk_leases"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["job", "stream", "partition", "since", "until"], name="chunk_once"),
            models.CheckConstraint(condition=Q(status__in=states.CHUNK_STATUSES), name="chunk_status"),
            models.CheckConstraint(condition=Q(since__lt=models.F("until")), name="chunk_window"),
            models.CheckConstraint(
                condition=Q(status=states.CHUNK_RUNNING, lease__isnull=False)
                | (~Q(status=states.CHUNK_RUNNING) & Q(lease__isnull=True)),
                name="chunk_lease",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.stream} {self.partition_label} {self.since:%Y-%m-%d} to {self.until:%Y-%m-%d}"


# What a reason that Python gave begins with (`integrations.providers.wire`, `extraction`) -> what people read of it.
SAID_OF = {
    "no usable id or time": "It has no id, or no time, that can be read.",
    "unexpected shape": "It does not look as others of its kind do.",
}


class QuarantinedRecord(models.Model):
    """A record that could not be mapped: kept encrypted, shown with its reason, replayed after a fix.

    Until it is mapped (`replayed_at`) there is one row of it, however many jobs meet it: the last one's, as it was received last.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    connection = models.ForeignKey(Connection, on_delete=models.CASCADE, related_name="+", db_index=False)
    job = models.ForeignKey(HistoricalSyncJob, on_delete=models.CASCADE, related_name="quarantine")
    chunk = models.ForeignKey(SyncChunk, on_delete=models.CASCADE, related_name="quarantine")
    stream = models.CharField(max_length=60)
    external_id = models.CharField(max_length=512, blank=True)
    occurred_at = models.DateTimeField(
        null=True, blank=True, help_text="None: the record's own time could not be read."
    )
    reason = models.TextField()
    fingerprint = models.UUIDField(help_text="Hash of its id or, where it has none, of what was received.")
    sealed_payload = models.BinaryField(editable=False)
    created_at = models.DateTimeField(db_default=Now())
    replayed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["connection", "stream", "fingerprint"], condition=Q(replayed_at=None), name="quarantine_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.stream} {self.external_id}: {self.reason}"

    @property
    def why(self) -> str:
        """The reason for people. Where Python gave it, that is for who mends a mapping."""
        return SAID_OF.get(self.reason.partition(":")[0], self.reason)


class RollCall(models.Model):
    """Ids of records of a full import's stream and partition: those that it met, some a page; those that it missed, which its provider is
    yet to be asked for, some a question; those that were found to be gone (`rollcall.py`). All of it goes when that is told."""

    MET, MISSED, GONE = "met", "missed", "gone"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    job = models.ForeignKey(HistoricalSyncJob, on_delete=models.CASCADE, related_name="+")
    stream = models.CharField(max_length=60)
    partition = models.CharField(max_length=255, blank=True)
    state = models.CharField(max_length=6, choices=_choices((MET, MISSED, GONE)))
    ids = ArrayField(models.UUIDField())

    def __str__(self) -> str:
        return f"{self.stream} {self.partition}: {len(self.ids)} {self.state}"


class JobEvent(models.Model):
    """What happened to a job, in words: who started, paused, cancelled; which chunk failed and why. Append only."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    job = models.ForeignKey(HistoricalSyncJob, on_delete=models.CASCADE, related_name="events", db_index=False)
    at = models.DateTimeField(default=timezone.now)
    actor = models.CharField(max_length=200)
    kind = models.CharField(max_length=40)
    detail = models.TextField(blank=True)

    class Meta:
        ordering = ["at"]
        indexes = [models.Index(fields=["job", "at"], name="event_of_job")]

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


class Coverage(models.Model):
    """What a connection already has of a stream and partition. Grows in the transaction that completes a chunk."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    connection = models.ForeignKey(Connection, on_delete=models.CASCADE, related_name="coverage", db_index=False)
    stream = models.CharField(max_length=60)
    partition = models.CharField(max_length=255, blank=True)
    ranges = TimestamptzMultirangeField()

    class Meta:
        verbose_name_plural = "coverage"
        constraints = [models.UniqueConstraint(fields=["connection", "stream", "partition"], name="coverage_once")]

    def __str__(self) -> str:
        return f"{self.stream} {self.partition}"


class DataRemoval(models.Model):
    """The removal of all that only one connection brought: asked for, under way or done (`removing.py`)."""

    connection = models.OneToOneField(Connection, primary_key=True, on_delete=models.CASCADE, related_name="removal")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    records_total = models.PositiveBigIntegerField(default=0)
    records_removed = models.PositiveBigIntegerField(default=0)
    created_by_label = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    completed_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"Removal of {self.connection}"

    @property
    def words(self) -> str:
        """How far it is, for people."""
        if self.completed_at is not None:
            return f"{self.records_removed:,} records were removed"
        if self.records_removed < self.records_total:
            return f"Removing records: {self.records_removed:,} of {self.records_total:,}"
        return "Tidying up what they were linked to"


WEEKDAYS = (
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
)  # in the order of datetime.weekday()


class SyncSchedule(models.Model):
    """A regular incremental sync of a connection, and what became of its last run (`schedules.py`)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    connection = models.OneToOneField(Connection, on_delete=models.CASCADE, related_name="schedule")
    interval = models.DurationField()
    hour = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="Of the day, in UTC, for intervals of days; none: the time when it was chosen."
    )
    weekday = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        choices=list(enumerate(WEEKDAYS)),
        help_text="In UTC, for intervals of weeks; none: the day when it was chosen.",
    )
    enabled = models.BooleanField(default=True)
    next_run_at = models.DateTimeField()
    last_run_at = models.DateTimeField(null=True, blank=True)
    last_result = models.CharField(
        max_length=10, choices=_choices(("started", "skipped", "waiting", "refused")), blank=True
    )
    last_detail = models.TextField(blank=True, help_text="Why the last run did not start.")
    last_job = models.ForeignKey(
        HistoricalSyncJob, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", db_index=False
    )

    class Meta:
        indexes = [models.Index(fields=["next_run_at"], condition=Q(enabled=True), name="schedule_due")]
        constraints = [
            models.CheckConstraint(condition=Q(interval__gt=timedelta(minutes=14)), name="schedule_interval"),
            models.CheckConstraint(condition=Q(hour=None) | Q(hour__lt=24), name="schedule_hour"),
            models.CheckConstraint(condition=Q(weekday=None) | Q(weekday__lt=7), name="schedule_weekday"),
        ]

    def __str__(self) -> str:
        return f"{self.connection} every {self.interval}"


from historical_sync import automation, searching  # noqa: E402, F401 - their tables, where Django looks for them
