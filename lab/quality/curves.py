"""What methods give at the same divergence: gains are read off their curves between the settings that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from lab.quality.arms import Outcome
from lab.quality.panel import Bootstrap, Means, Table

Nats = Float[NDArray[np.float64], "resamples"]  # KL a token


@dataclass(frozen=True, eq=False)
class Curve:
    """The settings of a method in every resample, which has its own divergences as it has its own gains."""

    kl: Float[NDArray[np.float64], "resamples settings"]
    means: Float[NDArray[np.float64], "resamples settings people"]

    @classmethod
    def interpolated(cls, bootstrap: Bootstrap, outcomes: Sequence[Outcome], tables: Sequence[Table]) -> Curve:
        """The curve of a table for each outcome: gains, or wins."""
        kl = [divergence(bootstrap, outcome) for outcome in outcomes]
        return cls(np.stack(kl, axis=1), np.stack([bootstrap.means(table) for table in tables], axis=1))

    def reaches(self, kl: Nats) -> Bool[NDArray[np.bool_], "resamples"]:
        """Where a divergence lies between those that were measured."""
        return np.asarray((self.kl.min(1) <= kl) & (kl <= self.kl.max(1)))

    def means_at(self, kl: Nats) -> Means:
        """What people get at a divergence, straight between the settings around it; beyond the ends, as there."""
        order = self.kl.argsort(1)
        ordered = np.take_along_axis(self.kl, order, axis=1)
        above = (ordered < kl[:, None]).sum(1).clip(1, ordered.shape[1] - 1)
        each = np.arange(len(kl))
        low, high = ordered[each, above - 1], ordered[each, above]
        share = ((kl - low) / np.maximum(high - low, np.finfo(np.float64).tiny)).clip(0, 1)[:, None]
        below = self.means[each, order[each, above - 1]]
        return np.asarray((1 - share) * below + share * self.means[each, order[each, above]])


def divergence(bootstrap: Bootstrap, outcome: Outcome) -> Nats:
    """Nats a token of an outcome, in every resample."""
    nats, drawn = (bootstrap.means(table).sum(1) for table in (outcome.nats, outcome.drawn))
    return np.asarray(nats / drawn)
