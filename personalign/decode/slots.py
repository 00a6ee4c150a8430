"""The slots of an engine, and all that is kept for the reply in each: emptied and moved here, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Part(Protocol):
    """Something that keeps more for a slot than rows and values, such as a cache."""

    def release(self, slot: int) -> None:
        """Empty a slot; nothing of its reply stays."""

    def copy(self, source: int, target: int, newest: int | None = None) -> None:
        """Copy what a slot holds to an empty one, or the newest tokens to one that has all others already."""


class Slots:
    """Places for replies, numbered from 0; a slot without a reply holds neutral values everywhere."""

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self.num_slots, self.device = num_slots, device
        self._buffers: list[tuple[Tensor, float]] = []
        self._values: list[tuple[dict[int, Any], Callable[[Any], object]]] = []
        self._parts: list[Part] = []

    def rows(self, *shape: int, dtype: torch.dtype = torch.float32, neutral: float = 0) -> Tensor:
        """A new buffer on the device with a row for each slot."""
        return self.keep(torch.full((self.num_slots, *shape), neutral, dtype=dtype, device=self.device), neutral)

    def keep(self, buffer: Tensor, neutral: float) -> Tensor:
        """Take charge of a buffer that has a row for each slot."""
        self._buffers.append((buffer, neutral))
        return buffer

    def values(self, drop: Callable[[Any], object] = lambda _: None) -> dict[int, Any]:
        """A new dictionary of what some slots have on the host; ``drop`` gets each value whose slot is released."""
        values: dict[int, Any] = {}
        self._values.append((values, drop))
        return values

    def join(self, part: Part) -> None:
        """Take charge of what a part keeps."""
        self._parts.append(part)

    def release(self, slot: int) -> None:
        """Empty a slot; nothing of its reply stays."""
        for buffer, neutral in self._buffers:
            buffer[slot] = neutral
        for values, drop in self._values:
            if slot in values:
                drop(values.pop(slot))
        for part in self._parts:
            part.release(slot)

    def move(self, source: int, target: int) -> None:
        """Carry a reply over to an empty slot, where it goes on as if it had always been there."""
        for buffer, _ in self._buffers:
            buffer[target] = buffer[source]
        for values, _ in self._values:
            if source in values:
                values[target] = values.pop(source)
        for part in self._parts:
            part.copy(source, target)
        self.release(source)

    def copy(self, source: int, targets: Sequence[int], newest: int | None = None) -> None:
        """Let other slots go on from what one holds: empty ones, or siblings that lack its ``newest`` tokens alone.

        What a value in ``values`` refers to is shared; a value that has to be dropped can't be.
        """
        for buffer, _ in self._buffers:
            buffer[list(targets)] = buffer[source].clone()
        for values, _ in self._values:
            if source in values:
                values.update(dict.fromkeys(targets, values[source]))
        for part in self._parts:
            for target in targets:
                part.copy(source, target, newest)
