"""LangChain against the server: its own suite for chat models, ``ChatOpenAI`` as it is, and the account of a reply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from pydantic import BaseModel, ConfigDict

from personalign.integrations.langchain import ChatPersonalign
from personalign.service import Personalign
from tests.onboarded import HELLO, onboard
from tests.serve.running import serving

ADA = "ada"
TEXT = HELLO[0]["content"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Personalign]:
    with Personalign.open(f"sqlite:///{tmp_path_factory.mktemp('langchain') / 'p.db'}") as service:
        onboard(service, ADA)
        yield service


@pytest.fixture(scope="module")
def way_in(service: Personalign) -> Iterator[dict[str, Any]]:
    """Where the server is, and a key."""
    with serving(service) as address:
        yield {"base_url": f"{address}/v1", "api_key": service.keys.create("backend", "tests")[1]}


class TestUnits(ChatModelUnitTests):
    """LangChain's own tests of what needs no server."""

    has_tool_calling = False
    has_structured_output = True
    chat_model_class = ChatPersonalign
    chat_model_params: ClassVar = {"base_url": "http://127.0.0.1:9/v1", "api_key": "pa_x", "user": ADA}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": 100, "timeout": 60, "stop": [], "max_retries": 2}


class TestIntegration(ChatModelIntegrationTests):
    """LangChain's own tests of talking to the server."""

    has_tool_calling = False
    supports_model_override = True
    model_override_value = "tiny+hotels"
    has_structured_output = False  # they ask for texts of any length, which so small a model doesn't end
    chat_model_class = ChatPersonalign

    @pytest.fixture(autouse=True)
    def params(self, way_in: dict[str, Any]) -> None:
        self.way_in = way_in

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**self.way_in, "user": ADA, "max_tokens": 60}


def test_a_reply_keeps_its_account(way_in: dict[str, Any], service: Personalign) -> None:
    """Whole and streamed, it is the person's reply of the service, and says so; another person gets another."""
    model = ChatPersonalign(**way_in, user=ADA, max_tokens=24)
    reply = service.chat(ADA, HELLO, max_tokens=24)
    message = model.invoke(TEXT)
    assert message.content == reply.text
    account = message.response_metadata["personalign"]
    assert (account["guided"], account["revision"], account["kl"]) == (True, reply.revision, reply.kl)
    pieces = list(model.stream(TEXT))
    whole = sum(pieces[1:], pieces[0])
    assert (whole.content, whole.response_metadata["personalign"]) == (reply.text, account)
    stranger = model.for_user("somebody").invoke(TEXT)
    assert (stranger.content, stranger.response_metadata["personalign"]["reason"]) == (
        service.chat("somebody", HELLO, max_tokens=24).text,
        "no_answers",
    )


def test_wishes_reach_the_reward(way_in: dict[str, Any], service: Personalign) -> None:
    """Strength and all else of our field, from the model or from a call, whose word is the last."""
    plain = service.chat(ADA, HELLO, max_tokens=24, strength=0).text
    model = ChatPersonalign(**way_in, user=ADA, max_tokens=24, strength=0)
    assert model.invoke(TEXT).content == plain
    guided = model.invoke(TEXT, extra_body={"personalign": {"strength": 1}})
    assert guided.content == service.chat(ADA, HELLO, max_tokens=24).text != plain
    expert = ChatPersonalign(**way_in, user=ADA, max_tokens=24, wishes={"expert": "hotels"})
    assert expert.invoke(TEXT).content == service.chat(ADA, HELLO, max_tokens=24, expert="hotels").text


class City(BaseModel):
    """What a reply has to say."""

    model_config = ConfigDict(extra="forbid")

    city: Literal["Paris", "Rome"]


@pytest.mark.parametrize("kind", [ChatPersonalign, ChatOpenAI])
def test_replies_keep_to_a_schema(way_in: dict[str, Any], kind: type[ChatOpenAI]) -> None:
    """By ``with_structured_output``, whole and streamed."""
    model = kind(**way_in, model="tiny")
    city = model.with_structured_output(City, method="json_schema").invoke(TEXT)
    assert isinstance(city, City)
    *_, last = model.with_structured_output(City.model_json_schema(), method="json_schema").stream(TEXT)
    assert City(**last) == city


def test_langchains_own_model_talks_to_the_server(way_in: dict[str, Any], service: Personalign) -> None:
    """Streamed and not, awaited and not, each person by ``user``."""
    model = ChatOpenAI(**way_in, model="tiny", max_tokens=16, model_kwargs={"user": ADA})
    text = service.chat(ADA, HELLO, max_tokens=16).text
    assert model.invoke([HumanMessage(TEXT)]).content == text
    assert "".join(str(piece.content) for piece in model.stream(TEXT)) == text
    assert service.chat("somebody", HELLO, max_tokens=16).text != text


async def test_langchains_own_model_may_be_awaited(way_in: dict[str, Any], service: Personalign) -> None:
    """Several at once, as ``abatch`` does."""
    model = ChatOpenAI(**way_in, model="tiny", max_tokens=16, model_kwargs={"user": ADA})
    text = service.chat(ADA, HELLO, max_tokens=16).text
    assert [message.content for message in await model.abatch([TEXT] * 3)] == [text] * 3
