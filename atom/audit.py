"""The audit log: what people and programs did in a tenant."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.utils import timezone

from atom.models import AuditEvent
from atom.tenancy import across_tenants

ADDRESSES_KEPT = timedelta(days=90)  # they tell where somebody was; the lines stay

# area -> action -> words between who did it and what it was done to
WORDS = {
    "members": {
        "member.invited": "invited",
        "member.added": "added",
        "member.role": "changed the role of",
        "member.removed": "removed",
        "member.password": "changed the password of",
        "member.password_refused": "failed to change the password of",
    },
    "sign-ins": {
        "member.signed_in": "signed in as",
        "member.signed_out": "signed out as",
        "member.sign_in_failed": "failed to sign in as",
    },
    "keys": {
        "key.created": "created the API key",
        "key.changed": "changed the API key",
        "key.revoked": "revoked the API key",
    },
    "connections": {
        "connection.connected": "connected",
        "connection.reconnected": "reconnected",
        "connection.disconnected": "disconnected",
        "connection.narrowed": "chose what is imported of",
    },
    "schedules": {"schedule.changed": "changed the schedule of"},
    "webhooks": {
        "webhook.added": "added the webhook",
        "webhook.renewed": "renewed the secret of the webhook",
        "webhook.on": "turned on the webhook",
        "webhook.off": "turned off the webhook",
        "webhook.removed": "removed the webhook",
    },
    "workspace": {"workspace.renamed": "renamed the workspace to", "workspace.plan": "changed the plan to"},
    "imports": {
        "job.started": "started an import of",
        "job.pause_requested": "paused an import of",
        "job.cancel_requested": "cancelled an import of",
        "job.resumed": "resumed an import of",
        "job.replayed": "tried again what was kept aside of",
    },
}
OPERATOR = "The operator"  # who acts by the admin or a command
PHRASES = {action: words for actions in WORDS.values() for action, words in actions.items()}


def record(
    tenant_id: UUID,
    actor: str,
    action: str,
    subject: str = "",
    detail: str = "",
    *,
    address: str | None = None,
    at: datetime | None = None,
) -> None:
    """Adds a line, in the caller's transaction. action: one of `PHRASES`; actor: the label of an `atom.access.Actor`.

    address: where it came from (`tries.address_of`). at: when it was, if not now.
    """
    assert action in PHRASES, action
    AuditEvent.objects.create(
        tenant_id=tenant_id,
        actor=actor[:200],
        action=action,
        subject=subject[:300],
        detail=detail[:300],
        address=address,
        at=at or timezone.now(),
    )


def forget_addresses(now: datetime) -> None:
    """Takes out those that were kept for long enough: the one change of a line that the database allows, and not to a workspace."""
    with across_tenants("the deployment keeps nobody's address for longer"):
        AuditEvent.objects.filter(address__isnull=False, at__lt=now - ADDRESSES_KEPT).update(address=None)
