"""``/v1/responses`` as OpenAI's clients know it, for text; plain, or as the events that they expect.

Nothing is stored here but for feedback, so a conversation is sent whole each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from personalign.serve.access import AnyCaller
from personalign.serve.answer import account, account_headers, logprobs
from personalign.serve.connection import EVENTS, Put, event, event_stream, while_connected
from personalign.serve.failures import Refusal
from personalign.serve.order import Order, begun, order_of
from personalign.serve.policy import Policy
from personalign.serve.wire import ResponseAsk
from personalign.types import Reply, TokenLogprobs

if TYPE_CHECKING:
    from personalign.aio import Parts

PLACE = {"output_index": 0, "content_index": 0}
router = APIRouter(tags=["openai"])


@router.post("/v1/responses", response_model=dict[str, Any], responses=EVENTS)
async def respond(ask: ResponseAsk, request: Request, caller: AnyCaller) -> Response:
    """Answer an input; with ``stream`` as server-sent events."""
    policy: Policy = request.app.state.policy
    order = order_of(request, caller, ask, ask.read(), ask.chosen(policy), "resp_")
    document = _Document(order, ask)
    document.check()
    if ask.stream:
        parts = order.parts(0)
        await while_connected(request, begun([parts]))
        return event_stream(request, partial(_write, document, parts))
    reply = await while_connected(request, order.reply(0))
    return JSONResponse(document.ended(reply), headers=account_headers(reply))


class _Document:
    """A response as it stands: in progress, or ended."""

    def __init__(self, order: Order, ask: ResponseAsk) -> None:
        self.order, self._ask = order, ask
        self.item_id = order.id.replace("resp_", "msg_")

    def check(self) -> None:
        """Refuse what is sent back with the reply and can't be written, before that is."""
        try:
            JSONResponse(self.in_progress())
        except (ValueError, RecursionError):
            raise Refusal(
                400,
                "metadata, user or text.format holds what JSON in UTF-8 can't; expected finite numbers and no half "
                "characters; leave it out",
            ) from None

    def in_progress(self) -> dict[str, Any]:
        """Before anything is written."""
        return self._whole("in_progress", [], None, None)

    def ended(self, reply: Reply) -> dict[str, Any]:
        """With the reply, its usage and its account."""
        is_whole = reply.finish_reason == "stop"
        reason = None if is_whole else {"reason": "max_output_tokens"}
        status = "completed" if is_whole else "incomplete"
        whole = self._whole(status, [self.item(status, [self.part(reply)])], reason, _usage(reply))
        return whole | {"personalign": account(reply).model_dump()}

    def item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        """The message that is written."""
        return {"id": self.item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def part(self, reply: Reply | None) -> dict[str, Any]:
        """The message's text; "" before it is written."""
        text = "" if reply is None else reply.text
        drawn = () if reply is None else reply.logprobs[: len(reply.ids)]
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.likely(drawn)}

    def likely(self, drawn: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
        """How likely tokens were, where that was asked for."""
        if not self._ask.has_logprobs or not drawn:
            return []
        shown = logprobs(drawn, self.order.spell, has_top=bool(self._ask.top_logprobs))
        return [one.model_dump() for one in shown]

    def _whole(
        self,
        status: str,
        output: list[dict[str, Any]],
        incomplete: dict[str, str] | None,
        usage: dict[str, Any] | None,
    ) -> dict[str, Any]:
        ask, order = self._ask, self.order
        return {
            "id": order.id,
            "object": "response",
            "created_at": order.created,
            "status": status,
            "error": None,
            "incomplete_details": incomplete,
            "instructions": ask.instructions,
            "max_output_tokens": ask.max_output_tokens,
            "metadata": ask.metadata or {},
            "model": order.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": order.options.get("temperature", 0.0),
            "text": {"format": ask.text_format},
            "tool_choice": "none",
            "tools": [],
            "top_p": order.options.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": usage,
            "user": ask.user,
        }


async def _write(document: _Document, parts: Parts, put: Put) -> None:
    """Events in the order in which clients build a response from them."""
    numbers = count()
    for kind, fields in _opening(document):
        put(_event(kind, numbers, fields))
    first_s: float | None = None
    async with aclosing(parts):
        async for part in parts:
            if isinstance(part, Reply):
                for kind, fields in _closing(document, part):
                    put(_event(kind, numbers, fields))
                document.order.note(0, part, first_s)
                return
            first_s = first_s or document.order.seconds
            delta = {"delta": part.text, "logprobs": document.likely(part.logprobs)}
            put(_event("output_text.delta", numbers, PLACE | {"item_id": document.item_id} | delta))


def _opening(document: _Document) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "created", {"response": document.in_progress()}
    yield "in_progress", {"response": document.in_progress()}
    yield "output_item.added", {"output_index": 0, "item": document.item("in_progress", [])}
    yield "content_part.added", PLACE | {"item_id": document.item_id, "part": document.part(None)}


def _closing(document: _Document, reply: Reply) -> Iterator[tuple[str, dict[str, Any]]]:
    ended, place, part = document.ended(reply), PLACE | {"item_id": document.item_id}, document.part(reply)
    yield "output_text.done", place | {"text": reply.text, "logprobs": part["logprobs"]}
    yield "content_part.done", place | {"part": part}
    yield "output_item.done", {"output_index": 0, "item": ended["output"][0]}
    yield ended["status"], {"response": ended}


def _event(kind: str, numbers: Iterator[int], fields: dict[str, Any]) -> bytes:
    name = f"response.{kind}"
    return event({"type": name, "sequence_number": next(numbers), **fields}, name)


def _usage(reply: Reply) -> dict[str, Any]:
    read, written = reply.usage.prompt_tokens, reply.usage.completion_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }
