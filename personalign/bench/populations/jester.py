"""Jester (Goldberg et al. 2001): people who rated a hundred jokes; the one set here with clear personal taste.

The jokes are known, so their features are what the ratings tell of them: how they were liked on average, and what
goes with what, by probabilistic principal components (Tipping and Bishop 1999) of the ratings of the people whom the
axes are made from. People are split 80/20. A new person's rated jokes are halved at random: questions come from one
half, with any gap between the two ratings, tests from the other, with a gap above 4 of 20.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.bench.populations.asked import NewPerson, Population
from personalign.bench.populations.votes import read

NEW = 0.2  # of the people
GAP = 4.0  # between the ratings of a test's jokes
MATCHES = 4  # rounds in which the jokes that found no partner are paired again
COMPONENTS = 32
STEPS = 30  # of the components' fit

Ratings = Float[NDArray[np.float64], "people jokes"]


def load(data: Path) -> Ratings:
    """Read everyone's ratings, −10 to 10; NaN where a joke wasn't rated.

    Raises:
        MissingData: the folder doesn't hold the set.
    """
    rows = list(csv.reader(read(data / "jester5k" / "ratings.csv").splitlines()))[1:]
    return np.array([[float(rating) if rating else np.nan for rating in row[1:]] for row in rows])


def population(ratings: Ratings, seed: int) -> Population:
    """Draw who is new, what the others answered, and everyone's halves."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(ratings))
    num_new = round(NEW * len(ratings))
    seen = ratings[order[num_new:]]
    jokes = embed(seen, rng)
    drawn = [_once_each(rated, rng) for rated in seen]
    user = np.repeat(np.arange(len(drawn)), [len(of) for of in drawn])
    both = np.concatenate(drawn)
    choice = np.where(seen[user, both[:, 0]] > seen[user, both[:, 1]], "a", "b")
    new = [replace(_new(ratings[i], jokes, rng), who=int(i)) for i in order[:num_new]]
    return Population(user, _differences(both, jokes), choice, [person for person in new if len(person.tests)])


def embed(ratings: Ratings, rng: np.random.Generator) -> Float[NDArray[np.float64], "jokes features"]:
    """Each joke's mean rating and its loadings, found by expectation and maximisation over what was rated."""
    is_rated = (~np.isnan(ratings)).astype(float)
    mean = np.nanmean(ratings, axis=0)
    rest = np.where(np.isnan(ratings), 0.0, ratings - mean)
    loading, noise = rng.normal(size=(ratings.shape[1], COMPONENTS)), 10.0
    for _ in range(STEPS):
        loading, noise = _improve(loading, noise, rest, is_rated)
    turned, sizes, _ = np.linalg.svd(loading - loading.mean(0), full_matrices=False)
    return np.column_stack([mean - mean.mean(), turned * sizes])


def _improve(
    loading: NDArray[np.float64], noise: float, rest: NDArray[np.float64], is_rated: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """A step of expectation and maximisation."""
    rank = loading.shape[1]
    squares = (loading[:, :, None] * loading[:, None]).reshape(-1, rank * rank)
    precision = np.eye(rank) + (is_rated @ squares).reshape(-1, rank, rank) / noise
    covariance = np.linalg.inv(precision)
    place = (covariance @ (rest @ loading / noise)[:, :, None])[:, :, 0]
    moment = covariance + place[:, :, None] * place[:, None]
    told = (is_rated.T @ moment.reshape(-1, rank * rank)).reshape(-1, rank, rank)
    found = np.linalg.solve(told, (rest.T @ place)[:, :, None])[:, :, 0]
    left = (rest**2).sum() - (found * (rest.T @ place)).sum()
    return np.asarray(found), float(left / is_rated.sum())


def _new(rated: NDArray[np.float64], jokes: NDArray[np.float64], rng: np.random.Generator) -> NewPerson:
    own = rng.permutation(np.flatnonzero(~np.isnan(rated)))
    half = len(own) // 2
    pool, tests = _pairs(own[:half], rated, 0.0, rng), _pairs(own[half:], rated, GAP, rng)
    says, prefers = (rated[p[:, 0]] > rated[p[:, 1]] for p in (pool, tests))
    return NewPerson(_differences(pool, jokes), says, _differences(tests, jokes), prefers, items=pool)


def _once_each(rated: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Pairs (m, 2) as far apart as a test's, in which each of a person's jokes comes at most once.

    Pairs that share a joke also share what is odd about how this person rated it, which would pass for a taste; and
    answers to closer pairs are noisier than a test's, so that forecasts made from them would be too unsure.
    """
    left = np.flatnonzero(~np.isnan(rated))
    found = []
    for _ in range(MATCHES):
        left = rng.permutation(left)
        pairs = left[: len(left) // 2 * 2].reshape(-1, 2)
        is_far = np.abs(rated[pairs[:, 0]] - rated[pairs[:, 1]]) > GAP
        found.append(pairs[is_far])
        left = np.concatenate([pairs[~is_far].ravel(), left[2 * len(pairs) :]])
    return np.concatenate(found)


def _pairs(
    jokes: NDArray[np.int64], rated: NDArray[np.float64], gap: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """All pairs (m, 2) of the jokes that are rated further apart than ``gap``, in random order, on random sides."""
    first, second = np.triu_indices(len(jokes), 1)
    pairs = np.column_stack([jokes[first], jokes[second]])
    pairs = pairs[np.abs(rated[pairs[:, 0]] - rated[pairs[:, 1]]) > gap]
    turned = rng.random(len(pairs)) < 0.5
    pairs[turned] = pairs[turned, ::-1]
    return pairs[rng.permutation(len(pairs))]


def _differences(pairs: NDArray[np.int64], jokes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Left minus right."""
    return np.asarray(jokes[pairs[:, 0]] - jokes[pairs[:, 1]])
