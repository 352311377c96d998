"""Django's ASGI handler for a site whose views are all sync: a request takes one trip to a thread and back.

Django's own takes views for async: each request gets a thread of its own, made and thrown away, and goes there and back for each
middleware that is sync, the view, the signals and the closing. That is several milliseconds of a small request, and no bound to how
many run at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import SEEK_END
from typing import Any, BinaryIO, cast

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.core.signals import request_started
from django.db import close_old_connections
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

THREADS = 16  # requests answered at once; more wait for their turn
PROBE_THREADS = 2


class SyncHandler(ASGIHandler):
    """HTTP for sync middleware and views. Responses that stream go on in the thread pool, too.

    Probes have threads of their own: while the database is away all others wait for it, and a process that does not say that it serves
    is ended.
    """

    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="request")
        self.probe_threads = ThreadPoolExecutor(PROBE_THREADS, thread_name_prefix="probe")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            body = cast(BinaryIO, await self.read_body(receive))
        except RequestAborted:
            return
        # As GET, but for the body: views name the methods that they take, and Daphne holds back a body's first part alone, so the
        # others would be taken for the answer to the connection's next request.
        bodiless = scope["method"] == "HEAD"
        if bodiless:
            scope = {**scope, "method": "GET"}
        with body:
            scope = _with_length(scope, body)
            threads = self.probe_threads if scope["path"] in settings.PROBES else self.threads
            response = await self._in_thread(self._answer, threads)(scope, body)
        if bodiless:
            _without_body(response)
        if response.streaming and not response.is_async:  # a static file, or what is read from the database meanwhile
            response.streaming_content = self._parts(iter(response.streaming_content))
        await self.send_response(response, send)
        if response.streaming:
            await self._in_thread(response.close)()

    async def _parts(self, parts: Iterator[bytes]) -> AsyncIterator[bytes]:
        while (part := await self._in_thread(_next)(parts)) is not None:
            yield part

    def _in_thread(self, function: Any, threads: ThreadPoolExecutor | None = None) -> Any:
        return sync_to_async(function, thread_sensitive=False, executor=threads or self.threads)

    def _answer(self, scope: Any, body: BinaryIO) -> HttpResponseBase:
        set_script_prefix(get_script_prefix(scope))
        request_started.send(sender=self.__class__, scope=scope)
        try:
            request, response = self.create_request(scope, body)
        except ValueError:  # headers that say what cannot be, such as parameters of a content type
            return HttpResponse("This is no request.", status=400, content_type="text/plain")
        if request is not None:
            response = self.get_response(request)
        assert response is not None, "what cannot be a request has its answer already"
        response._handler_class = self.__class__  # type: ignore[attr-defined] # Django's, for the signal at the end
        # Closed before it is sent, which gives the database connection back; the content stays.
        if response.streaming:
            close_old_connections()
        else:
            response.close()
        return response


def _next(parts: Iterator[bytes]) -> bytes | None:
    """In whatever thread has time, which gives its database connection back: the client may be slow to take the part."""
    try:
        return next(parts, None)
    finally:
        close_old_connections()


def _without_body(response: Any) -> None:
    """Its headers, the length among them, stay."""
    if response.streaming:
        response.streaming_content = ()
    else:
        response.content = b""


def _with_length(scope: Any, body: BinaryIO) -> Any:
    """What was sent in chunks says nothing of its length, and a parser that finds none takes the body for empty."""
    if any(name == b"content-length" for name, _ in scope["headers"]):
        return scope
    length = body.seek(0, SEEK_END)
    body.seek(0)
    return {**scope, "headers": [*scope["headers"], (b"content-length", str(length).encode())]}


def sync_application() -> SyncHandler:
    """Sets Django up and makes the handler."""
    django.setup(set_prefix=False)
    return SyncHandler()
