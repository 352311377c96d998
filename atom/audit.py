"""The audit log: what people and programs did in a tenant."""

from __future__ import annotations

from uuid import UUID

from atom.models import AuditEvent

# area -> action -> words between who did it and what it was done to
WORDS = {
    "members": {
        "member.invited": "invited",
        "member.added": "added",
        "member.role": "changed the role of",
        "member.removed": "removed",
        "member.password": "changed the password of",
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


def record(tenant_id: UUID, actor: str, action: str, subject: str = "", detail: str = "") -> None:
    """Adds a line, in the caller's transaction. action: one of `PHRASES`; actor: the label of an `atom.access.Actor`."""
    assert action in PHRASES, action
    AuditEvent.objects.create(
        tenant_id=tenant_id, actor=actor[:200], action=action, subject=subject[:300], detail=detail[:300]
    )
