"""Axes of known items from the ratings that many people gave them: what is liked, and what is liked together.

A person's score of an item is mean + loading · a + e, with a ~ N(0, I) the person's taste and e ~ N(0, oddity) what
is odd about this person and this item: probabilistic principal components (Tipping and Bishop 1999), here of the
covariances of what was rated together. Their loadings are those components less the noise in them. Climbing on from
there by expectation and maximisation follows the ratings more closely and people who had no part in it less well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from personalign.errors import InputError

LEAST = 1e-3  # of the widest direction's variance: no narrower one is taken to be nothing at all


@dataclass(frozen=True, eq=False)
class Items:
    """J items on the r directions that tastes differ in, the widest first; in units of ``normal_scores``."""

    mean: Float[NDArray[np.float64], "J"]
    loading: Float[NDArray[np.float64], "J r"]
    oddity: float  # a variance


def normal_scores(ratings: Float[NDArray[np.float64], "people J"]) -> Float[NDArray[np.float64], "people J"]:
    """Turn each person's ratings into the normal quantiles of their ranks; NaN where not rated.

    People use a scale in ways of their own; of the order alone, which pairs are about, each tells the same.
    """
    ranks = np.apply_along_axis(_ranks, 1, ratings)
    return np.asarray(ndtri((ranks - 0.5) / (~np.isnan(ratings)).sum(axis=1, keepdims=True)))


def fit_items(scores: Float[NDArray[np.float64], "people J"], rank: int) -> Items:
    """Find the items' means, loadings and oddity; NaN is what wasn't rated.

    Raises:
        InputError: an item that nobody rated, scores that don't differ, or a rank that can't be.
    """
    is_rated = (~np.isnan(scores)).astype(float)
    counts = is_rated.sum(axis=0)
    if not counts.all():
        raise InputError(f"nobody rated item {int(np.argmin(counts))}; expected a rating of each, leave the item out")
    if not 1 <= rank < scores.shape[1]:
        raise InputError(f"found rank {rank}, expected 1 to {scores.shape[1] - 1}: fewer than there are items")
    mean = np.nanmean(scores, axis=0)
    residual = np.where(np.isnan(scores), 0.0, scores - mean)
    if not residual.any():
        raise InputError("the ratings of each item are all alike; expected people who differ")
    values, vectors = np.linalg.eigh((residual.T @ residual) / np.maximum(is_rated.T @ is_rated, 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    least = LEAST * values[0]
    oddity = max(float(np.maximum(values[rank:], 0).mean()), least)
    return Items(mean, vectors[:, :rank] * np.sqrt(np.maximum(values[:rank] - oddity, least)), oddity)


def _ranks(rated: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rankdata(rated, nan_policy="omit"))
