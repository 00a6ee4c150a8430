"""``personalign doctor`` says whether a server answers, and whether replies are steered at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from personalign.service import Personalign
from tests.commands import run_verb

# a loaded model's libraries warn of things to come
pytestmark = pytest.mark.filterwarnings("ignore")
Examine = Callable[..., dict[str, Any]]


@pytest.fixture
def examine(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Examine:
    url = f"sqlite:///{tmp_path / 'p.db'}"
    Personalign.open(url).close()
    return lambda *words: run_verb(capfd, "doctor", "--store", url, "--json", *words).row()


@pytest.fixture
def stranger() -> Iterator[str]:
    """Another server, which isn't ours."""

    class Greeting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Greeting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_that_answers_is_told_from_one_that_does_not(server: str, stranger: str, examine: Examine) -> None:
    """Ready, none, and somebody else's; without an address none is asked."""
    ready = examine("--url", server)["server"]
    assert ready == {"url": server, "answers": True, "status": "ready", "reasons": []}
    foreign = examine("--url", stranger)["server"]
    assert (foreign["answers"], "another server" in foreign["problem"]) == (True, True)
    silent = examine("--url", "http://127.0.0.1:9")["server"]
    assert (silent["answers"], "refused" in silent["problem"]) == (False, True)
    assert examine()["server"] is None


def test_replies_are_steered_here(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain and steered tokens differ; where nothing acts they don't (the control), and errors are told."""
    report = examine("--model", "tiny")
    assert report["self_test"]["differs"]
    assert report["self_test"]["device"] == "cpu"
    assert len(report["basis"]["fingerprint of the model"]) == 64
    json.dumps(report)
    broken = examine("--device", "nowhere")["self_test"]
    assert "ModelError" in broken["problem"]
    monkeypatch.setattr(Personalign, "set", lambda *_, **__: None)
    assert not examine()["self_test"]["differs"]
