"""Rows for tests that need some to be there."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.utils import timezone

from atom.models import ApiKey, AuditEvent, Membership
from atom.tenancy import tenant_scope
from historical_sync.allowance import month_of
from historical_sync.automation import Delivery, Notice, NotificationPreference, QueuedStart, WebhookEndpoint
from historical_sync.models import (
    Address,
    Coverage,
    DailyTotals,
    DataRemoval,
    Entity,
    EntityAlias,
    GraphGeneration,
    HistoricalSyncJob,
    JobEvent,
    MonthlyRecords,
    QuarantinedRecord,
    RollCall,
    StaleEntity,
    SyncChunk,
    SyncRecord,
    SyncSchedule,
)
from historical_sync.searching import EntityName
from integrations.crypto import encrypt
from integrations.models import Connection

NOW = datetime(2026, 10, 20, 12, tzinfo=UTC)


def make_connection(tenant: Any, provider: str = "github", account: str = "") -> Connection:
    connection = Connection(
        tenant=tenant,
        provider_slug=provider,
        external_account_id=account or uuid.uuid4().hex,
        account_label=f"{tenant.slug}-{provider}",
        by_oauth=True,
    )
    connection.set_credentials("secret-access-token", "secret-refresh-token")
    connection.save()
    return connection


def imported(tenant: Any, provider: str = "github") -> Connection:
    """A connection of which something has been imported: the issues of a month, up to yesterday."""
    connection = make_connection(tenant, provider)
    now = timezone.now()
    month = DateTimeTZRange(now - timedelta(days=30), now - timedelta(days=1))
    Coverage.objects.create(tenant=tenant, connection=connection, stream="issues", ranges=[month])
    return connection


def make_job(connection: Connection, **fields: Any) -> HistoricalSyncJob:
    now = timezone.now()
    values = {
        "tenant": connection.tenant,
        "connection": connection,
        "streams": ["issues"],
        "start_date": now - timedelta(days=30),
        "end_date": now,
        "created_by_label": "Alice",
    } | fields
    return HistoricalSyncJob.objects.create(**values)


def had(connection: Connection, records: int, at: datetime | None = None) -> None:
    """The connection has brought so many records in the month of `at`: now, by default."""
    month = month_of(at or timezone.now()).date()
    MonthlyRecords.objects.update_or_create(
        tenant_id=connection.tenant_id, connection=connection, month=month, defaults={"records": records}
    )


def one_of_everything(tenant: Any) -> SimpleNamespace:
    """A row in every tenant-owned table."""
    with tenant_scope(tenant.id):
        connection = make_connection(tenant)
        job = make_job(connection)
        chunk = SyncChunk.objects.create(
            tenant=tenant, job=job, ordinal=0, stream="issues", since=job.start_date, until=job.end_date
        )
        entity = Entity.objects.create(
            id=uuid.uuid4(), tenant=tenant, kind="issue", key=f"k{uuid.uuid4()}", name="An issue of Acme's"
        )
        EntityName.objects.create(
            tenant=tenant, entity_id=entity.id, name=entity.name, kind=entity.kind, thing_id=entity.id
        )
        Address.objects.create(id=uuid.uuid4(), tenant=tenant, key=f"a{uuid.uuid4()}", within_id=uuid.uuid4())
        record = SyncRecord.objects.create(
            id=uuid.uuid4(), tenant=tenant, connection=connection, job_id=job.id, stream="issues", external_id="1",
            occurred_at=NOW, payload={}, content_hash=uuid.uuid4(), entity_id=entity.id,
            link_kinds="part_of", link_ids=[entity.id],
        )  # fmt: skip
        EntityAlias.objects.create(tenant=tenant, alias_id=uuid.uuid4(), entity_id=entity.id, proof=True)
        QuarantinedRecord.objects.create(
            tenant=tenant,
            connection=connection,
            job=job,
            chunk=chunk,
            stream="issues",
            reason="odd",
            fingerprint=uuid.uuid4(),
            sealed_payload=b"x",
        )
        RollCall.objects.create(tenant=tenant, job=job, stream="issues", state=RollCall.MET, ids=[record.id])
        event = JobEvent.objects.create(tenant=tenant, job=job, actor="Alice", kind="started")
        DataRemoval.objects.create(tenant=tenant, connection=connection, completed_at=NOW)
        GraphGeneration.objects.get_or_create(tenant=tenant)
        StaleEntity.objects.create(tenant=tenant, entity_id=uuid.uuid4())
        Coverage.objects.create(tenant=tenant, connection=connection, stream="issues", ranges=[])
        DailyTotals.objects.create(tenant=tenant, connection=connection, day=NOW.date(), completed=1, records=1)
        MonthlyRecords.objects.create(tenant=tenant, connection=connection, month=NOW.date().replace(day=1), records=1)
        schedule = SyncSchedule.objects.create(
            tenant=tenant, connection=connection, interval=timedelta(days=1), next_run_at=NOW
        )
        queued = QueuedStart.objects.create(
            tenant=tenant, connection=connection, reason="Three imports run", created_by_label="Alice"
        )
        endpoint = WebhookEndpoint.objects.create(
            tenant=tenant, url="https://acme.test/hook", events=["failed"], sealed_secret=encrypt("whsec_c2VjcmV0")
        )
        notice = Notice.objects.create(tenant=tenant, job=job, revision=0, event="failed", snapshot={}, spread_at=NOW)
        delivery = Delivery.objects.create(
            tenant=tenant, notice=notice, endpoint=endpoint, status="failed", next_attempt_at=None
        )
        NotificationPreference.objects.get_or_create(
            tenant=tenant, membership=Membership.objects.filter(tenant=tenant)[0]
        )
        AuditEvent.objects.create(tenant=tenant, actor="Alice", action="key.created", subject="k")
        membership = Membership.objects.filter(tenant=tenant).first()
        key, _ = ApiKey.objects.create_key(tenant=tenant, role="member", name="k")
    return SimpleNamespace(
        connection=connection,
        job=job,
        chunk=chunk,
        entity=entity,
        record=record,
        event=event,
        schedule=schedule,
        key=key,
        membership=membership,
        queued=queued,
        endpoint=endpoint,
        delivery=delivery,
    )
