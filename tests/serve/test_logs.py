"""The log says what was done, when and where, and none of what was said by whom."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from personalign.serve.logs import Format, Lines
from tests.decode.gate import until

CANARY = "canary-7f3a"
Write = Callable[..., str]


@pytest.fixture
def write() -> Write:
    """Write one record as a line."""

    def write(name: str, message: str, *args: object, form: Format = "json", error: Exception | None = None) -> str:
        info = None if error is None else (type(error), error, error.__traceback__)
        record = logging.LogRecord(name, logging.WARNING, "/a/package/module.py", 7, message, args, info)
        return Lines(form).format(record)

    return write


def test_requests_leave_their_template(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    """A line each: its route, status, seconds and tokens, and neither the path nor the words."""
    messages = [{"role": "user", "content": CANARY}]
    said: dict[str, Any] = {"model": "tiny", "user": CANARY, "messages": messages, "max_tokens": 8}
    with caplog.at_level(logging.INFO, "personalign"):
        written = client.post("/v1/chat/completions", json=said).json()["usage"]["completion_tokens"]
        assert client.post("/v1/chat/completions", json=said | {"stream": True}).text.endswith("[DONE]\n\n")
        assert client.get(f"/v1/people/{CANARY}/profile", params={"name": CANARY}).status_code == 200
        assert client.request("CANARY", f"/{CANARY}").is_client_error
        until(lambda: [record.message for record in caplog.records].count("request") == 4)  # after the answer
    lines = [Lines().format(record) for record in caplog.records if record.name.startswith("personalign")]
    assert CANARY not in "".join(lines)
    rows = [json.loads(line) for line in lines]
    shown = [(row["method"], row["route"], row["status"], row.get("tokens")) for row in rows]
    assert shown == [
        ("POST", "/v1/chat/completions", 200, written),
        ("POST", "/v1/chat/completions", 200, written),
        ("GET", "/v1/people/{user:path}/profile", 200, None),
        ("OTHER", "unknown", 404, None),
    ]
    assert written > 1
    assert all(row["seconds"] >= 0 and row["request_id"].startswith("req_") for row in rows)


def test_an_error_leaves_its_kind_and_place(write: Write) -> None:
    """Its words may be a person's, so they aren't written, of our own loggers neither; the message is (the control)."""
    with pytest.raises(ValueError, match=CANARY) as caught:
        int(CANARY)
    line = write("personalign.store", "it failed", error=caught.value)
    row = json.loads(line)
    assert row["message"] == "it failed"
    assert row["error"].startswith("ValueError at serve/test_logs.py:")
    assert CANARY not in line


def test_other_packages_leave_where_they_spoke(write: Write) -> None:
    """What they say may hold anything, such as a failed task; ours and uvicorn's is written (the control)."""
    assert json.loads(write("asyncio", "Task exception %s", CANARY))["message"] == "asyncio at package/module.py:7"
    assert json.loads(write("uvicorn.error", "Shutting %s", "down"))["message"] == "Shutting down"


def test_a_line_stays_a_line(write: Write) -> None:
    """Whatever is in a message, JSON holds it in one line of ASCII; the plain form is one for people."""
    assert write("personalign", "two\nlines, é").count("\n") == 0
    assert write("personalign", "é").isascii()
    assert write("personalign", "hello", form="text").endswith("+00:00 warning hello")
