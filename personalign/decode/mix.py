"""Experts at work: the steer that moves the logits of the rows that asked for one, by α · (expert − anti-expert)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from personalign.decode.experts import Expert
from personalign.decode.lane import Lane
from personalign.decode.lora import BASE_ADAPTER
from personalign.decode.slots import Slots
from personalign.decode.steer import Step


class Mix:
    """The steer that adds one expert to the rows that asked for it; all others keep their bits.

    Expert and anti-expert run side by side over the same slots as base: with PEFT in one lane of two rows a slot,
    otherwise in two lanes. They run on all rows of a step, so that a row's bits don't depend on who else asked.
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
