"""Addresses of the sockets."""

from django.urls import path, re_path
from django.urls.resolvers import URLPattern

from historical_sync import consumers

websocket_urlpatterns: list[URLPattern] = [
    path("ws/historical-sync/<str:job_id>", consumers.JobProgress.as_asgi()),
    path("ws/notifications", consumers.Notifications.as_asgi()),
    path("ws/pages", consumers.PageFragments.as_asgi()),
    path("ws/pages/jobs/<str:job_id>", consumers.JobFragments.as_asgi()),
    re_path("", consumers.Nowhere.as_asgi()),
]
