"""Writing personal replies: the models, the head and the experts that requests are answered with.

``engine.py`` is the loop; a decoder checks requests, turns them into the engine's sequences, and for a given number
of requests runs an engine to its end.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from personalign.basis import Steering
from personalign.decode.args import PUBLISHED, ArgsSteering
from personalign.decode.constrain import Constrainer, Matcher
from personalign.decode.engine import Engine
from personalign.decode.experts import Expert, check_vocabulary, load_expert
from personalign.decode.load import CausalModel, check_tokens, render
from personalign.decode.request import (
    Generated,
    Piece,
    Request,
    check_alpha,
    check_constraint,
    check_guidance,
    check_sampling,
)
from personalign.decode.reward_model import RewardModel
from personalign.decode.seq import Judged, Outbox, Seq, Stack
from personalign.decode.steer import Steer
from personalign.decode.successor import Guidance, SuccessorHead
from personalign.errors import BasisError, InputError, ModelError
from personalign.types import RULES

MAX_ROWS = 128  # of one call's engine; more requests wait their turn


class Decoder:
    """A frozen base model, the head that knows what its replies will be like, and experts to mix in."""

    def __init__(
        self,
        base: CausalModel,
        head: SuccessorHead | None,
        steering: Steering,
        experts: Mapping[str, Expert],
        reward: RewardModel | None = None,
        args: ArgsSteering = PUBLISHED,
    ) -> None:
        if head is not None and head.hidden_size != base.hidden_size:
            raise BasisError(
                f"the head reads {head.hidden_size} hidden dimensions, {base.name} has {base.hidden_size}; "
                "use the basis made for this model"
            )
        for expert in experts.values():
            for model in (expert.anti, expert.tuned):
                if model is not None:
                    _check_beside(base, model)
        if reward is not None:
            check_tokens(base, reward)
            _check_device(base, reward)
            if reward.num_embeddings < base.num_tokens:
                raise ModelError(
                    f"{reward.name} has {reward.num_embeddings} embeddings for {base.num_tokens} tokens; expected at "
                    "least one each; use a reward model made for this model's tokenizer"
                )
        self.base, self.steering, self.experts, self.reward, self.args = base, steering, dict(experts), reward, args
        self._small = next((expert.anti for expert in experts.values()), None)
        self._changing = threading.Lock()  # one expert at a time
        self.head = None if head is None else head.to(base.device)
        self.table = self._embed()

    def with_head(self, head: SuccessorHead) -> Decoder:
        """The same models with another head."""
        return Decoder(self.base, head, self.steering, self.experts, self.reward, self.args)

    def with_steering(self, steering: Steering) -> Decoder:
        """The same models and head, steered more or less."""
        return Decoder(self.base, self.head, steering, self.experts, self.reward, self.args)

    def add_expert(self, path: str | Path, small: CausalModel | None = None) -> Expert:
        """Load an expert's folder, also while replies are written; the next request may name it.

        Args:
            path: the folder, whose name is the expert's.
            small: the model it was tuned on; None means the one that the experts so far were tuned on.

        Raises:
            ModelError: there is one of that name, there is no small model, or ``load_expert`` refuses the folder.
        """
        with self._changing:
            name, small = Path(path).resolve().name, small or self._small
            if name in self.experts:
                raise ModelError(f"there is an expert called {name!r}; remove it first, or rename the folder")
            if small is None:
                raise ModelError(f"no small model is loaded for the expert {name!r}; pass the one it was tuned on")
            _check_beside(self.base, small)
            beside = (expert for expert in self.experts.values() if expert.anti is small and expert.peft is not None)
            expert = load_expert(path, small, next(beside, None))
            if expert.tuned is not None:
                _check_beside(self.base, expert.tuned)
            self.experts, self._small = self.experts | {name: expert}, small
            return expert

    def remove_expert(self, name: str) -> None:
        """Let no request name an expert any more, and free its weights; replies being written with it end in an error.

        Raises:
            InputError: there is none of that name.
        """
        with self._changing:
            expert = self._expert(name)
            self.experts = {other: e for other, e in self.experts.items() if other != name}
            expert.remove()

    @torch.no_grad()
    def _embed(self) -> Tensor | None:
        return None if self.head is None else self.head.table(self.base.output_embedding)

    def generate(self, requests: Sequence[Request], steers: Sequence[Steer] = ()) -> list[Generated]:
        """Write a reply to every request, in one batch as far as they fit; ``steers`` run last, right before the draw.

        Raises:
            InputError: an unknown expert, or a setting out of its range.
            MessageError: messages that are empty, malformed or too long for the model beside ``max_tokens``.
            ProfileError: weights of another basis or with NaN.
            ModelError: the model's own logits aren't finite.
            EngineError: anything else failed while a reply was written.
        """
        outcomes: dict[int, Generated | Exception] = {}
        replies = [self.reply(r, i, _into(outcomes, i)) for i, r in enumerate(requests)]
        if not replies:
            return []
        engine = self._engine(replies, steers)
        while not engine.is_idle:
            engine.step()
        return [_unless_failed(outcomes[i]) for i in range(len(replies))]

    def stream(self, request: Request) -> Iterator[Piece | Generated]:
        """Yield a reply's pieces as they are drawn, then the reply; the pieces' texts make up its text exactly."""
        news: queue.SimpleQueue[Piece | Generated | Exception] = queue.SimpleQueue()
        engine = self._engine([self.reply(request, 0, news.put, is_streamed=True)], ())
        while not engine.is_idle:
            engine.step()
            while not news.empty():
                item = news.get()
                if isinstance(item, Exception):
                    raise item
                yield item

    def _engine(self, replies: Sequence[Seq], steers: Sequence[Steer]) -> Engine:
        longest = max(reply.num_tokens for reply in replies)
        num_slots = min(len(replies), MAX_ROWS)
        engine = Engine(self, num_slots, longest, max_waiting=len(replies), steers=steers)
        for reply in replies:
            engine.submit(reply)
        return engine

    def reply(self, request: Request, number: int, outbox: Outbox, *, is_streamed: bool = False) -> Seq:
        """Check a request and turn it into what an engine writes; any thread may do so.

        Raises:
            InputError: and its kinds, as ``generate``.
        """
        self._check(request)
        return Seq(
            number,
            request,
            self._prompt(self.base, request),
            self.stack(request),
            self.judged(request),
            self._matcher(request),
            self.base,
            outbox,
            is_streamed=is_streamed,
        )

    def _check(self, request: Request) -> None:
        check_sampling(request.sampling, self.base.num_tokens)
        check_constraint(request.schema, request.regex)
        if request.alpha is not None:
            check_alpha(request.alpha)
        if request.expert is not None:
            self._expert(request.expert)
        if request.rule not in RULES:
            raise InputError(f"the rule {request.rule!r} is unknown; expected one of {', '.join(RULES)}")
        if request.rule == "args":
            self._check_args(request)
        elif request.guidance is not None:
            if self.head is None:
                raise BasisError(
                    "guidance needs a successor head, and the basis has none; train one, or pass no guidance"
                )
            check_guidance(request.guidance, self.head.num_axes)

    def _check_args(self, request: Request) -> None:
        if request.is_shadow:
            raise InputError(
                'the rule "args" can\'t follow in shadow what the model draws: it reads its own candidates alone; use '
                '"successor", or leave shadow mode'
            )
        if self.reward is None:
            raise InputError(
                'the rule "args" asks a reward model, and there is none; open with reward=PATH, or use "successor"'
            )
        if request.guidance is not None:
            num_axes = len(request.guidance.weights) if self.reward.num_axes == 1 else self.reward.num_axes
            check_guidance(request.guidance, num_axes)

    def _prompt(self, reader: CausalModel | Expert | RewardModel, request: Request) -> list[int]:
        room = None if reader.context is None else reader.context - request.sampling.max_tokens
        return render(reader.tokenizer, request.messages, max_prompt_tokens=room)

    def stack(self, request: Request) -> Stack | None:
        """The expert to mix in; None where it would change nothing, and every bit has to stay."""
        if request.expert is None:
            return None
        expert = self._expert(request.expert)
        alpha = expert.alpha if request.alpha is None else float(request.alpha)
        if alpha == 0 or expert.changes_nothing:
            return None
        return Stack(expert, alpha, self._prompt(expert, request))

    def _expert(self, name: str) -> Expert:
        expert = self.experts.get(name)
        if expert is None or expert.removed.is_set():
            raise InputError(f"no expert {name!r}; expected one of {sorted(self.experts)}, or None")
        return expert

    def judged(self, request: Request) -> Judged | None:
        """What a reward model makes of a request: one reward is everyone's, several are weighed by the person's head.

        None where strength is 0, or where there are several rewards and nothing is known of the person.
        """
        if request.rule != "args" or self.reward is None:
            return None
        guidance = request.guidance or Guidance(np.zeros(self.reward.num_axes), 0.0)
        if self.reward.num_axes == 1:
            strength = request.guidance.strength if request.guidance else 1.0
            guidance = replace(guidance, weights=np.ones(1), confidence=1.0, strength=strength, user="")
        if guidance.strength == 0 or guidance.confidence <= 0:
            return None
        return Judged(self._prompt(self.reward, request), guidance)

    def _matcher(self, request: Request) -> Matcher | None:
        if request.schema is None and request.regex is None:
            return None
        return self._constrainer.compile(request.schema, request.regex)

    @cached_property
    def _constrainer(self) -> Constrainer:
        return Constrainer(self.base.tokenizer, self.base.num_logits, self.base.ends)


def _check_beside(base: CausalModel, small: CausalModel) -> None:
    """Refuse a model that can't be mixed with base: other tokens, or another device."""
    check_vocabulary(base, small)
    _check_device(base, small)


def _check_device(base: CausalModel, other: CausalModel | RewardModel) -> None:
    if other.device != base.device:
        raise ModelError(
            f"{other.name} is on {other.device}, {base.name} on {base.device}; expected one device; load both with the "
            "same device="
        )


def _into(outcomes: dict[int, Generated | Exception], number: int) -> Outbox:
    def put(item: Piece | Generated | Exception) -> None:
        if not isinstance(item, Piece):
            outcomes[number] = item

    return put


def _unless_failed(outcome: Generated | Exception) -> Generated:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
