"""Delivers notices: webhooks by Standard Webhooks, e-mail by Django's backend; again later when that did not work.

An attempt is claimed in a transaction, made outside of any, and recorded in another. A worker that dies in between leaves a claim
that runs out: the attempt is made again with the same id, by which a receiver knows it. So nothing is lost; twice comes only what
had arrived when its worker died. What is due, and for how long a claim holds, goes by the database's clock: workers' own may differ
(`now` is for who wants it to be another time).

Each receiver has a lane of its own (`Deliveries`): one that takes all the time it is given holds up what goes to itself, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from smtplib import SMTPException
from uuid import UUID

from channels.db import DatabaseSyncToAsync
from django.conf import settings
from django.db import transaction
from django.db.models import Case, Expression, F, Min, QuerySet, When
from django.db.models.functions import Now
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
AT_ONCE = 4  # to one receiver
IN_ALL = 64  # of a worker
MOST = 200  # to one receiver in one go; the rest is due at once
SOON = MINUTE  # sooner than `upkeep.by_the_clock` looks again
GONE = 410  # the receiver wants no more

# Mail servers may be slow, and nothing else must wait for them.
_MAIL = ThreadPoolExecutor(2, thread_name_prefix="mail")


class Deliveries:
    """A worker's deliveries: a lane for each receiver with something due, which stays until nothing is due there soon."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, UUID | None], tuple[asyncio.Task[None], asyncio.Event]] = {}
        self._gate = asyncio.Semaphore(IN_ALL)
        self._closing = False

    async def look(self, tenant_id: str) -> None:
        """Has what is due of the tenant delivered; returns without waiting for that."""
        for receiver in await in_thread(receivers)(tenant_id):
            if (lane := self._lanes.get((tenant_id, receiver))) is not None:
                lane[1].set()
            elif not self._closing:
                again = asyncio.Event()
                task = asyncio.create_task(self._lane(tenant_id, receiver, again), name=f"deliver {receiver}")
                self._lanes[tenant_id, receiver] = task, again

    async def _lane(self, tenant_id: str, receiver: UUID | None, again: asyncio.Event) -> None:
        try:
            while not self._closing:
                again.clear()
                wait = await deliver_due(tenant_id, receiver, attempt=self._attempt)
                if wait is not None and wait < SOON:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(again.wait(), max(0.0, wait.total_seconds()))
                elif not again.is_set():
                    return
        except Exception as error:  # the database is away, for one: what is due is found by the clock
            log.warning("deliveries of tenant %s are left for later: %s", tenant_id, " ".join(str(error).split()))
        finally:
            del self._lanes[tenant_id, receiver]

    async def _attempt(self, tenant_id: UUID | str, delivery_id: UUID, now: datetime | None) -> None:
        async with self._gate:
            if not self._closing:
                await attempt(tenant_id, delivery_id, now)

    async def close(self, seconds: float) -> None:
        """Begins nothing more and gives what is on its way so long; what is cut off then is made again when its claim has run out."""
        self._closing = True
        for _, again in self._lanes.values():
            again.set()
        if tasks := [task for task, _ in self._lanes.values()]:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


async def attempt(tenant_id: UUID | str, delivery_id: UUID, now: datetime | None = None) -> None:
    """Makes one attempt, if it is due and nobody else is at it."""
    claimed: Delivery | None = await in_thread(_claim)(tenant_id, delivery_id, now)
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
    await in_thread(_record)(claimed, code, problem, now)


async def deliver_due(
    tenant_id: UUID | str,
    receiver: UUID | None,
    now: datetime | None = None,
    attempt: Callable[[UUID | str, UUID, datetime | None], Awaitable[None]] = attempt,
) -> timedelta | None:
    """Makes the attempts to the receiver that are due; how long until its next one. receiver: an endpoint; None: mails."""
    due: Iterator[UUID] = iter(await in_thread(_due)(tenant_id, receiver, now))

    async def one_after_the_other() -> None:
        for delivery_id in due:
            await attempt(tenant_id, delivery_id, now)

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
    wait: timedelta | None = await in_thread(_wait)(tenant_id, receiver, now)
    return wait


def receivers(tenant_id: UUID | str) -> list[UUID | None]:
    """To whom something of the tenant is on its way: its endpoints, and None for mails."""
    with tenant_scope(tenant_id):
        pending = Delivery.objects.filter(tenant_id=tenant_id, status=PENDING)
        return list(pending.order_by().values_list("endpoint_id", flat=True).distinct())


def resend(tenant_id: UUID | str, delivery_id: UUID) -> bool:
    """Has a webhook's delivery made again at once, whatever became of it; False when there is none."""
    return (
        Delivery.objects.filter(tenant_id=tenant_id, id=delivery_id, endpoint__enabled=True).update(
            status=PENDING, attempts=0, next_attempt_at=Now(), detail=""
        )
        > 0
    )


def tenants_with_something_due(now: datetime) -> set[UUID]:
    """Tenants of which something waits to be told."""
    with across_tenants("every tenant's notices are delivered"):
        new = Notice.objects.filter(spread_at=None).order_by().values_list("tenant_id", flat=True).distinct()
        due = Delivery.objects.filter(status=PENDING, next_attempt_at__lte=now)
        return {*new, *due.order_by().values_list("tenant_id", flat=True).distinct()}


def _at(now: datetime | None, later: timedelta = timedelta(0)) -> datetime | Expression:
    return Now() + later if now is None else now + later


def _due(tenant_id: UUID | str, receiver: UUID | None, now: datetime | None) -> list[UUID]:
    with tenant_scope(tenant_id):
        due = _pending(tenant_id, receiver).filter(next_attempt_at__lte=_at(now))
        return list(due.order_by("next_attempt_at").values_list("id", flat=True)[:MOST])


def _wait(tenant_id: UUID | str, receiver: UUID | None, now: datetime | None) -> timedelta | None:
    with tenant_scope(tenant_id):
        return _pending(tenant_id, receiver).aggregate(wait=Min("next_attempt_at") - _at(now))["wait"]


def _pending(tenant_id: UUID | str, receiver: UUID | None) -> QuerySet[Delivery]:
    return Delivery.objects.filter(tenant_id=tenant_id, endpoint=receiver, status=PENDING)


def _claim(tenant_id: UUID | str, delivery_id: UUID, now: datetime | None) -> Delivery | None:
    with tenant_scope(tenant_id), transaction.atomic():
        claimed = Delivery.objects.filter(
            tenant_id=tenant_id, id=delivery_id, status=PENDING, next_attempt_at__lte=_at(now)
        ).update(
            attempts=F("attempts") + 1,
            last_attempt_at=_at(now),
            next_attempt_at=Case(When(endpoint=None, then=_at(now, MAIL_CLAIMED)), default=_at(now, CLAIMED)),
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
    if in_vain := _in_vain(delivery):
        return in_vain
    try:
        email(delivery).send()
    except (SMTPException, OSError) as error:
        log.warning("an e-mail could not be sent: %s: %s", type(error).__name__, error)
        return "The mail server did not take it."
    return ""


def _in_vain(delivery: Delivery) -> str:
    """Why an e-mail is of no use, now or later, in words; "" when it is, and for a webhook."""
    if delivery.membership is None:
        return ""
    if not settings.SENDS_MAIL:
        return "This Atom sends no e-mail."
    return "" if delivery.membership.user.is_active else "The member has no access any more."


def _record(delivery: Delivery, code: int | None, problem: str, now: datetime | None) -> None:
    with tenant_scope(delivery.tenant_id), transaction.atomic():
        # The endpoint's row before its delivery's, as whoever turns it off locks them.
        if delivery.endpoint is not None and delivery.endpoint.enabled:
            _judge(delivery.endpoint, code, problem, now)
        # Only of this attempt: one that was given up for lost may have been made by somebody else meanwhile.
        mine = Delivery.objects.filter(
            tenant_id=delivery.tenant_id, id=delivery.id, status=PENDING, attempts=delivery.attempts
        )
        wait = BACK_OFF[delivery.attempts - 1] if delivery.attempts <= len(BACK_OFF) else None
        off = bool(_in_vain(delivery))
        if delivery.endpoint is not None:
            off = not delivery.endpoint.enabled or code == GONE
        if not problem:
            mine.update(status=DELIVERED, next_attempt_at=None, response_code=code, detail="")
        elif wait is None or off:
            mine.update(status=FAILED, next_attempt_at=None, response_code=code, detail=problem)
        else:
            mine.update(next_attempt_at=_at(now, wait), response_code=code, detail=problem)


def _judge(endpoint: WebhookEndpoint, code: int | None, problem: str, now: datetime | None) -> None:
    """Remembers since when nothing gets through to the endpoint, and turns it off when that is too long or it asks for it."""
    same = WebhookEndpoint.objects.filter(tenant_id=endpoint.tenant_id, id=endpoint.id, enabled=True)
    if not problem:
        same.exclude(failing_since=None).update(failing_since=None)
    elif code == GONE:
        same.update(enabled=False, disabled_reason="The receiver answered that it is gone (410).")
    else:
        same.filter(failing_since=None).update(failing_since=_at(now))
        same.filter(failing_since__lte=_at(now, -DISABLE_AFTER)).update(
            enabled=False, disabled_reason=f"Nothing got through for {DISABLE_AFTER.days} days. {problem}"
        )
