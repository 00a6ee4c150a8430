"""How a person's reward bends the next token: a bounded tilt of the short list, row by row.

A row without guidance passes by selection, never by adding zero, and so keeps its bits.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from personalign.decode.models import Models
from personalign.decode.request import gain
from personalign.decode.slots import Slots
from personalign.decode.steer import Step, Tilt, not_empty
from personalign.decode.successor import SuccessorHead, reward
from personalign.decode.weights import SteeredRows, WeightBank
from personalign.types import Guidance


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
    """The steer that tilts each row's short list by the reward that the head expects of the finished reply."""

    def __init__(self, models: Models, head: SuccessorHead, slots: Slots) -> None:
        self._head, self._table, self._steering = head, models.table, models.steering
        self._ends = torch.tensor(models.base.ends, dtype=torch.long, device=slots.device)
        self.rows = SteeredRows(slots, WeightBank(head.num_axes, slots.device))
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
        if not self.rows.slots:
            return logits
        b, steering = len(logits), self._steering
        top, candidates = not_empty(logits, step, self._ends).topk(min(steering.num_candidates, logits.shape[-1]))
        rewards = reward(self._head, self._table, step.hidden, self._merged[:b], candidates)
        return self.rows.steered(
            logits, step, top, candidates, tilt(top, rewards, steering.beta * self.rows.gain(slice(b)), steering.clip)
        )
