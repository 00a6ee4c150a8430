"""The two clients: ``People`` waits for its answers, ``AsyncPeople`` is awaited.

    with People("http://127.0.0.1:8000", key) as people:
        asked = people.ask("ada")
        profile = people.answer("ada", asked.question.id, "a")

What may pass by itself is tried again: too many requests, a server that can't answer now, a connection that breaks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from personalign.client import calls
from personalign.client.calls import Call
from personalign.client.failures import Unavailable
from personalign.errors import MissingExtra

try:
    import httpx
    import stamina
except ImportError as error:
    raise MissingExtra("httpx or stamina", "client") from error

TIMEOUT_S = 60.0
ATTEMPTS = 4
LONGEST_WAIT_S = 5.0  # between two tries
BRIEF = (429, 503)  # what the server itself asks to try again
Parts = ParamSpec("Parts")
Value = TypeVar("Value")


def _waited(build: Callable[Parts, Call[Value]]) -> Callable[Concatenate[People, Parts], Value]:
    """Make a verb of ``People`` from what it sends."""

    @wraps(build)
    def verb(people: People, /, *parts: Parts.args, **named: Parts.kwargs) -> Value:
        return people.send(build(*parts, **named))

    return verb


def _awaited(build: Callable[Parts, Call[Value]]) -> Callable[Concatenate[AsyncPeople, Parts], Awaitable[Value]]:
    """Make a verb of ``AsyncPeople`` from what it sends."""

    @wraps(build)
    async def verb(people: AsyncPeople, /, *parts: Parts.args, **named: Parts.kwargs) -> Value:
        return await people.send(build(*parts, **named))

    return verb


class People:
    """A client that waits; use it as a context manager, or call ``close``."""

    def __init__(self, url: str, key: str, transport: httpx.BaseTransport | None = None) -> None:
        """Talk to the server at ``url`` with a key, or with a user token; ``transport`` is httpx's."""
        self._http = httpx.Client(base_url=url, headers=_bearer(key), timeout=TIMEOUT_S, transport=transport)

    def send(self, call: Call[Value]) -> Value:
        """Send a call, again where it may pass.

        Raises:
            ClientError: the server refused it, or didn't answer; ``failures.py`` has the kinds.
        """
        for attempt in stamina.retry_context(on=_pause, attempts=ATTEMPTS, wait_max=LONGEST_WAIT_S):
            with attempt:
                try:
                    response = self._http.request(call.method, call.path, **_arguments(call))
                except httpx.TransportError as error:
                    raise _broken(error) from error
                return call.read(response.status_code, response.content, response.headers)
        raise AssertionError("the last attempt returns or raises")

    ask, answer, undo = _waited(calls.ask), _waited(calls.answer), _waited(calls.undo)
    set, say, consent = _waited(calls.state), _waited(calls.say), _waited(calls.agree)
    rate, prefer = _waited(calls.rate), _waited(calls.prefer)
    trial, preview = _waited(calls.trial), _waited(calls.preview)
    profile, history, drift = _waited(calls.profile), _waited(calls.history), _waited(calls.drift)
    export, pause, resume = _waited(calls.export), _waited(calls.pause), _waited(calls.resume)
    forget, link, token = _waited(calls.forget), _waited(calls.link), _waited(calls.token)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> People:  # noqa: PYI034 - as elsewhere
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncPeople:
    """A client that is awaited; use it as an async context manager, or call ``close``."""

    def __init__(self, url: str, key: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Talk to the server at ``url`` with a key, or with a user token; ``transport`` is httpx's."""
        self._http = httpx.AsyncClient(base_url=url, headers=_bearer(key), timeout=TIMEOUT_S, transport=transport)

    async def send(self, call: Call[Value]) -> Value:
        """Send a call, again where it may pass; errors as ``People`` raises them."""
        async for attempt in stamina.retry_context(on=_pause, attempts=ATTEMPTS, wait_max=LONGEST_WAIT_S):
            with attempt:
                try:
                    response = await self._http.request(call.method, call.path, **_arguments(call))
                except httpx.TransportError as error:
                    raise _broken(error) from error
                return call.read(response.status_code, response.content, response.headers)
        raise AssertionError("the last attempt returns or raises")

    ask, answer, undo = _awaited(calls.ask), _awaited(calls.answer), _awaited(calls.undo)
    set, say, consent = _awaited(calls.state), _awaited(calls.say), _awaited(calls.agree)
    rate, prefer = _awaited(calls.rate), _awaited(calls.prefer)
    trial, preview = _awaited(calls.trial), _awaited(calls.preview)
    profile, history, drift = _awaited(calls.profile), _awaited(calls.history), _awaited(calls.drift)
    export, pause, resume = _awaited(calls.export), _awaited(calls.pause), _awaited(calls.resume)
    forget, link, token = _awaited(calls.forget), _awaited(calls.link), _awaited(calls.token)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncPeople:  # noqa: PYI034 - as elsewhere
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _arguments(call: Call[Any]) -> dict[str, Any]:
    return {"params": dict(call.query) or None, "json": call.body, "headers": dict(call.headers)}


def _broken(error: httpx.TransportError) -> Unavailable:
    return Unavailable(
        f"the server didn't answer ({type(error).__name__}: {error}); look whether it runs at this address"
    )


def _pause(error: Exception) -> bool | float:
    """Whether to try again, and after how many seconds where the server said so."""
    if not isinstance(error, Unavailable) or error.status not in {None, *BRIEF}:
        return False
    return True if error.retry_s is None else min(error.retry_s, LONGEST_WAIT_S)
