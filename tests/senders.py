"""Other ways for an `Api` to send than over the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import httpx2

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


def answering(answer: Callable[[httpx2.Request], httpx2.Response]) -> ByHttpx:
    """What `answer` says to each request."""
    return ByHttpx(httpx2.AsyncClient(transport=httpx2.MockTransport(answer)))
