"""``personalign serve`` as operators run it: what it prints, what it logs, and how it ends."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from personalign.errors import InputError
from personalign.serve import run
from personalign.serve.app import create_app
from personalign.serve.logs import SPEAKERS
from personalign.serve.policy import Policy
from personalign.serve.run import Server, serve
from personalign.service import Personalign
from personalign.store import schema
from personalign.store.places import find
from tests.commands import run_verb
from tests.decode.gate import Gate, until
from tests.onboarded import HELLO
from tests.serve.raw import WHOLE, ask, connect, read

CANARY = "canary-7f3a"
SECONDS = 300  # for what takes seconds on an idle machine


@dataclass(frozen=True)
class Running:
    """A server in a process of its own, and what it said when it began to listen."""

    process: subprocess.Popen[str]
    logfile: Path
    opening: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.opening["url"])

    def end(self) -> int:
        """Wait for its end after a signal; nothing else was on stdout."""
        out, _ = self.process.communicate(timeout=SECONDS)
        assert out == ""
        return self.process.returncode


def url_in(folder: Path) -> str:
    return f"sqlite:///{folder / 'p.db'}"


@contextmanager
def running(folder: Path, *words: str) -> Iterator[Running]:
    command = [sys.executable, "-m", "personalign.cli", "serve", "--port", "0", "--json", *words]
    environment = os.environ | {"PERSONALIGN_STORE": url_in(folder)}
    logfile = folder / "log"
    with (
        logfile.open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert line, logfile.read_text()
            yield Running(process, logfile, json.loads(line))
        finally:
            process.kill()


@pytest.mark.slow
def test_an_empty_store_gets_a_key_and_a_link(tmp_path: Path) -> None:
    """The key is an operator's, the link opens a session once, and no line of the log has an id or a text."""
    with running(tmp_path) as server:
        headers = {"Authorization": f"Bearer {server.opening['key']}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=SECONDS) as client:
            assert client.get("/v1/operator/summary").status_code == 200
            page, _, link = server.opening["onboarding"].partition("#")
            assert page == f"{server.url}/onboard"
            answers = [httpx.post(f"{server.url}/v1/sessions", json={"link": link}) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [200, 401]
            assert answers[0].json()["user"] == "you"
            _use_everything(client)
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0
        log = server.logfile.read_text()
    assert CANARY not in log
    assert server.opening["key"] not in log
    rows = [json.loads(line) for line in log.splitlines()]
    requests = [row for row in rows if row["message"] == "request"]
    assert {"/v1/chat/completions", "/v1/people/{user:path}/profile", "unknown"} <= {row["route"] for row in requests}
    (chat,) = [row for row in requests if row["route"] == "/v1/chat/completions" and row["status"] == 200]
    assert (chat["method"], chat["tokens"], chat["request_id"]) == ("POST", 4, "mine-1")
    assert chat["seconds"] > 0
    assert chat["time"].endswith("+00:00")


def _use_everything(client: httpx.Client) -> None:
    """Send ids and texts wherever they can be sent, in requests that are answered and in others that aren't."""
    said = {"model": "tiny", "user": CANARY, "messages": [*HELLO, {"role": "user", "content": CANARY}], "max_tokens": 4}
    chat = client.post("/v1/chat/completions", json=said, headers={"x-request-id": "mine-1"})
    assert chat.json()["usage"]["completion_tokens"] == 4
    client.post("/v1/chat/completions", json=said | {"messages": CANARY})
    client.post("/v1/chat/completions", content=f'{{"model": "{CANARY}', headers={"content-type": "application/json"})
    client.post("/v1/chat/completions", json=said, headers={"Authorization": f"Bearer {CANARY}"})
    for verb in ("profile", "history", "nowhere"):
        client.get(f"/v1/people/{CANARY}/{verb}", params={"why": CANARY})
    client.post(f"/v1/people/{CANARY}/say", json={"text": f"shorter, {CANARY}"})
    client.request(CANARY.replace("-", ""), f"/{CANARY}")
    client.get(f"/{CANARY}", headers={"x-request-id": f"{CANARY} {CANARY}"})
    ask(str(client.base_url).rstrip("/"), [f"{CANARY}\r\n\r\n".encode()])


@pytest.mark.slow
def test_an_old_schema_is_refused_until_it_may_be_migrated(tmp_path: Path) -> None:
    """Exit code 3 and the command to run, and nothing changed; with --migrate it serves, and ends what it began."""
    find(url_in(tmp_path)).make()
    schema.migrate(find(url_in(tmp_path)), "0011")
    before = (tmp_path / "p.db").read_bytes()
    command = [sys.executable, "-m", "personalign.cli", "serve", "--port", "0", "--store", url_in(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert refused.returncode == 3
    assert "personalign db upgrade" in refused.stderr
    assert (tmp_path / "p.db").read_bytes() == before
    with running(tmp_path, "--migrate", "--logs", "text") as server:
        with connect(server.url) as early:
            early.sendall(WHOLE[:-1])
            until(lambda: _is_busy(server.url, server.opening["key"]))
            server.process.send_signal(signal.SIGTERM)
            until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
            late = ask(server.url, [WHOLE])
            assert (late.status, late.headers["retry-after"]) == (503, "1")
            early.sendall(WHOLE[-1:])
            assert read(early).status == 401
        assert server.end() == 0
        assert "route=/v1/sessions status=401" in server.logfile.read_text()
    with running(tmp_path) as again:  # the control: this store has a key
        assert again.opening == {"url": again.url, "key": None, "onboarding": None}


def _is_busy(url: str, key: str) -> bool:
    return httpx.get(f"{url}/v1/operator/summary", headers={"Authorization": f"Bearer {key}"}).status_code == 200


@contextmanager
def started(service: Personalign, policy: Policy) -> Iterator[tuple[Server, threading.Thread, str]]:
    """A server in a thread, which a signal may end, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(create_app(service, policy), policy, lambda: None)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        until(lambda: server.started)
        yield server, thread, f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("signals", [1, 2])
def test_a_drain_ends_in_time(service: Personalign, signals: int) -> None:
    """A request that never ends is waited for as long as the policy says; at a second signal not at all."""
    policy = Policy(drain_s=1.0 if signals == 1 else 600.0, receive_s=600.0)
    with started(service, policy) as (server, thread, address), connect(address) as endless:
        endless.sendall(WHOLE[:-1])
        until(lambda: server._traffic.in_flight == 1)
        began = time.monotonic()
        for _ in range(signals):
            server.handle_exit(signal.SIGTERM, None)
        thread.join(30)
        seconds = time.monotonic() - began
    assert (1.0 if signals == 1 else 0.0) <= seconds < 20


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_reply_that_takes_too_long_is_told_so(
    p: Personalign, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, stream: bool
) -> None:
    """When the time for it is up its client gets 503, or it as the last event, and the log doesn't complain."""
    monkeypatch.setattr(run, "LAST_S", 20)  # a slow machine may need more than the one second to send it
    headers = {"Authorization": f"Bearer {p.keys.create('backend', 'tests')[1]}"}
    body = {"messages": HELLO, "max_tokens": 100, "stream": stream}
    with started(p, Policy(drain_s=0.5)) as (server, thread, address), ThreadPoolExecutor(1) as pool:
        answering = pool.submit(httpx.post, f"{address}/v1/chat/completions", json=body, headers=headers, timeout=60)
        gate.let(3)
        server.handle_exit(signal.SIGTERM, None)
        thread.join(30)
        answer = answering.result()
    gate.open()
    assert answer.status_code == (200 if stream else 503)
    *_, last = [line for line in answer.text.splitlines() if line]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
    assert stream or answer.headers["retry-after"] == "1"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_port_that_is_taken_is_refused(open_store: Any) -> None:
    """Another server's port, and an address of another machine, are bad input before a model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for host, port in (("127.0.0.1", taken.getsockname()[1]), ("192.0.2.1", 0)):
            p = open_store()
            with pytest.raises(InputError, match="can't listen on"):
                serve(p, host, port)
            assert not p.vitals.is_loaded


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """What the verb sets up for its whole process ends with the test."""
    loggers = [logging.getLogger(name) for name in (None, *SPEAKERS)]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize("words", [("--rate", "many"), ("--frame-ancestors", "shop.example; script-src *")])
def test_what_cannot_be_a_setting_is_refused(
    words: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A rate or an origin that is none is bad input before a model is loaded, and exit code 2."""
    refused = run_verb(capfd, "serve", "--port", "0", "--store", url_in(tmp_path), *words)
    assert refused.code == 2
    assert "expected" in refused.err
