"""Addresses of the REST API of connections, below /api/."""

from django.urls import path

from integrations.api import ConnectionViewSet

urlpatterns = [
    path("connections", ConnectionViewSet.as_view({"get": "connections"}), name="api-connections"),
    path("connections/<str:connection_id>", ConnectionViewSet.as_view({"get": "connection"}), name="api-connection"),
    path(
        "connections/<str:connection_id>/partitions",
        ConnectionViewSet.as_view({"get": "partitions", "post": "narrow"}),
        name="api-partitions",
    ),
]
