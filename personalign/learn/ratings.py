"""Axes of known items from the ratings that many people gave them: what is liked, and what is liked together.

Factor analysis with gaps (Rubin and Thayer 1982, by expectation and maximisation over what was rated): a person's
rating of an item is mean + loading · a + e, with a ~ N(0, I) the person's taste and e ~ N(0, oddity) what is odd
about this person and this item. Ratings say how much better an item was liked, and so more than answers to pairs do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.errors import InputError

STEPS = 20  # of expectation and maximisation
LEAST_SPREAD = 0.1  # of a typical person's: who rates everything alike isn't blown up
LEAST_ODDITY = 0.05  # of the mean one


@dataclass(frozen=True, eq=False)
class Items:
    """J items on the r directions that tastes differ in, the widest first; in units of a person's ratings."""

    mean: Float[NDArray[np.float64], "J"]
    loading: Float[NDArray[np.float64], "J r"]
    oddity: Float[NDArray[np.float64], "J"]  # a variance


def standardise(ratings: Float[NDArray[np.float64], "people J"]) -> Float[NDArray[np.float64], "people J"]:
    """Measure each person's ratings from their own mean, in their own standard deviations; NaN where not rated."""
    spread = np.nanstd(ratings, axis=1, keepdims=True)
    floor = LEAST_SPREAD * np.median(spread)
    return np.asarray((ratings - np.nanmean(ratings, axis=1, keepdims=True)) / np.maximum(spread, floor))


def fit_items(ratings: Float[NDArray[np.float64], "people J"], rank: int) -> Items:
    """Find the items' means, loadings and oddities; NaN is what wasn't rated.

    Raises:
        InputError: an item that nobody rated, ratings that don't differ, or a rank that can't be.
    """
    is_rated = (~np.isnan(ratings)).astype(float)
    counts = is_rated.sum(axis=0)
    if not counts.all():
        raise InputError(f"nobody rated item {int(np.argmin(counts))}; expected a rating of each, leave the item out")
    if not 1 <= rank < ratings.shape[1]:
        raise InputError(f"found rank {rank}, expected 1 to {ratings.shape[1] - 1}: fewer than there are items")
    mean = np.nanmean(ratings, axis=0)
    rest = np.where(np.isnan(ratings), 0.0, ratings - mean)
    if not rest.any():
        raise InputError("the ratings of each item are all alike; expected people who differ")
    items = _start(mean, rest, is_rated, rank)
    for _ in range(STEPS):
        items = _improve(items, ratings, is_rated)
    turned, sizes, _ = np.linalg.svd(items.loading, full_matrices=False)
    return Items(items.mean, turned * sizes, items.oddity)


def _start(mean: NDArray[np.float64], rest: NDArray[np.float64], is_rated: NDArray[np.float64], rank: int) -> Items:
    """Take the principal components of the covariances of what was rated together."""
    covariance = (rest.T @ rest) / np.maximum(is_rated.T @ is_rated, 1)
    values, vectors = np.linalg.eigh(covariance)
    left = max(float(np.maximum(values[:-rank], 0).mean()), LEAST_ODDITY * float(np.diag(covariance).mean()))
    sizes = np.sqrt(np.maximum(values[::-1][:rank] - left, LEAST_ODDITY * left))
    return Items(mean, vectors[:, ::-1][:, :rank] * sizes, np.full(len(mean), left))


def _improve(items: Items, ratings: NDArray[np.float64], is_rated: NDArray[np.float64]) -> Items:
    """A step of expectation and maximisation."""
    loading, rank = items.loading, items.loading.shape[1]
    rest = np.where(is_rated > 0, ratings - items.mean, 0.0)
    squares = (loading[:, :, None] * loading[:, None] / items.oddity[:, None, None]).reshape(-1, rank * rank)
    covariance = np.linalg.inv(np.eye(rank) + (is_rated @ squares).reshape(-1, rank, rank))
    taste = (covariance @ ((rest / items.oddity) @ loading)[:, :, None])[:, :, 0]
    moment = covariance + taste[:, :, None] * taste[:, None]
    told = (is_rated.T @ moment.reshape(-1, rank * rank)).reshape(-1, rank, rank)
    met = rest.T @ taste
    found = np.linalg.solve(told, met[:, :, None])[:, :, 0]
    counts = is_rated.sum(axis=0)
    oddity = ((rest**2).sum(axis=0) - (found * met).sum(axis=1)) / counts
    shift = (rest - is_rated * (taste @ found.T)).sum(axis=0) / counts
    return Items(items.mean + shift, np.asarray(found), np.maximum(oddity, LEAST_ODDITY * oddity.mean()))
