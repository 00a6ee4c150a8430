"""Answers as rows of a fit: which of them it takes, and in which order and orientation.

The order is canonical, so that a fit doesn't depend on how answers were presented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import NDArray

from personalign.errors import InputError, QuestionError
from personalign.learn.likelihood import LITTLE, SIGN, TIE, VERDICTS
from personalign.messages import FEEDBACK
from personalign.types import CHOICES, INFORMATIVE, MAX_AXES, WEIGHTS, Array, Bools, Ints

MAX_ANSWERS = 100
LONGEST = 1e100  # difference of features: its square is finite
SKIP = CHOICES.index("skip")  # says nothing: what shorter records are filled up with


@dataclass(frozen=True, eq=False)
class Rows:
    """The informative answers of U people who gave n each, turned so that the left side won or tied.

    ``side`` is the turned row's factor of the person's bias, ±1, up to a factor ``turn`` that a person's rows share:
    two records that mirror each other have the same rows and opposite turns.
    """

    v: Array  # (U, n, d)
    verdict: Ints  # (U, n) A, TIE, LITTLE or MUCH
    side: Array  # (U, n)
    weight: Array  # (U, n)
    turn: Array  # (U,) 1, −1, or 0 where the record is its own mirror image, so that the bias is 0

    def select(self, people: slice) -> Rows:
        """The answers of some people."""
        return Rows(self.v[people], self.verdict[people], self.side[people], self.weight[people], self.turn[people])


def select(choices: Sequence[str], kinds: Sequence[str], most: int = MAX_ANSWERS) -> Integer[Ints, "k"]:
    """Choose what is fitted, as indices in order: answers to questions before feedback, and the newest of each.

    What says nothing, or only checks an answer, takes no place. ``choices`` and ``kinds`` are the oldest first.
    """
    informative = [i for i, choice in enumerate(choices) if choice in INFORMATIVE and WEIGHTS[kinds[i]] > 0]
    ranked = sorted(informative, key=lambda i: (kinds[i] in FEEDBACK, -i))
    return np.array(sorted(ranked[:most]), dtype=np.int64)


def weigh(kinds: Sequence[str], choices: Sequence[str]) -> Float[Array, "n"]:
    """How much each counts in a fit, by what it came from; 0 for what says nothing."""
    pairs = zip(kinds, choices, strict=True)
    return np.array([WEIGHTS[kind] if choice in INFORMATIVE else 0.0 for kind, choice in pairs], dtype=np.float64)


def encode(choice: Sequence[str]) -> Ints:
    """Number choices by their place in ``CHOICES``: 0 for a, 1 for b, 2 for a tie; 3 and 4 say nothing; then grades."""
    try:
        return np.array([CHOICES.index(c) for c in choice], dtype=np.int64)
    except ValueError:
        row, unknown = next((i, c) for i, c in enumerate(choice) if c not in CHOICES)
        message = f"found the choice {unknown!r} in row {row}, expected one of {', '.join(CHOICES)}"
        raise QuestionError(message) from None


def check_answers(v: Array, outcome: Ints, weight: Array | None, num_axes: int) -> None:
    """Refuse what can't be fitted, of one person or of many; ``outcome`` (…, n) holds ``encode``'s numbers."""
    expected = ", ".join(str(size) for size in (*outcome.shape, num_axes))
    if v.shape != (*outcome.shape, num_axes):
        raise InputError(f"v has shape {v.shape}, expected ({expected}): a row per choice, a column per axis")
    n = outcome.shape[-1]
    if n > MAX_ANSWERS or num_axes > MAX_AXES:
        raise InputError(
            f"found {n} answers on {num_axes} axes, expected at most {MAX_ANSWERS} on {MAX_AXES}; pass the newest"
        )
    if not (v.min(initial=0.0) >= -LONGEST and v.max(initial=0.0) <= LONGEST):
        raise InputError("v holds NaN, Inf or a number beyond 1e100, expected features; measure the replies again")
    if weight is not None and (weight.shape != outcome.shape or not np.isfinite(weight).all() or (weight < 0).any()):
        raise InputError(f"found weights {weight!r}, expected {n} finite numbers ≥ 0")
    if outcome.size and not (outcome.min() >= 0 and outcome.max() < len(CHOICES)):
        raise QuestionError(f"found choices from {outcome.min()} to {outcome.max()}, expected 0 to {len(CHOICES) - 1}")


def says_something(outcome: Ints, weight: Array) -> Bools:
    """Whether a fit learns from each answer."""
    return ((outcome <= TIE) | (outcome >= LITTLE)) & (weight > 0)


def canonical(v: Array, outcome: Ints, weight: Array, size: int, has_side: bool) -> Rows:
    """Take the ``size`` informative answers that each person gave, turn them, and sort them by their bytes.

    Without ``has_side`` people have no side bias, and the side that an answer fell on is left out.
    """
    sign = np.where(says_something(outcome, weight), signs(v, outcome), 0.0)
    keys = np.empty((*outcome.shape, v.shape[2] + 3))  # a key holds all of an answer but its side
    keys[..., 0] = sign == 0  # what says nothing goes last, and is cut off
    keys[..., 1] = VERDICTS[outcome]
    keys[..., 2] = weight
    np.multiply(sign[..., None], v, out=keys[..., 3:])
    keys[..., 3:] += 0.0  # turns −0.0 into 0.0
    people, order = np.arange(len(keys))[:, None], np.argsort(_as_bytes(keys), axis=1)[:, :size]
    keys, side = keys[people, order], (sign * has_side)[people, order]
    verdict = keys[..., 1].astype(np.int64)
    side, turn = _turn(side, _as_bytes(keys), (verdict == TIE) & ~keys[..., 3:].any(axis=2))
    return Rows(keys[..., 3:], verdict, side, keys[..., 2].copy(), turn)


def signs(v: Array, outcome: Ints) -> Array:
    """−1 for answers to turn: those that b won, and ties whose first difference is negative."""
    signs = SIGN[outcome]
    ties = v[outcome == TIE]
    first = ties[np.arange(len(ties)), (ties != 0).argmax(axis=1)]
    signs[outcome == TIE] = np.where(first < 0, -1.0, 1.0)
    return signs


def _as_bytes(keys: Array) -> NDArray[np.generic]:
    """Each row as one value that sorts by its bytes."""
    return keys.view(np.dtype((np.void, keys.shape[-1] * keys.itemsize)))[..., 0]


def _turn(side: Array, keys: NDArray[np.generic], is_symmetric: Bools) -> tuple[Array, Array]:
    """Turn records so that the first row with more of one side has it on −1; return sides and turns.

    Equal rows count together, and a tie of equal replies has no side.
    """
    is_edge = np.ones((len(keys), keys.shape[1] + 1), dtype=bool)  # of a run of equal rows
    is_edge[:, 1:-1] = keys[:, 1:] != keys[:, :-1]
    lean = np.cumsum(np.where(is_symmetric, 0.0, side), axis=1) * is_edge[:, 1:]
    first = lean[np.arange(len(lean)), (lean != 0).argmax(axis=1)]
    mirrored = np.where(is_symmetric, side, side * np.where(first > 0, -1.0, 1.0)[:, None])
    run = 4.0 * np.cumsum(is_edge[:, :-1], axis=1)
    return np.sort(run + mirrored, axis=1) - run, -np.sign(first) + 0.0
