"""Answers in a canonical order and orientation, so that a fit doesn't depend on how they were presented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.errors import InputError, QuestionError
from personalign.learn.likelihood import TIE, A
from personalign.types import CHOICES, INFORMATIVE

MAX_ANSWERS, MAX_AXES = 100, 64


@dataclass(frozen=True, eq=False)
class Rows:
    """Informative answers, each turned so that its left side won or tied.

    ``side`` is the turned row's factor of the person's bias, ±1, up to the factor ``turn`` that all of them
    share: two records that mirror each other have the same rows and opposite turns.
    """

    v: NDArray[np.float64]  # (n, d)
    outcome: NDArray[np.int64]  # (n,) A or TIE
    side: NDArray[np.float64]  # (n,)
    weight: NDArray[np.float64]  # (n,)
    turn: float  # 1, −1, or 0 where the record is its own mirror image, so that the bias is 0

    def __len__(self) -> int:
        return len(self.v)


def check_answers(
    v: NDArray[np.float64], choice: Sequence[str], weight: NDArray[np.float64] | None, num_axes: int
) -> None:
    """Refuse what can't be fitted.

    Raises:
        InputError: wrong shapes, too many answers or axes, NaN, Inf or negative weights.
        QuestionError: a choice that isn't one of ``CHOICES``.
    """
    n = len(choice)
    if v.shape != (n, num_axes):
        raise InputError(f"v has shape {v.shape}, expected ({n}, {num_axes}): a row per choice, a column per axis")
    if n > MAX_ANSWERS or num_axes > MAX_AXES:
        raise InputError(
            f"found {n} answers on {num_axes} axes, expected at most {MAX_ANSWERS} on {MAX_AXES}; pass the newest"
        )
    if not np.isfinite(v).all():
        raise InputError("v holds NaN or Inf, expected finite features; measure the replies again")
    if weight is not None and (weight.shape != (n,) or not np.isfinite(weight).all() or (weight < 0).any()):
        raise InputError(f"found weights {weight!r}, expected {n} finite numbers ≥ 0")
    for unknown in set(choice).difference(CHOICES):
        raise QuestionError(f"found the choice {unknown!r}, expected one of {', '.join(CHOICES)}")


def canonical(
    v: Float[NDArray[np.float64], "n d"],
    choice: Sequence[str],
    weight: Float[NDArray[np.float64], "n"] | None,
    side: float,
) -> Rows:
    """Drop the answers that say nothing, turn the others and sort them by their bytes.

    ``side`` is the bias's standard deviation: where it is 0, the side an answer fell on is forgotten.
    """
    weights = np.ones(len(choice)) if weight is None else weight
    kept = [i for i, c in enumerate(choice) if c in INFORMATIVE and weights[i] > 0]
    straight = sorted(_turn(v[i] + 0.0, choice[i], weights[i], side > 0) for i in kept)  # + 0.0 makes −0.0 plain
    mirrored = sorted(row.mirrored() for row in straight)
    turn = 0.0 if straight == mirrored else 1.0 if straight < mirrored else -1.0
    rows = mirrored if turn < 0 else straight
    return Rows(
        np.array([np.frombuffer(row.v) for row in rows]).reshape(len(rows), v.shape[1]),
        np.array([row.outcome for row in rows], dtype=np.int64),
        np.array([row.side for row in rows], dtype=np.float64),
        np.array([row.weight for row in rows], dtype=np.float64),
        turn,
    )


class _Row(NamedTuple):
    v: bytes
    outcome: int
    weight: float
    side: float

    def mirrored(self) -> _Row:
        """The row as it would be had everything been shown the other way round."""
        is_symmetric = self.outcome == TIE and not any(self.v)  # a tie of equals: its side can't be told
        return self if is_symmetric else self._replace(side=-self.side)


def _turn(v: NDArray[np.float64], choice: str, weight: float, biased: bool) -> _Row:
    sign = 1.0
    if choice == "b" or (choice == "tie" and v[np.flatnonzero(v)[:1]].sum() < 0):
        sign = -1.0
    return _Row((sign * v + 0.0).tobytes(), TIE if choice == "tie" else A, float(weight), sign * biased)
