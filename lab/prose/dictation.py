"""How likely the engine's own logits make answers that are given: after every steer, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from lab.prose.writing import SERVED
from personalign.decode.sample import shares
from personalign.decode.steer import Step, not_empty

Noted = Float[NDArray[np.float64], "n 4"]  # columns as in Marks


@dataclass(frozen=True)
class Marks:
    """What is noted of every token of some answers."""

    row: Int[NDArray[np.int64], "n"]  # whose answer the token is of
    bits: Float[NDArray[np.float64], "n"]  # over all tokens; infinite where a steer leaves the token out
    listed_bits: Float[NDArray[np.float64], "n"]  # within the short list of these logits; infinite outside it
    is_drawn: Bool[NDArray[np.bool_], "n"]  # whether temperature and top-p, as served, leave the token in

    @classmethod
    def read(cls, noted: Noted) -> Marks:
        """Name the columns."""
        row, bits, listed_bits, is_drawn = noted.T
        return cls(row.astype(np.int64), bits, listed_bits, is_drawn > 0)

    @property
    def is_listed(self) -> Bool[NDArray[np.bool_], "n"]:
        """Whether the token is in the short list."""
        return np.isfinite(self.listed_bits)

    def by_answer(self, values: Float[NDArray[np.float64], "n"]) -> Float[NDArray[np.float64], "m"]:
        """Sums over the tokens of each answer."""
        return np.bincount(self.row, weights=values).astype(np.float64)

    def whole(self, holds: Bool[NDArray[np.bool_], "n"]) -> Bool[NDArray[np.bool_], "m"]:
        """Of which answers something holds for every token."""
        return np.asarray(np.bincount(self.row, ~holds) == 0)


class Dictation:
    """A steer that has replies written as they are given, and notes how likely each token was before that."""

    def __init__(self, answers: Sequence[Sequence[int]], num_candidates: int, ends: Sequence[int]) -> None:
        self._answers, self._num_candidates, self._ends = answers, num_candidates, torch.tensor(ends)
        self._noted: dict[tuple[int, int], list[float]] = {}  # by answer and place

    def __call__(self, logits: Float[Tensor, "b V"], step: Step) -> Float[Tensor, "b V"]:
        """Leave nothing possible but the next token of each answer."""
        slots = list(step.writing)
        places = [(int(step.request[slot]), int(step.index[slot])) for slot in slots]
        dictated = torch.tensor([self._answers[row][place] for row, place in places])
        listed = not_empty(logits, step, self._ends).topk(self._num_candidates)
        columns = self._columns(logits[slots], listed.values[slots], listed.indices[slots], dictated)
        self._noted |= dict(zip(places, columns.tolist(), strict=True))
        forced = torch.zeros_like(logits)
        forced[slots] = -math.inf
        forced[slots, dictated] = 0.0
        return forced

    @staticmethod
    def _columns(
        logits: Float[Tensor, "n V"], top: Float[Tensor, "n K"], listed: Int[Tensor, "n K"], dictated: Int[Tensor, "n"]
    ) -> Float[Tensor, "n 3"]:
        score = logits.gather(-1, dictated[:, None]).squeeze(-1).double()
        bits, listed_bits = ((x.double().logsumexp(-1) - score) / math.log(2) for x in (logits, top))
        is_listed = (listed == dictated[:, None]).any(-1)
        served = torch.tensor([[SERVED.temperature, 0, SERVED.top_p, 0]], dtype=torch.float64).expand(len(logits), 4)
        share = shares(logits, served).gather(-1, dictated[:, None]).squeeze(-1)
        return torch.stack([bits, torch.where(is_listed, listed_bits, math.inf), (share > 0).double()], -1)

    @property
    def noted(self) -> Noted:
        """A row for each token, in the order of the answers."""
        return np.array([[row, *self._noted[row, place]] for row, place in sorted(self._noted)])
