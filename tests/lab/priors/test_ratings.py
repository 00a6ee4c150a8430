"""Axes of known items from ratings: what goes together is found in spite of gaps, and what can't be is refused."""

from __future__ import annotations

import numpy as np
import pytest

from lab.priors.ratings import fit_items, normal_scores
from personalign.errors import InputError


def draw(people: int = 800, items: int = 30, gaps: float = 0.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratings with two directions of taste and as much oddity again, their loadings and the items' means."""
    rng = np.random.default_rng(0)
    loading, mean = rng.normal(size=(items, 2)), rng.normal(size=items)
    rated = mean + rng.normal(size=(people, 2)) @ loading.T + 1.4 * rng.normal(size=(people, items))
    return np.where(rng.random(rated.shape) < gaps, np.nan, rated), loading, mean


def test_what_goes_together_is_found_in_spite_of_gaps() -> None:
    """Means, covariances and oddity are near those the ratings were drawn from."""
    rated, loading, mean = draw()
    found = fit_items(rated, 2)
    np.testing.assert_allclose(found.mean, mean, atol=0.3)
    assert found.oddity == pytest.approx(1.96, rel=0.15)
    told, true = found.loading @ found.loading.T, loading @ loading.T
    assert np.linalg.norm(told - true) < 0.2 * np.linalg.norm(true)


def test_the_widest_direction_comes_first() -> None:
    """Directions are orthogonal and sorted, so that the first are the best of that many."""
    sizes = fit_items(draw()[0], 5).loading
    gram = sizes.T @ sizes
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
    assert (np.diff(np.diag(gram)) <= 0).all()


def test_only_the_order_counts() -> None:
    """Who rates everything higher or wider says the same; scores are even around 0, ties share theirs, gaps stay."""
    rated = draw()[0][:20]
    bent = np.where(np.arange(20)[:, None] == 0, np.exp(rated) + 5, rated)
    scores = normal_scores(bent)
    np.testing.assert_array_equal(scores, normal_scores(rated))
    np.testing.assert_array_equal(np.isnan(scores), np.isnan(rated))
    np.testing.assert_allclose(np.nanmean(scores, axis=1), 0, atol=1e-12)
    np.testing.assert_array_equal(normal_scores(np.array([[3.0, np.nan, 3.0]]))[0], [0, np.nan, 0])


@pytest.mark.parametrize(
    ("rated", "rank", "says"),
    [
        (np.where(np.arange(4) == 2, np.nan, draw()[0][:9, :4]), 1, "nobody rated item 2"),
        (draw(gaps=0)[0][:9, :4], 4, "rank 4"),
        (draw(gaps=0)[0][:9, :4], 0, "rank 0"),
        (np.ones((9, 4)), 1, "all alike"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(rated: np.ndarray, rank: int, says: str) -> None:
    """The message says what is missing."""
    with pytest.raises(InputError, match=says):
        fit_items(rated, rank)
