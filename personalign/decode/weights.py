"""The weight bank: everyone's reward weights as rows of one buffer on the device.

A person's weights are d floats, so switching people is switching a row number. A re-fit is a new row: a reply that is
being written keeps the weights it began with. Row 0 is neutral and belongs to no one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch

from personalign.errors import Overloaded
from personalign.types import Guidance

NEUTRAL = 0
DEFAULT_ROWS = 10_000


@dataclass(frozen=True)
class WeightKey:
    """Whose weights they are, and which: ``generation`` differs once an erased id starts anew."""

    user: str
    generation: int
    revision: int


class WeightBank:
    """Rows of weights and ρ, found by key; where none is empty, the row used longest ago is reused."""

    def __init__(self, num_axes: int, device: torch.device, num_rows: int = DEFAULT_ROWS) -> None:
        self.weights = torch.zeros(num_rows + 1, num_axes, dtype=torch.float32, device=device)
        self.confidence = torch.zeros(num_rows + 1, dtype=torch.float32, device=device)
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
        return self.weights.nbytes + self.confidence.nbytes

    def acquire(self, guidance: Guidance) -> int:
        """Find the row of these weights, or write them to one, and pin it until it is released."""
        key = WeightKey(guidance.user, guidance.generation, guidance.revision)
        is_known = bool(guidance.user) and key in self._rows
        row = self._rows[key] if is_known else self._free_row()
        if not is_known:
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
        """Put weights and ρ into a row, in place."""
        self.weights[row] = torch.from_numpy(np.asarray(guidance.weights, dtype=np.float64))
        self.confidence[row] = max(0.0, guidance.confidence)

    def forget(self, user: str) -> None:
        """Empty every row of a person, at once: a reply that is being written goes on without them."""
        for key in [key for key in self._rows if key.user == user]:
            row = self._rows.pop(key)
            self._keys[row] = None
            if row in self._pins:
                self._zero(row)
            else:
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
        self._zero(row)
        del self._keys[row]
        self._empty.append(row)

    def _zero(self, row: int) -> None:
        self.weights[row] = 0.0
        self.confidence[row] = 0.0
