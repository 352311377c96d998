"""What Atom does by itself: its tables. Starts that wait for room, and what is told of jobs to whom.

Part of `models.py`, which Django reads; apart for length.
"""

from __future__ import annotations

import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.utils import timezone

from atom.access import RIGHTS, Right
from atom.models import Membership, Tenant, User
from integrations.models import Connection

EVENTS = ("completed", "failed", "paused")  # what is told of a job
PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"


class QueuedStart(models.Model):
    """An import that somebody asked for and that waits until there is room for it (`queueing.py`).

    refused: it could not be started when its turn came, for `reason`; somebody has to look at it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    connection = models.OneToOneField(Connection, on_delete=models.CASCADE, related_name="queued_start")
    start_date = models.DateTimeField(null=True, blank=True, help_text="None: the default range.")
    end_date = models.DateTimeField(null=True, blank=True, help_text="None: until it starts.")
    reason = models.TextField(help_text="What it waits for, in words.")
    refused = models.BooleanField(default=False)
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    created_by_label = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["created_at"]

    def __str__(self) -> str:
        return f"{self.connection}: {self.reason}"


class Notice(models.Model):
    """That a job completed, failed or paused. Written by the database in the transaction in which it did, so none is lost.

    snapshot: the job's row as it was then. spread_at: when it became deliveries (`notices.py`); none: not yet.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    job = models.ForeignKey(
        "historical_sync.HistoricalSyncJob", on_delete=models.CASCADE, related_name="notices", db_index=False
    )
    revision = models.PositiveBigIntegerField()
    event = models.CharField(max_length=10, choices=[(event, event) for event in EVENTS])
    snapshot = models.JSONField()
    at = models.DateTimeField(default=timezone.now)
    spread_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["tenant"], condition=Q(spread_at=None), name="notice_new"),
            models.Index(fields=["at"], name="notice_at"),
        ]
        constraints = [models.UniqueConstraint(fields=["job", "revision"], name="notice_once")]

    def __str__(self) -> str:
        return f"job.{self.event}"


class NotificationPreference(models.Model):
    """Of what a member wants e-mail in a tenant. No row: they have not chosen (`of`).

    failed: and that access ends soon, of who may renew it. paused: by itself, until somebody does something about it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    membership = models.OneToOneField(Membership, on_delete=models.CASCADE, related_name="notification_preference")
    completed = models.BooleanField(default=False)
    failed = models.BooleanField(default=False)
    paused = models.BooleanField(default=False)
    paused_by_hand = models.BooleanField(default=False, db_default=False)

    def __str__(self) -> str:
        return str(self.membership)

    @classmethod
    def of(cls, membership: Membership) -> NotificationPreference:
        """What the member has chosen; before that, an unsaved one: who manages a workspace hears of what does not go on without somebody.

        Who was invited and has never come has agreed to nothing.
        """
        chosen: NotificationPreference | None = getattr(membership, "notification_preference", None)
        if chosen is not None:
            return chosen
        manages = Right.MANAGE in RIGHTS[membership.role] and membership.user.has_come
        return cls(tenant_id=membership.tenant_id, membership=membership, failed=manages, paused=manages)

    def wants(self, notice: Notice) -> bool:
        by_hand = notice.event == "paused" and notice.snapshot["pause_reason"] == "user"
        wanted: bool = getattr(self, "paused_by_hand" if by_hand else notice.event)
        return wanted


class WebhookEndpoint(models.Model):
    """Where a tenant wants to be told, signed with a secret of its own.

    failing_since: since when nothing got through; disabled_reason: why Atom turned it off, if it did.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    url = models.CharField(max_length=500)
    events = ArrayField(models.CharField(max_length=10))
    sealed_secret = models.BinaryField(editable=False)
    enabled = models.BooleanField(default=True)
    disabled_reason = models.TextField(blank=True)
    failing_since = models.DateTimeField(null=True, blank=True)
    created_by_label = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["created_at"]

    def __str__(self) -> str:
        return self.address

    @property
    def address(self) -> str:
        """As others than the tenant read it, and its audit log: without the query, where some services have their key."""
        return self.url.partition("?")[0]


class Delivery(models.Model):
    """One notice on its way to one endpoint or one member, and how that went.

    next_attempt_at: when it is due; while an attempt is being made, when that is given up for lost.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    notice = models.ForeignKey(Notice, on_delete=models.CASCADE, related_name="deliveries", db_index=False)
    endpoint = models.ForeignKey(WebhookEndpoint, null=True, on_delete=models.CASCADE, related_name="deliveries")
    membership = models.ForeignKey(Membership, null=True, on_delete=models.CASCADE, related_name="+")
    status = models.CharField(
        max_length=10, choices=[(status, status) for status in (PENDING, DELIVERED, FAILED)], default=PENDING
    )
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, default=timezone.now)
    last_attempt_at = models.DateTimeField(null=True, blank=True)
    response_code = models.PositiveIntegerField(null=True, blank=True)
    detail = models.TextField(blank=True, help_text="What went wrong, in words.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name_plural = "deliveries"
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["tenant", "next_attempt_at"], condition=Q(status="pending"), name="delivery_due"),
            models.Index(fields=["tenant", "-created_at"], name="delivery_newest"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["notice", "endpoint"], name="delivery_once_endpoint"),
            models.UniqueConstraint(fields=["notice", "membership"], name="delivery_once_member"),
            models.CheckConstraint(
                condition=Q(endpoint=None, membership__isnull=False) | Q(endpoint__isnull=False, membership=None),
                name="delivery_to_one",
            ),
            models.CheckConstraint(
                condition=Q(status="pending", next_attempt_at__isnull=False)
                | (~Q(status="pending") & Q(next_attempt_at=None)),
                name="delivery_due_or_done",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.notice} to {self.endpoint or self.membership}"
