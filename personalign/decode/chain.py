"""The steers in the order of the method: experts, penalties and bias, constraint, reward, then the caller's own.

``engine.py`` asks it for the logits that tokens are drawn from; ``reference.py`` has the method in plain words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from personalign.decode.args import Args
from personalign.decode.constrain import ConstraintRows
from personalign.decode.experts import Expert
from personalign.decode.lane import Lane
from personalign.decode.lora import BASE_ADAPTER
from personalign.decode.models import Models
from personalign.decode.request import Account
from personalign.decode.sample import RowSampler
from personalign.decode.seq import Seq
from personalign.decode.slots import Slots
from personalign.decode.steer import Reader, Steer, Step
from personalign.decode.tilt import SuccessorTilt

Guard = Callable[[Iterable[int]], AbstractContextManager[None]]  # ends the replies in some slots where anything fails


class Chain:
    """What bends the logits of each slot's reply; steers with models of their own are made when first asked for."""

    def __init__(
        self, models: Models, slots: Slots, max_length: int, sampler: RowSampler, steers: Sequence[Steer]
    ) -> None:
        self._models, self._slots, self._max_length = models, slots, max_length
        self._sampler, self._steers = sampler, steers
        self.mixes: dict[Expert, Mix] = {}
        self.constraints = ConstraintRows(slots, models.num_ids)
        self.tilt: SuccessorTilt | None = None
        if models.head is not None:
            self.tilt = SuccessorTilt(models.head, models.table, models.steering, models.base.ends, slots)
        self.args: Args | None = None

    @property
    def readers(self) -> list[Reader]:
        """The steers that read prompts."""
        return [*self.mixes.values(), *([] if self.args is None else [self.args])]

    @property
    def rewards(self) -> list[SuccessorTilt | Args]:
        """The steers by a reward: each row is guided by one of them at most."""
        return [reward for reward in (self.tilt, self.args) if reward is not None]

    def seat(self, slot: int, seq: Seq) -> None:
        """Hand a reply to every steer that it asks for."""
        if seq.matcher is not None:
            self.constraints.admit(slot, seq.matcher)
        if seq.reward_prompt is not None:
            self.args = self.args or Args(self._models, self._slots, self._max_length)
            self.args.admit(slot, seq.reward_prompt.prompt, seq.reward_prompt.guidance)
        elif self.tilt is not None and seq.guidance is not None and seq.request.options.rule == "successor":
            self.tilt.admit(slot, seq.guidance)
        if seq.stack is not None:
            expert = seq.stack.expert
            if expert not in self.mixes:
                self.mixes[expert] = Mix(expert, self._slots, self._max_length, self._models.num_tokens)
            self.mixes[expert].admit(slot, seq.stack.prompt, seq.stack.alpha)

    def __call__(self, logits: Float[Tensor, "b V"], step: Step, guard: Guard) -> Float[Tensor, "b V"]:
        """Apply the steers one after the other.

        The guard isn't kept: it is the engine's, which would then keep itself and its buffers alive.
        """
        for mix in self.mixes.values():
            with guard(mix.slots):
                logits = mix(logits, step)
        logits = self.constraints.mask(self._sampler.adjust(logits))
        for reward in self.rewards:
            with guard(reward.rows.slots):
                logits = reward(logits, step)
        for steer in self._steers:
            logits = steer(logits, step)
        return logits

    def forget(self, user: str) -> None:
        """Empty a person's rows."""
        for reward in self.rewards:
            reward.forget(user)

    def account(self, slot: int) -> Account:
        """What a reward did to the slot's reply."""
        return next((reward.rows.account(slot) for reward in self.rewards if slot in reward.rows.slots), Account())


class Mix:
    """The steer that adds one expert to the rows that asked for it; all others keep their bits.

    Expert and anti-expert run over all rows of a step, so that a row's bits don't depend on its neighbours.
    """

    def __init__(self, expert: Expert, slots: Slots, max_length: int, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._alpha = slots.rows()
        self.slots: dict[int, float] = slots.values()  # α of those whose rows it moves, on the host
        if expert.tuned is None:
            adapters = (expert.name, BASE_ADAPTER)
            self._lanes = [Lane(expert.anti, slots, max_length, expert.peft, adapters)]
        else:
            self._lanes = [Lane(causal, slots, max_length) for causal in (expert.tuned, expert.anti)]

    def admit(self, slot: int, prompt: Sequence[int], alpha: float) -> None:
        """Give a slot's prompt, in this model's own template, and its α."""
        self.slots[slot] = alpha
        self._alpha[slot] = alpha
        for lane in self._lanes:
            lane.begin(slot, prompt)

    def read(self, slot: int) -> int:
        """Read the next chunk of the slot's prompt; give the number of tokens, 0 when all are read."""
        return sum(lane.read(slot) for lane in self._lanes) if slot in self.slots else 0

    def accept(self, tokens: Int[Tensor, "b"], active: Bool[Tensor, "b"]) -> None:
        """Take the drawn tokens as what the next step reads, for its own replies: others' may be unknown to it."""
        active = active & (self._alpha[: len(tokens)] != 0)
        for lane in self._lanes:
            lane.accept(tokens, active)

    def __call__(self, logits: Float[Tensor, "b V"], step: Step) -> Float[Tensor, "b V"]:
        """Move the logits by α · (expert − anti-expert)."""
        if not self.slots:
            return logits
        alpha = self._alpha[: len(logits)]
        running = [slot for slot in step.writing if slot in self.slots]
        active = step.active & (alpha != 0)
        follows = [lane.step(active, running)[0] for lane in self._lanes]
        tuned, anti = follows if len(follows) == 2 else (follows[0][0::2], follows[0][1::2])
        return mix(logits, tuned, anti, alpha, self._num_tokens)


def mix(
    base: Float[Tensor, "B V"],
    tuned: Float[Tensor, "B v1"],
    anti: Float[Tensor, "B v2"],
    alpha: Float[Tensor, "B"],
    num_tokens: int,
) -> Float[Tensor, "B V"]:
    """Base + α · (tuned − anti) over the tokens there are; −inf in the output layer's padded tail beyond them."""
    move = alpha[:, None] * (tuned[:, :num_tokens] - anti[:, :num_tokens])
    known = base[:, :num_tokens]
    moved = torch.where(move == 0, known, known + move)  # −0.0 + 0 would be 0.0
    tail = torch.full_like(base[:, num_tokens:], -math.inf)
    return torch.where(alpha[:, None] == 0, base, torch.cat([moved, tail], dim=-1))
