"""Bytes to a server and back, for what no HTTP client would send."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

HEAD = "POST /v1/sessions HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"
BODY = b'{"link": "none of ours"}'  # which is answered 401
WHOLE = f"{HEAD}content-length: {len(BODY)}\r\n\r\n".encode() + BODY


@dataclass(frozen=True)
class Answer:
    """What a server sent: nothing has the status 0."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float  # since it was connected to

    def error(self) -> dict[str, Any]:
        """The error that it tells, in OpenAI's shape."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert self.headers["x-request-id"]
        return error


@contextmanager
def connect(address: str) -> Iterator[socket.socket]:
    """A connection of its own."""
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        yield connection


def ask(address: str, pieces: Iterable[bytes], pause_s: float = 0.0) -> Answer:
    """Send pieces with pauses for as long as the server takes them, and read what it answers."""
    began = time.monotonic()  # before the server's own count
    with connect(address) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                if pause_s and wait(connection, pause_s):
                    break
        except (ConnectionResetError, BrokenPipeError):
            pass  # it may have answered before
        return read(connection, began)


def wait(connection: socket.socket, seconds: float) -> bool:
    """Whether something comes, or the connection ends, within some time."""
    connection.settimeout(seconds)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    finally:
        connection.settimeout(30)
    return True


def read(connection: socket.socket, began: float = 0.0) -> Answer:
    """One answer, up to the length that it tells; or what came before the connection ended."""
    content = b""
    try:
        while (piece := connection.recv(1 << 16)) or not content:
            content += piece
            head, end, body = content.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            if not piece or (end and len(body) >= int(headers.get("content-length", 0))):
                break
    except ConnectionResetError:
        pass
    seconds = time.monotonic() - began
    return Answer(int(lines[0].split()[1]), headers, body, seconds) if content else Answer(0, {}, b"", seconds)
