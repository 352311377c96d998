"""Addresses of the REST API of connections, below /api/."""

from django.urls import path
from django.views.decorators.debug import sensitive_post_parameters

from integrations.api import ConnectionViewSet

connections = ConnectionViewSet.as_view({"get": "connections", "post": "connect"})

urlpatterns = [
    path("connections", sensitive_post_parameters()(connections), name="api-connections"),
    path("connections/<str:connection_id>", ConnectionViewSet.as_view({"get": "connection"}), name="api-connection"),
    path(
        "connections/<str:connection_id>/disconnect",
        ConnectionViewSet.as_view({"post": "disconnect"}),
        name="api-disconnect",
    ),
    path(
        "connections/<str:connection_id>/partitions",
        ConnectionViewSet.as_view({"get": "partitions", "post": "narrow"}),
        name="api-partitions",
    ),
]
