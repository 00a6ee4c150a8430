"""How a person's reward bends the next token: a bounded tilt of the short list, row by row.

A row without guidance passes by selection, never by adding zero, and so keeps its bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from personalign.basis import Steering
from personalign.decode.heads import NEUTRAL, HeadBank
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


@dataclass(frozen=True)
class Account:
    """What guidance did to a reply: sums over its tokens, the end included.

    ``kl`` is in nats; ``changed`` counts the positions whose likeliest token became another; ``gained`` is the
    expected reward Σ q Q − Σ p Q, where rewards are in standard deviations of the model's own replies times the
    length of the weights. ``is_sound`` says that no reward was NaN or infinite.
    """

    guided: bool = False
    is_sound: bool = True
    kl: float = 0.0
    changed: float = 0.0
    gained: float = 0.0


def account(
    logits: Float[Tensor, "B K"],
    rewards: Float[Tensor, "B K"],
    delta: Float[Tensor, "B K"],
    kl: Float[Tensor, "B"],
) -> Float[Tensor, "B 3"]:
    """KL, whether the likeliest token changed, and the expected reward gained, for one token of each row."""
    changed = (logits + delta).argmax(-1) != logits.argmax(-1)
    moved = (logits + delta).softmax(-1) - logits.softmax(-1)
    gained = torch.where(moved != 0, moved * rewards, 0.0).sum(-1)  # an impossible candidate's reward may be anything
    return torch.stack([kl, changed.float(), gained], dim=-1)


class Guide:
    """The steer that applies each row's head, and keeps the account of it on the device."""

    def __init__(
        self,
        head: SuccessorHead,
        table: Float[Tensor, "V R"],
        steering: Steering,
        ends: Sequence[int],
        num_slots: int,
        bank: HeadBank,
    ) -> None:
        device = table.device
        self._head, self._table, self._steering, self._bank = head, table, steering, bank
        self._ends = torch.tensor(list(ends), dtype=torch.long, device=device)
        self._row = torch.full((num_slots,), NEUTRAL, dtype=torch.long, device=device)  # of the bank
        self._strength = torch.zeros(num_slots, dtype=torch.float32, device=device)
        self._sound = torch.ones(num_slots, dtype=torch.bool, device=device)  # no reward yet that wasn't finite
        self._sums = torch.zeros(num_slots, 3, dtype=torch.float32, device=device)
        self._rows: dict[int, int] = {}  # of the slots that are guided, on the host

    @property
    def slots(self) -> list[int]:
        """Which slots are guided."""
        return list(self._rows)

    def admit(self, slot: int, guidance: Guidance | None) -> None:
        """Steer a slot from its first token on; a head that is pinned stays until the slot is released."""
        if guidance is None or guidance.gain(self._steering) <= 0:
            return
        row = self._rows[slot] = self._bank.acquire(guidance)
        self._row[slot] = row
        self._strength[slot] = guidance.strength

    def release(self, slot: int) -> None:
        """Let go of the slot's head."""
        if slot in self._rows:
            self._bank.release(self._rows.pop(slot))
            self._row[slot] = NEUTRAL
            self._strength[slot] = 0.0
            self._sound[slot] = True
            self._sums[slot] = 0.0

    def move(self, source: int, target: int) -> None:
        """Carry a slot's head and account over to an empty one."""
        if source in self._rows:
            self._rows[target] = self._rows.pop(source)
            for state, neutral in ((self._row, NEUTRAL), (self._strength, 0), (self._sound, True), (self._sums, 0)):
                state[target] = state[source]
                state[source] = neutral

    def account(self, slot: int) -> Account:
        """What was done to the slot's reply so far; one copy from the device."""
        if slot not in self._rows:
            return Account()
        confidence = self._bank.confidence[self._rows[slot]]  # 0 by now if the person was erased meanwhile
        state = torch.stack([self._sound[slot], confidence > 0])
        kl, changed, gained, is_sound, is_known = torch.cat([self._sums[slot], state]).tolist()
        return Account(bool(is_sound and is_known), bool(is_sound), kl, changed, gained)

    def __call__(self, logits: Float[Tensor, "B V"], step: Step) -> Float[Tensor, "B V"]:
        """Replace the logits of guided rows by their tilted short list, −inf elsewhere."""
        if not self._rows:
            return logits
        b, steering = len(logits), self._steering
        row = self._row[:b]
        gain = steering.beta * self._strength[:b] * self._bank.confidence[row].clamp_min(0.0)
        top, candidates = self._not_empty(logits, step).topk(min(steering.num_candidates, logits.shape[-1]))
        rewards = reward(self._head, self._table, step.hidden, self._bank.weights[row], candidates)
        delta, kl, finite = tilt(top, rewards, gain, steering.clip)
        self._sound[:b] &= finite | ~step.active
        guided = (gain > 0) & self._sound[:b]
        counted = (guided & step.active)[:, None]
        self._sums[:b] += torch.where(counted, account(top, rewards, delta, kl), 0.0)
        short = torch.full_like(logits, -math.inf).scatter(-1, candidates, top + delta)
        return torch.where(guided[:, None], short, logits)

    def _not_empty(self, logits: Float[Tensor, "B V"], step: Step) -> Float[Tensor, "B V"]:
        """Rule out the end as the first token of every row whose own first choice isn't the end."""
        if not step.has_first:
            return logits
        ends_itself = torch.isin(logits.argmax(-1), self._ends)
        keeps = ends_itself | (step.index > 0)
        return torch.where(keeps[:, None], logits, logits.index_fill(-1, self._ends, -math.inf))
