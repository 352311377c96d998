"""The ASGI application: pages and API by Django, sockets by Channels, the provider sandbox where it is on."""

from __future__ import annotations

import os
from typing import Any

from atom.handler import sync_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "atom.settings")
django_application = sync_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402 - needs the apps to be loaded
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.conf import settings  # noqa: E402

from atom.fanout import reachable  # noqa: E402
from atom.garbage import tune_garbage_collection  # noqa: E402
from atom.sockets import same_origin  # noqa: E402
from historical_sync.routing import websocket_urlpatterns  # noqa: E402


def with_sandbox(site: Any) -> Any:
    """`site`, with the providers' stand-ins at /sandbox/."""
    from integrations.sandbox import make_app

    sandbox = make_app()

    async def route(scope: Any, receive: Any, send: Any) -> None:
        await (sandbox if scope["path"].startswith("/sandbox/") else site)(scope, receive, send)

    return route


application = ProtocolTypeRouter(
    {
        "http": with_sandbox(django_application) if settings.SANDBOX else django_application,
        "websocket": reachable(same_origin(AuthMiddlewareStack(URLRouter(websocket_urlpatterns)))),
    }
)
tune_garbage_collection()
