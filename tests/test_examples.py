"""The examples do what they say, against a real server of the bundled model."""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from openai import OpenAI
from starlette.testclient import TestClient

from personalign.service import Personalign
from tests.onboarded import HELLO, onboard
from tests.serve.running import serving

EXAMPLES = Path(__file__).parents[1] / "examples"
ADA = "ada"
MESSAGES = [{"role": "user", "content": "I need a place to stay in Paris."}]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Personalign]:
    with Personalign.open(f"sqlite:///{tmp_path_factory.mktemp('examples') / 'p.db'}") as service:
        onboard(service, ADA)
        service.chat("nobody", HELLO, max_tokens=1)  # the model is loaded before a client waits
        yield service


@pytest.fixture(scope="module")
def surroundings(service: Personalign) -> Iterator[dict[str, str]]:
    """The variables that the examples read."""
    with serving(service) as address:
        yield {
            "PERSONALIGN_URL": f"{address}/v1",
            "PERSONALIGN_KEY": service.keys.create("backend", "examples")[1],
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it looks for prices in the network
        }


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name))


def test_a_backend_has_a_route_of_its_own_and_ours(
    service: Personalign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chat is the service's own reply; pages, probes, links and refusals are there below their prefix."""
    with Personalign.open(f"sqlite:///{tmp_path / 'b.db'}") as other:
        onboard(other, ADA, 3)
        key, expected = other.keys.create("backend", "b")[1], other.chat(ADA, HELLO, max_tokens=64)
    monkeypatch.setenv("STORE", f"sqlite:///{tmp_path / 'b.db'}")
    with TestClient(example("backend.py")["app"], base_url="http://shop.example") as client:
        answer = client.post("/chat", json={"messages": HELLO}, headers={"X-User": ADA})
        assert answer.json() == {"text": expected.text, "guided": True}
        refusal = client.post("/chat", json={"messages": []}, headers={"X-User": ADA})
        assert (refusal.status_code, refusal.json()["error"]["type"]) == (400, "invalid_request_error")
        headers = {"Authorization": f"Bearer {key}"}
        link = client.post(f"/personalign/v1/people/{ADA}/links", json={"page": "me"}, headers=headers).json()["url"]
        assert link.startswith("http://shop.example/personalign/me#")
        page = client.get(link.partition("#")[0])
        assert "static/me.js" in page.text
        assert client.get("/personalign/static/me.js").status_code == 200
        assert client.get("/personalign/livez").json() == {"status": "live"}
        assert client.get(f"/personalign/v1/people/{ADA}/profile").status_code == 401
    assert len((EXAMPLES / "backend.py").read_text("utf-8").splitlines()) < 40


class Chats:
    """Stands for Open WebUI's own table, which needs all of Open WebUI."""

    def __init__(self, user: str, messages: dict[str, Any]) -> None:
        self._user, self._messages = user, messages

    async def get_chat_by_id_and_user_id(self, _: str, user: str) -> Any:
        return SimpleNamespace(chat={"history": {"messages": self._messages}}) if user == self._user else None


async def converse(function: Any, user: str, message: str, url: str, key: str) -> str:
    """What Open WebUI does for one turn of a chat: the text of the reply."""
    body = {"model": "tiny", "messages": MESSAGES, "stream": True, "max_tokens": 24}
    place = {"user_id": user, "chat_id": "chat", "message_id": message}
    body = await function.inlet(body, __user__={"id": user})
    text = ""
    with OpenAI(base_url=url, api_key=key) as ai:
        for chunk in ai.chat.completions.create(**{"extra_body": {"personalign": body.pop("personalign")}, **body}):
            event = await function.stream(chunk.model_dump(), __metadata__=place)
            text += "".join(choice["delta"]["content"] or "" for choice in event["choices"])
    await function.outlet({"messages": [], "chat_id": "chat"}, __user__={"id": user})
    return text


async def test_a_filter_reports_thumbs_and_edits_once(
    service: Personalign, surroundings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open WebUI's user is the one who is answered; what they think of a reply is stored once, after their next one."""
    user, messages = "open/webui", dict[str, Any]()
    onboard(service, user, 3)
    table = ModuleType("open_webui.models.chats")
    table.Chats = Chats(user, messages)
    for name in ("open_webui", "open_webui.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "open_webui.models.chats", table)
    url, key = surroundings["PERSONALIGN_URL"], surroundings["PERSONALIGN_KEY"]
    function = example("open_webui_filter.py")["Filter"]()
    function.valves = function.Valves(url="http://127.0.0.1:9", key=key)
    first = await converse(function, user, "1", url, key)
    assert first == service.chat(user, MESSAGES, max_tokens=24).text
    messages["1"] = {"content": "Where, and when?", "originalContent": first, "annotation": {"rating": -1}}
    revision = service.profile(user).revision
    await converse(function, user, "2", url, key)  # the server can't be reached, and the chat goes on
    assert service.profile(user).revision == revision
    function.valves = function.Valves(url=url.removesuffix("/v1"), key=key)
    again = await converse(function, user, "3", url, key)
    kinds = [event.kind for event in service.history(user)]
    assert {"thumbs", "edit"} <= set(kinds), again
    await converse(function, user, "4", url, key)
    assert [event.kind for event in service.history(user)] == kinds


def test_a_filter_says_who_it_is() -> None:
    """Open WebUI reads a function's name and needs from its first lines."""
    first, *lines = (EXAMPLES / "open_webui_filter.py").read_text("utf-8").split('"""')[1].splitlines()
    assert first == ""
    assert {line.partition(":")[0] for line in lines} == {"title", "description", "version", "requirements"}


def test_langchain_gets_a_personal_reply(
    service: Personalign,
    surroundings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It prints Ada's reply and its account."""
    monkeypatch.setattr(os, "environ", os.environ | surroundings)
    example("langchain_chat.py")
    text, account = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert text == service.chat(ADA, MESSAGES, max_tokens=512).text
    assert "'guided': True" in account


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("litellm") is None, reason="litellm isn't installed")
def test_litellm_gets_a_personal_reply(service: Personalign, surroundings: dict[str, str]) -> None:
    """It prints Ada's reply and its account."""
    command = [sys.executable, str(EXAMPLES / "litellm_chat.py")]
    printed = subprocess.run(command, env=os.environ | surroundings, capture_output=True, check=True, text=True).stdout
    text, account = printed.rsplit("\n", 2)[:2]
    assert text == service.chat(ADA, MESSAGES, max_tokens=512).text
    assert "'guided': True" in account


def test_what_litellm_sends_is_answered(service: Personalign, surroundings: dict[str, str]) -> None:
    """Where it isn't installed: OpenAI's client sends what LiteLLM 1.110.2 sent by the same file."""
    (served,) = yaml.safe_load((EXAMPLES / "litellm_proxy.yaml").read_text("utf-8"))["model_list"]
    place = served["litellm_params"]
    url, key = (surroundings[place[name].removeprefix("os.environ/")] for name in ("api_base", "api_key"))
    sent = {"model": place["model"].removeprefix("openai/"), "messages": MESSAGES, "user": ADA}
    sent = {name: value for name, value in sent.items() if name != "user" or "user" in place["allowed_openai_params"]}
    headers = {"Authorization": f"Bearer {key}"}
    reply = httpx.post(f"{url}/chat/completions", json=sent, headers=headers, timeout=60).json()
    assert reply["choices"][0]["message"]["content"] == service.chat(ADA, MESSAGES, max_tokens=512).text
    assert reply["personalign"]["guided"]
