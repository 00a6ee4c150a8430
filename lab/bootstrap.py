"""Quantiles, means and their ratios with 95 % bootstrap intervals; every interval of the laboratory comes from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

RESAMPLES = 2000
ENDS = (0.025, 0.975)


class Interval(NamedTuple):
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def quantile(values: Sequence[float], share: float = 0.5) -> Interval:
    """The median of ``values``, or the quantile below which ``share`` of them are; rounded to four digits."""
    sample = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(0)
    resampled = np.quantile(sample[rng.integers(len(sample), size=(RESAMPLES, len(sample)))], share, axis=1)
    return Interval(*(round(float(x), 4) for x in (np.quantile(sample, share), *np.quantile(resampled, ENDS))))


def mean(values: Float[NDArray[np.float64], "people"]) -> Interval:
    """The mean over people, who are drawn again and again."""
    rng = np.random.default_rng(0)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    return Interval(float(values.mean()), *(float(x) for x in np.quantile(means, ENDS)))


def ratio(above: Float[NDArray[np.float64], "n"], below: Float[NDArray[np.float64], "n"]) -> Interval:
    """The sum of one column over that of another; the rows are drawn again and again."""
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(above), size=len(above)) for _ in range(RESAMPLES)]
    ratios = [above[rows].sum() / below[rows].sum() for rows in drawn]
    return Interval(float(above.sum() / below.sum()), *(float(x) for x in np.quantile(ratios, ENDS)))
