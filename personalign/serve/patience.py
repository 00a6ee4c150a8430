"""Connections that never become a request, or never take their answer.

uvicorn has no deadline for half a request's head, nor for a reader who takes nothing. So what each connection waits
for is looked at again and again.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from weakref import WeakKeyDictionary

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from personalign.serve import failures
from personalign.serve.guard import HEADER, new_id

Wait = tuple[str, int, object]  # for what, how many bytes are unsent, and after which request


class Connection(H11Protocol):
    """A connection whose malformed requests are answered in the shape of all other errors."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Send each piece at once: asyncio does so for sockets that it made itself, and the others wait for 40 ms."""
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - it holds no more than ours
        """Answer what can't be read, and end the connection."""
        self.transport.write(_answer(400, "this isn't an HTTP request, or its line and headers are too long"))
        self.transport.close()


class Patience:
    """Ends connections that wait for the same thing for too long."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._waits: WeakKeyDictionary[Connection, tuple[Wait, float]] = WeakKeyDictionary()

    def sweep(self, connections: Iterable[object]) -> None:
        """Look at all connections, and end those whose time is up."""
        now = self._clock()
        for connection in [each for each in connections if isinstance(each, Connection)]:
            wait = _wait(connection)
            before, began_at = self._waits.get(connection, (None, now))
            if wait is None:
                self._waits.pop(connection, None)
            elif wait != before:
                self._waits[connection] = wait, now
            elif now - began_at > self._seconds:
                self._end(connection, wait)

    def _end(self, connection: Connection, wait: Wait) -> None:
        if wait[0] != "head":
            connection.transport.abort()
            return
        if connection.conn.trailing_data[0]:
            message = f"the request took longer than {self._seconds:g} seconds to arrive; send it faster"
            connection.transport.write(_answer(408, message))
        connection.transport.close()


def _wait(connection: Connection) -> Wait | None:
    """What a connection keeps the server waiting for; None where the server is at work."""
    unsent, cycle = connection.transport.get_write_buffer_size(), connection.cycle
    if unsent or connection.transport.is_closing():
        return "reader", unsent, cycle
    if connection.conn.their_state is h11.IDLE:
        has_begun = cycle is None or connection.conn.trailing_data[0]
        return ("head", 0, cycle) if has_begun else None  # between two requests, for which uvicorn has a limit
    is_answered = connection.conn.their_state is h11.SEND_BODY and cycle.response_complete
    return ("body", 0, cycle) if is_answered else None


def _answer(status: int, message: str) -> bytes:
    """An answer to what never became a request."""
    content = json.dumps(failures.body(status, message)).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nconnection: close\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n{HEADER}: {new_id()}\r\n\r\n"
    )
    return head.encode() + content
