"""How a person's reward bends the next token: a bounded tilt of the short list, row by row.

A row without guidance passes by selection, never by adding zero, and so keeps its bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from personalign.decode.request import gain
from personalign.decode.slots import Slots
from personalign.decode.steer import Step, Tilt, not_empty, shortlist
from personalign.decode.successor import SuccessorHead, reward
from personalign.decode.weights import DEFAULT_ROWS, Places, SteeredRows, WeightBank
from personalign.types import Guidance, Steering


def tilt(logits: Float[Tensor, "B K"], rewards: Float[Tensor, "B K"], gain: Float[Tensor, "B"], clip: float) -> Tilt:
    """Add gain·reward to the logits, centred and bounded.

    p = softmax(logits), δ = gain·(Q − Σ p Q) clamped to ±clip/2, q ∝ p·e^δ; so KL(q ‖ p) ≤ clip²/8 within the short
    list, and over all tokens ``cut_kl`` more. A candidate whose logit is −inf stays out, whatever its reward.
    """
    rewards = torch.where(logits.isfinite(), rewards, 0.0)
    p = logits.softmax(-1)
    centred = rewards - (p * rewards).sum(-1, keepdim=True)
    delta = (gain[:, None] * centred).clamp(-clip / 2, clip / 2)
    q = (logits + delta).softmax(-1)
    # log q − log p = δ − log Σ p e^δ, whose last term is exactly 0 where no δ is anything else
    kl = ((q * delta).sum(-1) - (p * delta.expm1()).sum(-1).log1p()).clamp_min(0.0)
    return Tilt(delta, kl, rewards.isfinite().all(-1), (q * centred).sum(-1))


class SuccessorTilt:
    """The steer that tilts each row's short list by the reward that the head expects of the finished reply.

    ``table`` is what the head knows of every token, ``ends`` are the tokens that end a reply.
    """

    def __init__(
        self,
        head: SuccessorHead,
        table: Float[Tensor, "V R"],
        steering: Steering,
        ends: Sequence[int],
        slots: Slots,
        num_rows: int = DEFAULT_ROWS,
        *,
        has_account: bool = True,
    ) -> None:
        self._head, self._table, self._steering = head, table, steering
        self._ends = torch.tensor(ends, dtype=torch.long, device=slots.device)
        self.rows = SteeredRows(slots, WeightBank(head.num_axes, slots.device, num_rows), has_account=has_account)
        self._merged = slots.rows(head.rank, head.body.out_features + 1)

    def admit(self, slot: int, guidance: Guidance) -> None:
        """Steer a slot from its first token on."""
        if gain(guidance, self._steering) > 0:
            self.rows.admit(slot, guidance)
            self._merged[slot] = self._head.merged(self.rows.weights(slice(slot, slot + 1)))[0]

    def forget(self, user: str) -> None:
        """Empty a person's rows, and what was made of them."""
        self.rows.forget(user)
        self._merged[self.rows.gain(slice(None)) == 0] = 0.0

    def __call__(self, logits: Float[Tensor, "B V"], step: Step) -> Float[Tensor, "B V"]:
        """Replace the logits of guided rows by their tilted short list, −inf elsewhere."""
        return self.steer(logits, step, slice(len(logits))) if self.rows.slots else logits

    def steer(self, logits: Float[Tensor, "B V"], step: Step, slots: Places) -> Float[Tensor, "B V"]:
        """The same for rows that belong to any slots, each to another one."""
        steering = self._steering
        top, candidates = shortlist(not_empty(logits, step, self._ends), steering.num_candidates)
        rewards = reward(self._head, self._table, step.hidden, self._merged[slots], candidates)
        tilted = tilt(top, rewards, steering.beta * self.rows.gain(slots), steering.clip)
        return self.rows.steered(logits, step, top, candidates, tilted, slots)
