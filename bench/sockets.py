"""python -m bench.sockets: a thousand WebSocket clients in one process that costs next to nothing.

Standard library only, one epoll loop, and nothing of a message is read but its time of arrival and its number: what is measured is
the server. stdin: a line of JSON {"host", "port", "sockets": [[path, API key], ...]}. stdout: "ready" once each has had its first
message; then, when stdin ends, one line of JSON {"arrived": [[number, monotonic ns], ...], "cpu_seconds"}.
"""

from __future__ import annotations

import base64
import json
import os
import re
import select
import socket
import sys
import time

_NUMBER = re.compile(rb'"records_processed":(\d+)')
_TEXT, _PING, _PONG = 1, 9, 10


class Client:
    """One open socket. Frames from a server are never masked; those to it always are (RFC 6455)."""

    def __init__(self, host: str, port: int, path: str, key: str) -> None:
        self.socket = socket.create_connection((host, port), 60)
        self.buffer = b""
        nonce = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\nAuthorization: Api-Key {key}\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            self._receive()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head[:200]
        self.socket.setblocking(False)

    def _receive(self) -> None:
        got = self.socket.recv(65536)
        assert got, "the server closed a socket"
        self.buffer += got

    def messages(self) -> list[bytes]:
        """The text messages that have arrived whole; answers pings."""
        self._receive()
        found = []
        while len(self.buffer) >= 2:
            start, length = 2, self.buffer[1] & 127
            if length > 125:
                start += 2 if length == 126 else 8
                length = int.from_bytes(self.buffer[2:start], "big")
            if len(self.buffer) < start + length:
                break
            opcode, payload = self.buffer[0] & 15, self.buffer[start : start + length]
            self.buffer = self.buffer[start + length :]
            if opcode == _TEXT:
                found.append(payload)
            elif opcode == _PING:
                self.socket.send(
                    bytes([128 | _PONG, 128 | length]) + bytes(4) + payload
                )  # a mask of zeros changes nothing
        return found


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    poll = select.epoll()
    clients: dict[int, Client] = {}
    closed = list(reversed(asked["sockets"]))
    poll.register(sys.stdin, select.EPOLLIN)
    greeted: set[int] = set()
    ready = False
    arrived = []
    cpu = 0.0
    while True:
        if closed:
            path, key = closed.pop()
            client = Client(asked["host"], asked["port"], path, key)
            clients[client.socket.fileno()] = client
            poll.register(client.socket, select.EPOLLIN)
            if client.buffer:
                greeted.add(client.socket.fileno())
        # Those that are open are pinged, however long the others take.
        for number, _ in poll.poll(0 if closed else None):
            if number == sys.stdin.fileno():
                print(json.dumps({"arrived": arrived, "cpu_seconds": time.process_time() - cpu}), flush=True)
                return
            now = time.monotonic_ns()
            for message in clients[number].messages():
                found = _NUMBER.search(message)
                arrived.append((int(found[1]) if found else 0, now))
            greeted.add(number)
        if not ready and len(greeted) == len(asked["sockets"]):
            ready, cpu = True, time.process_time()
            arrived.clear()
            print("ready", flush=True)


if __name__ == "__main__":
    main()
