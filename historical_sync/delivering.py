"""Delivers notices: webhooks by Standard Webhooks, e-mail by Django's backend; again later when that did not work.

An attempt is claimed in a transaction, made outside of any, and recorded in another. A worker that dies in between leaves a claim
that runs out: the attempt is made again with the same id, by which a receiver knows it. So nothing is lost; twice comes only what
had arrived when its worker died.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from smtplib import SMTPException
from uuid import UUID

from channels.db import DatabaseSyncToAsync
from django.db import transaction
from django.db.models import Case, F, Min, Value, When
from django.utils import timezone
from standardwebhooks import Webhook

from atom.tenancy import across_tenants, tenant_scope
from atom.threads import in_thread
from historical_sync.automation import DELIVERED, FAILED, PENDING, Delivery, Notice, WebhookEndpoint
from historical_sync.notices import email, message
from integrations import outgoing
from integrations.crypto import decrypt
from integrations.errors import Misconfigured, Unavailable

log = logging.getLogger(__name__)

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
# Between one attempt and the next, as the standard proposes; after the last it is given up.
BACK_OFF = (
    timedelta(seconds=5), 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR,
)  # fmt: skip
CLAIMED = MINUTE  # longer than an attempt takes,
MAIL_CLAIMED = 10 * MINUTE  # and than the mails before it take with a slow server
DISABLE_AFTER = timedelta(days=5)  # without one delivery that got through
AT_ONCE = 8
MOST = 200  # of a tenant in one go; the rest is due at once
GONE = 410  # the receiver wants no more

# Mail servers may be slow, and nothing else must wait for them.
_MAIL = ThreadPoolExecutor(2, thread_name_prefix="mail")


async def deliver_due(tenant_id: UUID | str, now: datetime | None = None) -> datetime | None:
    """Makes the attempts of the tenant that are due at `now`; when the next one is."""
    due: list[UUID] = await in_thread(_due)(tenant_id, now or timezone.now())
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(delivery_id: UUID) -> None:
        async with gate:
            await attempt(tenant_id, delivery_id, now)

    await asyncio.gather(*map(one, due))
    following: datetime | None = await in_thread(_next)(tenant_id)
    return following


async def attempt(tenant_id: UUID | str, delivery_id: UUID, now: datetime | None = None) -> None:
    """Makes one attempt, if it is due and nobody else is at it."""
    claimed: Delivery | None = await in_thread(_claim)(tenant_id, delivery_id, now or timezone.now())
    if claimed is None:
        return
    code, problem = None, "It could not be made ready."
    try:
        if claimed.endpoint is not None:
            code, problem = await _post(claimed, claimed.endpoint)
        else:
            problem = await DatabaseSyncToAsync(_mail, thread_sensitive=False, executor=_MAIL)(claimed)
    except Exception:
        log.exception("delivery %s could not be made", delivery_id)
    await in_thread(_record)(claimed, code, problem, now or timezone.now())


def resend(tenant_id: UUID | str, delivery_id: UUID, now: datetime) -> bool:
    """Has a webhook's delivery made again at once, whatever became of it; False when there is none."""
    return (
        Delivery.objects.filter(tenant_id=tenant_id, id=delivery_id, endpoint__enabled=True).update(
            status=PENDING, attempts=0, next_attempt_at=now, detail=""
        )
        > 0
    )


def tenants_with_something_due(now: datetime) -> set[UUID]:
    """Tenants of which something waits to be told."""
    with across_tenants("every tenant's notices are delivered"):
        new = Notice.objects.filter(spread_at=None).order_by().values_list("tenant_id", flat=True).distinct()
        due = Delivery.objects.filter(status=PENDING, next_attempt_at__lte=now)
        return {*new, *due.order_by().values_list("tenant_id", flat=True).distinct()}


def _due(tenant_id: UUID | str, now: datetime) -> list[UUID]:
    with tenant_scope(tenant_id):
        due = Delivery.objects.filter(tenant_id=tenant_id, status=PENDING, next_attempt_at__lte=now)
        return list(due.order_by("next_attempt_at").values_list("id", flat=True)[:MOST])


def _next(tenant_id: UUID | str) -> datetime | None:
    with tenant_scope(tenant_id):
        pending = Delivery.objects.filter(tenant_id=tenant_id, status=PENDING)
        return pending.aggregate(next=Min("next_attempt_at"))["next"]


def _claim(tenant_id: UUID | str, delivery_id: UUID, now: datetime) -> Delivery | None:
    with tenant_scope(tenant_id), transaction.atomic():
        claimed = Delivery.objects.filter(
            tenant_id=tenant_id, id=delivery_id, status=PENDING, next_attempt_at__lte=now
        ).update(
            attempts=F("attempts") + 1,
            last_attempt_at=now,
            next_attempt_at=Case(When(endpoint=None, then=Value(now + MAIL_CLAIMED)), default=Value(now + CLAIMED)),
        )
        if not claimed:
            return None
        return (
            Delivery.objects.filter(tenant_id=tenant_id)
            .select_related("notice__job__connection", "endpoint", "membership__user")
            .get(id=delivery_id)
        )


async def _post(delivery: Delivery, endpoint: WebhookEndpoint) -> tuple[int | None, str]:
    """(the answer's status, what went wrong in words)."""
    if not endpoint.enabled:
        return None, "The endpoint is turned off."
    try:
        body = message(delivery.notice)
        code = await outgoing.post(endpoint.url, body, _headers(delivery, endpoint, body))
    except (Unavailable, Misconfigured) as error:
        return None, str(error)
    return code, "" if 200 <= code < 300 else f"The receiver answered with status {code}."


def _headers(delivery: Delivery, endpoint: WebhookEndpoint, body: str) -> dict[str, str]:
    message_id, at = f"msg_{delivery.notice_id.hex}", timezone.now()
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(decrypt(endpoint.sealed_secret)).sign(message_id, at, body),
    }


def _mail(delivery: Delivery) -> str:
    """What went wrong, in words; "" when the mail server took it."""
    if _has_left(delivery):
        return "The member has no access any more."
    try:
        email(delivery).send()
    except (SMTPException, OSError) as error:
        log.warning("an e-mail could not be sent: %s: %s", type(error).__name__, error)
        return "The mail server did not take it."
    return ""


def _has_left(delivery: Delivery) -> bool:
    """Whether it is to somebody who was barred after it had been made."""
    return delivery.membership is not None and not delivery.membership.user.is_active


def _record(delivery: Delivery, code: int | None, problem: str, now: datetime) -> None:
    with tenant_scope(delivery.tenant_id), transaction.atomic():
        # Only of this attempt: one that was given up for lost may have been made by somebody else meanwhile.
        mine = Delivery.objects.filter(
            tenant_id=delivery.tenant_id, id=delivery.id, status=PENDING, attempts=delivery.attempts
        )
        wait = BACK_OFF[delivery.attempts - 1] if delivery.attempts <= len(BACK_OFF) else None
        off = _has_left(delivery)
        if delivery.endpoint is not None:
            off = not delivery.endpoint.enabled or code == GONE
        if not problem:
            mine.update(status=DELIVERED, next_attempt_at=None, response_code=code, detail="")
        elif wait is None or off:
            mine.update(status=FAILED, next_attempt_at=None, response_code=code, detail=problem)
        else:
            mine.update(next_attempt_at=now + wait, response_code=code, detail=problem)
        if delivery.endpoint is not None and delivery.endpoint.enabled:
            _judge(delivery.endpoint, code, problem, now)


def _judge(endpoint: WebhookEndpoint, code: int | None, problem: str, now: datetime) -> None:
    """Remembers since when nothing gets through to the endpoint, and turns it off when that is too long or it asks for it."""
    same = WebhookEndpoint.objects.filter(tenant_id=endpoint.tenant_id, id=endpoint.id, enabled=True)
    if not problem:
        same.exclude(failing_since=None).update(failing_since=None)
    elif code == GONE:
        same.update(enabled=False, disabled_reason="The receiver answered that it is gone (410).")
    else:
        same.filter(failing_since=None).update(failing_since=now)
        same.filter(failing_since__lte=now - DISABLE_AFTER).update(
            enabled=False, disabled_reason=f"Nothing got through for {DISABLE_AFTER.days} days. {problem}"
        )
