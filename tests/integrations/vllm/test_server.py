"""vLLM's OpenAI server as the command line starts it, and the check that it has to pass first."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from personalign import Personalign
from personalign.bundled import smollm2_obstacle
from personalign.integrations.vllm.people import USER
from tests.integrations.vllm.conftest import CHAT, COMMAND, ENVIRONMENT

pytest.importorskip("vllm", reason="vLLM isn't installed: make test-vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=120) as client:
        yield client


def ask(client: httpx.Client, user: str | None = None, **more: object) -> httpx.Response:
    arguments = {} if user is None else {"vllm_xargs": {USER: user}}
    body = {"model": "tiny", "messages": CHAT, "temperature": 0, "max_tokens": 24, **arguments, **more}
    return client.post("/v1/chat/completions", json=body)


def text(response: httpx.Response) -> str:
    content: str = response.json()["choices"][0]["message"]["content"]
    return content


def test_http_replies_are_our_engines(client: httpx.Client, people: Personalign) -> None:
    """A stranger's and two people's, named in vllm_xargs."""
    replies = {user: text(ask(client, user)) for user in (None, "ada", "ben")}
    assert replies == {user: people.chat(user or "nobody", CHAT, max_tokens=24).text for user in replies}
    assert len(set(replies.values())) > 1


def test_an_unknown_person_is_a_400(client: httpx.Client) -> None:
    """With a reason that says what to do, and the id left out; the next request is served."""
    response = ask(client, "a secret name")
    assert response.status_code == httpx.codes.BAD_REQUEST
    assert "doesn't know" in response.text
    assert "secret" not in response.text
    assert ask(client, "ada").status_code == httpx.codes.OK


def test_an_erased_person_is_refused_within_a_second(client: httpx.Client, people: Personalign) -> None:
    """By another process's erasure; a new profile of theirs counts again."""
    people.set("eve", length=-1)
    assert ask(client, "eve").status_code == httpx.codes.OK
    people.forget("eve")
    assert ask(client, "eve").status_code == httpx.codes.BAD_REQUEST
    people.set("eve", length=1)
    assert ask(client, "eve").status_code == httpx.codes.OK


@pytest.mark.skipif(smollm2_obstacle() is not None, reason="SmolLM2 isn't installed")
def test_the_check_passes_on_smollm2(tmp_path: Path) -> None:
    """Static contracts, tokens equal to our engine's on a real model, and one line of JSON."""
    run = subprocess.run(
        [*COMMAND, "vllm", "check", "--model", "smollm2", "--json"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    (line,) = run.stdout.splitlines()
    report = json.loads(line)
    assert report["contracts"] == []
    assert len(report["checks"]) == 6
    assert all(report["checks"].values())
