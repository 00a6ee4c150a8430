"""Medians and other quantiles, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000


class Estimate(NamedTuple):
    """A quantile with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def estimate(values: Sequence[float], share: float = 0.5) -> Estimate:
    """The median of ``values``, or the quantile that ``share`` of them lie below; rounded to four digits."""
    found = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(0)
    resampled = np.quantile(found[rng.integers(len(found), size=(RESAMPLES, len(found)))], share, axis=1)
    return Estimate(*(round(float(x), 4) for x in (np.quantile(found, share), *np.quantile(resampled, (0.025, 0.975)))))
