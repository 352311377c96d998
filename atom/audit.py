"""The audit log: what people and programs did in a tenant."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from io import StringIO
from uuid import UUID

from django.db.models import Q, QuerySet
from django.utils import timezone

from atom.models import AuditEvent, Tenant, User
from atom.tenancy import across_tenants, tenant_scope

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
MOST_LINES = 50_000  # of a file
AT_ONCE = 1000  # of them are read
# What a spreadsheet takes a cell for a formula by, or for the end of the one before.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
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


def found(
    tenant: Tenant, *, area: str = "", person: str = "", since: date | None = None, until: date | None = None
) -> QuerySet[AuditEvent]:
    """The tenant's lines, newest first. area: of `WORDS`. since, until: days of UTC, both included.

    person: a part of the name of who did it, or of the address of whom it was done to; or the address of a member, who did it by name.
    """
    lines = AuditEvent.objects.filter(tenant=tenant)
    if area:
        lines = lines.filter(action__in=WORDS[area])
    if person:
        members = User.objects.filter(memberships__tenant=tenant, email=person.lower())
        lines = lines.filter(
            Q(actor__icontains=person)
            | Q(actor__in=[member.get_short_name() for member in members])
            | Q(subject__icontains=person, action__startswith="member.")
        )
    if since:
        lines = lines.filter(at__gte=datetime.combine(since, time.min, UTC))
    if until:
        lines = lines.filter(at__lte=datetime.combine(until, time.max, UTC))
    return lines


def as_csv(tenant: Tenant, lines: QuerySet[AuditEvent]) -> Iterator[str]:
    """The newest `MOST_LINES` of the lines that were `found`, in parts, each read when it is asked for."""
    yield "\ufeff" + _rows([["time", "who", "action", "what", "subject", "detail", "address"]])
    rest, left = lines, MOST_LINES
    while left > 0:
        with tenant_scope(tenant.id):  # around no `yield`: who asks for the next part does so in a context of its own
            part = list(rest[: min(left, AT_ONCE)])
        if not part:
            return
        yield _rows(
            [event.at.isoformat(timespec="seconds"), event.actor, event.action, PHRASES.get(event.action, event.action),
             event.subject, event.detail, event.address or ""]
            for event in part
        )  # fmt: skip
        last, left = part[-1], left - len(part)
        rest = lines.filter(Q(at__lt=last.at) | Q(id__lt=last.id), at__lte=last.at)


def _rows(rows: Iterable[list[str]]) -> str:
    text = StringIO()
    csv.writer(text).writerows([[_harmless(cell) for cell in row] for row in rows])
    return text.getvalue()


def _harmless(cell: str) -> str:
    """As text to spreadsheets too: names and what they are given to are others' words."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell
