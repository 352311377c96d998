"""The REST API of jobs. Paths, fields and codes are the contract's; what happens is in `actions`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import django_filters
from django import forms
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import Http404
from django.shortcuts import get_object_or_404
from django_filters.fields import MultipleChoiceField
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers, status, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from atom.access import Actor, Right
from atom.api_auth import TenantScoped, caller
from atom.api_fields import Body, BoundedList
from atom.errors import InvalidInput
from historical_sync import actions, states
from historical_sync.models import KINDS, TRIGGERS, HistoricalSyncJob
from historical_sync.moments import moment
from historical_sync.serializers import job_json
from integrations.connect import connections_of
from integrations.models import Connection
from integrations.providers import PROVIDERS

MAX_KEY = 200
# What an import of what is new, and one of what is missing, find out themselves.
FOR_HISTORY_ONLY = ("start_date", "end_date", "streams", "full")


@extend_schema_field(OpenApiTypes.STR)
class MomentField(serializers.Field):
    """An ISO date or date-time. `end`: a date means its end."""

    default_error_messages = {
        "invalid": "Must be an ISO date or date-time, such as 2026-01-31 or 2026-01-31T09:00:00Z."
    }

    def __init__(self, *, end: bool = False, **kwargs: Any) -> None:
        self.end = end
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> datetime:
        try:
            return moment(data, end=self.end)
        except (AttributeError, TypeError, ValueError):
            self.fail("invalid")

    def to_representation(self, value: datetime) -> str:
        return value.isoformat()


class StartSerializer(Body):
    """What to import; all of it optional."""

    kind = serializers.ChoiceField(
        KINDS,
        required=False,
        default="historical",
        help_text="historical: the range below, as far as it is not here; incremental: what is new and changed since the last import; "
        "repair: what imports were to bring and did not. Both of these go without dates, streams and full.",
    )
    connection_id = serializers.UUIDField(required=False, help_text="Needed when the provider has several connections.")
    start_date = MomentField(
        required=False,
        help_text="ISO date or date-time, UTC unless it says otherwise; default the day three months back.",
    )
    end_date = MomentField(
        required=False, end=True, help_text="ISO date (whole day) or date-time, exclusive; default now."
    )
    streams = BoundedList(child=serializers.CharField(max_length=60), required=False, max_length=100)
    full = serializers.BooleanField(required=False, default=False, help_text="Import again what is covered already.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["kind"] != "historical":
            # full=false says nothing else than its absence, and generated clients send it.
            beside = [name for name in FOR_HISTORY_ONLY if name in attrs and attrs[name] is not False]
            if beside:
                words = f"An import of kind {attrs['kind']} finds out itself what to bring: leave this out."
                raise serializers.ValidationError({name: [words] for name in beside}, code="invalid")
        return attrs


class LastErrorSerializer(serializers.Serializer):
    code = serializers.CharField()
    message = serializers.CharField()


class CanSerializer(serializers.Serializer):
    cancel = serializers.BooleanField()
    pause = serializers.BooleanField()
    resume = serializers.BooleanField()


class JobSerializer(serializers.Serializer):
    """HistoricalSyncJob. Describes `serializers.job_json`, which makes it."""

    id = serializers.UUIDField()
    integration_id = serializers.CharField(help_text="The provider's slug.")
    connection_id = serializers.UUIDField()
    status = serializers.ChoiceField(states.STATUSES)
    control = serializers.ChoiceField(states.CONTROLS, help_text="What was asked for and has not happened yet.")
    pause_reason = serializers.ChoiceField(states.PAUSE_REASONS, allow_null=True)
    kind = serializers.ChoiceField(KINDS, help_text="incremental: what is new; repair: what is missing.")
    trigger = serializers.ChoiceField(TRIGGERS, help_text="Who or what began it.")
    start_date = serializers.DateTimeField()
    end_date = serializers.DateTimeField(help_text="Exclusive.")
    streams = serializers.ListField(child=serializers.CharField())
    total_chunks = serializers.IntegerField()
    completed_chunks = serializers.IntegerField()
    failed_chunks = serializers.IntegerField()
    total_records_estimate = serializers.IntegerField(allow_null=True, help_text="null while nobody knows.")
    estimate_quality = serializers.ChoiceField(("exact", "about", "unknown"))
    records_processed = serializers.IntegerField(help_text="Stored, or brought up to date.")
    records_skipped = serializers.IntegerField(help_text="Here already, and unchanged.")
    records_quarantined = serializers.IntegerField(help_text="Kept aside, as they could not be read.")
    entities_extracted = serializers.IntegerField()
    relationships_extracted = serializers.IntegerField()
    entities_by_kind = serializers.DictField(child=serializers.IntegerField())
    relationships_by_kind = serializers.DictField(child=serializers.IntegerField())
    progress_percentage = serializers.IntegerField(min_value=0, max_value=100)
    records_per_second = serializers.FloatField(allow_null=True)
    estimated_seconds_remaining = serializers.IntegerField(allow_null=True)
    waiting_until = serializers.DateTimeField(allow_null=True, help_text="When the provider will be asked again.")
    last_error = LastErrorSerializer(allow_null=True, help_text="Also what a scheduled import completed without.")
    retry_count = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    completed_at = serializers.DateTimeField(allow_null=True)
    created_by = serializers.CharField(allow_null=True)
    can = CanSerializer(help_text="What the caller may do with it right now.")


class StartedSerializer(serializers.Serializer):
    job_id = serializers.UUIDField()
    job = JobSerializer()


class Several(MultipleChoiceField):
    """A choice that may be given more than once. One that is empty is none, as it was where there could be one only."""

    def to_python(self, value: Any) -> list[str]:
        return [one for one in super().to_python(value) if one]


class Statuses(django_filters.MultipleChoiceFilter):
    field_class = Several


class MomentInput(forms.CharField):
    """An ISO date, which means its beginning, or date-time."""

    def to_python(self, value: Any) -> datetime | None:  # type: ignore[override]
        given = super().to_python(value)
        try:
            return moment(given) if given else None
        except ValueError:
            raise ValidationError(MomentField.default_error_messages["invalid"], code="invalid") from None


class Moment(django_filters.Filter):
    field_class = MomentInput


class JobFilter(django_filters.FilterSet):
    status = Statuses(
        choices=[(s, s) for s in states.STATUSES],
        distinct=False,
        help_text="Only jobs of this status; may be given several times.",
    )
    kind = django_filters.ChoiceFilter(choices=[(kind, kind) for kind in KINDS], help_text="Only jobs of this kind.")
    created_after = Moment(
        field_name="created_at", lookup_expr="gte", help_text="ISO date or date-time: only jobs from then on."
    )
    created_before = Moment(
        field_name="created_at", lookup_expr="lt", help_text="ISO date or date-time, exclusive: only jobs before it."
    )

    class Meta:
        model = HistoricalSyncJob
        fields = ["status", "kind"]


class AllJobsFilter(JobFilter):
    """Of the list that no address narrows to a connection or a provider."""

    integration_id = django_filters.ChoiceFilter(
        field_name="connection__provider_slug",
        choices=[(slug, slug) for slug in PROVIDERS],
        help_text="Only this provider's.",
    )
    connection_id = django_filters.UUIDFilter(field_name="connection", help_text="Only this connection's.")


JOB_ID = OpenApiParameter("job_id", OpenApiTypes.UUID, OpenApiParameter.PATH)
INTEGRATION_ID = OpenApiParameter(
    "integration_id",
    OpenApiTypes.STR,
    OpenApiParameter.PATH,
    description="A provider's slug (salesforce) or a connection's id.",
)


class HistoricalSyncViewSet(TenantScoped, viewsets.GenericViewSet):
    """Imports of a connection's history."""

    rights = {"start": Right.OPERATE, "cancel": Right.OPERATE, "pause": Right.OPERATE, "resume": Right.OPERATE}
    serializer_class = JobSerializer
    filterset_class = JobFilter
    # For the schema only; requests are answered from `jobs_of`.
    queryset = HistoricalSyncJob.objects.none()

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        return super().filter_queryset(queryset) if self.action in ("jobs", "all_jobs") else queryset

    @extend_schema(
        operation_id="start_historical_sync",
        request=StartSerializer,
        responses={202: StartedSerializer},
        parameters=[
            INTEGRATION_ID,
            OpenApiParameter(
                "Idempotency-Key",
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                description="The same key gives the same job.",
            ),
        ],
    )
    def start(self, request: Request, integration_id: str) -> Response:
        actor = caller(request)
        given = StartSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        asked = given.validated_data
        key = request.headers.get("Idempotency-Key", "").strip()
        if len(key) > MAX_KEY or not key.isprintable():
            raise InvalidInput(
                "invalid", f"Idempotency-Key must be at most {MAX_KEY} printable characters.", "Idempotency-Key"
            )
        # Looked up first: the provider may have got a second account since.
        job = actions.job_of_key(actor.tenant, key) if key else None
        if job is None:
            connection = self._connection(actor, integration_id, asked.get("connection_id"))
            if asked["kind"] == "historical":
                job = actions.start_sync(
                    actor,
                    connection,
                    start=asked.get("start_date"),
                    end=asked.get("end_date"),
                    streams=asked.get("streams"),
                    full=asked["full"],
                    trigger="api",
                    idempotency_key=key,
                )
            else:
                start = {"incremental": actions.start_incremental, "repair": actions.repair_gaps}[asked["kind"]]
                job = start(actor, connection, trigger="api", idempotency_key=key)
        job = actions.get_job(actor.tenant, job.id)
        return Response({"job_id": str(job.id), "job": job_json(job, actor)}, status=status.HTTP_202_ACCEPTED)

    @extend_schema(
        operation_id="list_historical_sync_jobs", parameters=[INTEGRATION_ID], responses={200: JobSerializer(many=True)}
    )
    def jobs(self, request: Request, integration_id: str) -> Response:
        actor = caller(request)
        jobs = actions.jobs_of(actor.tenant).with_names()
        connection_id = _uuid(integration_id)
        if connection_id is not None:
            jobs = jobs.filter(connection_id=connection_id)
        elif integration_id in PROVIDERS:
            jobs = jobs.filter(connection__provider_slug=integration_id)
        else:
            raise Http404
        return self._page(actor, jobs, connection_id)

    @extend_schema(operation_id="list_all_historical_sync_jobs", responses={200: JobSerializer(many=True)})
    def all_jobs(self, request: Request) -> Response:
        actor = caller(request)
        return self._page(
            actor, actions.jobs_of(actor.tenant).with_names(), _uuid(request.query_params.get("connection_id", ""))
        )

    def _page(self, actor: Actor, jobs: QuerySet, connection_id: UUID | None) -> Response:
        page = self.paginate_queryset(self.filter_queryset(jobs.order_by("-created_at", "id")))
        if not page and connection_id is not None:  # where there is a job there is a connection
            get_object_or_404(connections_of(actor.tenant), id=connection_id)
        return self.get_paginated_response([job_json(job, actor) for job in page or []])

    @extend_schema(operation_id="get_historical_sync_job", parameters=[JOB_ID], responses={200: JobSerializer})
    def job(self, request: Request, job_id: str) -> Response:
        actor = caller(request)
        return Response(job_json(find_job(actor, job_id), actor))

    @extend_schema(
        operation_id="cancel_historical_sync_job", parameters=[JOB_ID], request=None, responses={202: JobSerializer}
    )
    def cancel(self, request: Request, job_id: str) -> Response:
        return self._act(request, job_id, actions.cancel)

    @extend_schema(
        operation_id="pause_historical_sync_job", parameters=[JOB_ID], request=None, responses={202: JobSerializer}
    )
    def pause(self, request: Request, job_id: str) -> Response:
        return self._act(request, job_id, actions.pause)

    @extend_schema(
        operation_id="resume_historical_sync_job", parameters=[JOB_ID], request=None, responses={202: JobSerializer}
    )
    def resume(self, request: Request, job_id: str) -> Response:
        return self._act(request, job_id, actions.resume)

    def _act(
        self, request: Request, job_id: str, action: Callable[[Actor, HistoricalSyncJob], HistoricalSyncJob]
    ) -> Response:
        actor = caller(request)
        job = action(actor, find_job(actor, job_id))
        return Response(job_json(job, actor), status=status.HTTP_202_ACCEPTED)

    def _connection(self, actor: Actor, integration_id: str, named: UUID | None) -> Connection:
        """The connection that the path and the body mean; 404 for what is not the tenant's."""
        connections = connections_of(actor.tenant)
        by_path = _uuid(integration_id)
        if by_path is not None:
            found = connections.filter(id=by_path).first()
            if found is None:
                raise Http404
            if named is not None and named != by_path:
                raise InvalidInput("invalid", "The address names another connection.", "connection_id")
            return found
        if integration_id not in PROVIDERS:
            raise Http404
        candidates = connections.filter(provider_slug=integration_id)
        if named is not None:
            found = candidates.filter(id=named).first()
            if found is None:
                raise InvalidInput(
                    "invalid", f"{PROVIDERS[integration_id].name} has no such connection.", "connection_id"
                )
            return found
        # Disconnected ones only count when there is nothing else: then they are what has to be reconnected.
        choice = list(candidates.live()[:2]) or list(candidates[:2])
        if not choice:
            raise Http404
        if len(choice) > 1:
            raise InvalidInput(
                "connection_required",
                f"{PROVIDERS[integration_id].name} has several connections: name one.",
                "connection_id",
            )
        return choice[0]


def find_job(actor: Actor, job_id: str) -> HistoricalSyncJob:
    """The caller's job; raises Http404."""
    found = _uuid(job_id)
    if found is None:
        raise Http404
    try:
        return actions.get_job(actor.tenant, found)
    except HistoricalSyncJob.DoesNotExist:
        raise Http404 from None


def _uuid(value: str) -> UUID | None:
    try:
        return UUID(value)
    except ValueError:
        return None
