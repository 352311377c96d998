"""The REST API of the graph: what came in, and how it is linked."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
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
from historical_sync import graph
from historical_sync.extraction import LONGEST_EXTERNAL_ID, LONGEST_KEY
from historical_sync.models import Entity, SyncRecord
from integrations.connect import get_connection
from integrations.models import Connection

PAGE = 50
MOST = 200


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


class EntityPageSerializer(serializers.Serializer):
    next = serializers.CharField(allow_null=True, help_text="Goes into `cursor` for the next page.")
    results = EntitySerializer(many=True)


class RecordPageSerializer(serializers.Serializer):
    """A page may be short, or empty, without being the last."""

    next = serializers.CharField(allow_null=True, help_text="Goes into `cursor` for the next page; null at the end.")
    results = WholeRecordSerializer(many=True)


class RelationshipPageSerializer(serializers.Serializer):
    """A page may be short, or empty, without being the last."""

    next = serializers.CharField(allow_null=True, help_text="Goes into `cursor` for the next page; null at the end.")
    results = RelationshipSerializer(many=True)


def _asked(name: str, description: str, of: Any = OpenApiTypes.STR) -> OpenApiParameter:
    return OpenApiParameter(name, of, OpenApiParameter.QUERY, description=description)


PAGING = [
    _asked("cursor", "`next` of the page before."),
    _asked("page_size", "How many results.", {"type": "integer", "minimum": 1, "maximum": MOST, "default": PAGE}),
]


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
            _asked("q", "Words that the name has."),
            _asked("kind", "person, organization, issue, ..."),
            _asked(
                "source",
                "A connection's id: only what its records are about; not what they merely mention.",
                OpenApiTypes.UUID,
            ),
            _asked(
                "key", "Only the thing that goes by this key, such as github:issue:77#42; without q, kind and source."
            ),
            *PAGING,
        ],
        responses={200: EntityPageSerializer},
    )
    def entities(self, request: Request) -> Response:
        tenant, size = caller(request).tenant, _size(request)
        if (key := _exact(request, "key", LONGEST_KEY)) is not None:
            if any(request.query_params.get(name) for name in ("q", "kind", "source")):
                raise InvalidInput("invalid", "A key says which thing is meant: nothing else narrows it.", "key")
            thing = graph.thing_called(tenant, key)
            return Response({"next": None, "results": [_entity_json(thing)] if thing else []})
        cursor = _cursor(request, _kind, UUID)
        found = graph.search(
            tenant,
            _text(request, "q", 100),
            _text(request, "kind", 40),
            _uuid(request, "source"),
            after=" ".join(map(str, cursor)),
            limit=size + 1,
        )
        return _page([_entity_json(row) for row in found], found, size, lambda row: (row.kind, str(row.id)))

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
            _asked("stream", "Only this stream's."),
            _asked("external_id", "Only the record that has this id at its provider. Needs `stream`."),
            *PAGING,
        ],
        responses={200: RecordPageSerializer},
    )
    def records(self, request: Request, connection_id: str) -> Response:
        tenant, size, cursor = caller(request).tenant, _size(request), _cursor(request, UUID)
        try:
            connection = get_connection(tenant, UUID(connection_id))
        except (ValueError, Connection.DoesNotExist):
            raise Http404 from None
        stream = _text(request, "stream", 60)
        if (external_id := _exact(request, "external_id", LONGEST_EXTERNAL_ID)) is not None:
            if not stream:
                raise InvalidInput("invalid", "An id is one of a stream's: name it.", "stream")
            record = graph.record_called(tenant, connection, stream, external_id)
            return Response({"next": None, "results": [_whole_record_json(record)] if record else []})
        after = cursor[0] if cursor else None
        found, end = graph.records_of(tenant, connection, stream, after=after, limit=size)
        return Response({"next": end and _mark(str(end)), "results": [_whole_record_json(row) for row in found]})

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
            _asked("entity", "An entity's id: only what is said about it.", OpenApiTypes.UUID),
            _asked("kind", "authored, mentions, ..."),
            *PAGING,
        ],
        responses={200: RelationshipPageSerializer},
    )
    def relationships(self, request: Request) -> Response:
        tenant, size = caller(request).tenant, _size(request)
        wanted = _uuid(request, "entity")
        entity = graph.get_entity(tenant, wanted) if wanted else None
        if wanted and entity is None:
            raise Http404
        after = _cursor(request, UUID, UUID, int) or graph.BEGINNING
        found, end = graph.links_of(tenant, entity, _text(request, "kind", 40), after=after, limit=size)
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
        return Response({"next": end and _mark(*map(str, end)), "results": results})


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


def _page(results: list[Any], rows: Sequence[Any], size: int, place: Any) -> Response:
    more = len(rows) > size
    return Response({"next": _mark(*place(rows[size - 1])) if more else None, "results": results[:size]})


def _mark(*place: str) -> str:
    """The `next` of a page that ends there."""
    return base64.urlsafe_b64encode("\0".join(place).encode()).decode()


def _cursor(request: Request, *parts: Callable[[str], Any]) -> tuple[Any, ...]:
    """The place that a page ended at, read by `parts`; () for the first page. Raises InvalidInput."""
    given = request.query_params.get("cursor", "")
    if not given:
        return ()
    try:
        found = base64.urlsafe_b64decode(given.encode()).decode().split("\0")
        return tuple(read(part) for read, part in zip(parts, found, strict=True))
    except (ValueError, binascii.Error):
        raise InvalidInput("invalid", "This is not a `next` of this list.", "cursor") from None


def _kind(text: str) -> str:
    if not text or " " in text:
        raise ValueError(text)
    return text


def _text(request: Request, name: str, most: int) -> str:
    given = str(request.query_params.get(name, "")).strip()
    if len(given) > most or not given.isprintable():
        raise InvalidInput("invalid", f"Must be at most {most} printable characters.", name)
    return given


def _exact(request: Request, name: str, most: int) -> str | None:
    """As it was given, spaces included; None where it was not, which an empty one is not: that is the id of nothing."""
    given = request.query_params.get(name)
    if given is not None and len(given) > most:
        raise InvalidInput("invalid", f"Must be at most {most} characters.", name)
    return given


def _uuid(request: Request, name: str) -> UUID | None:
    given = request.query_params.get(name, "")
    try:
        return UUID(given) if given else None
    except ValueError:
        raise InvalidInput("invalid", "Must be an id.", name) from None


def _size(request: Request) -> int:
    given = request.query_params.get("page_size", str(PAGE))
    if not (given.isascii() and given.isdigit() and len(given) < 6 and 1 <= int(given) <= MOST):
        raise InvalidInput("invalid", f"Must be between 1 and {MOST}.", "page_size")
    return int(given)
