"""What every request meets first: an id, a limit on requests at once, and limits on its body's size and time.

It knows neither callers nor routes. What it refuses costs no work: no body is read, no key is looked up. What fails
behind it becomes a 500 with the request's id, and one log line that names the error and its place, not its words.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from personalign.serve import failures, logs
from personalign.serve.failures import Refusal
from personalign.serve.metrics import Meters
from personalign.serve.policy import Policy

HEADER = "x-request-id"
PROBES = ("/livez", "/readyz", "/health", "/metrics")  # answered however much is going on
ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
TOO_SLOW = 408
LAST = (TOO_SLOW, 413, 503)  # end the connection if the body isn't read yet
LINGER_S = 1.0
NO_RESPONSE = 499  # in the log: the client left first

log = logging.getLogger(__name__)


def new_id() -> str:
    """An id for a request whose client sent none."""
    return f"req_{secrets.token_hex(12)}"


class Traffic:
    """How many requests are worked on, and whether new ones are let in."""

    def __init__(self, policy: Policy, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy, self._clock = policy, clock
        self.in_flight = 0
        self._drained_at: float | None = None  # by when all has to end, once the server stops
        self._is_over = False  # the time for that
        self._ends: set[asyncio.Future[None]] = set()  # of whoever wants to know

    @property
    def is_draining(self) -> bool:
        """Whether the server stops."""
        return self._drained_at is not None

    @property
    def is_drained(self) -> bool:
        """Whether nothing is worked on any more, or its time is up."""
        return self._drained_at is not None and (not self.in_flight or self._clock() >= self._drained_at)

    def drain(self) -> None:
        """Let no new request in, and those under way go on for a while."""
        self._drained_at = self._clock() + self._policy.drain_s

    def end(self) -> None:
        """Let all that is still worked on know that its time is up."""
        self._is_over = True
        for future in list(self._ends):
            future.set_result(None)

    def ending(self) -> asyncio.Future[None]:
        """Something that is done once the time is up; cancel it after use."""
        future = asyncio.get_running_loop().create_future()
        self._ends.add(future)
        future.add_done_callback(self._ends.discard)
        if self._is_over:
            future.set_result(None)
        return future

    def check(self) -> None:
        """Refuse a request that finds no room."""
        if self.is_draining:
            raise failures.stopping()
        if self.in_flight >= self._policy.in_flight:
            message = f"{self.in_flight} requests are worked on, and no more may be at once; send it again later"
            raise Refusal(429, message, code="overloaded")


class Exchange:
    """One request and its answer, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, policy: Policy) -> None:
        self._is_head = scope["method"] == "HEAD"  # answered as GET is, without the body
        self.scope = {**scope, "method": "GET"} if self._is_head else scope
        self._receive, self._send, self._policy = receive, send, policy
        self.headers = Headers(scope=scope)
        shown = self.headers.get(HEADER, "")
        self.id = shown if ID.fullmatch(shown) else new_id()
        self.began = time.monotonic()
        self.status: int | None = None  # until the answer begins
        self.error: str | None = None  # what failed, and where
        self._num_bytes, self._is_whole = 0, False  # of the body, as far as it was read
        self._is_last = False  # whether the connection ends with the answer
        self.scope.setdefault("state", {})["request_id"] = self.id

    @property
    def path(self) -> str:
        """The path within this application, wherever it is mounted."""
        path: str = self.scope["path"]
        return path.removeprefix(self.scope.get("root_path", ""))

    def check_length(self) -> None:
        """Refuse a body by what it says of itself."""
        length = self.headers.get("content-length", "0")
        self._check_size(int(length) if length.isdecimal() else 0)

    def _check_size(self, num_bytes: int) -> None:
        if num_bytes > self._policy.max_body:
            raise Refusal(413, f"the body has more than {self._policy.max_body:,} bytes; send a smaller one")

    async def receive(self) -> Message:
        """The next piece of the body, within its size and time; then whatever comes."""
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout(self.began + self._policy.receive_s - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            seconds = self._policy.receive_s
            raise Refusal(
                TOO_SLOW, f"the body took longer than {seconds:g} seconds to arrive; send it faster"
            ) from None
        self._num_bytes += len(message.get("body", b""))
        self._check_size(self._num_bytes)
        self._is_whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Pass on a piece of the answer; the id is added, and the connection ends if the body is refused."""
        if self._is_head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[HEADER] = self.id
            self._is_last = not self._is_whole and (self.status in LAST or "transfer-encoding" in self.headers)
            if self._is_last:
                headers["connection"] = "close"
        elif self._is_last and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body"}
        await self._send(message)

    async def _linger(self) -> None:
        """Take a little of what still comes, and wait: a connection that is closed too soon takes its answer away."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if self.status == TOO_SLOW else LINGER_S):
                num_bytes, goes_on = 0, True
                while goes_on and num_bytes < self._policy.max_body:
                    message = await self._receive()
                    num_bytes, goes_on = num_bytes + len(message.get("body", b"")), message.get("more_body", False)
                if goes_on:
                    await asyncio.sleep(LINGER_S)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer a refusal."""
        response = await failures.on_refusal(Request(self.scope), refusal)
        await response(self.scope, self.receive, self.send)

    async def fail(self, error: Exception) -> None:
        """Answer what nobody expected, if there is still time; a connection whose answer has begun ends."""
        self.error = logs.place(error)
        if self.status is None:
            message = f"the server failed at this request; tell its operator this id: {self.id}"
            await JSONResponse(failures.body(500, message), 500)(self.scope, self.receive, self.send)


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, policy: Policy, traffic: Traffic, meters: Meters) -> None:
        self._app, self._policy, self._traffic, self._meters = app, policy, traffic, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it, and write its line in the log."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._policy)
        try:
            await self._carry_out(exchange)
        except Refusal as refusal:
            await exchange.refuse(refusal)
        except asyncio.CancelledError:
            if not self._traffic.is_draining or exchange.status is not None:
                raise
            await exchange.refuse(failures.stopping())  # uvicorn waits no longer
        except Exception as error:  # noqa: BLE001 - uvicorn would log its words
            await exchange.fail(error)
        finally:
            self._note(exchange)

    async def _carry_out(self, exchange: Exchange) -> None:
        if exchange.path in PROBES:
            await self._app(exchange.scope, exchange.receive, exchange.send)
            return
        self._traffic.check()
        exchange.check_length()
        self._traffic.in_flight += 1
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        finally:
            self._traffic.in_flight -= 1

    def _note(self, exchange: Exchange) -> None:
        status = exchange.status or NO_RESPONSE
        if status >= 400:
            self._meters.note_refusal(status)
        seconds = time.monotonic() - exchange.began
        fields = logs.request_fields(exchange.scope, status, seconds)
        log.log(
            logging.ERROR if exchange.error else logging.INFO, "request", extra={"fields": fields | _error(exchange)}
        )


def _error(exchange: Exchange) -> dict[str, str]:
    return {"error": exchange.error} if exchange.error else {}
