"""The gate for HTTP to providers: what one provider does to another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from integrations import transport
from integrations.errors import RequestRejected, Unavailable
from integrations.http import Api, make_client
from integrations.providers import PROVIDERS
from integrations.transport import PrivateAddress

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n[]"


async def test_a_provider_that_does_not_answer_leaves_the_way_to_the_others_open() -> None:
    """More requests hang than a client keeps connections by default."""
    asked = 0

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        await reader.read()
        writer.close()

    async def at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    slow, quick = await asyncio.start_server(never, "127.0.0.1"), await asyncio.start_server(at_once, "127.0.0.1")
    address = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/" for server in (slow, quick)]
    async with slow, quick, make_client(allow_private=True) as client:
        hanging = [asyncio.create_task(client.send("GET", address[0], {})) for _ in range(150)]
        async with asyncio.timeout(30):
            while asked < 150:
                await asyncio.sleep(0.02)
            assert (await client.send("GET", address[1], {})).status == 200
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "2130706433",
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[fec0::1]",
        "0.0.0.0",
        "localhost",
    ],
)
async def test_no_spelling_of_a_private_address_gets_past_the_guard(host: str) -> None:
    """The operating system takes numbers for addresses that Python does not."""
    came = 0

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    async with server, make_client(allow_private=False) as client:
        with pytest.raises(PrivateAddress):
            await client.send("GET", f"http://{host}:{port}/", {})
    assert came == 0


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("place", ["//[", "https://[/", "http://127.0.0.1:99999/", "//a:b/", "http:[", "//evil.test/"])
async def test_wherever_a_provider_sends_us_is_followed_or_refused_in_words(place: str) -> None:
    moved = f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()
    async with answering(moved) as root, make_client(allow_private=True) as client:
        api = Api(PROVIDERS["github"], root, client, "token")
        with pytest.raises(RequestRejected, match=r"^GitHub (named an address|redirects)"):
            await api.get("/user")
        if "://" in place:
            with pytest.raises(RequestRejected, match=r"^GitHub named an address"):
                await api.get(place)


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b"[" * 990 + b'"\\ud800"' + b"]" * 990],
    ids=["lists", "objects", "half a character"],
)
async def test_what_is_nested_too_deeply_is_no_answer(body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with answering(head + body) as root, make_client(allow_private=True) as client:
        with pytest.raises(Unavailable, match="cut-off or invalid data"):
            await Api(PROVIDERS["github"], root, client, "token").get("/user")


async def test_who_takes_long_over_a_query_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Salesforce thinks for two minutes before it says that a query takes too long, which is what splits its window."""
    monkeypatch.setattr(transport, "READ_TIMEOUT", 0.2)
    may_answer = asyncio.Event()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await may_answer.wait()
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(slowly, "127.0.0.1")
    root = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, make_client(allow_private=True) as client:
        waiting = asyncio.create_task(Api(PROVIDERS["salesforce"], root, client, "token").get("/query"))
        with pytest.raises(Unavailable, match=r"^GitHub did not answer within"):
            await Api(PROVIDERS["github"], root, client, "token").get("/user")
        may_answer.set()
        assert (await waiting).data == []
    assert (PROVIDERS["salesforce"].patience or 0) > 120
