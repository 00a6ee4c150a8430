"""The expected log-likelihood: the likelihood itself where nothing is uncertain, and its own derivatives."""

from __future__ import annotations

import numpy as np
import pytest

from personalign.learn.likelihood import LITTLE, MUCH, TIE, A, log_likelihood
from personalign.learn.population import expected
from personalign.types import Noise

NOISES = [Noise(0.4, 0.0, 0.0), Noise(0.4, 0.1, 0.0), Noise(2.0, 0.02, 0.0)]
U = np.linspace(-12, 12, 49)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("outcome", [A, TIE, LITTLE, MUCH])
def test_without_uncertainty_it_is_the_likelihood(noise: Noise, outcome: int) -> None:
    """Value and slope are log P and its score, won, tied or graded, with lapses or without."""
    found = expected(U, np.zeros(len(U)), np.full(len(U), outcome), noise)
    log_prob, score = log_likelihood(U, np.full(len(U), outcome), noise)
    np.testing.assert_allclose(found.log_prob, log_prob, atol=1e-6)
    np.testing.assert_allclose(found.score, score, atol=1e-6)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("variance", [0.01, 1.0, 9.0])
def test_slope_is_the_values_derivative(noise: Noise, variance: float) -> None:
    """The slope agrees with finite differences of the value; the control, with another variance's, doesn't."""
    verdict = np.resize([A, TIE, LITTLE, MUCH], len(U))

    def value(mean: np.ndarray, of: float) -> np.ndarray:
        return expected(mean, np.full(len(U), of), verdict, noise).log_prob

    slope = expected(U, np.full(len(U), variance), verdict, noise).score
    step = 1e-5
    np.testing.assert_allclose(slope, (value(U + step, variance) - value(U - step, variance)) / (2 * step), atol=1e-6)
    other = (value(U + step, 4 * variance) - value(U - step, 4 * variance)) / (2 * step)
    assert np.abs(slope - other).max() > 1e-4


def test_curvature_says_how_the_value_bends_with_variance() -> None:
    """Without lapses the value falls by half the curvature for each unit of variance."""
    noise, verdict = NOISES[0], np.full(len(U), A)
    few = expected(U, np.full(len(U), 0.5), verdict, noise)
    more = expected(U, np.full(len(U), 0.51), verdict, noise)
    np.testing.assert_allclose((few.log_prob - more.log_prob) / 0.01, (few.curvature + more.curvature) / 4, atol=2e-3)


def test_far_out_nothing_overflows() -> None:
    """Utilities of 1e4 on either side give finite values."""
    u = np.tile([-1e4, 1e4], 4)
    for of in expected(u, np.full(8, 1.0), np.repeat([A, TIE, LITTLE, MUCH], 2), NOISES[0]):
        assert np.isfinite(of).all()
