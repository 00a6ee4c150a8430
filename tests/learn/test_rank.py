"""Ranking replies: the order of the mean utilities, and probabilities that are those of the posterior."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from personalign.learn.rank import DRAWS, best_of, better, rank
from personalign.types import Array, Gaussian

BELIEF = Gaussian(np.array([1.0, -0.5, 0.0]), np.diag([0.5, 1.0, 2.0]) + 0.1)
CERTAIN = Gaussian(BELIEF.mean, np.zeros((3, 3)))


def texts(n: int) -> list[str]:
    return [f"reply {i}" for i in range(n)]


def replies(n: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, 3))


def test_the_order_is_that_of_the_expected_utilities() -> None:
    """Best first; every candidate keeps its place among those passed, its text and its utility."""
    features = replies(7)
    ranking = rank(texts(7), features, BELIEF, None, 3)
    assert ranking.order == tuple(np.argsort(-features @ BELIEF.mean))
    assert ranking.best == f"reply {ranking.order[0]}"
    assert [c.utility for c in ranking.candidates] == sorted(features @ BELIEF.mean, reverse=True)
    assert sum(c.probability for c in ranking.candidates) == pytest.approx(1)
    assert (ranking.reason, ranking.revision) == (None, 3)


def test_two_are_compared_exactly() -> None:
    """P(⟨w, v⟩ > 0) of a normal distribution, both ways round, and the same as the chance of being the best."""
    features = replies(2)
    v = features[0] - features[1]
    expected = norm.cdf(v @ BELIEF.mean / np.sqrt(v @ BELIEF.covariance @ v))
    assert better(v, BELIEF) == pytest.approx(expected)
    assert better(-v, BELIEF) == pytest.approx(1 - expected)
    assert best_of(features, BELIEF) == pytest.approx([expected, 1 - expected])


@pytest.mark.parametrize("seed", range(3))
def test_the_chance_of_being_the_best_is_the_posteriors(seed: int) -> None:
    """It agrees with draws of another generator, for more candidates than two."""
    features = replies(5, seed)
    weights = np.random.default_rng(99).multivariate_normal(BELIEF.mean, BELIEF.covariance, size=40_000)
    expected = np.bincount((weights @ features.T).argmax(1), minlength=5) / len(weights)
    assert best_of(features, BELIEF) == pytest.approx(expected, abs=4 * np.sqrt(0.25 / DRAWS))


def test_equal_replies_share() -> None:
    """Equal features: the order they were passed in, half a chance each way, and equal shares of being the best."""
    one, other = replies(2)
    ranking = rank(texts(3), np.array([one, one, one]), BELIEF, None, 0)
    assert (ranking.order, ranking.surety) == ((0, 1, 2), 0.5)
    assert [c.probability for c in ranking.candidates] == pytest.approx([1 / 3] * 3)
    mixed = best_of(np.array([one, other, one]), BELIEF)
    assert mixed[0] == mixed[2] == pytest.approx(better(one - other, BELIEF) / 2)


def test_one_reply_is_certain() -> None:
    """There is nothing it could be worse than."""
    ranking = rank(["only"], replies(1), BELIEF, None, 0)
    assert (ranking.best, ranking.order, ranking.surety) == ("only", (0,), 1.0)
    assert ranking.candidates[0].probability == 1.0


def test_certain_weights_leave_no_doubt() -> None:
    """Without variance the better one is better for sure, and equal ones are a coin's toss."""
    features = replies(4)
    assert rank(texts(4), features, CERTAIN, None, 0).surety == 1.0
    assert best_of(features, CERTAIN)[np.argmax(features @ CERTAIN.mean)] == 1.0
    assert better(np.zeros(3), CERTAIN) == 0.5


def test_more_is_known_the_surer_it_is() -> None:
    """A posterior half as wide is surer of the same order."""
    features = replies(2)
    narrow = Gaussian(BELIEF.mean, BELIEF.covariance / 4)
    wide_surety, surety = (rank(texts(2), features, b, None, 0).surety for b in (BELIEF, narrow))
    assert 0.5 < wide_surety < surety < 1
