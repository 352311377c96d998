"""Messages that are written straight to connections, where the libraries are not as they were."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from autobahn.websocket.protocol import WebSocketProtocol
from twisted.internet.tcp import Server

from atom import fanout


def test_what_the_libraries_no_longer_say_is_told_once_and_the_usual_way_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    transport = Server.__new__(Server)
    transport.connected = 1
    connection = SimpleNamespace(state=WebSocketProtocol.STATE_OPEN, muted=False, transport=transport)  # no send_queue
    with caplog.at_level(logging.WARNING):
        assert not fanout.written(connection, fanout.Message("hello"))
        assert not fanout.written(connection, fanout.Message("hello"))
    assert [record.message for record in caplog.records].count(caplog.records[0].message) == 1
    assert "send_queue" in caplog.records[0].message
