"""What OpenAI's clients send, as pydantic models, and its translation into options and messages.

Unknown fields are accepted, but not inside ``personalign``, which is ours. What isn't sent is as in ``Options``, but
for two. The temperature is the model's own (``models.py``), where OpenAI's default is 1. Without ``max_tokens`` a reply
may fill its slot, because no client expects a reply that is cut off after 64 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from personalign.messages import MAX_USER, Conversation, instructed, read_messages
from personalign.options import LARGEST, MAX_SIBLINGS, MAX_STOPS, OptionsDict, Rule
from personalign.serve.failures import Refusal
from personalign.serve.policy import Policy

TEXT_ALONE = "can't be used, because this server reads and writes text alone"
TEXT_PARTS = {"text", "input_text", "output_text"}  # of chats, and of responses
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]
UserName = Annotated[str, Field(max_length=MAX_USER)]


class Wire(BaseModel):
    """Types are taken as they are sent: no number is made of a text."""

    model_config = ConfigDict(strict=True)


class Wishes(Wire):
    """The body's own field ``personalign``: who it is for, and how their reward acts."""

    model_config = ConfigDict(extra="forbid")

    user: UserName | None = None
    strength: Annotated[float, Field(ge=0, le=100)] | None = None
    rule: Rule | None = None
    num_siblings: Annotated[int, Field(ge=1, le=MAX_SIBLINGS)] | None = None
    block_tokens: Annotated[int, Field(ge=1, le=256)] | None = None
    expert: str | None = None
    alpha: Annotated[float, Field(ge=0, le=10)] | None = None
    regex: str | None = None


class Part(Wire):
    """A part of a message; only text is read."""

    type: str
    text: str | None = None


class ChatMessage(Wire):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None


class Format(Wire):
    """What a reply looks like: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]


class JsonSchema(Wire):
    """A schema and its name, as chats have it."""

    schema_: dict[str, Any] = Field(alias="schema")


class ChatFormat(Format):
    """The format of a chat's reply."""

    json_schema: JsonSchema | None = None

    @property
    def wanted(self) -> dict[str, Any] | None:
        """The schema to keep to."""
        return _schema(self, None if self.json_schema is None else self.json_schema.schema_, "response_format")


class TextFormat(Format):
    """The format of a response's text."""

    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")

    @property
    def wanted(self) -> dict[str, Any] | None:
        """The schema to keep to."""
        return _schema(self, self.schema_, "text.format")


class StreamOptions(Wire):
    """What a stream says besides the reply."""

    include_usage: bool = False


class Ask(Wire):
    """What chats and responses have in common: the model, the person, and how tokens are drawn."""

    model: str | None = None
    stream: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, Any] | None = None
    personalign: Wishes | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=LARGEST)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    tools: list[Any] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def names(self) -> dict[str, Any]:
        """The places where a body may name a user, as ``subject.py`` reads them."""
        inner = {} if self.personalign is None else {"user": self.personalign.user}
        return {
            "personalign": inner,
            "metadata": self.metadata,
            "safety_identifier": self.safety_identifier,
            "user": self.user,
        }

    def options(
        self, policy: Policy, max_tokens: int | None, place: str, schema: dict[str, Any] | None, logprobs: int
    ) -> OptionsDict:
        """What is asked for, without what isn't said; the reply's ``max_tokens`` is named by its place in the body.

        Raises:
            Refusal: it goes beyond the server's limits.
        """
        _check_limit(place, max_tokens, policy.max_tokens)
        _check_limit("top_logprobs", self.top_logprobs, policy.max_logprobs)
        _check_absent("tools", self.tools, TEXT_ALONE)
        drawn = self.model_dump(include=DRAWN)
        wishes = {} if self.personalign is None else self.personalign.model_dump(exclude={"user"})
        options = drawn | wishes | {"schema": schema, "logprobs": logprobs}
        options |= {"stop": [self.stop] if isinstance(self.stop, str) else self.stop}
        options |= {"logit_bias": {int(token): bias for token, bias in (self.logit_bias or {}).items()}}
        stated = {name: value for name, value in options.items() if value is not None}
        return cast("OptionsDict", stated | {"max_tokens": max_tokens})


DRAWN = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
}


class ChatAsk(Ask):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    response_format: ChatFormat | None = None
    stream_options: StreamOptions | None = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None

    @property
    def has_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def read(self, policy: Policy) -> Conversation:
        """The conversation; MessageError where it can't be used."""
        _check_limit("n", self.n, policy.max_replies)
        _check_absent("functions", self.functions, TEXT_ALONE)
        _check_absent("modalities", set(self.modalities or ()) - {"text"}, TEXT_ALONE)
        return read_messages(list(_plain(self.messages, "messages")))

    def chosen(self, policy: Policy) -> OptionsDict:
        """How the replies are written."""
        if not self.logprobs:
            _check_absent("top_logprobs", self.top_logprobs, "needs logprobs: true beside it")
        place = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        logprobs = max(1, self.top_logprobs or 0) if self.logprobs else 0
        schema = None if self.response_format is None else self.response_format.wanted
        return self.options(policy, self.max_completion_tokens or self.max_tokens, place, schema, logprobs)


class InputItem(Wire):
    """A message of a response's input."""

    type: str = "message"
    role: Literal["system", "developer", "user", "assistant"] = "user"
    content: str | list[Part] | None = None


class TextConfig(Wire):
    """How a response's text looks."""

    format: TextFormat | None = None


class ResponseAsk(Ask):
    """The body of ``/v1/responses``."""

    input: str | Annotated[list[InputItem], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextConfig | None = None
    include: list[str] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None

    @property
    def has_logprobs(self) -> bool:
        """Whether log-probabilities are asked for."""
        return bool(self.top_logprobs) or "message.output_text.logprobs" in (self.include or ())

    @property
    def text_format(self) -> dict[str, Any]:
        """The format that was asked for, as it was sent."""
        if self.text is None or self.text.format is None:
            return {"type": "text"}
        return self.text.format.model_dump(by_alias=True, exclude_unset=True)

    def read(self) -> Conversation:
        """The conversation, the instructions first; MessageError where it can't be used."""
        for field in ("previous_response_id", "conversation", "background"):
            _check_absent(field, getattr(self, field), "needs responses that are stored; send the whole conversation")
        items = [InputItem(content=self.input)] if isinstance(self.input, str) else self.input
        for number, item in enumerate(items):
            _check_absent(f"input.{number}", item.type != "message", f"is of the type {item.type!r:.40}: {TEXT_ALONE}")
        chat = [ChatMessage(role=item.role, content=item.content) for item in items]
        return tuple(instructed(read_messages(list(_plain(chat, "input"))), self.instructions or ""))

    def chosen(self, policy: Policy) -> OptionsDict:
        """How the reply is written."""
        schema = None if self.text is None or self.text.format is None else self.text.format.wanted
        logprobs = max(1, self.top_logprobs or 0) if self.has_logprobs else 0
        return self.options(policy, self.max_output_tokens, "max_output_tokens", schema, logprobs)


def _plain(messages: list[ChatMessage], place: str) -> Iterator[dict[str, Any]]:
    """Messages as ``read_messages`` takes them."""
    for number, message in enumerate(messages):
        is_call = message.role in {"tool", "function"} or message.tool_calls or message.function_call
        _check_absent(f"{place}.{number}", is_call, f"calls a function or answers a call: {TEXT_ALONE}")
        role = "system" if message.role == "developer" else message.role
        content: Any = message.content
        if isinstance(content, list):
            content = [{"type": "text" if p.type in TEXT_PARTS else p.type, "text": p.text} for p in content]
        yield {"role": role, "content": content}


def _schema(chosen: Format, schema: dict[str, Any] | None, place: str) -> dict[str, Any] | None:
    if chosen.type == "text":
        return None
    if chosen.type == "json_object":
        return {"type": "object"}
    if schema is None:
        raise Refusal(400, f"{place} is of the type json_schema and has no schema; expected one; add it", place)
    return schema


def _check_absent(place: str, value: object, why: str) -> None:
    if value:
        raise Refusal(400, f"{place} {why}; leave it out", place)


def _check_limit(place: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise Refusal(400, f"{place} is {value}, and this server allows at most {most}; ask for fewer", place)
