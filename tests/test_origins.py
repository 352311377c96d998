"""From whose pages a browser may open sockets: the host that was asked, and those that the operator trusts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator

from atom.sockets import same_origin


async def opens(origin: str | None, host: str) -> bool:
    async def accepting(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin is not None else [])]
    return bool((await WebsocketCommunicator(same_origin(accepting), "/ws/x", headers=headers).connect(timeout=5))[0])


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "atom.example.com", True),  # a program
        ("https://atom.example.com", "atom.example.com", True),
        ("https://ATOM.example.com", "atom.example.com", True),
        ("http://atom.example.com:8000", "atom.example.com:8000", True),
        ("http://atom.example.com:9999", "atom.example.com:8000", False),  # another program of the same machine
        ("https://evil.example", "atom.example.com", False),
        ("https://evil.example", "evil.example", False),  # a host that is not ours, pointed here
        ("https://public.example", "atom.example.com", True),
        ("http://public.example", "atom.example.com", False),
        ("https://a.wild.example", "atom.example.com", True),
        ("https://known.example", "atom.example.com", True),
        ("null", "atom.example.com", False),
        ("", "atom.example.com", False),
        ("https://[", "atom.example.com", False),
    ],
)
def test_sockets_open_from_our_pages_only(settings: Any, origin: str | None, host: str, allowed: bool) -> None:
    settings.ALLOWED_HOSTS = ["atom.example.com"]
    settings.CSRF_TRUSTED_ORIGINS = ["https://public.example", "https://*.wild.example"]
    settings.PUBLIC_URL = "https://known.example"
    assert asyncio.run(opens(origin, host)) is allowed
