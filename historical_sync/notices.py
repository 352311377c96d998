"""What is told of jobs: from the notice that the database wrote when a job ended to one delivery for each who wants to know.

The trigger `job_ended` writes the notice in the job's own transaction, whoever ended it. Spreading is one transaction, so a notice
is spread once; what is on its way is a row with the time of its next attempt (`delivering.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now
from django.urls import reverse

from atom.models import Membership
from atom.tenancy import across_tenants
from atom.words import plural, sentence
from historical_sync import planning
from historical_sync.automation import Delivery, Notice, NotificationPreference, WebhookEndpoint
from historical_sync.models import HistoricalSyncJob
from historical_sync.serializers import job_json
from integrations.providers.base import Window

KEPT = timedelta(days=30)  # notices, and with them the log of deliveries
REMINDED = timedelta(hours=20)  # of a schedule that goes on failing, and no earlier: a daily one each day
LONGEST = timedelta(days=7)  # that an import takes, as a rule: a schedule leaves tens of thousands


def spread(tenant_id: UUID | str) -> None:
    """Makes the tenant's new notices deliveries that are due at once. The caller is in the tenant's scope."""
    with transaction.atomic():
        new = list(
            Notice.objects.filter(tenant_id=tenant_id, spread_at=None)
            .select_for_update(skip_locked=True)
            .order_by("at")
        )
        if not new:
            return
        endpoints = list(WebhookEndpoint.objects.filter(tenant_id=tenant_id, enabled=True))
        members = preferences(tenant_id)
        made = []
        for notice in new:
            common: dict[str, Any] = {
                "tenant_id": tenant_id,
                "notice": notice,
                "next_attempt_at": Now(),
                "created_at": Now(),
            }
            made += [Delivery(endpoint=one, **common) for one in endpoints if notice.event in one.events]
            if not _goes_on(notice):
                made += [Delivery(membership=one.membership, **common) for one in members if one.wants(notice)]
        Delivery.objects.bulk_create(made, ignore_conflicts=True)
        Notice.objects.filter(tenant_id=tenant_id, id__in=[notice.id for notice in new]).update(spread_at=Now())


def preferences(tenant_id: UUID | str) -> list[NotificationPreference]:
    """Of all of the tenant's members who may sign in."""
    members = Membership.objects.filter(tenant_id=tenant_id, user__is_active=True)
    return [NotificationPreference.of(one) for one in members.select_related("user", "notification_preference")]


def _goes_on(notice: Notice) -> bool:
    """Whether members know it by an e-mail: a schedule's runs fail, have failed before for the same reason, and none has completed."""
    failed = notice.snapshot
    if notice.event != "failed" or failed["trigger"] != "schedule":
        return False
    since = notice.at - REMINDED
    earlier = (
        Notice.objects.filter(tenant_id=notice.tenant_id, job__connection_id=failed["connection_id"])
        .filter(at__gt=since, at__lt=notice.at, job__created_at__gt=since - LONGEST)
        .annotate(mailed=Exists(Delivery.objects.filter(notice=OuterRef("pk"), membership__isnull=False)))
        .order_by("-at")
    )
    for one in earlier:
        if (one.event, one.snapshot["last_error_code"]) != ("failed", failed["last_error_code"]):
            return False
        if one.job_id == notice.job_id:
            return False  # somebody had it go on, and waits
        if one.mailed:
            return True
    return False


def job_of(notice: Notice) -> HistoricalSyncJob:
    """The job as it was when the notice was written."""
    snapshot = notice.snapshot
    fields = HistoricalSyncJob._meta.concrete_fields
    job = HistoricalSyncJob(
        **{field.attname: field.to_python(snapshot[field.column]) for field in fields if field.column in snapshot}
    )
    job.connection = notice.job.connection
    if notice.event == "completed":  # for good, and what it went without was put into words right after
        job.last_error_code, job.last_error_message = notice.job.last_error_code, notice.job.last_error_message
    return job


def message(notice: Notice) -> str:
    """A webhook's body: Standard Webhooks' shape with the contract's job as its data."""
    return orjson.dumps(
        {
            "type": f"job.{notice.event}",
            "timestamp": notice.at.isoformat().replace("+00:00", "Z"),
            "data": job_json(job_of(notice), now=notice.at),
        }
    ).decode()


def email(delivery: Delivery) -> EmailMessage:
    """The e-mail of a delivery. Its Message-ID is the same however often it is sent: mail programs show one."""
    notice, membership = delivery.notice, delivery.membership
    assert membership is not None
    job = job_of(notice)
    connection = job.connection
    subject = f"{connection.provider_name} import {notice.event}: {connection.account_label}"
    lines = [
        f"The import of {connection} {notice.event}.",
        "",
        f"Range: {planning.words(Window(job.start_date, job.end_date))} (UTC)",
        f"Came in: {plural(job.records_processed, 'record,records')}",
    ]
    if job.last_error_message:
        why = "Why: " if notice.event != "completed" else ""
        lines.append(f"{why}{sentence(job.last_error_message)}")
    return written(membership, subject, lines, "The import", reverse("job", args=[job.id]), delivery.id)


def written(
    membership: Membership, subject: str, lines: Sequence[str], what: str, path: str, message_id: UUID
) -> EmailMessage:
    """An e-mail to the member that nobody answers. what, path: of the page that it is about, where this Atom knows its own address."""
    root = settings.PUBLIC_URL
    where = [f"{what}: {root}{path}"] if root else []
    choice = f"{root}{reverse('notifications')}" if root else "in Atom, under Notifications"
    return EmailMessage(
        " ".join(subject.split()),
        "\n".join([*lines, "", *where, f"Which e-mails you get: {choice}", ""]),
        to=[membership.user.email],
        headers={"Message-ID": f"<{message_id}@atom.invalid>", "Auto-Submitted": "auto-generated"},
    )


def forget_old(now: datetime) -> None:
    """Removes what was told long ago, of every tenant."""
    with across_tenants("old notices of every tenant are removed"):
        Notice.objects.filter(at__lt=now - KEPT).delete()
