"""Who is steered in which slot of vLLM's running batch; a slot without a person costs nothing and keeps its bits.

A person's weights are a row of one buffer, written in place. A request keeps its row until its slot is taken anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from personalign.decode.sample import strengthened, weakened
from personalign.decode.slots import Slots
from personalign.decode.steer import Step
from personalign.decode.tilt import SuccessorTilt
from personalign.decode.weights import DEFAULT_ROWS
from personalign.errors import InputError
from personalign.types import Guidance

NO_PENALTIES = (1.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Written:
    """What vLLM tells of a slot's reply: its prompt, the list that its tokens are added to, and later penalties."""

    prompt: Sequence[int]
    output: Sequence[int]
    penalties: tuple[float, float, float] = NO_PENALTIES  # repetition, presence, frequency: applied after the steer

    @property
    def is_penalised(self) -> bool:
        """Whether vLLM will move these logits once more."""
        return self.penalties != NO_PENALTIES


class Batch:
    """The slots of a batch; ``make`` builds the tilt for the first person, once the model is loaded.

    Raises:
        InputError: there are fewer rows than slots, so that a request might find none.
    """

    def __init__(
        self,
        num_slots: int,
        device: torch.device,
        make: Callable[[Slots, int], SuccessorTilt],
        num_rows: int = DEFAULT_ROWS,
    ) -> None:
        if num_rows < num_slots:
            raise InputError(
                f"found {num_rows} rows of weights for {num_slots} requests at once; expected as many at least"
            )
        self._slots, self._spare = Slots(num_slots + 1, device), num_slots  # through the spare one two change places
        self._make, self._num_rows = make, num_rows
        self._written: dict[int, Written | None] = self._slots.values()
        self._tilt: SuccessorTilt | None = None
        self._lock = Lock()  # erasures come on another thread

    def admit(self, slot: int, guidance: Guidance | None, written: Written | None = None) -> bool:
        """Give a slot to a new request, and tell whether somebody guides it."""
        with self._lock:
            self._slots.release(slot)
            if guidance is None:
                return False
            self._tilt = self._tilt or self._make(self._slots, self._num_rows)
            self._tilt.admit(slot, guidance)
            is_guided = slot in self._tilt.rows.slots
            if is_guided:
                self._written[slot] = written
            return is_guided

    def release(self, slot: int) -> None:
        """Empty a slot."""
        with self._lock:
            self._release(slot)

    def move(self, source: int, target: int) -> None:
        """Carry what is in a slot over to another one, whose request has gone."""
        with self._lock:
            self._move(source, target)

    def swap(self, slot: int, other: int) -> None:
        """Let two requests change places."""
        with self._lock:
            for source, target in ((slot, self._spare), (other, slot), (self._spare, other)):
                self._move(source, target)

    def forget(self, user: str) -> None:
        """Empty a person's rows at once: replies that are being written go on without them."""
        with self._lock:
            if self._tilt is not None:
                self._tilt.forget(user)

    @property
    def num_people(self) -> int:
        """How many people's weights are resident."""
        return 0 if self._tilt is None else self._tilt.rows.num_people

    @property
    def is_plain(self) -> bool:
        """Whether nobody guides any slot."""
        return not self._written

    def counts(self) -> dict[int, int]:
        """How many tokens each guided slot's reply has, where vLLM tells them."""
        return {slot: len(written.output) for slot, written in self._written.items() if written is not None}

    @torch.no_grad()
    def steer(
        self, logits: Float[Tensor, "B V"], hidden: Float[Tensor, "B H"], slots: Sequence[int], counts: Sequence[int]
    ) -> Float[Tensor, "B V"]:
        """Steer the rows whose slots are guided, in place; ``counts`` says how many tokens each reply has so far."""
        with self._lock:
            rows = [row for row, slot in enumerate(slots) if slot in self._written]
            if not rows or self._tilt is None:
                return logits
            places, index = (
                torch.tensor([values[row] for row in rows], device=logits.device) for values in (slots, counts)
            )
            is_whole = len(rows) == len(logits)
            chosen = slice(None) if is_whole else torch.tensor(rows, device=logits.device)
            part = logits if is_whole else logits[chosen]
            penalised = {i: w for i, row in enumerate(rows) if (w := self._written[slots[row]]) and w.is_penalised}
            for i, written in penalised.items():
                part[i : i + 1] = weakened(part[i : i + 1], *_penalties(written, part))
            steered = self._tilt.steer(part, _step(hidden[chosen], index), places)
            for i, written in penalised.items():  # vLLM applies them after this
                steered[i : i + 1] = strengthened(steered[i : i + 1], *_penalties(written, part))
            if not is_whole:
                logits[chosen] = steered
                return logits
            return steered

    def _release(self, slot: int) -> None:
        if slot in self._written:
            self._slots.release(slot)

    def _move(self, source: int, target: int) -> None:
        self._release(target)
        if source in self._written:
            self._slots.move(source, target)


def _step(hidden: Float[Tensor, "b H"], index: Int[Tensor, "b"]) -> Step:
    everyone = torch.ones_like(index, dtype=torch.bool)
    return Step(hidden, index, index, everyone, (), bool((index == 0).any()))


def _penalties(
    written: Written, logits: Float[Tensor, "b V"]
) -> tuple[Bool[Tensor, "1 V"], Int[Tensor, "1 V"], tuple[float, float, float]]:
    """What stands in the prompt, how often each token stands in the reply, and the penalties."""
    size = logits.shape[-1]
    counts = [np.bincount(np.asarray(ids, dtype=np.int64), minlength=size)[:size] for ids in _texts(written)]
    in_prompt, in_reply = (torch.from_numpy(count)[None].to(logits.device) for count in counts)
    return in_prompt > 0, in_reply, written.penalties


def _texts(written: Written) -> tuple[Sequence[int], Sequence[int]]:
    return written.prompt, written.output
