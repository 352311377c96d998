"""Who uses Atom: people, the companies they work in, and programs' keys."""

from __future__ import annotations

import logging
import uuid
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import DatabaseError, models, transaction
from django.db.models.functions import Lower
from django.utils import timezone
from rest_framework_api_key.models import AbstractAPIKey, BaseAPIKeyManager

from atom.plans import PLANS, Plan

log = logging.getLogger(__name__)


class UserManager(BaseUserManager):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> User:
        # Kept in lower case. Not by the database's idea of case, to which "ı" is an "i": tries are counted by what was typed.
        return self.get(email=(username or "").lower())


class User(AbstractBaseUser, PermissionsMixin):
    """A person, known by e-mail. What they may do is in their memberships; `is_staff` is for the deployment's own admins."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(unique=True)
    name = models.CharField(max_length=150, blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False)
    date_joined = models.DateTimeField(default=timezone.now)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        constraints = [models.UniqueConstraint(Lower("email"), name="user_email_ci")]

    def __str__(self) -> str:
        return self.email

    def get_short_name(self) -> str:
        return self.name or self.email.split("@")[0]

    @property
    def has_come(self) -> bool:
        """Whether they followed their invitation: to a password, or by single sign-on."""
        return self.last_login is not None or self.has_usable_password()


class Identity(models.Model):
    """Whose account it is at an issuer of OpenID Connect (`atom.single_sign_on`). subject: the issuer's own name for the person."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="identities", db_index=False)
    issuer = models.CharField(max_length=500)
    subject = models.CharField(max_length=255)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name_plural = "identities"
        constraints = [
            models.UniqueConstraint(fields=["issuer", "subject"], name="identity_once"),
            models.UniqueConstraint(fields=["user", "issuer"], name="identity_one_each"),
        ]

    def __str__(self) -> str:
        return f"{self.subject} of {self.issuer}"


class Tenant(models.Model):
    """A company. Everything that it connects and imports belongs to it and to nobody else."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=150)
    slug = models.SlugField(unique=True)
    plan = models.CharField(max_length=20, choices=[(p.slug, p.name) for p in PLANS.values()], default="free")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def limits(self) -> Plan:
        return PLANS[self.plan]


class Role(models.TextChoices):
    OWNER = "owner", "Owner"
    ADMIN = "admin", "Admin"
    MEMBER = "member", "Member"
    VIEWER = "viewer", "Viewer"


class Membership(models.Model):
    """A user's role in a tenant."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="memberships", db_index=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.MEMBER)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # When the user first was in it since: who adds somebody asks nobody.
    entered_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "user"], name="membership_once"),
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="membership_role"),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.tenant} ({self.role})"


class ApiKeyManager(BaseAPIKeyManager):
    def get_usable_keys(self) -> models.QuerySet:
        """With their tenants: who asks by a key asks for something of its tenant."""
        return super().get_usable_keys().select_related("tenant")

    def note_use(self, key: ApiKey) -> None:
        """Writes down that the key is used today, once a day. Who asks by it neither waits for others' locks nor fails with the write."""
        today = timezone.now().date()
        if key.last_used is not None and key.last_used >= today:
            return
        try:
            with transaction.atomic():
                unnoted = self.filter(models.Q(last_used__lt=today) | models.Q(last_used=None), pk=key.pk)
                self.filter(pk__in=unnoted.select_for_update(skip_locked=True).values("pk")).update(last_used=today)
        except DatabaseError as error:
            log.warning("the use of an API key could not be noted: %s", error)


class ApiKey(AbstractAPIKey):
    """A program's access to one tenant with a role's rights. Only a hash of the key is kept."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="api_keys")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.MEMBER)
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    last_used = models.DateField(null=True, editable=False)  # in UTC

    objects = ApiKeyManager()

    class Meta(AbstractAPIKey.Meta):
        verbose_name = "API key"
        verbose_name_plural = "API keys"
        constraints = [models.CheckConstraint(condition=models.Q(role__in=Role.values), name="apikey_role")]


class AuditEvent(models.Model):
    """Who did what in a tenant: members, keys, connections, plan, imports. Append only: the database refuses changes, but that an
    address is forgotten (`atom.audit.forget_addresses`).

    Written by `atom.audit.record` in the transaction of what it tells of.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    at = models.DateTimeField(default=timezone.now, editable=False)
    actor = models.CharField(max_length=200)
    action = models.CharField(max_length=40)
    subject = models.CharField(max_length=300, blank=True)
    detail = models.CharField(max_length=300, blank=True)
    address = models.GenericIPAddressField(null=True, blank=True)  # of whoever signed in or tried to

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [
            models.Index(fields=["tenant", "-at", "-id"], name="audit_newest"),
            models.Index(fields=["at"], name="audit_addresses", condition=models.Q(address__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.actor}: {self.action} {self.subject}"
