"""Which of several replies a person likes best, and how sure that is. Texts of any model can be ranked.

A reply's utility is ⟨w, φ⟩, and of w a normal distribution is known. Its mean gives the order. Its covariance gives the
probabilities: of one reply being better than another exactly, of being the best of all by draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

from personalign.types import Array, Gaussian, Reason

DRAWS = 8192  # of weights: probabilities are right to about half a hundredth


@dataclass(frozen=True)
class Candidate:
    """A reply as a person would judge it; utilities are standard deviations of the model's own replies, weighed."""

    index: int  # among the texts that were passed
    text: str
    utility: float
    probability: float  # of being the best of all


@dataclass(frozen=True)
class Ranking:
    """Replies in the order that a person would put them, the best first; equally good ones as they were passed.

    ``surety`` is the probability that the first is better than the second, and 1 for one alone. ``reason`` says why the
    order isn't the person's own: "no_answers" or "nothing_personal". It is by everybody's mean weights then.
    """

    candidates: tuple[Candidate, ...]
    surety: float
    reason: Reason | None
    revision: int

    @property
    def best(self) -> str:
        """The text to show."""
        return self.candidates[0].text

    @property
    def order(self) -> tuple[int, ...]:
        """The places of the texts that were passed, the best one's first."""
        return tuple(candidate.index for candidate in self.candidates)


def rank(
    texts: Sequence[str], features: Float[Array, "n d"], belief: Gaussian, reason: Reason | None, revision: int
) -> Ranking:
    """Rank replies with these features under what is believed of a person's weights."""
    utility = features @ belief.mean
    order = np.argsort(-utility, kind="stable").tolist()
    chance = best_of(features, belief)
    candidates = tuple(Candidate(i, texts[i], float(utility[i]), float(chance[i])) for i in order)
    surety = better(features[order[0]] - features[order[1]], belief) if len(order) > 1 else 1.0
    return Ranking(candidates, surety, reason, revision)


def better(v: Float[Array, "d"], belief: Gaussian) -> float:
    """P(⟨w, v⟩ > 0), v being the features of one reply minus another's; ½ where they are alike."""
    mean, deviation = float(v @ belief.mean), float(np.sqrt(max(float(v @ belief.covariance @ v), 0.0)))
    return float(ndtr(mean / deviation)) if deviation > 0 else (1.0 + float(np.sign(mean))) / 2


def best_of(features: Float[Array, "n d"], belief: Gaussian) -> Float[Array, "n"]:
    """The probability of each reply that it is the best; those with equal features share theirs."""
    kinds, kind, count = np.unique(features, axis=0, return_inverse=True, return_counts=True)
    if len(kinds) == 2:
        first = better(kinds[0] - kinds[1], belief)
        chance = np.array([first, 1 - first])
    else:
        values, vectors = np.linalg.eigh(belief.covariance)
        draws = np.random.default_rng(0).standard_normal((DRAWS, len(values)))
        weights = belief.mean + (draws * np.sqrt(values.clip(min=0.0))) @ vectors.T
        winners = (weights @ kinds.T).argmax(axis=1)
        chance = np.bincount(winners, minlength=len(kinds)) / DRAWS
    return np.asarray((chance / count)[kind.reshape(-1)])
