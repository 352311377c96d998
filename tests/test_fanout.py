"""Messages that are written straight to a connection: whole and in their order among those that are not."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from websockets.asyncio.client import connect

from atom.fanout import SCOPE, Message, reachable, written
from tests.processes import PROJECT, environment

MANY = 400
sizes = [0, 1, 125, 126, 65_535, 65_536, 200_000]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """For Daphne: on opening sends MANY messages of many sizes, every third by the usual way; at last how many were written."""
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    direct = 0
    for number in range(MANY):
        message = Message(f"{number:5}" + "ä" * (sizes[number % len(sizes)] // 2))
        if number % 3 and written(scope[SCOPE], message):
            direct += 1
        else:
            await send({"type": "websocket.send", "text": message.text})
        if number % 50 == 0:
            await asyncio.sleep(0.05)
    await send({"type": "websocket.send", "text": json.dumps(direct)})
    while (await receive())["type"] != "websocket.disconnect":
        pass
    assert not written(scope[SCOPE], Message("nobody is there any more"))


served = reachable(application)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "tests.test_fanout:served"]
    process = subprocess.Popen(command, cwd=PROJECT, env=environment(), stderr=subprocess.DEVNULL)
    try:
        yield f"ws://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


async def opened(address: str, **options: Any) -> Any:
    for _ in range(200):
        with suppress(OSError):
            return await connect(address, **options)
        await asyncio.sleep(0.1)
    raise AssertionError("Daphne did not start")


@pytest.mark.parametrize("pause", [0.0, 1.0], ids=["a quick reader", "one who reads nothing for a while"])
def test_messages_arrive_whole_and_in_order(address: str, pause: float) -> None:
    async def scene() -> list[str]:
        client = await opened(address, max_size=None, max_queue=1, compression=None)
        await asyncio.sleep(pause)
        messages = [await client.recv() for _ in range(MANY + 1)]
        await client.close()
        return messages

    *messages, direct = asyncio.run(scene())
    assert [int(text[:5]) for text in messages] == list(range(MANY))
    assert [len(text) - 5 for text in messages] == [sizes[n % len(sizes)] // 2 for n in range(MANY)]
    assert 0 < int(direct) < MANY


def test_who_goes_away_in_the_middle_harms_nobody_else(address: str) -> None:
    async def scene() -> int:
        for _ in range(3):
            rude = await opened(address, max_size=None, compression=None)
            await rude.recv()
            # Nothing is said, what has arrived is not read: the connection is reset.
            rude.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            rude.transport.abort()
        client = await opened(address, max_size=None, compression=None)
        messages = [await client.recv() for _ in range(MANY + 1)]
        await client.close()
        return len(messages)

    assert asyncio.run(scene()) == MANY + 1


def test_other_servers_have_no_connection_to_write_to() -> None:
    seen = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope[SCOPE])

    asyncio.run(reachable(inner)({"type": "websocket"}, None, lambda message: None))
    assert seen == [None]
    assert not written(None, Message("x"))


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_frames_are_what_the_standard_says(size: int) -> None:
    """Judged by another implementation."""
    from websockets.frames import Frame, Opcode

    text = "x" * size
    assert Message(text).frame == Frame(Opcode.TEXT, text.encode()).serialize(mask=False)
