"""How a person's reward bends the next token: a bounded tilt of the short list, row by row.

A row without guidance passes by selection, never by adding zero, and so keeps its bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from personalign.basis import Steering
from personalign.decode.rewards import Guidance, SuccessorHead, reward
from personalign.decode.steer import Step


def tilt(
    logits: Float[Tensor, "B K"], rewards: Float[Tensor, "B K"], gain: Float[Tensor, "B"], clip: float
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B"], Bool[Tensor, "B"]]:
    """δ of each candidate, KL(q ‖ p) in nats, and whether the row's rewards are finite.

    p = softmax(logits), δ = gain·(Q − Σ p Q) clamped to ±clip/2, q ∝ p·e^δ; so KL ≤ clip²/8. A candidate whose logit
    is −inf stays out; a row with a reward that isn't finite gets no meaning, only False.
    """
    possible = logits.isfinite()
    finite = (rewards.isfinite() | ~possible).all(-1)
    rewards = torch.where(possible & finite[:, None], rewards, 0.0)
    p = logits.softmax(-1)
    centred = rewards - (p * rewards).sum(-1, keepdim=True)
    delta = (gain[:, None] * centred).clamp(-clip / 2, clip / 2)
    # log q − log p = δ − log Σ p e^δ
    log_mean = (p * delta.exp()).sum(-1).log()
    q = (logits + delta).softmax(-1)
    return delta, ((q * delta).sum(-1) - log_mean).clamp_min(0.0), finite


class Guide:
    """The steer that applies each row's guidance, and keeps the account of it on the device."""

    def __init__(
        self,
        head: SuccessorHead,
        table: Float[Tensor, "V R"],
        steering: Steering,
        guidance: Sequence[Guidance | None],
        ends: Sequence[int],
    ) -> None:
        device = table.device
        nothing = np.zeros(head.num_axes)
        self._head, self._table, self._steering = head, table, steering
        self._weights = torch.tensor(
            np.stack([g.weights if g else nothing for g in guidance]), dtype=torch.float32, device=device
        )
        self._gain = torch.tensor(
            [g.gain(steering) if g else 0.0 for g in guidance], dtype=torch.float32, device=device
        )
        self._ends = torch.tensor(list(ends), dtype=torch.long, device=device)
        self.guided = self._gain > 0  # a row leaves it for good at its first reward that isn't finite
        self.kl = torch.zeros(len(guidance), dtype=torch.float32, device=device)  # the sum over tokens, in nats

    def __call__(self, logits: Float[Tensor, "B V"], step: Step) -> Float[Tensor, "B V"]:
        """Replace the logits of guided rows by their tilted short list, −inf elsewhere."""
        allowed = self._not_empty(logits) if step.index == 0 else logits
        top, candidates = allowed.topk(min(self._steering.num_candidates, logits.shape[-1]))
        rewards = reward(self._head, self._table, step.hidden, self._weights, candidates)
        delta, kl, finite = tilt(top, rewards, self._gain, self._steering.clip)
        self.guided = self.guided & (finite | ~step.active)
        self.kl = self.kl + torch.where(self.guided & step.active, kl, 0.0)
        tilted = torch.full_like(logits, -math.inf).scatter(-1, candidates, top + delta)
        return torch.where(self.guided[:, None], tilted, logits)

    def _not_empty(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Rule out the end as the first token of every row whose own first choice isn't the end."""
        ends_itself = torch.isin(logits.argmax(-1), self._ends)
        return torch.where(ends_itself[:, None], logits, logits.index_fill(-1, self._ends, -math.inf))
