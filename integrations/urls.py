"""Addresses of connecting and disconnecting."""

from django.urls import path

from integrations import views

urlpatterns = [
    path("integrations/<slug:slug>/connect", views.connect_start, name="connect-start"),
    path("integrations/<slug:slug>/callback", views.connect_callback, name="connect-callback"),
    path("integrations/<slug:slug>/token", views.connect_token, name="connect-token"),
    path("connections/<uuid:connection_id>/parts", views.choose_parts, name="connection-parts"),
    path("connections/<uuid:connection_id>/disconnect", views.disconnect_connection, name="disconnect"),
]
