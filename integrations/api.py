"""The REST API of connections: which there are, new ones by token and the end of others, and which parts of an account are imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import django_filters
from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from atom.access import Right
from atom.api_auth import TenantScoped, caller
from atom.api_fields import Body, BoundedList
from atom.errors import InvalidInput
from atom.openapi import ErrorsSerializer
from integrations.connect import connect_with_token, connections_of
from integrations.disconnecting import disconnect
from integrations.health import health_of
from integrations.models import Connection, ConnectionQuerySet, ConnectionStatus
from integrations.narrowing import MOST_NAMES, narrow, parts_of
from integrations.providers import PROVIDERS
from integrations.providers.base import Partition


class StreamSerializer(serializers.Serializer):
    name = serializers.CharField(help_text="What a start's `streams` calls it.")
    label = serializers.CharField()
    missing_permissions = serializers.ListField(
        child=serializers.CharField(), help_text="What it needs and the grant lacks, as far as the provider tells."
    )


class ConnectionSerializer(serializers.Serializer):
    """Access to one account at one provider."""

    id = serializers.UUIDField()
    integration_id = serializers.CharField(help_text="The provider's slug.")
    account = serializers.CharField(help_text="What the provider calls the account.")
    status = serializers.ChoiceField(ConnectionStatus.values, help_text="reauth_required: a person must reconnect it.")
    last_error = serializers.CharField(allow_null=True)
    last_success_at = serializers.DateTimeField(allow_null=True, help_text="When an import last completed.")
    access_ends_at = serializers.DateTimeField(allow_null=True, help_text="null: never, or not known.")
    only = serializers.ListField(
        child=serializers.CharField(), allow_null=True, help_text="Keys of the partitions that are imported; null: all."
    )
    streams = StreamSerializer(many=True)
    created_at = serializers.DateTimeField()


class DisconnectedSerializer(ConnectionSerializer):
    not_revoked = serializers.CharField(
        allow_null=True, help_text="What the provider goes on to honour, and why; null: nothing that is known."
    )


class ConnectionFilter(django_filters.FilterSet):
    integration_id = django_filters.ChoiceFilter(
        field_name="provider_slug", choices=[(slug, slug) for slug in PROVIDERS], help_text="Only this provider's."
    )
    status = django_filters.ChoiceFilter(choices=ConnectionStatus.choices, help_text="Only those of this status.")

    class Meta:
        model = Connection
        fields = ["integration_id", "status"]


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


class ConnectSerializer(Body):
    """A personal or service token, which is tried at the provider. The same account once more gets it in the place of its former one."""

    integration_id = serializers.CharField(max_length=40, help_text="The provider's slug.")
    token = serializers.CharField(max_length=4096, write_only=True, style={"input_type": "password"})
    base_url = serializers.CharField(
        required=False, default="", allow_blank=True, max_length=500, help_text="API root of a self-hosted provider."
    )
    label = serializers.CharField(
        required=False, default="", allow_blank=True, max_length=200, help_text="A name for the account."
    )
    facts = serializers.DictField(
        required=False,
        child=serializers.CharField(max_length=200),
        help_text="What the provider asks before connecting, by name: a subdomain, for one.",
    )
    only = BoundedList(
        required=False,
        child=serializers.CharField(max_length=500),
        allow_null=True,
        allow_empty=False,
        max_length=MOST_NAMES,
        help_text="Partitions to import, by key or label; null: all, or as it was.",
    )


class DisconnectSerializer(Body):
    """What becomes of what came in."""

    delete_data = serializers.BooleanField(
        required=False, default=False, help_text="Remove what only this connection brought, in the background."
    )


AWAY = OpenApiResponse(ErrorsSerializer, "The provider, which is asked for them, did not answer as it should.")
CONNECTION_ID = OpenApiParameter("connection_id", OpenApiTypes.UUID, OpenApiParameter.PATH)


class ConnectionViewSet(TenantScoped, viewsets.GenericViewSet):
    """A connection to one account at one provider."""

    rights = {"narrow": Right.CONNECT, "connect": Right.CONNECT, "disconnect": Right.CONNECT}
    serializer_class = ConnectionSerializer
    filterset_class = ConnectionFilter
    # For the schema only; requests are answered from `connections_of`.
    queryset = Connection.objects.none()

    @extend_schema(operation_id="list_connections", responses={200: ConnectionSerializer(many=True)})
    def connections(self, request: Request) -> Response:
        found = self.filter_queryset(_connections(request).order_by("created_at", "id"))
        page = self.paginate_queryset(found)
        return self.get_paginated_response([_connection_json(connection) for connection in page or []])

    @extend_schema(
        operation_id="connect",
        request=ConnectSerializer,
        responses={200: ConnectionSerializer, 201: ConnectionSerializer},
        filters=False,
    )
    def connect(self, request: Request) -> Response:
        given = ConnectSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        asked, actor = given.validated_data, caller(request)
        provider = PROVIDERS.get(asked["integration_id"])
        if provider is None:
            raise InvalidInput(
                "invalid", f"There is no such provider; there are {', '.join(PROVIDERS)}.", "integration_id"
            )
        before = set(connections_of(actor.tenant).filter(provider_slug=provider.slug).values_list("id", flat=True))
        made = connect_with_token(
            actor,
            provider,
            asked["token"],
            base_url=asked["base_url"],
            label=asked["label"],
            facts=asked.get("facts"),
            only=asked.get("only"),
        )
        return Response(_connection_json(made), status=200 if made.id in before else 201)

    @extend_schema(
        operation_id="disconnect",
        parameters=[CONNECTION_ID],
        request=DisconnectSerializer,
        responses={200: DisconnectedSerializer},
    )
    def disconnect(self, request: Request, connection_id: str) -> Response:
        connection = _connection(request, connection_id)
        given = DisconnectSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        delete_data = given.validated_data["delete_data"]
        lives_on = ""
        if connection.status != ConnectionStatus.DISCONNECTED or delete_data:
            lives_on = disconnect(caller(request), connection, delete_data=delete_data)
        return Response({**_connection_json(_connection(request, connection_id)), "not_revoked": lives_on or None})

    @extend_schema(
        operation_id="get_connection", parameters=[CONNECTION_ID], responses={200: ConnectionSerializer}, filters=False
    )
    def connection(self, request: Request, connection_id: str) -> Response:
        return Response(_connection_json(_connection(request, connection_id)))

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


def _connections(request: Request) -> ConnectionQuerySet:
    """The caller's, of providers that there still are."""
    return connections_of(caller(request).tenant).filter(provider_slug__in=PROVIDERS)


def _connection(request: Request, connection_id: str) -> Connection:
    try:
        return _connections(request).get(id=UUID(connection_id))
    except (ValueError, Connection.DoesNotExist):
        raise Http404 from None


def _connection_json(connection: Connection) -> dict[str, Any]:
    health = health_of(connection)
    return {
        "id": connection.id,
        "integration_id": connection.provider_slug,
        "account": connection.account_label,
        "status": health.status,
        "last_error": health.last_error or None,
        "last_success_at": health.last_success_at,
        "access_ends_at": health.ends_at,
        "only": connection.only,
        "streams": [
            {"name": stream.name, "label": stream.label, "missing_permissions": health.missing.get(stream.label, ())}
            for stream in connection.provider.streams
        ],
        "created_at": connection.created_at,
    }


def _parts_json(connection: Connection, parts: Sequence[Partition]) -> dict[str, Any]:
    only = None if connection.only is None else frozenset(connection.only)
    return {
        "label": connection.provider.partition_label,
        "only": connection.only,
        "partitions": [
            {
                "key": part.key,
                "label": part.label,
                "imported": only is None or part.key in only,
            }
            for part in parts
        ],
    }
