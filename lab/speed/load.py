"""A server in a process of its own, and users that talk to it at once: what came of their requests, and how soon."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import psutil

START_S = 120.0  # after which a server that isn't ready counts as dead
READY_EVERY_S = 0.05
UNLIMITED = "1000000/second"


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
            "personalign": {"user": self.user},
        }


@dataclass(frozen=True)
class Outcome:
    """What came of a request: its status, seconds to the first text and to the end, and its tokens."""

    status: int
    first_s: float
    seconds: float
    tokens: int = 0
    is_guided: bool = False


async def stream(client: httpx.AsyncClient, ask: Ask) -> Outcome:
    """Ask, and read the reply to its end."""
    started, first_s, tokens, is_guided = time.perf_counter(), 0.0, 0, False
    async with client.stream("POST", "/v1/chat/completions", json=ask.body) as response:
        if response.status_code != httpx.codes.OK:
            await response.aread()
            seconds = time.perf_counter() - started
            return Outcome(response.status_code, seconds, seconds)
        async for line in response.aiter_lines():
            first_s = first_s or (time.perf_counter() - started if '"content":"' in line else 0.0)
            if '"usage":{' in line or '"guided":' in line:
                chunk = json.loads(line.removeprefix("data: "))
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
                is_guided = (chunk.get("personalign") or {}).get("guided", is_guided)
    return Outcome(response.status_code, first_s, time.perf_counter() - started, tokens, is_guided)


def client_of(server: Server, key: str, connections: int) -> httpx.AsyncClient:
    """A client with so many connections to a server."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, limits=limits, timeout=120)


async def together(server: Server, key: str, asks: Sequence[Ask]) -> list[Outcome]:
    """All ask at once; what came of each."""
    async with client_of(server, key, len(asks)) as client:
        return list(await asyncio.gather(*(stream(client, ask) for ask in asks)))
