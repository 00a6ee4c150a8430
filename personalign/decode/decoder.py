"""Writing personal replies: one cached, left-padded batch at a time.

The order of steers is the method: experts, then the person's reward, then whatever the caller adds, then the draw.
``reference.py`` is the same method in plain words, and the oracle this file is tested against.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from personalign.basis import Steering
from personalign.decode.experts import Expert, Mix, check_vocabulary, num_tokens
from personalign.decode.guide import Guide
from personalign.decode.lane import Lane
from personalign.decode.load import CausalModel, render
from personalign.decode.request import Generated, Piece, Request, check_alpha, check_guidance, check_sampling
from personalign.decode.rewards import SuccessorHead
from personalign.decode.sample import Sampler
from personalign.decode.steer import Steer, Step
from personalign.errors import BasisError, InputError, ModelError


class Decoder:
    """A frozen base model, the head that knows what its replies will be like, and experts to mix in."""

    def __init__(
        self, base: CausalModel, head: SuccessorHead | None, steering: Steering, experts: Mapping[str, Expert]
    ) -> None:
        if head is not None and head.hidden_size != base.hidden_size:
            raise BasisError(
                f"the head reads {head.hidden_size} hidden dimensions, {base.name} has {base.hidden_size}; "
                "use the basis made for this model"
            )
        for expert in experts.values():
            for model in (expert.anti, expert.tuned):
                if model is not None:
                    check_vocabulary(base, model)
        self.base, self.steering, self.experts = base, steering, dict(experts)
        self.head = None if head is None else head.to(base.device)
        self._table = self._embed()

    @property
    def end_token(self) -> int:
        """The token that ends a reply; the first of them where there are several."""
        if not self.base.ends:
            raise ModelError(f"{self.base.name} names no end token; expected eos_token_id in its generation_config.json")
        return self.base.ends[0]

    def with_head(self, head: SuccessorHead) -> Decoder:
        """The same models with another head."""
        return Decoder(self.base, head, self.steering, self.experts)

    def with_steering(self, steering: Steering) -> Decoder:
        """The same models and head, steered more or less."""
        return Decoder(self.base, self.head, steering, self.experts)

    @torch.no_grad()
    def _embed(self) -> Tensor | None:
        return None if self.head is None else self.head.table(self.base.output_embedding)

    @torch.no_grad()
    def generate(self, requests: Sequence[Request], steers: Sequence[Steer] = ()) -> list[Generated]:
        """Write a reply to every request, all in one batch; ``steers`` run last, right before the draw.

        Raises:
            InputError: an unknown expert, or a setting out of its range.
            MessageError: messages that are empty, malformed or too long for the model beside ``max_tokens``.
            ProfileError: weights of another basis or with NaN.
            ModelError: the model's own logits aren't finite.
        """
        if not requests:
            return []
        batch = self._admit(requests, steers)
        while not batch.is_done:
            batch.step()
        return batch.replies()

    @torch.no_grad()
    def stream(self, request: Request) -> Iterator[Piece | Generated]:
        """Yield a reply's pieces as they are drawn, then the reply; the pieces' texts make up its text exactly."""
        batch = self._admit([request], ())
        text = TextStream(self.base)
        while not batch.is_done:
            batch.step()
            if (piece := text.push(batch.row(0))).ids:
                yield piece
        (reply,) = batch.replies()
        if rest := reply.text[len(text.sent) :]:
            yield Piece((), rest)
        yield reply

    def _admit(self, requests: Sequence[Request], steers: Sequence[Steer]) -> Batch:
        started = time.perf_counter()
        for request in requests:
            self._check(request)
        prompts = [self._prompt(self.base, request) for request in requests]
        guide = self._guide(requests)
        stack = [*self._mixes(requests), *([] if guide is None else [guide]), *steers]
        return Batch(self.base, prompts, requests, stack, guide, self.steering, started)

    def _check(self, request: Request) -> None:
        check_sampling(request.sampling)
        if request.alpha is not None:
            check_alpha(request.alpha)
        if request.expert is not None and request.expert not in self.experts:
            raise InputError(f"no expert {request.expert!r}; expected one of {sorted(self.experts)}, or None")
        if request.guidance is not None:
            if self.head is None:
                raise BasisError("guidance needs a successor head, and the basis has none; train one, or pass no guidance")
            check_guidance(request.guidance, self.head.num_axes)

    def _prompt(self, causal: CausalModel, request: Request) -> list[int]:
        room = None if causal.context is None else causal.context - request.sampling.max_tokens
        return render(causal.tokenizer, request.messages, max_prompt_tokens=room)

    def _alpha(self, request: Request) -> float:
        if request.expert is None:
            return 0.0
        return self.experts[request.expert].alpha if request.alpha is None else float(request.alpha)

    def _mixes(self, requests: Sequence[Request]) -> Iterator[Mix]:
        # every expert runs on all rows, so that a row's bits don't depend on who else asked for it
        for name in dict.fromkeys(r.expert for r in requests if self._alpha(r)):
            expert = self.experts[str(name)]
            alpha = [self._alpha(r) if r.expert == name else 0.0 for r in requests]
            prompts = [self._prompt(expert.anti, r) if a else [0] for r, a in zip(requests, alpha, strict=True)]
            weights = torch.tensor(alpha, dtype=torch.float32, device=self.base.device)
            yield Mix(expert.lanes(prompts), weights, num_tokens(self.base))

    def _guide(self, requests: Sequence[Request]) -> Guide | None:
        guidance = [r.guidance if r.guidance and r.guidance.gain(self.steering) > 0 else None for r in requests]
        if self.head is None or self._table is None or not any(guidance):
            return None
        return Guide(self.head, self._table, self.steering, guidance, self.base.ends)


class Batch:
    """Replies being written together: drawn on the device, told apart and ended on the host."""

    def __init__(
        self,
        base: CausalModel,
        prompts: Sequence[Sequence[int]],
        requests: Sequence[Request],
        steers: Sequence[Steer],
        guide: Guide | None,
        steering: Steering,
        started: float,
    ) -> None:
        self._base, self._prompts, self._requests, self._steers = base, prompts, requests, steers
        self._guide, self._steering, self._started = guide, steering, started
        self._lane = Lane(base, prompts)
        self._sampler = Sampler([r.sampling for r in requests], base.device)
        self._limits = np.array([r.sampling.max_tokens for r in requests])
        self._active = np.ones(len(requests), dtype=bool)
        self._lengths = np.zeros(len(requests), dtype=int)
        self._columns: list[NDArray[np.int64]] = []  # the ids drawn at each step
        self._tokens: Tensor | None = None
        self._broken = torch.zeros(len(requests), dtype=torch.bool, device=base.device)
        self._first_token_s: float | None = None

    @property
    def is_done(self) -> bool:
        """Whether every reply has ended."""
        return not self._active.any()

    def row(self, i: int) -> tuple[int, ...]:
        """The ids of one reply so far, without the end."""
        drawn = tuple(int(column[i]) for column in self._columns[: self._lengths[i]])
        return drawn[:-1] if drawn[-1] in self._base.ends else drawn

    def step(self) -> None:
        """Draw one token for every row: forward, steer, sample, keep."""
        logits, hidden = self._lane.advance(self._tokens)
        active = torch.from_numpy(self._active.copy()).to(logits.device)
        step = Step(len(self._columns), hidden, self._tokens, active)
        for steer in self._steers:
            logits = steer(logits, step)
        self._broken = self._broken | (active & ~logits.amax(-1).isfinite())
        self._tokens = self._sampler(logits, step.index)
        self._keep(self._tokens)

    def _keep(self, tokens: Int[Tensor, "B"]) -> None:
        ids: NDArray[np.int64] = tokens.cpu().numpy()  # the one copy to the host of a step
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._started
        self._columns.append(ids)
        self._lengths += self._active
        self._active &= ~np.isin(ids, self._base.ends) & (self._lengths < self._limits)

    def replies(self) -> list[Generated]:
        """Put the replies together; the account of the guidance is copied from the device once, here."""
        for i in self._broken.nonzero().flatten().tolist():
            raise ModelError(f"{self._base.name} gave logits for request {i} that hold NaN or Inf; expected finite numbers")
        guided = [False] * len(self._requests) if self._guide is None else self._guide.guided.tolist()
        kl = [0.0] * len(self._requests) if self._guide is None else self._guide.kl.tolist()
        return [self._reply(i, guided[i], kl[i]) for i in range(len(self._requests))]

    def _reply(self, i: int, guided: bool, kl: float) -> Generated:
        ids = self.row(i)
        return Generated(
            ids=ids,
            text=text_of(self._base, ids),
            kl=kl / int(self._lengths[i]),
            guided=guided,
            reason=None if guided else reason(self._requests[i], self._steering),
            finish_reason="stop" if len(ids) < self._lengths[i] else "length",
            prompt_tokens=len(self._prompts[i]),
            first_token_s=self._first_token_s,
        )


def reason(request: Request, steering: Steering) -> str:
    """Say why a reply isn't guided."""
    guidance = request.guidance
    if guidance is None or guidance.confidence <= 0:
        return "no_answers"
    return "non_finite_reward" if guidance.gain(steering) > 0 else "strength_zero"


def text_of(causal: CausalModel, ids: Sequence[int]) -> str:
    """Decode a reply without special tokens."""
    text: str = causal.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


class TextStream:
    """Text as it becomes certain: a character whose bytes aren't all there yet waits."""

    def __init__(self, causal: CausalModel) -> None:
        self._causal = causal
        self._num_ids = 0
        self.sent = ""

    def push(self, ids: tuple[int, ...]) -> Piece:
        """Take the whole reply so far; give what is new."""
        new, self._num_ids = ids[self._num_ids :], len(ids)
        certain = text_of(self._causal, ids).rstrip("\N{REPLACEMENT CHARACTER}")
        text, self.sent = certain[len(self.sent) :], max(certain, self.sent, key=len)
        return Piece(new, text)
