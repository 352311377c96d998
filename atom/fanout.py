"""One message to many WebSockets: encoded once, written straight to their TCP connections.

Between a consumer and its connection lie Channels, the session's wrapper, Daphne, Autobahn and two turns of Twisted's reactor: 60
microseconds a message, and the last of a thousand watchers waits for all of them. A connection that has nothing left to send can be
written to at once, which takes 20, most of them the kernel's. Whatever is not a plain open connection of Daphne's with nothing
under way goes the usual way, so that messages stay whole and in their order.
"""

from __future__ import annotations

import logging
from functools import cache, partial
from typing import Any

from autobahn.websocket.protocol import WebSocketProtocol as Autobahn
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet.tcp import Server

log = logging.getLogger(__name__)

SCOPE = "atom.connection"  # where `reachable` puts the connection


class Message:
    """A text message and its frame (RFC 6455, unmasked as all from a server)."""

    __slots__ = ("frame", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        payload = text.encode()
        length = len(payload)
        if length < 126:
            head = bytes([0x81, length])
        elif length < 1 << 16:
            head = b"\x81\x7e" + length.to_bytes(2, "big")
        else:
            head = b"\x81\x7f" + length.to_bytes(8, "big")
        self.frame = head + payload


def reachable(application: Any) -> Any:
    """ASGI middleware, the outermost: the scope says which connection of Daphne's the messages go to; None for other servers."""

    async def run(scope: Any, receive: Any, send: Any) -> None:
        # Daphne's `send` is its `handle_reply` with the connection as its first argument.
        first = send.args[0] if isinstance(send, partial) and send.args else None
        connection = first if isinstance(first, WebSocketProtocol) else None
        await application({**scope, SCOPE: connection}, receive, send)

    return run


def written(connection: Any, message: Message) -> bool:
    """Writes the message to the connection that a scope holds. False: nothing was written, send it the usual way."""
    if connection is None or connection.state != Autobahn.STATE_OPEN or connection.muted:
        return False
    transport = connection.transport
    try:
        busy = _busy(connection, transport)
    except AttributeError as error:
        _tell_once(str(error))
        return False
    if busy:
        return False
    sent = transport.writeSomeData(message.frame)
    if not isinstance(sent, int):
        return False  # the connection is lost; the usual way finds out, too, and ends it
    if sent < len(message.frame):
        transport.write(message.frame[sent:])
    return True


def _busy(connection: Any, transport: Any) -> bool:
    """Whether a frame may not be written past all that lies between. AttributeError: these libraries are not those that we know."""
    return bool(
        type(transport) is not Server
        or transport.TLS
        or not transport.connected
        or transport.disconnecting
        # What waits to be sent goes first: Autobahn's frames, then Twisted's bytes.
        or connection.send_queue
        or connection._perMessageCompress is not None
        or transport.dataBuffer
        or transport._tempDataBuffer
    )


@cache
def _tell_once(words: str) -> None:
    log.warning("live messages go the slow way: %s", words)
