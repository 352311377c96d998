"""Connections: a tenant's access to one account at one provider."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from atom.models import Tenant, User
from integrations.crypto import decrypt, encrypt
from integrations.providers import get
from integrations.providers.base import Provider

if TYPE_CHECKING:
    from typing import TypedDict

    class Credentials(TypedDict, total=False):
        access_token: str
        refresh_token: str


class ConnectionStatus(models.TextChoices):
    CONNECTED = "connected", "Connected"
    REAUTH_REQUIRED = "reauth_required", "Needs reconnect"
    DISCONNECTED = "disconnected", "Disconnected"


class ConnectionQuerySet(models.QuerySet):
    def of(self, tenant: Tenant) -> ConnectionQuerySet:
        """The tenant's connections: the one way to reach them."""
        return self.filter(tenant=tenant)

    def live(self) -> ConnectionQuerySet:
        """All but the disconnected ones."""
        return self.exclude(status=ConnectionStatus.DISCONNECTED)

    def ending(self, now: datetime, ahead: timedelta) -> ConnectionQuerySet:
        """Those whose access ends so soon, of which nobody has been told. An end that is a little later than the one that was told of, as
        a refresh may compute it, is that one."""
        untold = Q(end_told_at=None) | Q(end_told_at__lt=F("grant_expires_at") - ahead - timedelta(days=1))
        soon = Q(grant_expires_at__gt=now, grant_expires_at__lte=now + ahead)
        return self.filter(soon, untold, status=ConnectionStatus.CONNECTED)


class Connection(models.Model):
    """Access to one account at one provider.

    Credentials are encrypted at rest and reached through `credentials` only. `facts` holds what the provider said about the
    account besides tokens (an instance's address); `base_url` a self-hosted server's API root.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="connections", db_index=False)
    provider_slug = models.CharField("provider", max_length=40, db_column="provider")
    external_account_id = models.CharField(max_length=255)
    account_label = models.CharField(max_length=255)
    status = models.CharField(max_length=20, choices=ConnectionStatus.choices, default=ConnectionStatus.CONNECTED)
    sealed_credentials = models.BinaryField(editable=False, db_column="credentials")
    token_expires_at = models.DateTimeField(null=True, blank=True)
    by_oauth = models.BooleanField(default=False, help_text="Connected by OAuth; otherwise by a pasted token.")
    sandbox = models.BooleanField(default=False, help_text="Connected to the built-in stand-in of the provider.")
    scopes = ArrayField(models.TextField(), null=True, blank=True)
    base_url = models.URLField(blank=True, max_length=500)
    private_host_allowed = models.BooleanField(
        default=False,
        help_text="The base URL was given by an operator on the command line and may lead to a private network.",
    )
    facts = models.JSONField(default=dict, blank=True)
    only = ArrayField(
        models.TextField(),
        null=True,
        blank=True,
        help_text="Keys of the partitions (repositories, channels) that are imported; empty for all.",
    )
    grant_expires_at = models.DateTimeField(
        null=True, blank=True, help_text="When access ends unless somebody renews it, if the provider said."
    )
    end_told_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="When it was told that access ends soon; none since it was granted.",
    )
    last_error = models.TextField(blank=True)
    last_success_at = models.DateTimeField(null=True, blank=True)
    prompted_at = models.DateTimeField(null=True, blank=True, help_text="When the offer to import history was shown.")
    # The provider's budget as all workers of this connection share it (`historical_sync.budget`): requests left until the window
    # ends, the limit that the provider's headers named, and a time before which nothing may be asked.
    budget_left = models.FloatField(default=0, editable=False)
    budget_limit = models.FloatField(null=True, blank=True, editable=False)
    budget_resets_at = models.DateTimeField(null=True, blank=True, editable=False)
    blocked_until = models.DateTimeField(null=True, blank=True, editable=False)
    # Of a limit by the minute: when all that was taken until now would have been asked, had it been asked evenly.
    paced_until = models.DateTimeField(null=True, blank=True, editable=False)
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    objects: ClassVar[models.Manager[Connection]] = ConnectionQuerySet.as_manager()

    class Meta:
        ordering = ["provider_slug", "account_label"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "provider_slug", "external_account_id"], name="connection_once"),
            models.CheckConstraint(condition=Q(status__in=ConnectionStatus.values), name="connection_status"),
        ]
        indexes = [
            models.Index(
                fields=["grant_expires_at"], condition=Q(grant_expires_at__isnull=False), name="connection_ends"
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider_name} ({self.account_label})"

    @property
    def provider(self) -> Provider:
        return get(self.provider_slug)

    @property
    def provider_name(self) -> str:
        return self.provider.name

    @property
    def credentials(self) -> Credentials:
        found: Credentials = decrypt(self.sealed_credentials)
        return found

    def set_credentials(self, access_token: str, refresh_token: str = "", expires_at: datetime | None = None) -> None:
        """Seals the tokens; the caller saves."""
        self.sealed_credentials = encrypt({"access_token": access_token, "refresh_token": refresh_token})
        self.token_expires_at = expires_at
