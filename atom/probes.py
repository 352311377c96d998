"""Who asks how this process is: load balancers, orchestrators and Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.utils.module_loading import import_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

PATIENCE = 2.0  # seconds for an answer: those who probe have little of it


@never_cache
@require_safe  # load balancers ask by HEAD
def healthz(request: HttpRequest) -> HttpResponse:
    """The process serves."""
    return HttpResponse("ok\n", content_type="text/plain")


@never_cache
@require_safe  # load balancers ask by HEAD
def readyz(request: HttpRequest) -> HttpResponse:
    """Database, queue and channel layer answer: a line each."""
    lines, ready = [], True
    for name, check in (
        ("database", check_database),
        ("queue", _check_queue),
        ("channel layer", check_channel_layer),
    ):
        try:
            check()
            lines.append(f"{name}: ok")
        except Exception as error:
            ready = False
            lines.append(f"{name}: {type(error).__name__}")
    return HttpResponse("\n".join(lines) + "\n", content_type="text/plain", status=200 if ready else 503)


def check_database() -> None:
    """Raises psycopg's error when the database does not answer in time."""
    _ask("SELECT 1")


def _check_queue() -> None:
    _ask("SELECT FROM procrastinate_jobs LIMIT 1")


def _ask(statement: str) -> None:
    """By a connection of the pool, for which pages wait longer than probes do."""
    pool = cast(Any, connection).pool
    pool.open()
    with pool.connection(timeout=PATIENCE) as ours:
        ours.execute(statement)


def check_channel_layer() -> None:
    """Raises what the layer raises that is to carry a message, and TimeoutError when it takes too long."""

    async def send() -> None:
        layer: Any = get_channel_layer()
        async with asyncio.timeout(PATIENCE):
            await layer.group_send("probe", {"type": "nobody.listens"})

    async_to_sync(send)()


class ProbeMiddleware:
    """Answers probes before the host's name is looked at: they ask by the process's own address."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self.probes = {path: import_string(view) for path, view in settings.PROBES.items()}

    def __call__(self, request: HttpRequest) -> HttpResponse:
        answer: Callable[[HttpRequest], HttpResponse] = self.probes.get(request.path_info, self.get_response)
        return answer(request)
