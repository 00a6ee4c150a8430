"""Clients that leave, wait or come too many: work ends with them, and errors say so while there is still time."""

from __future__ import annotations

import gc
import json
import logging
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from personalign.serve import connection
from personalign.service import Personalign
from tests.decode.gate import Gate, until
from tests.onboarded import HELLO
from tests.serve.running import serving

LONG: dict[str, Any] = {"messages": HELLO, "max_tokens": 200, "logit_bias": {"2": -100}}
WAYS = {
    "plain": ("/v1/chat/completions", LONG),
    "stream": ("/v1/chat/completions", LONG | {"stream": True}),
    "several": ("/v1/chat/completions", LONG | {"n": 3}),
    "several streams": ("/v1/chat/completions", LONG | {"n": 3, "stream": True}),
    "response": ("/v1/responses", {"input": "Hello", "max_output_tokens": 200, "logit_bias": {"2": -100}}),
    "response stream": (
        "/v1/responses",
        {"input": "Hello", "max_output_tokens": 200, "logit_bias": {"2": -100}, "stream": True},
    ),
}


@pytest.fixture
def p(open_store: Callable[..., Personalign]) -> Personalign:
    return open_store(slots=8, waiting=16)


@pytest.fixture
def key(p: Personalign) -> str:
    return p.keys.create("backend", "tests")[1]


@pytest.fixture
def address(p: Personalign) -> Iterator[str]:
    with serving(p) as address:
        yield address


@contextmanager
def connected(address: str, key: str, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A client that has sent its request."""
    url, content = httpx.URL(address), json.dumps(body).encode()
    with socket.create_connection((url.host, url.port or 80)) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        yield client


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "control"])
def test_a_client_that_leaves_ends_the_work(
    p: Personalign, gate: Gate, address: str, key: str, way: str, caplog: pytest.LogCaptureFixture, *, leaves: bool
) -> None:
    """A step after it has left the engine has nothing to do, and no log complains; for one that stays it goes on."""
    engine = p._replies.worker._engine
    path, body = WAYS[way]
    with connected(address, key, path, body) as client:
        until(lambda: len(engine._scheduler.queue) + len(engine._scheduler.running) == body.get("n", 1))
        gate.let(12)
        seqs = list(engine._scheduler.running.values())
        assert len(seqs) == body.get("n", 1)
        if leaves:
            client.close()
            until(lambda: all(seq.is_cancelled for seq in seqs))
        gate.let(1)
        assert engine.is_idle == leaves
        gate.open()
    until(lambda: engine.is_idle)
    gc.collect()  # tasks whose end nobody asked about complain when they are dropped
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_client_may_leave_before_its_turn(p: Personalign, gate: Gate, address: str, key: str) -> None:
    """What waits in the queue is taken out of it, and the others aren't held up."""
    engine = p._replies.worker._engine
    path, body = WAYS["stream"]
    with connected(address, key, path, body) as client:
        until(lambda: len(engine._scheduler.queue) == 1)
        (seq,) = engine._scheduler.queue
        client.close()
        until(lambda: seq.is_cancelled)
    gate.let(1)
    assert engine.is_idle


def test_too_many_are_refused_before_anything_is_sent(p: Personalign, gate: Gate, address: str, key: str) -> None:
    """A full queue is a status with when to come again, streamed or not; the others get their replies."""
    engine = p._replies.worker._engine
    with ThreadPoolExecutor(16) as pool, httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        body = {"messages": HELLO, "max_tokens": 3}
        url = f"{address}/v1/chat/completions"
        others = [pool.submit(client.post, url, json=body | {"user": f"user-{i}"}) for i in range(16)]
        until(lambda: len(engine._scheduler.queue) == 16)
        for more in ({}, {"stream": True}, {"stream": True, "n": 3}):
            refused = client.post(url, json=body | more)
            assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
            assert int(refused.headers["retry-after"]) >= 1
        assert len(engine._scheduler.queue) == 16
        gate.open()
        assert [other.result().status_code for other in others] == [200] * 16


@pytest.mark.parametrize("way", ["stream", "several streams", "response stream"])
def test_an_error_after_the_beginning_ends_the_stream(
    p: Personalign, gate: Gate, address: str, key: str, way: str
) -> None:
    """It is the last event, in OpenAI's shape, and the client raises it."""
    path, body = WAYS[way]
    with (
        httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=60) as client,
        client.stream("POST", f"{address}{path}", json=body) as response,
    ):
        assert response.status_code == 200
        gate.let(3)
        p.close()  # before: the whole reply may pass an open gate while this thread waits its turn
        gate.open()
        *_, last = [line for line in response.iter_lines() if line]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["type"], set(error)) == ("server_error", {"message", "type", "param", "code"})


def test_the_client_raises_an_error_that_comes_late(p: Personalign, gate: Gate, address: str, key: str) -> None:
    """After the pieces that were written."""
    with OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0) as ai:
        stream = ai.chat.completions.create(model="tiny", **LONG, stream=True)
        assert next(stream).choices[0].delta.role == "assistant"
        gate.let(3)
        p.close()
        gate.open()
        with pytest.raises(openai.APIError, match="closed"):
            list(stream)


@pytest.mark.parametrize("way", ["plain", "stream", "response stream"])
def test_what_fails_inside_is_told_without_its_words(
    p: Personalign, gate: Gate, address: str, key: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They may be another person's: the client gets none of them, and the log the kind and the place alone."""
    path, body = WAYS[way]

    def fail() -> None:
        raise RuntimeError("Ben wrote about his illness")

    headers = {"Authorization": f"Bearer {key}"}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, f"{address}{path}", json=body, headers=headers, timeout=60)
        engine = p._replies.worker._engine
        until(lambda: len(engine._scheduler.queue) == 1)
        gate._step = fail
        gate.open()
        *_, last = [line for line in answer.result().text.splitlines() if line]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (answer.result().status_code, error["type"]) == (500 if way == "plain" else 200, "server_error")
    assert "Ben" not in answer.result().text + caplog.text
    assert "a reply failed with RuntimeError at serve/test_connection.py:" in caplog.text


def test_a_stream_that_waits_shows_signs_of_life(
    gate: Gate, address: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comments between events, which clients skip; none where they are further apart than the wait (the control)."""
    monkeypatch.setattr(connection, "PING_S", 0.05)
    path, body = WAYS["stream"]
    with connected(address, key, path, body | {"max_tokens": 2}) as client:
        received = b""
        while received.count(b": ping") < 3:
            received += client.recv(4096)
        gate.open()
        while b"[DONE]" not in received:
            received += client.recv(4096)
    assert received.count(b"chat.completion.chunk") == 4
    monkeypatch.setattr(connection, "PING_S", 60.0)
    with connected(address, key, path, body | {"max_tokens": 2}) as client:
        received = b""
        while b"[DONE]" not in received:
            received += client.recv(4096)
    assert (received.count(b"chat.completion.chunk"), received.count(b": ping")) == (4, 0)
