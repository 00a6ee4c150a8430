"""What a client asks to be written, whichever route it came by: for whom, by which model, and how."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import Request

from personalign.messages import Conversation
from personalign.options import OptionsDict
from personalign.serve.access import Caller
from personalign.serve.answer import Spell
from personalign.serve.completions import Turn
from personalign.serve.connection import gather
from personalign.serve.failures import Refusal
from personalign.serve.models import drawn_as_usual, find_model
from personalign.serve.subject import Subject, subject_of
from personalign.serve.wire import Ask
from personalign.service import Personalign
from personalign.types import Reply

if TYPE_CHECKING:
    from personalign.aio import Parts


@dataclass(frozen=True)
class Order:
    """One request for replies, with all that isn't the model's to check checked."""

    service: Personalign
    state: Any  # the application's
    visit: Any  # the request's own state, of which its line in the log is made
    subject: Subject
    model: str
    messages: Conversation
    options: OptionsDict
    turn: Turn
    id: str
    created: int = field(default_factory=lambda: int(time.time()))
    began_at: float = field(default_factory=time.monotonic)

    async def reply(self, number: int) -> Reply:
        """Write one of the replies."""
        reply = await self.service.achat(self.subject.user, self.messages, **self._numbered(number))
        self.note(number, reply, None)
        return reply

    def parts(self, number: int) -> Parts:
        """One of the replies as it is written; whoever reads it notes its end."""
        return self.service.apieces(self.subject.user, self.messages, **self._numbered(number))

    def _numbered(self, number: int) -> OptionsDict:
        """Each reply draws by a seed of its own, and the first by the one that was sent."""
        seed = self.options.get("seed")
        return self.options if seed is None else {**self.options, "seed": seed + number}

    def note(self, number: int, reply: Reply, first_s: float | None) -> None:
        """Count a reply, and keep it for feedback: the first by the id of all, the others by id and number."""
        self.state.meters.note_reply(reply, first_s, self.seconds)
        self.visit.tokens = getattr(self.visit, "tokens", 0) + reply.usage.completion_tokens
        if self.subject.is_named:
            self.state.completions.keep(f"{self.id}-{number}" if number else self.id, self.turn, reply.text)

    @property
    def seconds(self) -> float:
        """How long ago it came."""
        return time.monotonic() - self.began_at

    @property
    def spell(self) -> Spell:
        """How tokens are written; the model is loaded for it."""
        return self.service.models.base.detokenize.spell


def order_of(
    request: Request, caller: Caller, ask: Ask, messages: Conversation, options: OptionsDict, prefix: str
) -> Order:
    """Find out for whom a request asks, and of which model.

    Raises:
        Refusal: 404 for a model that isn't served, 403 where a token asks for somebody else.
    """
    state = request.app.state
    service: Personalign = state.service
    model, expert = find_model(service, ask.model)
    if expert is not None and options.setdefault("expert", expert) != expert:
        raise Refusal(400, f"model names the expert {expert!r}, and personalign.expert another; leave one out", "model")
    options, subject = drawn_as_usual(service, options), subject_of(caller, ask.names, request.headers)
    turn = state.completions.begin(subject.user, messages, options)
    order_id = f"{prefix}{secrets.token_hex(12)}"
    return Order(service, state, request.state, subject, model, messages, options, turn, order_id)


async def begun(parts: Sequence[Parts]) -> None:
    """Wait until replies are begun; where one can't be, none is.

    What can't be used is refused here, while the response has a status to say so.
    """
    try:
        await gather(*(anext(one) for one in parts))
    except BaseException:
        await gather(*(one.aclose() for one in parts))
        raise
