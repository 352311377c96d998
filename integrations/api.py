"""The REST API of connections: which parts of an account are imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from atom.access import Right
from atom.api_auth import TenantScoped, caller
from atom.api_fields import Body, BoundedList
from atom.openapi import ErrorsSerializer
from integrations.connect import get_connection
from integrations.models import Connection
from integrations.narrowing import MOST_NAMES, narrow, parts_of
from integrations.providers.base import Partition


class OnlySerializer(Body):
    """Which partitions to import, by key or label; null for all of them."""

    only = BoundedList(
        child=serializers.CharField(max_length=500), allow_null=True, allow_empty=False, max_length=MOST_NAMES
    )


class PartSerializer(serializers.Serializer):
    key = serializers.CharField()
    label = serializers.CharField()
    imported = serializers.BooleanField()


class PartsSerializer(serializers.Serializer):
    """What a provider lists its streams by (repositories, channels), and what of it is imported."""

    label = serializers.CharField(help_text='What the partitions are: "Repositories". Empty where there are none.')
    only = serializers.ListField(child=serializers.CharField(), allow_null=True, help_text="Keys; null for all.")
    partitions = PartSerializer(many=True)


AWAY = OpenApiResponse(ErrorsSerializer, "The provider, which is asked for them, did not answer as it should.")
CONNECTION_ID = OpenApiParameter("connection_id", OpenApiTypes.UUID, OpenApiParameter.PATH)


class ConnectionViewSet(TenantScoped, viewsets.GenericViewSet):
    """A connection to one account at one provider."""

    rights = {"narrow": Right.CONNECT}
    serializer_class = PartsSerializer
    # For the schema only; requests are answered from `get_connection`.
    queryset = Connection.objects.none()
    pagination_class = None

    @extend_schema(
        operation_id="get_connection_partitions",
        parameters=[CONNECTION_ID],
        responses={200: PartsSerializer, 409: AWAY},
    )
    def partitions(self, request: Request, connection_id: str) -> Response:
        connection = _connection(request, connection_id)
        return Response(_parts_json(connection, parts_of(connection)))

    @extend_schema(
        operation_id="narrow_connection",
        parameters=[CONNECTION_ID],
        request=OnlySerializer,
        responses={200: PartsSerializer, 409: AWAY},
    )
    def narrow(self, request: Request, connection_id: str) -> Response:
        connection = _connection(request, connection_id)
        given = OnlySerializer(data=request.data)
        given.is_valid(raise_exception=True)
        # Once, and before anything is changed: what the answer needs of a provider that is away would come too late to refuse.
        parts = parts_of(connection)
        return Response(_parts_json(narrow(caller(request), connection, given.validated_data["only"], parts), parts))


def _connection(request: Request, connection_id: str) -> Connection:
    try:
        return get_connection(caller(request).tenant, UUID(connection_id))
    except (ValueError, Connection.DoesNotExist):
        raise Http404 from None


def _parts_json(connection: Connection, parts: Sequence[Partition]) -> dict[str, Any]:
    return {
        "label": connection.provider.partition_label,
        "only": connection.only,
        "partitions": [
            {
                "key": part.key,
                "label": part.label,
                "imported": connection.only is None or part.key in connection.only,
            }
            for part in parts
        ],
    }
