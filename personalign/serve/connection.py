"""The client at the other end: work for it ends within two steps of the engine once it leaves, streamed or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from personalign.errors import PersonalignError
from personalign.serve import failures
from personalign.serve.failures import Refusal

GONE = 499  # what proxies log of clients who left
DONE = format_sse_event(data_str="[DONE]")
PING_S = 15.0  # between signs of life, so that no proxy ends a stream that waits for its turn
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies must not keep events back
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
Value = TypeVar("Value")
Put = Callable[[bytes], None]


async def while_connected(request: Request, work: Coroutine[Any, Any, Value]) -> Value:
    """Do some work for a client; it is cancelled where the client leaves first, or the server's last second comes.

    Raises:
        Refusal: 499, which nobody reads but the log; or 503.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_departure(request))
    ending = request.app.state.traffic.ending()
    try:
        await asyncio.wait({working, leaving, ending}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Refusal(GONE, "the client left before it was answered") if leaving.done() else failures.stopping()
    finally:
        await _cancel(working, leaving, ending)


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def gather(*works: Awaitable[Value]) -> list[Value]:
    """Do several things at once; where one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(*tasks)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what isn't done, and wait until it has let go of what it holds."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def event(data: object, name: str | None = None) -> bytes:
    """One server-sent event of JSON."""
    return format_sse_event(data_str=ENCODER.encode(data), event=name)


def event_stream(request: Request, write: Callable[[Put], Coroutine[Any, Any, object]]) -> EventSourceResponse:
    """Answer with events as they are written; an error of ours becomes the last one.

    A task of its own writes, so that it is cancelled wherever the response stands when its reader leaves.
    """
    events: asyncio.Queue[bytes] = asyncio.Queue()
    writing = asyncio.create_task(_write(request, write, events))
    return EventSourceResponse(_read(events, writing), headers=HEADERS)


async def _write(
    request: Request, write: Callable[[Put], Coroutine[Any, Any, object]], events: asyncio.Queue[bytes]
) -> None:
    pinging = asyncio.create_task(_ping(events))
    try:
        await while_connected(request, write(events.put_nowait))
    except PersonalignError as error:
        events.put_nowait(event(failures.body(failures.status_of(error), failures.message_of(error))))
    except Refusal as refusal:  # which a reader who has left doesn't get
        events.put_nowait(event(failures.body(refusal.status_code, refusal.detail, code=refusal.code)))
    finally:
        pinging.cancel()
        events.put_nowait(b"")


async def _ping(events: asyncio.Queue[bytes]) -> None:
    """Give a sign of life now and then, whatever else is written: a deadline for each event would cost more."""
    while True:
        await asyncio.sleep(PING_S)
        events.put_nowait(KEEPALIVE_COMMENT)


async def _read(events: asyncio.Queue[bytes], writing: Awaitable[None]) -> AsyncIterator[bytes]:
    """All that is there at once, so that a slow reader costs fewer calls."""
    is_open = True
    while is_open:
        ready = [await events.get()]
        while not events.empty():
            ready.append(events.get_nowait())
        is_open = ready[-1] != b""
        yield b"".join(ready)
    await writing
