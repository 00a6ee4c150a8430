"""The models that replies are written with, as one frozen value: base, head, experts and reward model.

``reference.py`` says what is done with them, ``seq.py`` what a request has to be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from personalign.decode.constrain import Constrainer
from personalign.decode.experts import Expert
from personalign.decode.load import CausalModel
from personalign.decode.request import Request
from personalign.decode.reward_model import RewardModel
from personalign.decode.successor import SuccessorHead
from personalign.errors import BasisError, InputError, ModelError
from personalign.messages import shown
from personalign.options import Options
from personalign.types import ArgsSteering, Array, Guidance, Message, Steering

Measure = Callable[[Sequence[Sequence[Message]], Sequence[str]], Array]  # prompts and replies to φ (n, d)


@dataclass(frozen=True, eq=False)
class Models:
    """A frozen base model, the head that predicts what its replies will be like, and what may be stacked on it.

    Raises:
        BasisError: the head was made for another model.
        ModelError: an expert or the reward model has other tokens, or is on another device.
    """

    base: CausalModel
    head: SuccessorHead | None
    steering: Steering
    experts: Mapping[str, Expert] = field(default_factory=dict)
    reward_model: RewardModel | None = None
    args: ArgsSteering = field(default_factory=ArgsSteering)
    measure: Measure | None = None  # of replies that have ended; the rules with siblings ask for it

    def __post_init__(self) -> None:
        head, base = self.head, self.base
        if head is not None and head.hidden_size != base.hidden_size:
            raise BasisError(
                f"the head reads {head.hidden_size} hidden dimensions, {base.name} has {base.hidden_size}; use the "
                "basis made for this model"
            )
        if head is not None:
            head.to(base.device)
        stacked = [model for expert in self.experts.values() for model in (expert.anti, expert.tuned)]
        for other in (*stacked, self.reward_model):
            if other is not None:
                self._check_other(other)

    @property
    def num_tokens(self) -> int:
        """How many token ids can be drawn: a tokenizer may know more than the output layer has rows, or fewer."""
        return min(self.base.num_tokens, self.base.num_logits)

    @property
    def num_ids(self) -> int:
        """How many ids a mask has to cover: the model's and the tokenizer's."""
        return max(self.base.num_tokens, self.base.num_logits)

    @cached_property
    @torch.no_grad()
    def table(self) -> Tensor:
        """What the head knows of every token, (V, R)."""
        assert self.head is not None, "only a reward by it asks"
        return self.head.table(self.base.output_embedding)

    @cached_property
    def constrainer(self) -> Constrainer:
        """What compiles schemas and regexes for the base model's tokens."""
        return Constrainer(self.base.tokenizer, self.num_ids, self.base.ends)

    def expert(self, options: Options) -> tuple[Expert | None, float]:
        """The expert of a request and its weight; None where it would change nothing, and every bit has to stay."""
        if options.expert is None:
            return None, 0.0
        if options.expert not in self.experts:
            raise InputError(f"no expert {shown(options.expert)}; expected one of {sorted(self.experts)}, or None")
        expert = self.experts[options.expert]
        alpha = expert.alpha if options.alpha is None else float(options.alpha)
        return (None, 0.0) if alpha == 0 or expert.changes_nothing else (expert, alpha)

    def reward_guidance(self, request: Request) -> Guidance | None:
        """How rewards are weighed: one is everyone's, several go by the person's weights; None without any."""
        if request.options.rule != "args" or self.reward_model is None:
            return None
        num_axes, guidance = self.reward_model.num_axes, request.guidance
        if num_axes == 1:
            strength = guidance.strength if guidance else 1.0
            given = guidance or Guidance(np.ones(1))
            guidance = replace(given, weights=np.ones(1), strength=strength, user="", is_personal=True)
        return guidance if guidance is not None and guidance.strength > 0 and guidance.is_personal else None

    def _check_other(self, other: CausalModel | RewardModel) -> None:
        check_vocabulary(self.base, other)
        if other.device != self.base.device:
            raise ModelError(
                f"{other.name} is on {other.device}, {self.base.name} on {self.base.device}; expected one device; load "
                "both with the same device="
            )


def check_vocabulary(base: CausalModel, other: CausalModel | RewardModel) -> None:
    """Refuse models whose tokens differ, or that can't read or write them all; longer layers are fine."""
    tokens, others = ({i: t for t, i in model.tokenizer.get_vocab().items()} for model in (base, other))
    for i in sorted(tokens.keys() | others.keys()):
        if tokens.get(i) != others.get(i):
            raise ModelError(
                f"token {i} is {tokens.get(i)!r} in {base.name} and {others.get(i)!r} in {other.name}; expected one "
                "vocabulary; use an expert or a reward model made for this model's tokenizer"
            )
    if isinstance(other, CausalModel):
        what, num = "logits", other.num_logits
    else:
        layer: Any = other.backbone.get_input_embeddings()
        what, num = "embeddings", len(layer.weight)
    num_tokens = min(base.num_tokens, base.num_logits)  # a tokenizer may know ids that the model can't write
    if num < num_tokens:
        raise ModelError(
            f"{other.name} has {num} {what} for {num_tokens} tokens; expected at least one each; use an expert or a "
            "reward model made for this model's tokenizer"
        )
