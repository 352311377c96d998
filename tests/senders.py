"""Other ways for an `Api` to send than over the network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import httpx2
from multidict import CIMultiDict
from yarl import URL

from integrations.transport import Answer


class ByHttpx:
    """Through a client of httpx2's: into an application, or to a function that answers."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        most: int | None = None,
        patience: float | None = None,
    ) -> Answer:
        reply = await self.client.request(method, url, headers=dict(headers), content=body)
        return Answer(reply.status_code, reply.headers, reply.content)


class Into:
    """Into an ASGI application. The contract asks the stand-ins a hundred thousand times, of which a client of httpx2's makes twice the work."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        most: int | None = None,
        patience: float | None = None,
    ) -> Answer:
        address = URL(url)
        given = {"Host": address.authority, **headers, "Content-Length": str(len(body or b""))}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": address.scheme,
            "path": address.path,
            "raw_path": address.raw_path.encode(),
            "query_string": address.raw_query_string.encode(),
            "root_path": "",
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in given.items()],
            "client": ("127.0.0.1", 123),
            "server": (address.host, address.port),
        }
        unread = [{"type": "http.request", "body": body or b"", "more_body": False}]
        said: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not unread:
                await asyncio.Future()  # who asks does not hang up
            return unread.pop()

        async def send(message: dict[str, Any]) -> None:
            said.append(message)

        await self.app(scope, receive, send)
        start, *parts = said
        names = CIMultiDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"])
        return Answer(start["status"], names, b"".join(part["body"] for part in parts))


def answering(answer: Callable[[httpx2.Request], httpx2.Response]) -> ByHttpx:
    """What `answer` says to each request."""
    return ByHttpx(httpx2.AsyncClient(transport=httpx2.MockTransport(answer)))
