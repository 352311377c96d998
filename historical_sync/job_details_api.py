"""The REST API of what befell an import: its timeline, the parts that failed, what was kept aside, and the replay of that."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Prefetch, Q, QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from atom.access import Right
from atom.api_auth import TenantScoped, caller
from historical_sync import actions, states
from historical_sync import api_pages as pages
from historical_sync.api import JOB_ID, JobSerializer, find_job
from historical_sync.models import JobEvent, QuarantinedRecord, SyncChunk
from historical_sync.moments import moment
from historical_sync.serializers import job_json


class EventSerializer(serializers.Serializer):
    """What happened to an import."""

    id = serializers.UUIDField()
    at = serializers.DateTimeField()
    actor = serializers.CharField(help_text="Who did it: a person, a key, or Atom.")
    kind = serializers.CharField(help_text="started, retry, chunk_failed, completed, ...")
    detail = serializers.CharField(help_text="For people.")


class FailureSerializer(serializers.Serializer):
    """A part of an import that failed: a stream, in one of its partitions, over a span of time."""

    stream = serializers.CharField()
    partition = serializers.CharField(help_text='"" where there are none, or where they could not be listed.')
    partition_label = serializers.CharField()
    since = serializers.DateTimeField()
    until = serializers.DateTimeField(help_text="Exclusive.")
    code = serializers.CharField(help_text="As a job's last_error has it.")
    message = serializers.CharField()
    attempts = serializers.IntegerField(help_text="In a row that failed, without anything coming in between.")
    failed_at = serializers.DateTimeField(allow_null=True)


class QuarantinedSerializer(serializers.Serializer):
    """A record that could not be read. What it holds is kept encrypted, for a replay."""

    id = serializers.UUIDField()
    stream = serializers.CharField()
    partition = serializers.CharField()
    partition_label = serializers.CharField()
    external_id = serializers.CharField(allow_null=True, help_text="null: it could not be read either.")
    reason = serializers.CharField(help_text="For people.")
    detail = serializers.CharField(allow_null=True, help_text="What a programmer reads of it, where that says more.")
    occurred_at = serializers.DateTimeField(allow_null=True, help_text="null: it could not be read either.")
    received_at = serializers.DateTimeField(help_text="When it last came in.")


class EventPageSerializer(pages.PageSerializer):
    results = EventSerializer(many=True)


class FailurePageSerializer(pages.PageSerializer):
    results = FailureSerializer(many=True)


class QuarantinedPageSerializer(pages.PageSerializer):
    results = QuarantinedSerializer(many=True)


class ReplayedSerializer(serializers.Serializer):
    mapped = serializers.IntegerField(help_text="Records that came in.")
    left = serializers.IntegerField(help_text="Records that still can't be read.")
    untried = serializers.IntegerField(help_text="Records for which there was no time: replay again.")
    job = JobSerializer()


class JobDetailsViewSet(TenantScoped, viewsets.GenericViewSet):
    """What befell an import, part by part."""

    rights = {"replay": Right.OPERATE}
    serializer_class = EventSerializer
    # For the schema only; requests are answered from what is the job's.
    queryset = JobEvent.objects.none()
    pagination_class = None
    filter_backends = ()

    @extend_schema(
        operation_id="list_historical_sync_job_events",
        description="The timeline of an import, newest first.",
        parameters=[JOB_ID, *pages.PAGING],
        responses={200: EventPageSerializer},
    )
    def events(self, request: Request, job_id: str) -> Response:
        job, size = find_job(caller(request), job_id), pages.page_size(request)
        events = JobEvent.objects.filter(tenant_id=job.tenant_id, job=job)
        found = list(_newest_first(events, "at", pages.place(request, moment, UUID))[: size + 1])
        return pages.page_of(
            [_event_json(row) for row in found], found, size, lambda row: (row.at.isoformat(), str(row.id))
        )

    @extend_schema(
        operation_id="list_historical_sync_job_failures",
        description="The parts of an import that failed, in the order in which they are worked on. `resume` tries them again. "
        "Of an import that ended long ago those are forgotten that later ones went over.",
        parameters=[JOB_ID, *pages.PAGING],
        responses={200: FailurePageSerializer},
    )
    def failures(self, request: Request, job_id: str) -> Response:
        job, size = find_job(caller(request), job_id), pages.page_size(request)
        failed = SyncChunk.objects.filter(tenant_id=job.tenant_id, job=job, status=states.CHUNK_FAILED)
        if after := pages.place(request, _ordinal, UUID):
            ordinal, last = after
            failed = failed.filter(Q(ordinal__gt=ordinal) | Q(id__gt=last), ordinal__gte=ordinal)
        found = list(failed.order_by("ordinal", "id")[: size + 1])
        return pages.page_of(
            [_failure_json(row) for row in found], found, size, lambda row: (str(row.ordinal), str(row.id))
        )

    @extend_schema(
        operation_id="list_historical_sync_job_quarantined",
        description="The records of an import that could not be read and are kept aside, those that came last first.",
        parameters=[JOB_ID, *pages.PAGING],
        responses={200: QuarantinedPageSerializer},
    )
    def quarantined(self, request: Request, job_id: str) -> Response:
        job, size = find_job(caller(request), job_id), pages.page_size(request)
        kept = QuarantinedRecord.objects.filter(tenant_id=job.tenant_id, job=job, replayed_at=None)
        # The parts of the page's rows alone, and not what each holds.
        parts = SyncChunk.objects.filter(tenant_id=job.tenant_id).only("partition", "partition_label")
        kept = kept.defer("sealed_payload").prefetch_related(Prefetch("chunk", parts))
        found = list(_newest_first(kept, "created_at", pages.place(request, moment, UUID))[: size + 1])
        return pages.page_of(
            [_quarantined_json(row) for row in found],
            found,
            size,
            lambda row: (row.created_at.isoformat(), str(row.id)),
        )

    @extend_schema(
        operation_id="replay_historical_sync_job",
        description="Reads what is kept aside again, as it was received: the provider is not asked. What can be read now comes in.",
        parameters=[JOB_ID],
        request=None,
        responses={200: ReplayedSerializer},
    )
    def replay(self, request: Request, job_id: str) -> Response:
        actor = caller(request)
        done = actions.replay_quarantine(actor, find_job(actor, job_id), actions.REPLAY_SECONDS)
        return Response(
            {
                "mapped": done.mapped,
                "left": done.left,
                "untried": done.untried,
                "job": job_json(find_job(actor, job_id), actor),
            }
        )


def _newest_first(rows: QuerySet, time: str, after: tuple[datetime, UUID] | tuple[()]) -> QuerySet:
    """Those behind the place `after`. The time stands by itself as well, for what reads along it to begin there."""
    if after:
        at, last = after
        rows = rows.filter(Q(**{f"{time}__lt": at}) | Q(id__lt=last), **{f"{time}__lte": at})
    return rows.order_by(f"-{time}", "-id")


def _ordinal(text: str) -> int:
    if len(text) > 9:
        raise ValueError(text)
    return int(text)


def _event_json(row: JobEvent) -> dict[str, Any]:
    return {"id": row.id, "at": row.at, "actor": row.actor, "kind": row.kind, "detail": row.detail}


def _failure_json(row: SyncChunk) -> dict[str, Any]:
    return {
        "stream": row.stream,
        "partition": row.partition,
        "partition_label": row.partition_label,
        "since": row.since,
        "until": row.until,
        "code": row.error_code,
        "message": row.error_message,
        "attempts": row.attempts,
        "failed_at": row.completed_at,
    }


def _quarantined_json(row: QuarantinedRecord) -> dict[str, Any]:
    return {
        "id": row.id,
        "stream": row.stream,
        "partition": row.chunk.partition,
        "partition_label": row.chunk.partition_label,
        "external_id": row.external_id or None,
        "reason": row.why,
        "detail": None if row.why == row.reason else row.reason,
        "occurred_at": row.occurred_at,
        "received_at": row.created_at,
    }
