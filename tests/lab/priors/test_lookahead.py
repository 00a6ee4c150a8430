"""Questions that settle forecasts: the closed form is the mean over both answers, and what decides nothing is left."""

from __future__ import annotations

import numpy as np
import pytest

from lab.priors.lookahead import PROBIT, pair_moments, settled
from personalign.learn.likelihood import utility
from personalign.types import Gaussian


@pytest.fixture
def post() -> Gaussian:
    root = np.random.default_rng(1).normal(size=(3, 3))
    return Gaussian(np.array([0.5, -0.2, 0.1]), root @ root.T + 0.1 * np.eye(3))


ITEMS = np.random.default_rng(2).normal(size=(5, 3))
PAIRS = np.array([[0, 1], [2, 4], [3, 0]])
OWN = np.array([0.0, 0.3, 0.0, 0.0, 0.8])


def test_moments_are_those_of_the_differences(post: Gaussian) -> None:
    """An item's own variance adds to its pairs'."""
    mean, variance = utility(ITEMS[PAIRS[:, 0]] - ITEMS[PAIRS[:, 1]], post)
    found = pair_moments(post, ITEMS, PAIRS, OWN)
    np.testing.assert_allclose(found[0], mean)
    np.testing.assert_allclose(found[1] - variance, [0.3, 0.8, 0.0], atol=1e-12)


def test_the_closed_form_is_the_mean_over_both_answers(post: Gaussian) -> None:
    """A million people drawn from the posterior answer; how much less their reference utilities vary is as told."""
    rng = np.random.default_rng(0)
    x = np.array([1.0, -0.5, 0.3])
    weights = rng.multivariate_normal(post.mean, post.covariance, 1_000_000)
    centre, variance = (float(part[0]) for part in utility(x[None], post))
    doubt = np.exp(-(centre**2) / variance / 2) / np.sqrt(variance)
    found = settled(post, ITEMS, PAIRS, OWN, x[None]) / doubt
    for pair, told in zip(PAIRS, found, strict=True):
        spread = np.sqrt(OWN[pair].sum() + PROBIT**2)
        left = weights @ (ITEMS[pair[0]] - ITEMS[pair[1]]) + spread * rng.normal(size=len(weights)) > 0
        after = sum(side.mean() * np.var((weights @ x)[side]) for side in (left, ~left))
        assert variance - after == pytest.approx(told, rel=0.03, abs=0.004)


def test_what_decides_nothing_is_not_asked() -> None:
    """A wide axis that no reference pair lies on is left for a narrow one that they do; D-optimality takes the wide."""
    post = Gaussian(np.zeros(2), np.diag([9.0, 1.0]))
    items, pairs = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), np.array([[0, 2], [1, 2]])
    reference = np.array([[0.0, 1.0]])
    found = settled(post, items, pairs, np.zeros(3), reference)
    assert found[1] > 10 * found[0]
    assert np.argmax(pair_moments(post, items, pairs, np.zeros(3))[1]) == 0


def test_forecasts_that_are_sure_count_less() -> None:
    """Of two axes alike, the one whose reference pairs are in doubt is asked about."""
    post = Gaussian(np.array([4.0, 0.0]), np.eye(2))
    items, pairs = np.array([[0.1, 0.0], [0.0, 0.1], [0.0, 0.0]]), np.array([[0, 2], [1, 2]])
    found = settled(post, items, pairs, np.zeros(3), np.eye(2))
    assert found[1] > 10 * found[0]
    alike = settled(Gaussian(np.zeros(2), np.eye(2)), items, pairs, np.zeros(3), np.eye(2))
    assert alike[1] == pytest.approx(alike[0])


def test_reference_pairs_may_leave_the_last_axes_out(post: Gaussian) -> None:
    """Items' own axes come last, and mean nothing to other items."""
    short = np.random.default_rng(3).normal(size=(7, 2))
    np.testing.assert_allclose(
        settled(post, ITEMS, PAIRS, OWN, short),
        settled(post, ITEMS, PAIRS, OWN, np.column_stack([short, np.zeros(7)])),
    )
