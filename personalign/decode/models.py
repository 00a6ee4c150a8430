"""The models that replies are written with, as one frozen value: base, head, experts and reward model.

``reference.py`` says what is done with them, ``admit.py`` what a request has to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from personalign.decode.constrain import Constrainer
from personalign.decode.experts import Expert, check_vocabulary
from personalign.decode.load import CausalModel, check_tokens
from personalign.decode.request import Request
from personalign.decode.reward_model import RewardModel
from personalign.decode.successor import SuccessorHead
from personalign.errors import BasisError, InputError, ModelError
from personalign.messages import shown
from personalign.types import ArgsSteering, Guidance, Steering


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

    def __post_init__(self) -> None:
        if self.head is not None:
            self._check_head(self.head)
            self.head.to(self.base.device)
        for expert in self.experts.values():
            for model in (expert.anti, expert.tuned):
                if model is not None:
                    check_vocabulary(self.base, model)
                    self._check_device(model)
        if self.reward_model is not None:
            self._check_reward_model(self.reward_model)

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
    def table(self) -> Tensor | None:
        """What the head knows of every token, (V, R)."""
        return None if self.head is None else self.head.table(self.base.output_embedding)

    @cached_property
    def constrainer(self) -> Constrainer:
        """What compiles schemas and regexes for the base model's tokens."""
        return Constrainer(self.base.tokenizer, self.num_ids, self.base.ends)

    def expert(self, name: str) -> Expert:
        """An expert by its name.

        Raises:
            InputError: there is none.
        """
        if name not in self.experts:
            raise InputError(f"no expert {shown(name)}; expected one of {sorted(self.experts)}, or None")
        return self.experts[name]

    def alpha(self, request: Request) -> float:
        """The weight of the request's expert; 0 where the expert would change nothing, and every bit has to stay."""
        if request.options.expert is None:
            return 0.0
        expert = self.expert(request.options.expert)
        alpha = expert.alpha if request.options.alpha is None else float(request.options.alpha)
        return 0.0 if alpha == 0 or expert.changes_nothing else alpha

    def reward_guidance(self, request: Request) -> Guidance | None:
        """How a reward model's rewards are weighed: one reward is everyone's, several go by the person's weights.

        None where the rule isn't "args", where strength is 0, or where several rewards meet a person who is unknown.
        """
        if request.options.rule != "args" or self.reward_model is None:
            return None
        num_axes, guidance = self.reward_model.num_axes, request.guidance
        if num_axes == 1:
            strength = guidance.strength if guidance else 1.0
            given = guidance or Guidance(np.ones(1), 1.0)
            guidance = replace(given, weights=np.ones(1), confidence=1.0, strength=strength, user="")
        return guidance if guidance is not None and guidance.strength > 0 and guidance.confidence > 0 else None

    def _check_head(self, head: SuccessorHead) -> None:
        if head.hidden_size != self.base.hidden_size:
            raise BasisError(
                f"the head reads {head.hidden_size} hidden dimensions, {self.base.name} has {self.base.hidden_size}; "
                "use the basis made for this model"
            )

    def _check_reward_model(self, reward_model: RewardModel) -> None:
        check_tokens(self.base, reward_model)
        self._check_device(reward_model)
        if reward_model.num_embeddings < self.num_tokens:
            raise ModelError(
                f"{reward_model.name} has {reward_model.num_embeddings} embeddings for {self.num_tokens} tokens; "
                "expected at least one each; use a reward model made for this model's tokenizer"
            )

    def _check_device(self, other: CausalModel | RewardModel) -> None:
        if other.device != self.base.device:
            raise ModelError(
                f"{other.name} is on {other.device}, {self.base.name} on {self.base.device}; expected one device; load "
                "both with the same device="
            )
