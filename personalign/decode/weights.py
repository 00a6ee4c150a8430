"""The weight bank, everyone's reward weights as rows of one buffer on the device, and the slots that use its rows.

A person's weights are d floats, so switching people is switching a row number. A re-fit is a new row: a reply that is
being written keeps the weights it began with. Row 0 is neutral and belongs to no one.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from personalign.decode.request import Account
from personalign.decode.slots import Slots
from personalign.decode.steer import Step, Tilt, cut_kl
from personalign.errors import Overloaded
from personalign.types import Guidance

NEUTRAL = 0
DEFAULT_ROWS = 10_000
Places = slice | Int[Tensor, "b"]  # the slots that rows belong to, each to another one


@dataclass(frozen=True)
class WeightKey:
    """Whose weights they are, and which: ``generation`` differs once an erased id starts anew."""

    user: str
    generation: int
    revision: int


class WeightBank:
    """Rows of weights, found by key; where none is empty, the row used longest ago is reused."""

    def __init__(self, num_axes: int, device: torch.device, num_rows: int = DEFAULT_ROWS) -> None:
        self.weights = torch.zeros(num_rows + 1, num_axes, dtype=torch.float32, device=device)
        self.is_live = torch.zeros(num_rows + 1, dtype=torch.float32, device=device)  # 1 where a person is, else 0
        self._empty = list(range(num_rows, NEUTRAL, -1))
        self._rows: OrderedDict[WeightKey, int] = OrderedDict()  # the one used longest ago first
        self._keys: dict[int, WeightKey | None] = {}  # None: a row whose person was erased while it was in use
        self._pins: dict[int, int] = {}

    def __len__(self) -> int:
        """How many people's weights are resident."""
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        """What the rows take on the device."""
        return self.weights.nbytes + self.is_live.nbytes

    def acquire(self, guidance: Guidance) -> int:
        """Find the row of these weights, or write them to one, and pin it until it is released."""
        key = WeightKey(guidance.user, guidance.generation, guidance.revision)
        row = self._rows.get(key) if guidance.user else None
        if row is None:
            row = self._free_row()
            self.write(row, guidance)
            self._keys[row] = key if guidance.user else None
        if guidance.user:
            self._rows[key] = row
            self._rows.move_to_end(key)
        self._pins[row] = self._pins.get(row, 0) + 1
        return row

    def release(self, row: int) -> None:
        """Unpin a row; it stays for the next time, unless no key leads to it."""
        self._pins[row] -= 1
        if self._pins[row] == 0:
            del self._pins[row]
            if self._keys[row] is None:
                self._clear(row)

    def write(self, row: int, guidance: Guidance) -> None:
        """Put weights into a row, in place."""
        self.weights[row] = torch.from_numpy(np.asarray(guidance.weights, dtype=np.float64))
        self.is_live[row] = guidance.is_personal

    def forget(self, user: str) -> None:
        """Empty every row of a person, at once: a reply that is being written goes on without them."""
        for key in [key for key in self._rows if key.user == user]:
            row = self._rows.pop(key)
            self._keys[row] = None
            self._clear(row)

    def _free_row(self) -> int:
        if self._empty:
            return self._empty.pop()
        for key, row in self._rows.items():
            if row not in self._pins:
                del self._rows[key], self._keys[row]
                return row
        raise Overloaded(
            f"all {len(self.weights) - 1} rows of the weight bank are in use; send the request again later"
        )

    def _clear(self, row: int) -> None:
        self.weights[row] = self.is_live[row] = 0.0
        if row not in self._pins:
            del self._keys[row]
            self._empty.append(row)


class SteeredRows:
    """The rows of the weight bank that the slots use; a slot without guidance uses the neutral one, with gain 0.

    ``has_account`` says that somebody asks what was done to a reply, which takes a look at all logits.
    """

    def __init__(self, slots: Slots, bank: WeightBank, *, has_account: bool = True) -> None:
        self._bank, self._has_account = bank, has_account
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

    @property
    def num_people(self) -> int:
        """How many people's weights are resident."""
        return len(self._bank)

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

    def weights(self, slots: Places) -> Float[Tensor, "b d"]:
        """Weights of some slots: 0 without guidance, or once the person is erased."""
        return self._bank.weights[self._row[slots]]

    def gain(self, slots: Places) -> Float[Tensor, "b"]:
        """Strength of some slots: 0 without guidance, or once the person is erased."""
        return self._strength[slots] * self._bank.is_live[self._row[slots]]

    def steered(
        self,
        logits: Float[Tensor, "b V"],
        step: Step,
        top: Float[Tensor, "b K"],
        candidates: Int[Tensor, "b K"],
        tilt: Tilt,
        slots: Places,
    ) -> Float[Tensor, "b V"]:
        """The tilted short list of guided rows, −inf elsewhere, in place; other rows keep their bits.

        A reward that isn't finite ends a row's steering. Rows in shadow are counted like others, but not steered.
        """
        scores, gain = top + tilt.delta, self.gain(slots)
        judged = (gain > 0).logical_and_(step.active)  # the values of other rows mean nothing
        sound = self._sound[slots].logical_and(tilt.finite.logical_or(~judged))
        self._sound[slots] = sound
        guided = (gain > 0).logical_and_(sound)
        if self._has_account:
            changed = (scores.argmax(-1) != 0).to(tilt.kl.dtype)  # the model's own likeliest token comes first
            effect = torch.stack([tilt.kl + cut_kl(logits, top), tilt.kl, changed, tilt.gained], dim=-1)
            self._sums[slots] += torch.where((guided & judged)[:, None], effect, 0.0)
        guided.logical_and_(self._steers[slots])
        written = torch.where(guided[:, None], scores, logits.gather(-1, candidates))
        return logits.masked_fill_(guided[:, None], -math.inf).scatter_(-1, candidates, written)

    def account(self, slot: int) -> Account:
        """What was done to the slot's reply so far; one copy from the device."""
        if slot not in self._rows:
            return Account()
        is_live = self._bank.is_live[self._rows[slot]]  # 0 by now if the person was erased meanwhile
        state = torch.stack([self._sound[slot], is_live > 0])
        kl, tilt_kl, changed, gained, is_sound, is_known = torch.cat([self._sums[slot], state]).tolist()
        return Account(bool(is_sound and is_known), bool(is_sound), kl, tilt_kl, changed, gained)
