"""The ASGI application: pages and API by Django, sockets by Channels, the provider sandbox where it is on."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from django.db import connections
from environs import EnvError

from atom.handler import sync_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "atom.settings")
try:
    django_application = sync_application()
    connections["default"].refuse_pooler()  # type: ignore[attr-defined]
except EnvError as error:
    sys.exit(f"atom: {error}")

# These need the apps to be loaded.
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings

from atom.fanout import reachable
from atom.garbage import tune_garbage_collection
from atom.sockets import same_origin
from historical_sync.routing import websocket_urlpatterns

LAST_SECONDS = 5.0  # for what is told to end when the server stops


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


async def end_tasks() -> None:
    """Ends all that runs on the loop. A request's thread that waits for it would wait for ever once the loop is gone, and keep the process."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=LAST_SECONDS)


if (
    reactor := sys.modules.get("twisted.internet.reactor")
) is not None:  # Daphne's; other servers end their loop's tasks themselves
    from twisted.internet.defer import Deferred

    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromFuture(asyncio.ensure_future(end_tasks())))
tune_garbage_collection()
