"""``/v1/chat/completions`` as OpenAI's clients know it, under each user's own reward; plain, or as events."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from personalign.serve.access import AnyCaller
from personalign.serve.answer import ChatCompletion, Choice, Logprobs, account, account_headers, choice, logprobs, usage
from personalign.serve.connection import DONE, EVENTS, Put, event, event_stream, gather, while_connected
from personalign.serve.order import Order, begun, order_of
from personalign.serve.policy import Policy
from personalign.serve.wire import ChatAsk
from personalign.types import Reply, TokenLogprobs

if TYPE_CHECKING:
    from personalign.aio import Parts

router = APIRouter(tags=["openai"])


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=EVENTS)
async def chat(ask: ChatAsk, request: Request, caller: AnyCaller) -> Response:
    """Answer a conversation, once or several times; with ``stream`` as server-sent events."""
    policy: Policy = request.app.state.policy
    order = order_of(request, caller, ask, ask.read(policy), ask.chosen(policy), "chatcmpl-")
    numbers = range(ask.n or 1)
    if ask.stream:
        parts = [order.parts(number) for number in numbers]
        await while_connected(request, begun(parts))
        return event_stream(request, partial(_write, order, ask, parts))
    replies = await while_connected(request, gather(*(order.reply(number) for number in numbers)))
    return _answer(order, [_choice(order, ask, number, reply) for number, reply in enumerate(replies)], replies)


def _answer(order: Order, choices: list[Choice], replies: Sequence[Reply]) -> JSONResponse:
    answer = ChatCompletion(
        id=order.id,
        created=order.created,
        model=order.model,
        choices=choices,
        usage=usage(replies),
        personalign=choices[0].personalign,
    )
    return JSONResponse(answer.model_dump(), headers=account_headers(replies[0]))


def _choice(order: Order, ask: ChatAsk, number: int, reply: Reply) -> Choice:
    return choice(number, reply, _logprobs(order, ask, reply.logprobs[: len(reply.ids)]))


def _logprobs(order: Order, ask: ChatAsk, drawn: Sequence[TokenLogprobs]) -> Logprobs | None:
    """What a client sees of tokens, without the end."""
    if not ask.logprobs:
        return None
    return Logprobs(content=logprobs(drawn, order.spell, has_top=bool(ask.top_logprobs)))


async def _write(order: Order, ask: ChatAsk, parts: Sequence[Parts], put: Put) -> None:
    """All choices as they are written, then their usage."""
    chunk = _Chunks(order, ask)
    replies = await gather(*(_write_choice(chunk, number, one, put) for number, one in enumerate(parts)))
    if ask.has_usage:
        put(chunk.make([], usage=usage(replies).model_dump()))
    put(DONE)


async def _write_choice(chunk: _Chunks, number: int, parts: Parts, put: Put) -> Reply:
    """One choice: who speaks, what is said, and why it ended, with the account."""
    put(chunk.choice(number, {"role": "assistant", "content": ""}))
    first_s: float | None = None
    async with aclosing(parts):
        async for part in parts:
            if isinstance(part, Reply):
                put(chunk.end(number, part))
                chunk.order.note(number, part, first_s)
                return part
            first_s = first_s or chunk.order.seconds
            put(chunk.choice(number, {"content": part.text}, part.logprobs))
    raise AssertionError("the last part is the reply")


class _Chunks:
    """Makes the events of one stream."""

    def __init__(self, order: Order, ask: ChatAsk) -> None:
        self.order, self._ask = order, ask
        self._head = {"id": order.id, "object": "chat.completion.chunk", "created": order.created, "model": order.model}
        if ask.has_usage:
            self._head["usage"] = None

    def make(self, choices: list[dict[str, Any]], **others: object) -> bytes:
        """A chunk of some choices."""
        return event({**self._head, "choices": choices, **others})

    def choice(self, number: int, delta: dict[str, str], drawn: Sequence[TokenLogprobs] = ()) -> bytes:
        """What is new of one choice."""
        shown = _logprobs(self.order, self._ask, drawn) if drawn else None
        probabilities = None if shown is None else shown.model_dump()
        return self.make([{"index": number, "delta": delta, "logprobs": probabilities, "finish_reason": None}])

    def end(self, number: int, reply: Reply) -> bytes:
        """Why one choice ended, and how it was steered."""
        ended = {"index": number, "delta": {}, "logprobs": None, "finish_reason": reply.finish_reason}
        return self.make([ended], personalign=account(reply).model_dump())
