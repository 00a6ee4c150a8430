"""Chats by OpenAI's own client: each reply is what the service writes for that person, plain or streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from personalign.bundled import SMOLLM2_GENERATION, locate
from personalign.serve.models import drawn_as_usual
from personalign.service import Personalign
from personalign.types import Reply
from tests.onboarded import ENDLESS, HELLO, onboard

ADA = "chat-ada"
SAMPLED: dict[str, Any] = {"temperature": 0.9, "seed": 7, "max_tokens": 12}


@pytest.fixture(scope="module", autouse=True)
def onboarded(service: Personalign) -> None:
    onboard(service, ADA)


@pytest.fixture(scope="module")
def ai(server: str, backend_key: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server}/v1", api_key=backend_key, max_retries=0) as ai:
        yield ai


def ask(ai: OpenAI, user: str = ADA, **others: Any) -> Any:
    return ai.chat.completions.create(model="tiny", messages=HELLO, user=user, **others)


def streamed(ai: OpenAI, **others: Any) -> list[ChatCompletionChunk]:
    return list(ask(ai, stream=True, **others))


def text_of(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def account_of(reply: Reply) -> dict[str, Any]:
    names = ("revision", "guided", "reason", "kl", "tilt_kl", "changed", "gained", "seed")
    return {name: getattr(reply, name) for name in names}


def test_a_reply_is_the_services_own_token_for_token(ai: OpenAI, service: Personalign) -> None:
    """Guided and drawn by a seed: the same text, tokens, probabilities, usage, ending and account."""
    answer = ask(ai, **SAMPLED, logprobs=True, top_logprobs=3)
    reply = service.chat(ADA, HELLO, **SAMPLED, logprobs=3)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", reply.text)
    assert [one.logprob for one in choice.logprobs.content] == [one.logprob for one in reply.logprobs[: len(reply.ids)]]
    usage = reply.usage
    read, written = usage.prompt_tokens, usage.completion_tokens
    assert answer.usage.to_dict() == {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }
    assert choice.finish_reason == reply.finish_reason
    assert answer.personalign == account_of(reply)
    assert reply.guided
    assert reply.seed == SAMPLED["seed"]


def test_the_account_stands_in_the_headers(ai: OpenAI) -> None:
    """For clients that drop what they don't know of a body."""
    raw = ai.chat.completions.with_raw_response.create(model="tiny", messages=HELLO, user=ADA, **SAMPLED)
    account = raw.parse().model_extra["personalign"]
    headers = {
        name: raw.headers.get(f"x-personalign-{name}") for name in ("revision", "guided", "kl", "seed", "reason")
    }
    shown = {name: str(account[name]) for name in ("revision", "kl", "seed")}
    assert headers == {**shown, "guided": "true", "reason": None}
    assert raw.headers["x-request-id"]
    plain = ai.chat.completions.with_raw_response.create(model="tiny", messages=HELLO, user="chat-new", max_tokens=2)
    assert (plain.headers["x-personalign-guided"], plain.headers["x-personalign-reason"]) == ("false", "no_answers")


def test_strength_zero_is_plain(ai: OpenAI, service: Personalign) -> None:
    """Bit for bit the reply of somebody unknown; at full strength guidance is felt (the control)."""
    plain = ask(ai, "chat-stranger", max_tokens=12)
    off = ask(ai, max_tokens=12, extra_body={"personalign": {"strength": 0}})
    assert off.choices[0].message.content == plain.choices[0].message.content
    assert (off.personalign["reason"], off.personalign["kl"]) == ("strength_zero", 0.0)
    assert ask(ai, max_tokens=12).personalign["kl"] > 0
    nobody = ai.chat.completions.create(model="tiny", messages=HELLO, max_tokens=12)
    assert nobody.choices[0].message.content == plain.choices[0].message.content


def test_a_stream_is_the_reply(ai: OpenAI) -> None:
    """The role first, then the text in pieces, why it ended with the account, and the usage."""
    whole = ask(ai, **SAMPLED)
    chunks = streamed(ai, **SAMPLED, stream_options={"include_usage": True})
    first, *_, ended, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert text_of(chunks) == whole.choices[0].message.content
    assert len(chunks) > 5
    assert (ended.choices[0].finish_reason, ended.personalign) == (whole.choices[0].finish_reason, whole.personalign)
    assert (usage.choices, usage.usage) == ([], whole.usage)
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in streamed(ai, max_tokens=3))


def test_a_stream_ends_with_done(client: httpx.Client) -> None:
    """As events that nothing on the way may keep back."""
    body = {"messages": HELLO, "max_tokens": 3, "stream": True}
    response = client.post("/v1/chat/completions", json=body)
    *events, done, end = response.text.split("\n\n")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert (done, end) == ("data: [DONE]", "")
    assert all(json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events)


def test_several_replies_draw_by_seeds_of_their_own(ai: OpenAI, service: Personalign) -> None:
    """Each is the one of its seed, plain and streamed; what was read counts once."""
    answer = ask(ai, **SAMPLED, n=3)
    seeds = [SAMPLED | {"seed": SAMPLED["seed"] + number} for number in range(3)]
    texts = [service.chat(ADA, HELLO, **one).text for one in seeds]
    assert [choice.message.content for choice in answer.choices] == texts
    assert len(set(texts)) == 3
    assert [choice.personalign["seed"] for choice in answer.choices] == [7, 8, 9]
    chunks = streamed(ai, **SAMPLED, n=3, stream_options={"include_usage": True})
    assert [text_of(chunks, index) for index in range(3)] == texts
    assert chunks[-1].usage == answer.usage
    one = ask(ai, **SAMPLED)
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens
    assert answer.usage.completion_tokens > one.usage.completion_tokens


def test_logprobs_are_in_openais_shape(ai: OpenAI) -> None:
    """Tokens spell the text byte by byte, the likeliest stand beside each, and a stream brings the same."""
    whole = ask(ai, max_tokens=12, logprobs=True, top_logprobs=2).choices[0]
    tokens = whole.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == whole.message.content
    assert all(len(token.top_logprobs) == 2 for token in tokens)
    assert all(token.token == token.top_logprobs[0].token for token in tokens)  # at temperature 0
    chunks = streamed(ai, max_tokens=12, logprobs=True, top_logprobs=2)
    pieces = [chunk.choices[0].logprobs for chunk in chunks]
    assert [token for piece in pieces if piece for token in piece.content] == tokens
    bare = ask(ai, max_tokens=2, logprobs=True).choices[0].logprobs.content
    assert [token.top_logprobs for token in bare] == [[], []]
    assert ask(ai, max_tokens=2).choices[0].logprobs is None


class City(BaseModel):
    """What a reply has to say."""

    city: Literal["Paris", "Rome"]
    is_far: bool


def test_a_reply_keeps_to_a_schema(ai: OpenAI) -> None:
    """By the client's own ``parse``, as a schema and as any object; unasked it is no JSON (the control)."""
    parsed = ai.chat.completions.parse(model="tiny", messages=HELLO, user=ADA, response_format=City)
    assert isinstance(parsed.choices[0].message.parsed, City)
    one_word = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    named = {"type": "json_schema", "json_schema": {"name": "one", "schema": one_word}}
    assert json.loads(ask(ai, response_format=named).choices[0].message.content) == {"a": 1}
    chunks = streamed(ai, response_format=named)
    assert json.loads(text_of(chunks)) == {"a": 1}
    anything = ask(ai, response_format={"type": "json_object"}, max_tokens=3).choices[0].message.content
    assert anything.lstrip().startswith("{")
    text = ask(ai, response_format={"type": "text"}, max_tokens=3).choices[0].message.content
    assert not text.startswith("{")
    assert ask(ai, extra_body={"personalign": {"regex": "[A-F]{2}"}}).choices[0].message.content.isupper()


def test_a_reply_of_no_stated_length_may_fill_its_slot(ai: OpenAI, service: Personalign) -> None:
    """Where the model doesn't end it and the request names no number, a reply is cut off by its slot alone."""
    answer = ask(ai, "nobody", logit_bias={str(token): bias for token, bias in ENDLESS.items()})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == service.models.base.context


def test_stop_strings_end_a_reply(ai: OpenAI) -> None:
    """They are cut off, in a stream too, as one text or as several."""
    text = ask(ai, max_tokens=20).choices[0].message.content
    word = text.split()[3]
    for stop in (word, ["no such word", word]):
        choice = ask(ai, max_tokens=20, stop=stop).choices[0]
        assert choice.message.content == text[: text.index(word)]
        assert choice.finish_reason == "stop"
        assert text_of(streamed(ai, max_tokens=20, stop=stop)) == choice.message.content


def test_a_seed_repeats_a_draw(ai: OpenAI) -> None:
    """The account says which one was drawn; another seed draws something else (the control)."""
    drawn = ask(ai, temperature=1.5, max_tokens=12)
    seed = drawn.personalign["seed"]
    again, other = (ask(ai, temperature=1.5, max_tokens=12, seed=one) for one in (seed, seed + 1))
    assert again.choices[0].message.content == drawn.choices[0].message.content
    assert other.choices[0].message.content != drawn.choices[0].message.content


@pytest.mark.parametrize(
    "options",
    [
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"repetition_penalty": 5.0},
        {"temperature": 1.5, "seed": 1, "top_k": 2},
        {"temperature": 1.5, "seed": 1, "top_p": 0.5},
        {"temperature": 1.5, "seed": 1, "min_p": 0.3},
        {"logit_bias": {300: 100.0}},
    ],
    ids=lambda options: list(options)[-1],
)
def test_what_is_asked_for_reaches_the_draw(ai: OpenAI, service: Personalign, options: dict[str, Any]) -> None:
    """The reply is the service's with the same option, and another one without."""
    options = options | {"max_tokens": 24}
    name = next(name for name in reversed(options) if name != "max_tokens")
    texts = {str(key): value for key, value in options.get("logit_bias", {}).items()}  # JSON's keys are texts
    body = options | ({"logit_bias": texts} if texts else {})
    assert ask(ai, extra_body=body).choices[0].message.content == service.chat(ADA, HELLO, **options).text
    without = {key: value for key, value in options.items() if key != name}
    assert service.chat(ADA, HELLO, **without).text != service.chat(ADA, HELLO, **options).text


@pytest.mark.parametrize(
    "wishes",
    [
        {"rule": "blocks", "num_siblings": 2, "block_tokens": 8},
        {"rule": "best_of", "num_siblings": 3},
        {"expert": "hotels", "alpha": 0.5},
        {"strength": 2.5},
    ],
    ids=lambda wishes: next(iter(wishes)),
)
def test_how_the_reward_acts_is_asked_for_in_our_field(
    ai: OpenAI, service: Personalign, wishes: dict[str, Any]
) -> None:
    """Each is what the service does with the same option, streamed too."""
    reply = service.chat(ADA, HELLO, **SAMPLED, **wishes)
    assert ask(ai, **SAMPLED, extra_body={"personalign": wishes}).choices[0].message.content == reply.text
    assert text_of(streamed(ai, **SAMPLED, extra_body={"personalign": wishes})) == reply.text


def test_experts_are_models_of_their_own(ai: OpenAI, service: Personalign) -> None:
    """Listed by name, and asked for by it or by "personalign" in its place."""
    assert [model.id for model in ai.models.list()] == ["tiny", "tiny+hotels"]
    assert ai.models.retrieve("tiny+hotels").object == "model"
    expected = service.chat(ADA, HELLO, max_tokens=12, expert="hotels").text
    for name in ("tiny+hotels", "personalign+hotels"):
        answer = ai.chat.completions.create(model=name, messages=HELLO, user=ADA, max_tokens=12)
        assert (answer.model, answer.choices[0].message.content) == ("tiny+hotels", expected)
    itself = ai.chat.completions.create(model="personalign", messages=HELLO, user=ADA, max_tokens=12)
    assert (itself.model, itself.choices[0].message.content != expected) == ("tiny", True)
    with pytest.raises(openai.BadRequestError, match="leave one out"):
        ai.chat.completions.create(
            model="tiny+hotels", messages=HELLO, extra_body={"personalign": {"expert": "somebody"}}
        )


@pytest.mark.parametrize("model", ["gpt-4o", "tiny+", "tiny+magic", "", "personalign+", "+hotels"])
def test_a_model_that_is_not_served_is_not_found(ai: OpenAI, model: str) -> None:
    """404 in OpenAI's shape, wherever it is asked for."""
    with pytest.raises(openai.NotFoundError) as error:
        ai.chat.completions.create(model=model, messages=HELLO)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    if model:
        with pytest.raises(openai.NotFoundError):
            ai.models.retrieve(model)


def test_content_may_come_in_parts(ai: OpenAI) -> None:
    """Parts are lines of one text, and the developer's word is the system's."""
    lines = [HELLO[0]["content"], "For two days."]
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": line} for line in lines]}]
    joined: Any = [{"role": "user", "content": "\n".join(lines)}]
    texts = [
        ai.chat.completions.create(model="tiny", messages=conversation, max_tokens=12).choices[0].message.content
        for conversation in (parts, joined)
    ]
    assert texts[0] == texts[1]
    told = []
    for role in ("developer", "system"):
        messages: Any = [{"role": role, "content": "Be brief."}, *HELLO]
        told.append(ai.chat.completions.create(model="tiny", messages=messages, max_tokens=12))
    assert told[0].choices[0].message.content == told[1].choices[0].message.content


def test_fields_that_nobody_knows_are_accepted(ai: OpenAI) -> None:
    """At the top and in a message, as clients send what other servers know."""
    known = ask(ai, max_tokens=4)
    message = {**HELLO[0], "name": "Ada", "annotations": []}
    body = {"reasoning_effort": "low", "store": True, "prompt_cache_key": "x", "tools": [], "magic": {"a": [1]}}
    answer = ai.chat.completions.create(
        model="tiny", messages=[message], user=ADA, max_tokens=4, parallel_tool_calls=True, extra_body=body
    )
    assert answer.choices[0].message.content == known.choices[0].message.content


def wrong(place: str, **body: Any) -> Any:
    return pytest.param(place, body, id=f"{place}-{len(str(body))}")


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL_CALLS = [*HELLO, {"role": "assistant", "content": "", "tool_calls": [CALL]}, *HELLO]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]


@pytest.mark.parametrize(
    ("place", "body"),
    [
        wrong("temperature", temperature=11),
        wrong("temperature", temperature="warm"),
        wrong("top_p", top_p=0),
        wrong("max_tokens", max_tokens=0),
        wrong("max_tokens", max_tokens=100_000),
        wrong("max_completion_tokens", max_completion_tokens=100_000),
        wrong("n", n=5),
        wrong("n", n=0),
        wrong("top_logprobs", logprobs=True, top_logprobs=6),
        wrong("top_logprobs", top_logprobs=2),
        wrong("logit_bias", logit_bias={"word": 1}),
        wrong("logit_bias", logit_bias={"1000000": 1}),
        wrong("logit_bias", logit_bias={"1": 101}),
        wrong("seed", seed=-1),
        wrong("stop", stop=[""]),
        wrong("stop", stop=[str(number) for number in range(17)]),
        wrong("messages", messages=[]),
        wrong("messages", messages="Hello"),
        wrong("messages.0.role", messages=[{"role": "robot", "content": "Hi"}]),
        wrong("message 0", messages=[{"role": "user", "content": " "}]),
        wrong("message 0", messages=[{"role": "user", "content": None}]),
        wrong("last message", messages=[{"role": "assistant", "content": "Hi"}]),
        wrong("messages.1", messages=TOOL_CALLS),
        wrong("messages.1", messages=[*HELLO, {"role": "tool", "tool_call_id": "1", "content": "2"}, *HELLO]),
        wrong("part 0 of message 0", messages=IMAGE),
        wrong("tools", tools=[{"type": "function", "function": {"name": "f"}}]),
        wrong("functions", functions=[{"name": "f"}]),
        wrong("modalities", modalities=["text", "audio"]),
        wrong("response_format", response_format={"type": "json_schema"}),
        wrong("response_format.type", response_format={"type": "xml"}),
        wrong("schema", response_format={"type": "json_schema", "json_schema": {"schema": {"enum": []}}}),
        wrong("personalign.stregnth", personalign={"stregnth": 2}),
        wrong("personalign.rule", personalign={"rule": "magic"}),
        wrong("args", personalign={"rule": "args"}),
        wrong("temperature", personalign={"rule": "blocks"}),
        wrong("no expert", personalign={"expert": "magic"}),
        wrong("person's id", personalign={"user": "\n"}),
        wrong("person's id", user="x" * 129),
        wrong("user", user=5),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_what_cannot_be_used_is_refused_in_openais_shape(
    client: httpx.Client, place: str, body: dict[str, Any], *, stream: bool
) -> None:
    """With the place of the fault, before anything is written."""
    response = client.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO, "stream": stream} | body)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert set(error) == {"message", "type", "param", "code"}
    assert place in f"{error['param']} {error['message']}"


def test_many_people_talk_at_once(server: str, backend_key: str, service: Personalign) -> None:
    """By the asynchronous client, streamed and not, each under their own reward."""
    people = {f"chat-{number}": bool(number % 2) for number in range(3)}
    for person, longer in people.items():
        onboard(service, person, 3, longer=longer)

    async def talk(ai: AsyncOpenAI, person: str) -> tuple[str | None, str]:
        options: Any = {"model": "tiny", "messages": HELLO, "user": person, "max_tokens": 12}
        whole = await ai.chat.completions.create(**options)
        stream = await ai.chat.completions.create(**options, stream=True)
        return whole.choices[0].message.content, text_of([chunk async for chunk in stream])

    async def all_talk() -> list[tuple[str | None, str]]:
        async with AsyncOpenAI(base_url=f"{server}/v1", api_key=backend_key, max_retries=0) as ai:
            return await asyncio.gather(*(talk(ai, person) for person in people))

    texts = [service.chat(person, HELLO, max_tokens=12).text for person in people]
    assert asyncio.run(all_talk()) == [(text, text) for text in texts]
    assert len(set(texts)) > 1


def test_a_model_draws_as_it_is_made_for_where_no_temperature_is_sent(service: Personalign) -> None:
    """SmolLM2 as its bundled settings say, others by their generation config, the toy greedily; what is sent wins."""
    assert drawn_as_usual(service, {"top_p": 0.5}) == {"top_p": 0.5}
    assert drawn_as_usual(service, {"temperature": 0.1}) == {"temperature": 0.1}
    config = service.models.base.model.generation_config
    config.do_sample, config.temperature = True, 0.3
    try:
        assert drawn_as_usual(service, {"top_p": 0.5}) == {"temperature": 0.3, "top_p": 0.5, "top_k": config.top_k or 0}
    finally:
        config.do_sample, config.temperature = False, None
    assert locate("smollm2").generation == SMOLLM2_GENERATION
    assert locate("tiny").generation is None
