"""Writing personal replies: one cached, left-padded batch at a time.

The order of steers is the method: experts, then the person's reward, then whatever the caller adds, then the draw.
``reference.py`` is the same method in plain words, and the oracle this file is tested against.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from personalign.basis import Steering
from personalign.decode.batch import Batch
from personalign.decode.experts import Expert, Mix, check_vocabulary
from personalign.decode.guide import Guide
from personalign.decode.load import CausalModel, render
from personalign.decode.request import Generated, Piece, Request, check_alpha, check_guidance, check_sampling
from personalign.decode.rewards import SuccessorHead
from personalign.decode.steer import Steer
from personalign.decode.text import TextStream
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
            raise ModelError(
                f"{self.base.name} names no end token; expected eos_token_id in its generation_config.json"
            )
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
        stack: list[Steer] = [*self._mixes(requests), *([] if guide is None else [guide]), *steers]
        return Batch(
            base=self.base,
            prompts=prompts,
            requests=requests,
            steers=stack,
            guide=guide,
            steering=self.steering,
            started=started,
        )

    def _check(self, request: Request) -> None:
        check_sampling(request.sampling)
        if request.alpha is not None:
            check_alpha(request.alpha)
        if request.expert is not None and request.expert not in self.experts:
            raise InputError(f"no expert {request.expert!r}; expected one of {sorted(self.experts)}, or None")
        if request.guidance is not None:
            if self.head is None:
                raise BasisError(
                    "guidance needs a successor head, and the basis has none; train one, or pass no guidance"
                )
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
            yield Mix(expert.lanes(prompts), weights, self.base.num_tokens)

    def _guide(self, requests: Sequence[Request]) -> Guide | None:
        guidance = [r.guidance if r.guidance and r.guidance.gain(self.steering) > 0 else None for r in requests]
        if self.head is None or self._table is None or not any(guidance):
            return None
        return Guide(self.head, self._table, self.steering, guidance, self.base.ends)
