"""Which tokens a person's reward or an expert moved most: proxy-tuning's token analysis, for both.

Replies are written as usual, then once more from the same prompts with nothing stacked and every token prescribed; at
each position the two distributions are compared (Liu et al., arXiv 2401.08565, section 6, look at the likeliest tokens
of an expert; here every token that was written counts). ``show.py`` has the table and the coloured text.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TypeAlias

import torch
from torch import Tensor

from personalign.decode.engine import generate
from personalign.decode.models import Models
from personalign.decode.request import Request
from personalign.decode.steer import Step
from personalign.decode.text import TextStream
from personalign.errors import InputError
from personalign.types import Reason, Reply

# of each token its log-probability with nothing stacked, the likeliest one's id, and that one's log-probability
Baseline: TypeAlias = list[tuple[float, int, float]]


@dataclass(frozen=True)
class Likely:
    """A token and its probability, at temperature 1 before any cut."""

    id: int
    token: str
    probability: float


@dataclass(frozen=True)
class Position:
    """A written token, the reply's end included, before and after guidance and expert."""

    id: int
    token: str
    added: str  # to the reply's text: a token that ends inside a character adds its text later
    before: float  # its probability
    after: float
    top_before: Likely
    top_after: Likely

    @property
    def change(self) -> float:
        """By how much its probability was raised."""
        return self.after - self.before

    @property
    def is_top_changed(self) -> bool:
        """Whether another token became the likeliest."""
        return self.top_before.id != self.top_after.id


@dataclass(frozen=True)
class ShiftedReply:
    """A reply, position by position."""

    prompt: str  # the last message
    text: str
    guided: bool
    reason: Reason | None
    positions: tuple[Position, ...]


@dataclass(frozen=True)
class TokenShift:
    """What was done to a token wherever it was written; ``moved`` is the sum of absolute changes of probability."""

    id: int
    token: str
    count: int
    mean_change: float
    moved: float
    top_changed: float  # the share of its positions at which another token became the likeliest


def shift(
    models: Models,
    requests: Sequence[Request],
    write: Callable[[Sequence[Request]], list[Reply]] | None = None,
    perform: Callable[[Callable[[], list[Baseline]]], list[Baseline]] = lambda work: work(),
) -> list[ShiftedReply]:
    """Write a reply to every request, and find out what guidance and expert did to each of its tokens.

    ``write`` writes the replies; None means ``generate``. ``perform`` runs the second reading, on the thread that owns
    the device where there is one.
    """
    if not requests:
        raise InputError("there is no prompt to answer; expected one at least")
    with_logprobs = [replace(request, options=replace(request.options, logprobs=1)) for request in requests]
    written = (write or partial(generate, models))(with_logprobs)
    if not any(
        r.guided or models.expert(request.options)[0] is not None for request, r in zip(requests, written, strict=True)
    ):
        reasons = ", ".join(sorted({str(reply.reason) for reply in written}))
        raise InputError(
            f"nothing moves the replies ({reasons}); answer some questions first, name an expert, or raise strength or "
            "alpha above 0"
        )
    tokens = [[token.id for token in reply.logprobs] for reply in written]
    before = perform(lambda: _read_again(models, requests, tokens))
    return [_compared(models, *one) for one in zip(requests, written, before, strict=True)]


def by_token(replies: Sequence[ShiftedReply]) -> list[TokenShift]:
    """Every token that was written, the one moved most first."""
    by_id: defaultdict[int, list[Position]] = defaultdict(list)
    for reply in replies:
        for position in reply.positions:
            by_id[position.id].append(position)
    return sorted(map(_summed, by_id.values()), key=lambda token: -token.moved)


class Reading:
    """The steer that prescribes every token; it keeps the log-probability of that token and of the likeliest."""

    def __init__(self, tokens: Sequence[Sequence[int]], device: torch.device) -> None:
        rows = [torch.tensor(row, device=device) for row in tokens]
        self._tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        self.logprobs, self.top_logprobs = torch.zeros(2, *self._tokens.shape, device=device)
        self.top = torch.zeros_like(self._tokens)

    def __call__(self, logits: Tensor, step: Step) -> Tensor:
        """Leave each row its prescribed token, and note what that was given."""
        active = step.active.nonzero().flatten()
        cells = step.request[active], step.index[active]
        tokens, logprobs = self._tokens[cells][:, None], logits[active].log_softmax(-1)
        self.logprobs[cells] = logprobs.gather(-1, tokens)[:, 0]
        self.top_logprobs[cells], self.top[cells] = logprobs.max(-1)
        prescribed = torch.full_like(logprobs, -math.inf).scatter(-1, tokens, 0.0)
        return logits.index_copy(0, active, prescribed)


def _read_again(models: Models, requests: Sequence[Request], tokens: Sequence[Sequence[int]]) -> list[Baseline]:
    reading = Reading(tokens, models.base.device)
    plain = [replace(r.options, expert=None, alpha=None, rule="successor") for r in requests]
    unmoved = [replace(r, options=options, guidance=None) for r, options in zip(requests, plain, strict=True)]
    generate(models, unmoved, [reading])
    rows = zip(reading.logprobs.tolist(), reading.top.tolist(), reading.top_logprobs.tolist(), strict=True)
    return [list(zip(*row, strict=True))[: len(ids)] for row, ids in zip(rows, tokens, strict=True)]


def _compared(models: Models, request: Request, reply: Reply, before: Baseline) -> ShiftedReply:
    positions, text = [], TextStream(models.base.detokenize)
    for number, (after, (logprob, top, top_logprob)) in enumerate(zip(reply.logprobs, before, strict=True)):
        added = text.push(reply.ids[number : number + 1])
        chances = math.exp(logprob), math.exp(after.logprob)
        likeliest = _likely(models, top, top_logprob), _likely(models, *after.top[0])
        positions.append(Position(after.id, _word(models, after.id), added, *chances, *likeliest))
    return ShiftedReply(request.messages[-1]["content"], reply.text, reply.guided, reply.reason, tuple(positions))


def _likely(models: Models, token: int, logprob: float) -> Likely:
    return Likely(token, _word(models, token), math.exp(logprob))


def _word(models: Models, token: int) -> str:
    word = models.base.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    assert isinstance(word, str), "one list of ids is one text"
    return word


def _summed(positions: Sequence[Position]) -> TokenShift:
    changes, first = [position.change for position in positions], positions[0]
    moved, top_changed = math.fsum(map(abs, changes)), fmean(position.is_top_changed for position in positions)
    return TokenShift(first.id, first.token, len(positions), fmean(changes), moved, top_changed)
