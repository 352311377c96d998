"""What is told before access to a tool ends: once, by e-mail, to those who may renew it and want to hear of failures.

That it is told and the entries that send it commit together. Who renews access has it told again before the next end.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import UUID, uuid5

from channels.db import DatabaseSyncToAsync
from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from atom.access import RIGHTS, Right
from atom.models import Membership
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import tasks
from historical_sync.notices import preferences, written
from integrations.health import WARN_AHEAD, health_of
from integrations.models import Connection

log = logging.getLogger(__name__)

# Mail servers may be slow, and nothing else must wait for them.
_MAIL = ThreadPoolExecutor(1, thread_name_prefix="ends")


def tell_of_ends(now: datetime) -> None:
    """Has written that access ends soon, of all tenants; where no e-mail is sent, once that is set up."""
    if not settings.SENDS_MAIL:
        return
    with across_tenants("access ends in every tenant"):
        found = list(Connection.objects.ending(now, WARN_AHEAD).values_list("tenant_id", "id"))
    for tenant_id, connection_id in found:
        try:
            _tell(tenant_id, connection_id, now)
        except Exception:
            log.exception("that access to connection %s ends could not be told", connection_id)


def _tell(tenant_id: UUID, connection_id: UUID, now: datetime) -> None:
    with tenant_scope(tenant_id), transaction.atomic():
        # Of two workers one waits here for the other, and finds nothing to tell.
        untold = Connection.objects.ending(now, WARN_AHEAD).filter(tenant_id=tenant_id, id=connection_id)
        if not untold.update(end_told_at=now):
            return
        for one in preferences(tenant_id):
            if one.failed and Right.CONNECT in RIGHTS[one.membership.role]:
                tasks.access_ends.defer(
                    connection_id=str(connection_id), membership_id=str(one.membership_id), tenant_id=str(tenant_id)
                )


async def send(connection_id: str, membership_id: str, tenant_id: str) -> None:
    """Writes to the member, unless they left or somebody renewed access meanwhile."""
    await DatabaseSyncToAsync(_send, thread_sensitive=False, executor=_MAIL)(connection_id, membership_id, tenant_id)


def _send(connection_id: str, membership_id: str, tenant_id: str) -> None:
    with tenant_scope(tenant_id):
        connection = Connection.objects.filter(tenant_id=tenant_id, id=connection_id).first()
        members = Membership.objects.filter(tenant_id=tenant_id, user__is_active=True).select_related("user", "tenant")
        membership = members.filter(id=membership_id).first()
    if connection is None or membership is None or connection.end_told_at is None:
        return
    if health_of(connection, timezone.now()).ends_soon:
        email(connection, membership).send()


def email(connection: Connection, membership: Membership) -> EmailMessage:
    """Its Message-ID is the same however often it is sent: mail programs show one."""
    assert connection.grant_expires_at is not None
    assert connection.end_told_at is not None
    ends = connection.grant_expires_at.astimezone(UTC)
    subject = f"Access to {connection.provider_name} ends on {ends.day} {ends:%b}: {connection.account_label}"
    lines = [
        f"Access of {membership.tenant} to {connection} ends on {ends.day} {ends:%b %Y}, {ends:%H:%M} UTC.",
        "",
        "Imports stop then. Reconnect it on the integrations page, and they go on without a break.",
    ]
    message_id = uuid5(membership.id, f"{connection.id} {connection.end_told_at.isoformat()}")
    return written(membership, subject, lines, "Reconnect", reverse("integrations"), message_id)
