"""Known items: what many people's ratings say of each, so that a few answers foretell what a person likes of the rest.

A person's score of an item is mean + loading · a + e, with a ~ N(0, I) the person's taste and e ~ N(0, oddity) what
is odd about this person and this item: probabilistic principal components (Tipping and Bishop 1999), here of the
covariances of what was rated together. Their loadings are those components less the noise in them. Climbing on from
there by expectation and maximisation follows the ratings more closely and people who had no part in it less well.

Of a person's ratings the order counts. Two items that a person rated apart are an answer, and ``factors`` makes axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from personalign.errors import InputError
from personalign.types import Array, Bools, Ints

ALIKE = 1e-9  # scores that differ less are rounded apart
LEAST = 1e-3  # of the widest direction's variance: no narrower one is taken to be nothing at all


@dataclass(frozen=True, eq=False)
class Ratings:
    """What U people gave each of J items, by number; NaN where they didn't rate it."""

    users: tuple[str, ...]  # in the order of names
    items: tuple[str, ...]
    ratings: Float[Array, "U J"]


class Pairs(NamedTuple):
    """Which of two items people rated higher."""

    person: Int[Ints, "N"]
    pair: Int[Ints, "N 2"]  # the items on the left and on the right
    choice: NDArray[np.object_]  # "a" or "b"


@dataclass(frozen=True, eq=False)
class Items:
    """J items on the r directions that tastes differ in, the widest first; in units of ``normal_scores``."""

    mean: Float[Array, "J"]
    loading: Float[Array, "J r"]
    oddity: float  # a variance


def normal_scores(ratings: Float[Array, "U J"]) -> Float[Array, "U J"]:
    """Turn each person's ratings into the normal quantiles of their ranks; NaN where not rated.

    People use a scale in ways of their own; of the order alone, which pairs are about, each tells the same.
    """
    ranks = np.apply_along_axis(_ranks, 1, ratings)
    return np.asarray(ndtri((ranks - 0.5) / (~np.isnan(ratings)).sum(axis=1, keepdims=True)))


def fit_items(scores: Float[Array, "U J"], rank: int) -> Items:
    """Find the items' means, loadings and oddity; NaN is what wasn't rated. What nobody rated lies in the middle.

    Raises:
        InputError: scores that don't differ, or a rank that can't be.
    """
    is_rated = (~np.isnan(scores)).astype(float)
    if not 1 <= rank < scores.shape[1]:
        raise InputError(f"found rank {rank}, expected 1 to {scores.shape[1] - 1}: fewer than there are items")
    mean = np.nansum(scores, axis=0) / np.maximum(is_rated.sum(axis=0), 1)
    residual = np.where(np.isnan(scores), 0.0, scores - mean)
    if np.abs(residual).max() < ALIKE:
        raise InputError("all people put the items in the same order; expected people who differ; collect more ratings")
    values, vectors = np.linalg.eigh((residual.T @ residual) / np.maximum(is_rated.T @ is_rated, 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    least = LEAST * values[0]
    oddity = max(float(np.maximum(values[rank:], 0).mean()), least)
    return Items(mean, vectors[:, :rank] * np.sqrt(np.maximum(values[:rank] - oddity, least)), oddity)


def foretold(items: Items, known: Float[Array, "U J"], others: Float[Array, "U J"]) -> float:
    """Mean squared error of people's other scores, foretold from those known; NaN is what isn't there."""
    errors = []
    for given, hidden in zip(known, others, strict=True):
        is_given, is_hidden = ~np.isnan(given), ~np.isnan(hidden)
        loading = items.loading[is_given]
        precision = items.oddity * np.eye(loading.shape[1]) + loading.T @ loading
        taste = np.linalg.solve(precision, loading.T @ (given - items.mean)[is_given])
        errors.append((hidden - items.mean - items.loading @ taste)[is_hidden] ** 2)
    return float(np.concatenate(errors).mean())


def pairs_of(ratings: Float[Array, "U J"]) -> Pairs:
    """Pair the items of each person at random, each item once; what was rated alike is left out.

    Pairs that share an item would share what is odd about it. The same ratings give the same pairs.
    """
    rng = np.random.default_rng(0)
    paired = [match(~np.isnan(row), 1, rng) for row in ratings]
    person = np.repeat(np.arange(len(paired)), [len(each) for each in paired])
    pair = np.concatenate([np.zeros((0, 2), dtype=np.int64), *paired])
    difference = ratings[person, pair[:, 0]] - ratings[person, pair[:, 1]]
    differs = difference != 0
    choice = np.where(difference > 0, "a", "b").astype(object)
    return Pairs(person[differs], pair[differs], choice[differs])


def match(is_there: Bool[Bools, "J"], rounds: int, rng: np.random.Generator) -> Int[Ints, "m 2"]:
    """Pair items at random, in so many rounds, in each of which an item comes once; no pair comes twice."""
    places, pairs = np.flatnonzero(is_there), dict[tuple[int, int], tuple[int, int]]()
    for _ in range(rounds):
        for left, right in rng.permutation(places)[: len(places) // 2 * 2].reshape(-1, 2).tolist():
            pairs.setdefault((min(left, right), max(left, right)), (left, right))
    return np.array([*pairs.values()], dtype=np.int64).reshape(-1, 2)


def _ranks(rated: Array) -> Array:
    return np.asarray(rankdata(rated, nan_policy="omit"))
