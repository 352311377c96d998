"""The REST API of the graph: what came in, and how it is linked."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from atom.access import Right
from atom.api_auth import TenantScoped, caller
from atom.errors import InvalidInput
from historical_sync import api_pages as pages
from historical_sync import graph
from historical_sync.api_pages import PAGE
from historical_sync.extraction import LONGEST_EXTERNAL_ID, LONGEST_KEY
from historical_sync.models import Entity, SyncRecord
from integrations.connect import get_connection
from integrations.models import Connection


class EntitySerializer(serializers.Serializer):
    """A thing of the company's: a person, an issue. Names and properties are those of all its keys, the newest counts."""

    id = serializers.UUIDField()
    kind = serializers.CharField()
    key = serializers.CharField()
    name = serializers.CharField()
    properties = serializers.DictField()
    as_of = serializers.DateTimeField(allow_null=True, help_text="null: only mentioned so far")


class RecordSerializer(serializers.Serializer):
    id = serializers.UUIDField()
    integration_id = serializers.CharField()
    connection_id = serializers.UUIDField()
    stream = serializers.CharField()
    external_id = serializers.CharField()
    occurred_at = serializers.DateTimeField()
    gone_at = serializers.DateTimeField(
        allow_null=True, help_text="When its provider said that it is there no more; null: not known to be gone."
    )


class WholeRecordSerializer(RecordSerializer):
    """A record as its provider sent it."""

    partition = serializers.CharField(
        help_text='Key of the repository, channel, ... it lies in; "" where there are none.'
    )
    entity_id = serializers.UUIDField(allow_null=True, help_text="What it is about.")
    job_id = serializers.UUIDField(help_text="The import that last wrote it.")
    stored_at = serializers.DateTimeField(help_text="When it did.")
    payload = serializers.DictField()


class EntityDetailSerializer(EntitySerializer):
    also_known_as = serializers.ListField(child=serializers.CharField(), help_text="Its other keys.")
    property_records = serializers.DictField(
        child=serializers.UUIDField(), help_text="Id of the record that each property comes from."
    )
    records = RecordSerializer(many=True, help_text=f"The newest {PAGE} that are about it.")


class EndSerializer(serializers.Serializer):
    id = serializers.UUIDField()
    kind = serializers.CharField(allow_null=True, help_text="null: it has not arrived yet")
    name = serializers.CharField(allow_null=True)


class RelationshipSerializer(serializers.Serializer):
    kind = serializers.CharField()
    source = EndSerializer()
    target = EndSerializer()
    record_id = serializers.UUIDField(help_text="The record that says so.")


class EntityPageSerializer(pages.PageSerializer):
    results = EntitySerializer(many=True)


class RecordPageSerializer(pages.PageSerializer):
    """A page may be short, or empty, without being the last."""

    results = WholeRecordSerializer(many=True)


class RelationshipPageSerializer(pages.PageSerializer):
    """A page may be short, or empty, without being the last."""

    results = RelationshipSerializer(many=True)


class GraphViewSet(TenantScoped, viewsets.GenericViewSet):
    """Entities and relationships of all the tenant's tools, and the records that they come from."""

    rights = {"records": Right.OPERATE, "record": Right.OPERATE}
    serializer_class = EntitySerializer
    # For the schema only; requests are answered from `graph`.
    queryset = Entity.objects.none()
    pagination_class = None
    filter_backends = ()

    @extend_schema(
        operation_id="list_entities",
        parameters=[
            pages.asked("q", "Words that the name has."),
            pages.asked("kind", "person, organization, issue, ..."),
            pages.asked(
                "source",
                "A connection's id: only what its records are about; not what they merely mention.",
                OpenApiTypes.UUID,
            ),
            pages.asked(
                "key", "Only the thing that goes by this key, such as github:issue:77#42; without q, kind and source."
            ),
            *pages.PAGING,
        ],
        responses={200: EntityPageSerializer},
    )
    def entities(self, request: Request) -> Response:
        tenant, size = caller(request).tenant, pages.page_size(request)
        if (key := pages.exact(request, "key", LONGEST_KEY)) is not None:
            if any(request.query_params.get(name) for name in ("q", "kind", "source")):
                raise InvalidInput("invalid", "A key says which thing is meant: nothing else narrows it.", "key")
            thing = graph.thing_called(tenant, key)
            return Response({"next": None, "results": [_entity_json(thing)] if thing else []})
        cursor = pages.place(request, _kind, UUID)
        found = graph.search(
            tenant,
            pages.text(request, "q", 100),
            pages.text(request, "kind", 40),
            pages.uuid(request, "source"),
            after=" ".join(map(str, cursor)),
            limit=size + 1,
        )
        return pages.page_of([_entity_json(row) for row in found], found, size, lambda row: (row.kind, str(row.id)))

    @extend_schema(
        operation_id="get_entity",
        parameters=[OpenApiParameter("entity_id", OpenApiTypes.UUID, OpenApiParameter.PATH)],
        responses={200: EntityDetailSerializer},
    )
    def entity(self, request: Request, entity_id: str) -> Response:
        tenant = caller(request).tenant
        found = graph.get_entity(tenant, entity_id)
        if found is None:
            raise Http404
        origins = graph.whole(tenant, [found])[found.id]
        keys = dict(Entity.objects.filter(tenant=tenant, merged_into=found.id).values_list("id", "key"))
        records = (
            SyncRecord.objects.filter(tenant=tenant, entity_id__in=[found.id, *keys])
            .select_related("connection")
            .order_by("-occurred_at", "id")[:PAGE]
        )
        return Response(
            {
                **_entity_json(found),
                "also_known_as": sorted(keys.values()),
                "property_records": origins,
                "records": [_record_json(row) for row in records],
            }
        )

    @extend_schema(
        operation_id="list_records",
        parameters=[
            OpenApiParameter("connection_id", OpenApiTypes.UUID, OpenApiParameter.PATH),
            pages.asked("stream", "Only this stream's."),
            pages.asked(
                "job",
                "An import's id: only records that it wrote, as new or as changed, and none after it.",
                OpenApiTypes.UUID,
            ),
            pages.asked("gone", "true: only what its provider says is there no more.", OpenApiTypes.BOOL),
            pages.asked("external_id", "Only the record that has this id at its provider. Needs `stream`."),
            *pages.PAGING,
        ],
        responses={200: RecordPageSerializer},
    )
    def records(self, request: Request, connection_id: str) -> Response:
        tenant, size, cursor = caller(request).tenant, pages.page_size(request), pages.place(request, UUID)
        try:
            connection = get_connection(tenant, UUID(connection_id))
        except (ValueError, Connection.DoesNotExist):
            raise Http404 from None
        stream, job, gone = pages.text(request, "stream", 60), pages.uuid(request, "job"), pages.flag(request, "gone")
        if (external_id := pages.exact(request, "external_id", LONGEST_EXTERNAL_ID)) is not None:
            if not stream:
                raise InvalidInput("invalid", "An id is one of a stream's: name it.", "stream")
            if job:
                raise InvalidInput("invalid", "A record that is named is told whichever import wrote it.", "job")
            if gone:
                raise InvalidInput("invalid", "A record that is named is told whether it is gone or not.", "gone")
            record = graph.record_called(tenant, connection, stream, external_id)
            return Response({"next": None, "results": [_whole_record_json(record)] if record else []})
        after = cursor[0] if cursor else None
        found, end = graph.records_of(tenant, connection, stream, job, gone=gone, after=after, limit=size)
        return Response({"next": end and pages.mark(str(end)), "results": [_whole_record_json(row) for row in found]})

    @extend_schema(
        operation_id="get_record",
        parameters=[OpenApiParameter("record_id", OpenApiTypes.UUID, OpenApiParameter.PATH)],
        responses={200: WholeRecordSerializer},
    )
    def record(self, request: Request, record_id: str) -> Response:
        try:
            wanted = UUID(record_id)
        except ValueError:
            raise Http404 from None
        found = SyncRecord.objects.filter(tenant=caller(request).tenant, id=wanted).select_related("connection").first()
        if found is None:
            raise Http404
        return Response(_whole_record_json(found))

    @extend_schema(
        operation_id="list_relationships",
        parameters=[
            pages.asked("entity", "An entity's id: only what is said about it.", OpenApiTypes.UUID),
            pages.asked("kind", "authored, mentions, ..."),
            *pages.PAGING,
        ],
        responses={200: RelationshipPageSerializer},
    )
    def relationships(self, request: Request) -> Response:
        tenant, size = caller(request).tenant, pages.page_size(request)
        wanted = pages.uuid(request, "entity")
        entity = graph.get_entity(tenant, wanted) if wanted else None
        if wanted and entity is None:
            raise Http404
        after = pages.place(request, UUID, UUID, int) or graph.BEGINNING
        found, end = graph.links_of(tenant, entity, pages.text(request, "kind", 40), after=after, limit=size)
        ends = graph.things(tenant, {end for row in found for end in (row.source_id, row.target_id)})
        results = [
            {
                "kind": row.kind,
                "source": _end_json(row.source_id, ends),
                "target": _end_json(row.target_id, ends),
                "record_id": row.record_id,
            }
            for row in found
        ]
        return Response({"next": end and pages.mark(*map(str, end)), "results": results})


def _entity_json(row: Entity) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "key": row.key,
        "name": row.name,
        "properties": row.properties,
        "as_of": row.as_of,
    }


def _record_json(row: SyncRecord) -> dict[str, Any]:
    return {
        "id": row.id,
        "integration_id": row.connection.provider_slug,
        "connection_id": row.connection_id,
        "stream": row.stream,
        "external_id": row.external_id,
        "occurred_at": row.occurred_at,
        "gone_at": row.gone_at,
    }


def _whole_record_json(row: SyncRecord) -> dict[str, Any]:
    return _record_json(row) | {
        "partition": row.partition,
        "entity_id": row.entity_id,
        "job_id": row.job_id,
        "stored_at": row.stored_at,
        "payload": row.payload,
    }


def _end_json(end: UUID, things: dict[UUID, Entity]) -> dict[str, Any]:
    thing = things.get(end)
    return {"id": thing.id if thing else end, "kind": thing and thing.kind, "name": thing and thing.name}


def _kind(text: str) -> str:
    if not text or " " in text:
        raise ValueError(text)
    return text
