"""How well held-out answers were predicted: accuracy, log-loss, calibration error, and differences paired by person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import NDArray

from lab.bootstrap import Interval, mean
from personalign.train.basis.judge import calibration_error

ENOUGH = 2000  # predictions, for a calibration error


@dataclass(frozen=True, eq=False)
class Judged:
    """Answers of many people, none of them a tie: whose, and the probability given to the side they preferred."""

    person: Integer[NDArray[np.int64], "N"]
    chance: Float[NDArray[np.float64], "N"]

    def __len__(self) -> int:
        return len(self.person)

    @property
    def correct(self) -> Float[NDArray[np.float64], "N"]:
        """1 where the likelier side was preferred, ½ where neither was likelier."""
        return np.where(self.chance == 0.5, 0.5, (self.chance > 0.5).astype(float))

    @property
    def accuracy(self) -> float:
        """The mean over people of each one's share of right predictions."""
        return float(by_person(self.person, self.correct).mean())

    @property
    def log_loss(self) -> float:
        """Nats, the mean over answers."""
        return float(-np.log(np.maximum(self.chance, 1e-12)).mean())

    @property
    def calibration_error(self) -> float:
        """Mean |how sure − how often right| over ten bins of as many answers each, all people together."""
        return calibration_error(self.chance)

    def better_than(self, other: Judged) -> Interval:
        """How much more accurate than other predictions of the same answers, paired by person."""
        assert np.array_equal(self.person, other.person), "both have to be judged by the same answers"
        return mean(by_person(self.person, self.correct - other.correct))


def joined(parts: Sequence[Judged]) -> Judged:
    """All answers of several rounds, people keeping their numbers."""
    return Judged(np.concatenate([part.person for part in parts]), np.concatenate([part.chance for part in parts]))


def by_person(
    person: Integer[NDArray[np.int64], "N"], values: Float[NDArray[np.float64], "N"]
) -> Float[NDArray[np.float64], "people"]:
    """Each person's mean."""
    _, index = np.unique(person, return_inverse=True)
    return np.asarray(np.bincount(index, values) / np.bincount(index))
