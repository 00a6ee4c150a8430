"""The prior without human data: people of it agree with themselves in three cases of four."""

from __future__ import annotations

import numpy as np
import pytest

from personalign.errors import InputError
from personalign.learn.likelihood import A, B, probabilities
from personalign.learn.mixture import make_prior, prior_scale
from personalign.types import Gaussian, Noise
from tests.learn.people import Array, prior_of

REFERENCE = np.random.default_rng(5).normal(size=(60, 4)) * [0.5, 1, 2, 3]
NOISES = [Noise(), Noise(0.0, 0.0, 0.0), Noise(0.8, 0.15)]


def agreement(prior: Gaussian, reference: Array, noise: Noise) -> float:
    """Draw people, and from each an answer to every pair until it isn't a tie; how often it is what u says."""
    rng = np.random.default_rng(11)
    u = rng.multivariate_normal(prior.mean, prior.covariance, size=4000) @ reference.T
    prob = probabilities(u, noise)
    says_left = rng.random(u.shape) < prob[A] / (prob[A] + prob[B])
    return float((says_left == (u > 0)).mean())


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("shape", [None, prior_of(4).covariance])
def test_people_agree_with_themselves_in_three_cases_of_four(noise: Noise, shape: Array | None) -> None:
    """By Monte Carlo over people, pairs and answers; people who feel twice as strongly, the control, agree more."""
    prior = make_prior(REFERENCE, noise, shape)
    assert agreement(prior, REFERENCE, noise) == pytest.approx(0.75, abs=0.01)
    stronger = Gaussian(prior.mean, 4 * prior.covariance)
    assert agreement(stronger, REFERENCE, noise) > 0.79


def test_the_shape_is_scaled_and_nobody_is_preferred() -> None:
    """The mean is 0 and the covariance a multiple of the shape, the identity where none is given."""
    shape = prior_of(4).covariance
    round_prior, shaped = make_prior(REFERENCE, Noise()), make_prior(REFERENCE, Noise(), shape)
    sigma = prior_scale(REFERENCE, Noise(), shape)
    np.testing.assert_array_equal(shaped.mean, np.zeros(4))
    np.testing.assert_allclose(shaped.covariance, sigma**2 * shape)
    np.testing.assert_allclose(round_prior.covariance, prior_scale(REFERENCE, Noise()) ** 2 * np.eye(4))


def test_the_scale_undoes_the_units() -> None:
    """Features in units ten times as large need weights a tenth as large; more lapses need stronger feelings."""
    sigma = prior_scale(REFERENCE, Noise())
    assert prior_scale(10 * REFERENCE, Noise()) == pytest.approx(sigma / 10, rel=1e-6)
    assert prior_scale(REFERENCE, Noise(lapse=0.2)) > sigma


@pytest.mark.parametrize("reference", [np.zeros((0, 4)), np.zeros((3, 4))])
def test_reference_pairs_without_a_difference_are_refused(reference: Array) -> None:
    """With nothing to compare no σ makes anyone agree."""
    with pytest.raises(InputError, match="no difference"):
        prior_scale(reference, Noise())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_reference_pairs_that_arent_finite_are_refused(value: float) -> None:
    """One NaN among them would make everybody indifferent without a word."""
    reference = REFERENCE.copy()
    reference[3, 1] = value
    with pytest.raises(InputError, match="NaN or Inf"):
        make_prior(reference, Noise())


def test_too_many_lapses_are_refused() -> None:
    """Who answers at random more than every other time can't agree that often; a little fewer lapses can."""
    with pytest.raises(InputError, match="lapse"):
        prior_scale(REFERENCE, Noise(lapse=0.8))
    assert prior_scale(REFERENCE, Noise(lapse=0.5)) > 0


def test_pairs_without_axes_are_refused() -> None:
    """There is nothing to feel strongly about; with one axis there is (the control)."""
    with pytest.raises(InputError, match="no axes"):
        make_prior(np.zeros((5, 0)), Noise())
    assert make_prior(np.ones((5, 1)), Noise()).mean.shape == (1,)
