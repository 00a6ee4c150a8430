"""Which slots are guided, by whose weights and how much, and the account of what it did to their replies."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from personalign.decode.request import Account
from personalign.decode.slots import Slots
from personalign.decode.steer import Step
from personalign.decode.weights import NEUTRAL, WeightBank
from personalign.types import Guidance


class SteeredRows:
    """The rows of the weight bank that the slots use; a slot without guidance uses the neutral one, with gain 0."""

    def __init__(self, slots: Slots, bank: WeightBank) -> None:
        self._bank = bank
        self._row = slots.rows(dtype=torch.long, neutral=NEUTRAL)  # of the bank
        self._strength = slots.rows()
        self._steers = slots.rows(dtype=torch.bool)  # guided, and not in shadow
        self._sound = slots.rows(dtype=torch.bool, neutral=True)  # no reward yet that wasn't finite
        self._sums = slots.rows(4)
        self._rows: dict[int, int] = slots.values(bank.release)  # of the slots that are guided, on the host

    @property
    def slots(self) -> list[int]:
        """Which slots are guided."""
        return list(self._rows)

    def forget(self, user: str) -> None:
        """Empty a person's rows."""
        self._bank.forget(user)

    def taken(self, b: int) -> Bool[Tensor, "b"]:
        """Which of the first b slots are guided, on the device."""
        return self._row[:b] != NEUTRAL

    def admit(self, slot: int, guidance: Guidance) -> None:
        """Guide a slot; its weights stay in the bank until the slot is released."""
        row = self._rows[slot] = self._bank.acquire(guidance)
        self._row[slot] = row
        self._strength[slot] = guidance.strength
        self._steers[slot] = not guidance.is_shadow

    def weights(self, slots: slice) -> Float[Tensor, "b d"]:
        """Weights of some slots: 0 without guidance, or once the person is erased."""
        return self._bank.weights[self._row[slots]]

    def gain(self, slots: slice) -> Float[Tensor, "b"]:
        """Strength times ρ of some slots: 0 without guidance, or once the person is erased."""
        return self._strength[slots] * self._bank.confidence[self._row[slots]]

    def record(
        self,
        step: Step,
        gain: Float[Tensor, "b"],
        finite: Bool[Tensor, "b"],
        scores: Float[Tensor, "b K"],
        kl: Float[Tensor, "b"],
        cut_kl: Float[Tensor, "b"],
        gained: Float[Tensor, "b"],
    ) -> Bool[Tensor, "b"]:
        """Add a step to the account; return which rows to steer. A reward that isn't finite ends a row's steering.

        Rows in shadow are counted like others, but not steered. ``scores`` are the short list's, the model's
        own likeliest token first; ``kl`` is within it, and ``cut_kl`` what the whole vocabulary adds.
        """
        b = len(gain)
        judged = (gain > 0).logical_and_(step.active)  # the values of other rows mean nothing
        sound = self._sound[:b].logical_and_(finite.logical_or(~judged))
        guided = (gain > 0).logical_and_(sound)
        effect = torch.stack([kl + cut_kl, kl, (scores.argmax(-1) != 0).to(kl.dtype), gained], dim=-1)
        self._sums[:b] += torch.where((guided & judged)[:, None], effect, 0.0)
        return guided.logical_and_(self._steers[:b])

    def account(self, slot: int) -> Account:
        """What was done to the slot's reply so far; one copy from the device."""
        if slot not in self._rows:
            return Account()
        confidence = self._bank.confidence[self._rows[slot]]  # 0 by now if the person was erased meanwhile
        state = torch.stack([self._sound[slot], confidence > 0])
        kl, tilt_kl, changed, gained, is_sound, is_known = torch.cat([self._sums[slot], state]).tolist()
        return Account(bool(is_sound and is_known), bool(is_sound), kl, tilt_kl, changed, gained)
