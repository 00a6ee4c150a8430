"""One process that serves until a signal comes: it listens, hurries slow connections, and ends within a bounded time.

The model writes a token before the port is open. Then replies under way may go on for a while after the first
SIGTERM or Ctrl-C, and new requests are sent elsewhere; a second signal ends at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn
from fastapi import FastAPI

from personalign.errors import InputError
from personalign.serve import telemetry
from personalign.serve.access import Door
from personalign.serve.app import create_app
from personalign.serve.patience import Connection, Patience
from personalign.serve.policy import Policy
from personalign.service import Personalign
from personalign.settings import wants_traces

LAST_S = 1  # for connections to close, once the replies under way have ended or their time is up
MAX_HEAD = 64 << 10  # bytes of a request's line and headers
# between two requests: a server that gives up before its clients do cuts off what they send just then, and Python's
# give up after 5 s, proxies after 60
KEEP_ALIVE_S = 75
FIRST = "you"  # for whom the first link is

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opening:
    """Where a server is, and on an empty store its first key and a link for the first person."""

    url: str
    key: str | None = None
    onboarding: str | None = None


class Server(uvicorn.Server):
    """uvicorn with deadlines for slow connections, whom a signal makes drain and end with exit code 0."""

    def __init__(self, app: FastAPI, policy: Policy, announce: Callable[[], None]) -> None:
        super().__init__(_config(app))
        self._traffic, self._patience, self._announce = app.state.traffic, Patience(policy.receive_s), announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, and tell."""
        await super().startup(sockets)
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn calls it so
        """Begin to drain; at a second signal end."""
        self.should_exit = self._traffic.is_draining
        self._traffic.drain()

    async def on_tick(self, counter: int) -> bool:
        """Hurry slow connections, and tell whether to end; uvicorn asks ten times a second."""
        self._patience.sweep(self.server_state.connections)
        is_over = await super().on_tick(counter) or self._traffic.is_drained
        if is_over:
            self._traffic.end()
        return is_over


def serve(
    service: Personalign,
    host: str = "127.0.0.1",
    port: int = 8000,
    policy: Policy | None = None,
    announce: Callable[[Opening], None] = lambda _: None,
) -> None:
    """Serve an open service until a signal comes, and close it; ``announce`` is called when requests are answered.

    Raises:
        InputError: the address can't be listened on; or as ``Personalign.chat``, where the model can't be loaded.
    """
    policy = policy or Policy()
    with service, _bind(host, port) as listening:
        app = create_app(service, policy)
        if wants_traces():
            _trace(app)
        service.chat("nobody", [{"role": "user", "content": "Hello"}], max_tokens=1)
        server = Server(app, policy, lambda: announce(_opening(service, policy, listening)))
        asyncio.run(_live(server, listening, service.close))


def _trace(app: FastAPI) -> None:
    try:
        telemetry.trace(app, telemetry.exporter())
    except ImportError:
        log.warning("no traces are sent: OTEL_… is set, but not installed; pip install 'personalign[otel]'")


def _bind(host: str, port: int) -> socket.socket:
    """Take the port; who connects is refused until the model is loaded."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise InputError(f"can't listen on {host} port {port}: {error}; pass another --host or --port") from error
    return listening


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,  # it would write paths, which hold ids
        server_header=False,
        timeout_graceful_shutdown=LAST_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        h11_max_incomplete_event_size=MAX_HEAD,
    )


async def _live(server: Server, listening: socket.socket, close: Callable[[], None]) -> None:
    """Serve; ``close`` comes before the loop waits for its threads, which may be waiting for replies."""
    try:
        await server.serve([listening])
    finally:
        close()


def _opening(service: Personalign, policy: Policy, listening: socket.socket) -> Opening:
    """Where the server is; a store without keys gets its first one, for an operator."""
    host, port, *_ = listening.getsockname()
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if service.keys.list():
        return Opening(url)
    _, key = service.keys.create("operator", "first")
    link = Door(service).link(FIRST, "onboard", policy.link_s) if service.has_basis else None
    return Opening(url, key, link and f"{url}/onboard#{link}")
