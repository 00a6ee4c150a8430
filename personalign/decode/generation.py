"""Replies to a given number of requests: an engine that is run to its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from personalign.decode.admit import admit
from personalign.decode.engine import Engine
from personalign.decode.models import Models
from personalign.decode.request import Piece, Request
from personalign.decode.steer import Steer
from personalign.types import Reply

MAX_ROWS = 128  # of one call's engine; more requests wait their turn


def generate(models: Models, requests: Sequence[Request], steers: Sequence[Steer] = ()) -> list[Reply]:
    """Write a reply to every request, in one batch as far as they fit; ``steers`` run last, right before the draw.

    Raises:
        InputError: an unknown expert, or a setting out of its range.
        MessageError: messages that are empty, malformed or too long for the model beside ``max_tokens``.
        ProfileError: weights of another basis or with NaN.
        ModelError: the model's own logits aren't finite.
        EngineError: anything else failed while a reply was written.
    """
    outcomes: dict[int, Reply | Exception | Piece] = {}
    seqs = [
        admit(models, replace(request, user=""), i, partial(outcomes.__setitem__, i))  # one caller's take no turns
        for i, request in enumerate(requests)
    ]
    if not seqs:
        return []
    longest = max(seq.num_tokens for seq in seqs)
    engine = Engine(models, min(len(seqs), MAX_ROWS), longest, max_waiting=len(seqs), steers=steers)
    engine.submit(seqs)
    while not engine.is_idle:
        engine.step()
    return [_reply(outcomes[i]) for i in range(len(seqs))]


def _reply(outcome: Reply | Exception | Piece) -> Reply:
    if isinstance(outcome, Exception):
        raise outcome
    assert isinstance(outcome, Reply), "the last that comes of a request is its reply or an error"
    return outcome
