"""People who answer questions, and what they say then."""

from __future__ import annotations

from personalign import Personalign
from personalign.types import Message

HELLO: list[Message] = [{"role": "user", "content": "I'd like to rent a car please."}]
ENDLESS = {2: -100.0}  # the bias of a reply that doesn't end by itself


def onboard(p: Personalign, user: str, most: int = 100, *, longer: bool = True) -> None:
    """Answer questions with the longer reply, or the shorter one."""
    while most > 0 and (question := p.ask(user)):
        p.answer(user, question.id, "a" if (len(question.a) > len(question.b)) == longer else "b")
        most -= 1
