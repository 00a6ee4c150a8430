"""Whatever a client sends, or doesn't, costs the server little, and is answered soon."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from personalign.serve.guard import Guard, Traffic
from personalign.serve.metrics import Meters
from personalign.serve.policy import Policy
from personalign.service import Personalign
from tests.decode.gate import until
from tests.serve.raw import BODY, HEAD, WHOLE, ask, connect, read
from tests.serve.running import serving

HASTY = Policy(receive_s=1.0)  # more than a thread has to wait on a busy machine
SLOWEST_S = 20.0  # by when what takes too long has ended, also on a busy machine
MANY = 200 << 20  # bytes
PIECE = bytes(1 << 16)


@pytest.fixture(scope="module")
def hasty(service: Personalign) -> Iterator[str]:
    """A server that waits for nobody."""
    with serving(service, HASTY) as address:
        yield address


class Flood:
    """A body in pieces, of which it is known how many bytes were taken."""

    def __init__(self, head: str, *, is_chunked: bool) -> None:
        self._head, self._is_chunked, self.num_bytes = head.encode(), is_chunked, 0

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        while self.num_bytes < MANY:
            yield b"%x\r\n%s\r\n" % (len(PIECE), PIECE) if self._is_chunked else PIECE
            self.num_bytes += len(PIECE)


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_a_body_of_200_mb_is_refused_without_being_read(server: str, backend_key: str, *, is_chunked: bool) -> None:
    """The answer is 413 before most of it is sent, and the server's memory stays as it is."""
    length = "transfer-encoding: chunked" if is_chunked else f"content-length: {MANY}"
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {backend_key}\r\n{length}\r\n"
    flood = Flood(f"{head}content-type: application/json\r\n\r\n", is_chunked=is_chunked)
    before = psutil.Process(os.getpid()).memory_info().rss
    answer = ask(server, flood)
    assert answer.status == 413
    assert "1,048,576 bytes" in answer.error()["message"]
    assert answer.headers["connection"] == "close"
    assert flood.num_bytes < MANY / 4
    assert psutil.Process(os.getpid()).memory_info().rss - before < MANY / 8


def test_a_body_within_the_limit_is_read(client: httpx.Client) -> None:
    """The control: a little less than a megabyte comes to the route, which says what is wrong with it."""
    spaces = b" " * ((1 << 20) - len(BODY))
    for content, status in ((BODY + spaces, 401), (BODY + spaces + b" ", 413)):
        answer = client.post("/v1/sessions", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"", 0), (b"GET /livez HT", 408), (f"{HEAD}content-length: 24\r\n\r\n".encode(), 408), (WHOLE[:-1], 408)],
    ids=["nothing", "half a head", "a head", "half a body"],
)
def test_half_a_request_ends_soon(hasty: str, sent: bytes, status: int) -> None:
    """Who stops in the middle is told so, and the connection ends; who says nothing finds it closed."""
    answer = ask(hasty, [sent])
    assert answer.status == status
    assert HASTY.receive_s <= answer.seconds < SLOWEST_S
    if status:
        assert "longer than 1 seconds" in answer.error()["message"]
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("start", [0, WHOLE.index(b"{")], ids=["head", "body"])
def test_a_request_byte_by_byte_ends_soon(hasty: str, start: int) -> None:
    """Slow bytes aren't waited for longer than none; the same bytes at once are answered (the control)."""
    pieces = [WHOLE[:start], *(WHOLE[i : i + 1] for i in range(start, len(WHOLE)))]
    slow = ask(hasty, pieces, pause_s=0.1)
    assert (slow.status, slow.seconds < SLOWEST_S) == (408, True)
    assert ask(hasty, pieces).status == 401


def test_answers_are_sent_at_once(hasty: str) -> None:
    """No piece of an answer waits until the client's machine has acknowledged the one before, which takes 40 ms."""
    with httpx.Client(base_url=hasty) as client:
        seconds = [client.get("/livez").elapsed.total_seconds() for _ in range(30)]
    assert min(seconds[10:]) < 0.03


def test_who_keeps_asking_is_never_cut_off(hasty: str) -> None:
    """A connection that is used again and again outlives the deadline by far."""
    with httpx.Client(base_url=hasty) as client:
        ends, num_asked = time.monotonic() + 2 * HASTY.receive_s, 0
        while time.monotonic() < ends:
            answer = client.get("/livez")
            assert answer.status_code == 200
            num_asked += 1
            time.sleep(0.02)
        (connection,) = client._transport._pool.connections  # type: ignore[attr-defined]
        assert connection._connection._request_count == num_asked > 1


@pytest.mark.slow
def test_a_connection_is_kept_longer_than_clients_keep_it(hasty: str) -> None:
    """Who closes first is the client, whose pool gives up after 5 seconds: nothing that it sends is cut off."""
    with connect(hasty) as connection:
        for pause_s in (0, 6):
            time.sleep(pause_s)
            connection.sendall(WHOLE)
            assert read(connection).status == 401
        connection.sendall(WHOLE[:10])  # half a request isn't waited for longer than on a new connection
        assert read(connection).status == 408


def test_who_takes_no_answer_is_cut_off(hasty: str) -> None:
    """A reader who stalls loses the connection; one who reads gets every answer (the control)."""
    request, count = b"GET /openapi.json HTTP/1.1\r\nhost: test\r\n\r\n", 400
    size = len(httpx.get(f"{hasty}/openapi.json").content) * count

    def receive(patience_s: float) -> int:
        with connect(hasty) as connection:
            connection.sendall(request * count)
            time.sleep(patience_s)
            num_bytes = 0
            try:
                while num_bytes < size and (piece := connection.recv(1 << 20)):
                    num_bytes += len(piece)
            except ConnectionResetError:
                pass
            return num_bytes

    assert receive(5 * HASTY.receive_s) < size
    assert receive(0) >= size


@pytest.mark.parametrize("sent", [b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"x" * (1 << 20)])
def test_what_is_no_request_is_refused(hasty: str, sent: bytes) -> None:
    """Bytes that can't be read get a 400 in the shape of all errors."""
    answer = ask(hasty, [sent])
    assert answer.status == 400
    assert answer.error()["type"] == "invalid_request_error"


def test_more_requests_than_may_be_at_once_are_refused(service: Personalign) -> None:
    """The third gets 429 and when to come back, at once; probes are answered; when one ends the next is let in."""
    half = WHOLE[:-1]
    with (
        serving(service, Policy(in_flight=2, receive_s=600)) as address,
        connect(address) as one,
        connect(address) as other,
    ):
        one.sendall(half)
        other.sendall(half)
        until(lambda: ask(address, [WHOLE]).status == 429)
        answer = ask(address, [WHOLE])
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert answer.error()["code"] == "overloaded"
        assert answer.seconds < SLOWEST_S
        for probe in ("livez", "readyz", "metrics"):
            assert httpx.get(f"{address}/{probe}").status_code == 200
        one.sendall(WHOLE[-1:])
        assert read(one).status == 401
        assert ask(address, [WHOLE]).status == 401


def test_every_answer_has_an_id(client: httpx.Client) -> None:
    """The client's own if it is one, a new one otherwise; refusals, too."""
    assert client.get("/livez", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for odd in ("", "two words", "é", "x" * 65):
        ids = {client.get("/nowhere", headers={"x-request-id": odd.encode()}).headers["x-request-id"] for _ in range(2)}
        assert len(ids) == 2
        assert all(shown.startswith("req_") for shown in ids)


async def fail(_: Request) -> PlainTextResponse:
    raise ValueError("ada's secret")


async def wait_long(_: Request) -> PlainTextResponse:
    await asyncio.sleep(0.2)
    return PlainTextResponse("done")


@pytest.fixture
def guarded(service: Personalign) -> tuple[Starlette, Traffic]:
    """A guard before two routes."""
    app, traffic = Starlette(routes=[Route("/fail/{user}", fail), Route("/wait", wait_long)]), Traffic(Policy())
    app.add_middleware(Guard, policy=Policy(), traffic=traffic, meters=Meters(service))
    return app, traffic


async def get(app: Starlette, *paths: str) -> list[httpx.Response]:
    """Answers to requests that are sent at once."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return list(await asyncio.gather(*(client.get(path) for path in paths)))


async def begun(traffic: Traffic) -> None:
    """Wait until a request is worked on."""
    while not traffic.in_flight:  # noqa: ASYNC110 - nothing tells it
        await asyncio.sleep(0)


def test_what_nobody_expected_is_told_by_its_id(
    guarded: tuple[Starlette, Traffic], caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets a 500 with the id; the log has the id, the error's kind and its place, and none of its words."""
    with caplog.at_level(logging.INFO, "personalign"):
        (answer,) = asyncio.run(get(guarded[0], "/fail/ada"))
    assert answer.status_code == 500
    shown = answer.headers["x-request-id"]
    assert shown in answer.json()["error"]["message"]
    (record,) = [record for record in caplog.records if record.name == "personalign.serve.guard"]
    fields = json.dumps(record.__dict__["fields"])
    assert shown in fields
    assert "ValueError at serve/test_guard.py" in fields
    assert '"/fail/{user}"' in fields
    assert "ada" not in fields
    assert record.exc_info is None


def test_a_stopping_server_ends_what_it_began(guarded: tuple[Starlette, Traffic]) -> None:
    """What runs is written to its end, what is new gets 503; it is over when nothing runs, or time is up."""
    app, traffic = guarded

    async def stop() -> tuple[httpx.Response, httpx.Response]:
        running = asyncio.create_task(get(app, "/wait"))
        await begun(traffic)
        traffic.drain()
        assert (traffic.is_drained, traffic.in_flight) == (False, 1)
        (late,) = await get(app, "/wait")
        return late, (await running)[0]

    late, early = asyncio.run(stop())
    assert (early.status_code, early.text) == (200, "done")
    assert (late.status_code, late.headers["retry-after"]) == (503, "1")
    assert traffic.is_drained


def test_a_drain_has_an_end() -> None:
    """Whatever runs, it is over after the policy's seconds."""
    seconds = itertools.count()
    traffic = Traffic(Policy(drain_s=3), lambda: float(next(seconds)))
    traffic.in_flight = 1
    traffic.drain()
    assert [traffic.is_drained for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize("is_stopping", [True, False], ids=["stopping", "control"])
def test_what_is_cancelled_at_the_end_is_refused(guarded: tuple[Starlette, Traffic], *, is_stopping: bool) -> None:
    """What outlasts the end is cancelled by uvicorn, and its client gets 503; cancelled by others it stays so."""
    app, traffic = guarded

    async def cancel() -> int | str:
        waiting = asyncio.create_task(get(app, "/wait"))
        await begun(traffic)
        if is_stopping:
            traffic.drain()
        for task in asyncio.all_tasks() - {asyncio.current_task(), waiting}:
            task.cancel()
        try:
            return (await waiting)[0].status_code
        except asyncio.CancelledError:
            return "cancelled"

    assert asyncio.run(cancel()) == (503 if is_stopping else "cancelled")
