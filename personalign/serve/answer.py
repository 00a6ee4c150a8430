"""What OpenAI's clients get, as pydantic models: replies with the account of how they were steered, usage, models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from pydantic import BaseModel

from personalign.types import FinishReason, Reason, Reply
from personalign.types import TokenLogprobs as Drawn

Value = TypeVar("Value")
Spell = Callable[[int], tuple[str, bytes | None]]  # a token's text and bytes


class Account(BaseModel):
    """How a reply was steered, as ``types.Reply`` explains."""

    revision: int
    guided: bool
    reason: Reason | None
    kl: float | None  # None, as the next three: vLLM wrote it, and doesn't tell
    tilt_kl: float | None
    changed: float | None
    gained: float | None
    seed: int | None


class TopLogprob(BaseModel):
    """A token, its bytes and how likely it was."""

    token: str
    bytes: list[int] | None
    logprob: float


class TokenLogprob(TopLogprob):
    """A token of the reply, and the likeliest in its place."""

    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    """Of all tokens of a reply."""

    content: list[TokenLogprob]
    refusal: None = None


class AssistantMessage(BaseModel):
    """The reply itself."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """One of the replies that were asked for."""

    index: int
    message: AssistantMessage
    logprobs: Logprobs | None
    finish_reason: FinishReason
    personalign: Account


class Usage(BaseModel):
    """Tokens read once, and written by all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """The answer of ``/v1/chat/completions``; ``personalign`` is the account of the first choice."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    personalign: Account


class ModelCard(BaseModel):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "personalign"


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def account(reply: Reply) -> Account:
    """How a reply was steered."""
    return Account.model_validate({name: _known(getattr(reply, name)) for name in Account.model_fields})


def account_headers(reply: Reply) -> dict[str, str]:
    """The same for clients that read headers alone."""
    values = {"revision": reply.revision, "guided": str(reply.guided).lower(), "reason": reply.reason}
    values |= {"kl": _known(reply.kl), "seed": reply.seed}
    return {f"x-personalign-{name}": str(value) for name, value in values.items() if value is not None}


def _known(value: Value) -> Value | None:
    """A number that isn't one stands for what nobody knows, and JSON has no such number."""
    return None if isinstance(value, float) and math.isnan(value) else value


def usage(replies: Sequence[Reply]) -> Usage:
    """What replies to one prompt took."""
    read = replies[0].usage.prompt_tokens
    written = sum(reply.usage.completion_tokens for reply in replies)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def logprobs(drawn: Sequence[Drawn], spell: Spell, *, has_top: bool) -> list[TokenLogprob]:
    """How likely tokens were; without ``has_top`` no others are named."""
    return [
        TokenLogprob(
            **_likely(one.id, one.logprob, spell).model_dump(),
            top_logprobs=[_likely(*top, spell) for top in one.top] if has_top else [],
        )
        for one in drawn
    ]


def choice(index: int, reply: Reply, shown: Logprobs | None) -> Choice:
    """A reply as one of several."""
    return Choice(
        index=index,
        message=AssistantMessage(content=reply.text),
        logprobs=shown,
        finish_reason=reply.finish_reason,
        personalign=account(reply),
    )


def _likely(token_id: int, logprob: float, spell: Spell) -> TopLogprob:
    text, spelling = spell(token_id)
    return TopLogprob(token=text, bytes=None if spelling is None else list(spelling), logprob=logprob)
