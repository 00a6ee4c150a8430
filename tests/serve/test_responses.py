"""``/v1/responses`` by OpenAI's own client: the same replies as a chat's, whole or as the events that it reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from personalign.service import Personalign
from tests.onboarded import HELLO, onboard

ADA = "responses-ada"
TEXT = HELLO[0]["content"]
EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


@pytest.fixture(scope="module", autouse=True)
def onboarded(service: Personalign) -> None:
    onboard(service, ADA)


@pytest.fixture(scope="module")
def ai(server: str, backend_key: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server}/v1", api_key=backend_key, max_retries=0) as ai:
        yield ai


def ask(ai: OpenAI, **others: Any) -> Any:
    return ai.responses.create(**{"model": "tiny", "input": TEXT, "user": ADA, **others})


def test_a_response_is_the_services_own_reply(ai: OpenAI, service: Personalign) -> None:
    """Text, usage and account, and the status of a reply that came to its end."""
    response = ask(ai, max_output_tokens=400, temperature=0.5, top_p=0.9, extra_body={"seed": 3})
    reply = service.chat(ADA, HELLO, max_tokens=400, temperature=0.5, top_p=0.9, seed=3)
    assert response.output_text == reply.text
    assert (response.usage.input_tokens, response.usage.output_tokens) == (
        reply.usage.prompt_tokens,
        reply.usage.completion_tokens,
    )
    account = {name: getattr(reply, name) for name in ("revision", "guided", "reason", "kl", "seed")}
    assert account.items() <= response.personalign.items()
    assert (reply.guided, response.status, response.incomplete_details) == (True, "completed", None)
    assert (response.temperature, response.top_p, response.model) == (0.5, 0.9, "tiny")


def test_a_cut_off_response_says_so(ai: OpenAI) -> None:
    """It is incomplete, plain and streamed, because of the limit that was asked for."""
    response = ask(ai, max_output_tokens=3)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output[0].status == "incomplete"
    *_, last = ask(ai, max_output_tokens=3, stream=True)
    assert (last.type, last.response.output_text) == ("response.incomplete", response.output_text)


def test_a_stream_builds_the_response(ai: OpenAI) -> None:
    """Its events come in OpenAI's order and numbered, and the client makes the whole response of them."""
    whole = ask(ai, max_output_tokens=100)
    with ai.responses.stream(model="tiny", input=TEXT, user=ADA, max_output_tokens=100) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert list(dict.fromkeys(kinds)) == EVENTS
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert kinds.count("response.output_text.delta") > 5
    assert (final.output_text, final.usage, final.model_extra) == (whole.output_text, whole.usage, whole.model_extra)


def test_events_are_named_on_the_wire(client: httpx.Client) -> None:
    """By their type, for clients that go by names."""
    response = client.post("/v1/responses", json={"input": TEXT, "max_output_tokens": 3, "stream": True})
    for event in response.text.strip().split("\n\n"):
        name, data = event.split("\n")
        assert json.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")


def test_inputs_are_messages_of_any_shape(ai: OpenAI) -> None:
    """A text, messages, and parts are the same conversation; instructions are its system message."""
    message = {"role": "user", "content": TEXT}
    parts = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": TEXT}]}
    inputs: list[Any] = [TEXT, [message], [parts]]
    assert len({ask(ai, input=one, max_output_tokens=8).output_text for one in inputs}) == 1
    system = {"role": "developer", "content": "Be brief."}
    told = [
        ask(ai, input=[system, message], max_output_tokens=8),
        ask(ai, instructions="Be brief.", max_output_tokens=8),
        ask(ai, input=[{"role": "system", "content": "Be"}, message], instructions="brief.", max_output_tokens=8),
    ]
    assert told[0].output_text == told[1].output_text
    assert told[0].usage.input_tokens == told[1].usage.input_tokens < told[2].usage.input_tokens
    reply = [{"type": "output_text", "text": "Sure.", "annotations": []}]
    answered: list[Any] = [message, {"type": "message", "role": "assistant", "content": reply}, message]
    assert ask(ai, input=answered, max_output_tokens=8).output_text


class City(BaseModel):
    """What a reply has to say."""

    city: Literal["Paris", "Rome"]


def test_a_response_keeps_to_a_schema(ai: OpenAI) -> None:
    """By the client's own ``parse``, plain and streamed."""
    parsed = ai.responses.parse(model="tiny", input=TEXT, text_format=City, user=ADA)
    assert isinstance(parsed.output_parsed, City)
    with ai.responses.stream(model="tiny", input=TEXT, text_format=City, user=ADA) as stream:
        assert stream.get_final_response().output_parsed == parsed.output_parsed


def test_logprobs_come_with_the_text(ai: OpenAI) -> None:
    """Where they are included: they spell it, and a stream's deltas carry the same."""
    include: Any = ["message.output_text.logprobs"]
    part = ask(ai, max_output_tokens=8, top_logprobs=2, include=include).output[0].content[0]
    assert b"".join(bytes(token.bytes) for token in part.logprobs).decode() == part.text
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)
    events = ask(ai, max_output_tokens=8, top_logprobs=2, include=include, stream=True)
    deltas = [event.logprobs for event in events if event.type == "response.output_text.delta"]
    assert [token.logprob for delta in deltas for token in delta] == [token.logprob for token in part.logprobs]
    assert ask(ai, max_output_tokens=2).output[0].content[0].logprobs == []


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("previous_response_id", {"previous_response_id": "resp_1"}),
    ("conversation", {"conversation": "conv_1"}),
    ("background", {"background": True}),
    ("tools", {"tools": [{"type": "web_search"}]}),
    ("max_output_tokens", {"max_output_tokens": 100_000}),
    ("top_logprobs", {"top_logprobs": 6}),
    ("input", {"input": []}),
    ("input", {"input": 5}),
    ("input.0", {"input": [{"type": "function_call_output", "call_id": "1", "output": "2"}]}),
    ("part 0", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]}),
    ("text.format", {"text": {"format": {"type": "json_schema", "name": "x"}}}),
    ("personalign.user", {"personalign": {"user": 5}}),
]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_what_cannot_be_used_is_refused(client: httpx.Client, *, stream: bool) -> None:
    """In OpenAI's shape with the place of the fault, before anything is written; a plain request passes (control)."""
    for place, body in REFUSED:
        response = client.post("/v1/responses", json={"input": TEXT, "stream": stream} | body)
        error = response.json()["error"]
        assert (response.status_code, error["type"]) == (400, "invalid_request_error"), place
        assert place in f"{error['param']} {error['message']}"
    allowed = {"input": TEXT, "stream": stream, "store": True, "truncation": "auto", "max_output_tokens": 2}
    assert client.post("/v1/responses", json=allowed).status_code == 200


UNWRITABLE = {
    "not a number": '{"metadata": {"a": NaN}}',
    "infinity": '{"metadata": {"a": 1e999}}',
    "half a character": '{"metadata": {"\\ud800": "a"}}',
    "half a character in a name": '{"text": {"format": {"type": "text", "name": "\\ud800"}}}',
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("body", UNWRITABLE.values(), ids=UNWRITABLE.keys())
def test_what_cannot_be_sent_back_is_refused(client: httpx.Client, body: str, *, stream: bool) -> None:
    """A response repeats parts of its request, so what isn't JSON in them is refused before anything is written."""
    head = json.dumps({"input": TEXT, "stream": stream, "max_output_tokens": 2})
    response = client.post(
        "/v1/responses", content=f"{head[:-1]}, {body[1:]}", headers={"content-type": "application/json"}
    )
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


def test_an_unknown_model_is_not_found(ai: OpenAI) -> None:
    """As in a chat."""
    with pytest.raises(openai.NotFoundError):
        ask(ai, model="gpt-4o")


def test_responses_come_to_the_asynchronous_client(server: str, backend_key: str, ai: OpenAI) -> None:
    """Whole and streamed, the same as to the other."""

    async def talk() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=f"{server}/v1", api_key=backend_key, max_retries=0) as other:
            whole = await other.responses.create(model="tiny", input=TEXT, user=ADA, max_output_tokens=100)
            async with other.responses.stream(model="tiny", input=TEXT, user=ADA, max_output_tokens=100) as stream:
                return whole.output_text, (await stream.get_final_response()).output_text

    text = ask(ai, max_output_tokens=100).output_text
    assert asyncio.run(talk()) == (text, text)
