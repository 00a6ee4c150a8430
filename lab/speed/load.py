"""A server in a process of its own, and users that talk to it at once: what came of their requests, and how soon."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import psutil

START_S = 600.0  # after which a server that isn't ready counts as dead
READY_EVERY_S = 0.05
UNLIMITED = "1000000/second"
TEXT = re.compile(rb'"content":"[^"]')  # the first chunk has none
USAGE = re.compile(rb'"completion_tokens":(\d+)')


@dataclass
class Server:
    """A server that was started here, and where it listens."""

    store: str
    model: str
    options: Sequence[str] = ()
    port: int = 0  # set by ``start``
    process: subprocess.Popen[bytes] = field(init=False, repr=False)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def megabytes(self) -> float:
        """Its resident memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.port = self.port or _free_port()
        verb = [sys.executable, "-m", "personalign.cli", "serve", "--store", self.store, "--model", self.model]
        options = ["--port", str(self.port), "--rate", UNLIMITED, *self.options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(  # noqa: S603 - our own command line
            [*verb, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + START_S
        while not self._is_ready():
            assert self.process.poll() is None, "the server ended before it was ready"
            assert time.monotonic() < until, "the server isn't ready in time"
            time.sleep(READY_EVERY_S)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """End it without a warning."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """A server that has started, and is ended afterwards."""
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Ask:
    """What one user asks for."""

    user: str
    prompt: str
    max_tokens: int
    ends: tuple[int, ...] = ()  # tokens that would end the reply before it is so long

    @property
    def body(self) -> dict[str, object]:
        """The request's body: greedy, streamed, and counted."""
        return {
            "model": "personalign",
            "messages": [{"role": "user", "content": self.prompt}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "logit_bias": {str(end): -100 for end in self.ends},
            "personalign": {"user": self.user},
        }


@dataclass(frozen=True)
class Outcome:
    """What came of a request: its status, seconds to the first text and to the end, and its tokens."""

    status: int
    first_s: float
    seconds: float
    tokens: int = 0


class Line:
    """One user's connection, which is opened anew where the server ends it.

    It reads no more of HTTP than such a server writes: a general client would take the processor's time from it.
    """

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def stream(self, ask: Ask) -> Outcome:
        """Ask, and read the reply to its end."""
        body = json.dumps(ask.body).encode()
        head = f"{self._head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._server.port)
        reader, writer = self._streams
        started = time.perf_counter()
        writer.write(head.encode() + body)
        status = int((await reader.readline()).split()[1])
        headers = [line.lower() async for line in _lines(reader)]
        first_s, pieces = 0.0, b""
        async for piece in _pieces(reader, headers):
            if not first_s and TEXT.search(piece):
                first_s = time.perf_counter() - started
            pieces += piece
        seconds = time.perf_counter() - started
        if b"connection: close" in headers:
            self.close()
        usage = USAGE.search(pieces)
        return Outcome(status, first_s or seconds, seconds, int(usage[1]) if usage else 0)

    def close(self) -> None:
        """End the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a head, up to the blank one."""
    while line := (await reader.readline()).strip():
        yield line


async def _pieces(reader: asyncio.StreamReader, headers: Sequence[bytes]) -> AsyncIterator[bytes]:
    """A body as it comes: in chunks, or whole."""
    length = next((int(line.split(b":")[1]) for line in headers if line.startswith(b"content-length")), None)
    if length is not None:
        yield await reader.readexactly(length)
        return
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readline()
    await reader.readline()


def client_of(server: Server, key: str) -> httpx.AsyncClient:
    """A client of a server's other routes."""
    return httpx.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=120)


async def together(server: Server, key: str, asks: Sequence[Ask]) -> list[Outcome]:
    """All ask at once; what came of each."""
    lines = [Line(server, key) for _ in asks]
    try:
        return list(await asyncio.gather(*(line.stream(ask) for line, ask in zip(lines, asks, strict=True))))
    finally:
        for line in lines:
            line.close()
