"""A prior of made-up people beside a Gaussian: exact where it can be told, and the Gaussian alone where it is that."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from lab.priors.mixture import Mixture, believe
from personalign.errors import InputError
from personalign.learn.ask import draw
from personalign.learn.fit import Record, fit
from personalign.learn.likelihood import probabilities
from personalign.types import CHOICES, Gaussian, Noise
from tests.learn.people import NOISE, UNBIASED, Array, answers, bytes_of, prior_of, record_of

FLAT = Gaussian(np.zeros(3), np.eye(3))
KINDS = np.concatenate([2 * np.eye(3), -2 * np.eye(3)])
MIXED = Mixture(FLAT, KINDS, 0.8)


def told(by: Array, n: int, noise: Noise = UNBIASED, seed: int = 0) -> Record:
    """What a person of these weights says of random pairs."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=(n, len(by)))
    return Record(v, answers(v @ by, noise, rng))


def numbered(record: Record) -> np.ndarray:
    return np.array([CHOICES.index(choice) for choice in record.choice])


@pytest.mark.parametrize("n", [0, 1, 12])
def test_without_points_it_is_the_gaussian(n: int) -> None:
    """A share of 0 gives the bytes of a plain fit, with points lying about or none; a share above 0 doesn't."""
    prior, record = prior_of(4), record_of(n, 4, weighted=True)
    plain = fit(record.v, record.choice, prior, NOISE, record.weight)
    points = np.random.default_rng(0).normal(size=(5, 4))
    for mixture in (Mixture.plain(prior), Mixture(prior, points, 0.0)):
        assert bytes_of(believe([record], mixture, NOISE)[0].collapse()) == bytes_of(plain)
    assert bytes_of(believe([record], Mixture(prior, points, 0.5), NOISE)[0].collapse()) != bytes_of(plain)


def test_the_points_chances_are_bayes_rule() -> None:
    """Each point's chance is its likelihood's share, an answer's weight being its exponent; orders don't matter."""
    record = replace(told(KINDS[1], 6), weight=np.array([1, 1, 0.5, 2, 1, 0.0]))
    assert record.weight is not None
    said = numbered(record)
    prob = np.take_along_axis(probabilities(KINDS @ record.v.T, UNBIASED), said[None, None], 0)[0]
    likelihood = (prob**record.weight).prod(axis=1)
    found = believe([record], MIXED, UNBIASED)[0]
    np.testing.assert_allclose(found.chance, likelihood / likelihood.sum())
    turned = Record(record.v[::-1], record.choice[::-1], record.weight[::-1])
    np.testing.assert_allclose(believe([turned], MIXED, UNBIASED)[0].chance, found.chance)


@pytest.mark.parametrize("noise", [UNBIASED, NOISE])
def test_the_share_is_weighed_by_evidence(noise: Noise) -> None:
    """Against brute force over weights and side bias: how much of the belief stays on points."""
    record = told(np.array([1.0, 0.5, 0.0]), 4, noise, seed=3)
    rng = np.random.default_rng(1)
    bias = noise.side * rng.standard_normal((200_000, 1))

    def evidence(weights: Array) -> float:
        prob = probabilities(weights @ record.v.T + bias, noise)
        return float(np.take_along_axis(prob, numbered(record)[None, None], 0)[0].prod(axis=1).mean())

    points, gaussian = evidence(KINDS[rng.integers(6, size=len(bias))]), evidence(rng.normal(size=(len(bias), 3)))
    truth = 0.8 * points / (0.8 * points + 0.2 * gaussian)
    assert believe([record], MIXED, noise)[0].share == pytest.approx(truth, abs=0.03)
    assert abs(truth - 0.8) > 0.05  # the control: the answers did say something about it


def test_a_person_unlike_all_points_is_fitted_all_the_same() -> None:
    """Answers that no point explains move the belief to the Gaussian; those of a point's own person stay on it."""
    stranger = believe([told(np.array([3.0, 3.0, -3.0]), 60)], MIXED, UNBIASED)[0]
    friend = believe([told(KINDS[4], 60)], MIXED, UNBIASED)[0]
    assert stranger.share < 0.01
    assert friend.share > 0.9
    assert friend.chance.argmax() == 4


def test_collapsing_keeps_mean_and_covariance() -> None:
    """The Gaussian has the moments of the mixture's own draws, and knowing kinds brings it closer to the truth."""
    belief = believe([told(KINDS[0], 5, seed=2)], MIXED, UNBIASED)[0]
    weights, chance = belief.draw(100_000)
    mean = chance @ weights
    found = belief.collapse()
    np.testing.assert_allclose(found.mean, mean, atol=0.02)
    np.testing.assert_allclose(found.covariance, ((weights - mean) * chance[:, None]).T @ (weights - mean), atol=0.03)


def test_knowing_the_kinds_pays() -> None:
    """People of these kinds are closer to their fit than under a Gaussian of the same mean and spread."""
    spread = Gaussian(np.zeros(3), 4 / 3 * np.eye(3))
    near, far = [], []
    for seed in range(30):
        kind = KINDS[seed % 6]
        record = told(kind, 8, seed=seed)
        near.append(np.linalg.norm(believe([record], Mixture(spread, KINDS, 0.8), UNBIASED)[0].collapse().mean - kind))
        far.append(np.linalg.norm(fit(record.v, record.choice, spread, UNBIASED).mean - kind))
    assert np.mean(near) < 0.8 * np.mean(far)


def test_draws_stand_for_a_posterior() -> None:
    """Chances sum to 1, the same draws come again, and likely points come as often as they should."""
    belief = believe([told(KINDS[0], 3)], replace(MIXED, share=1.0), UNBIASED)[0]
    for draws in (belief.draw, partial(draw, FLAT)):
        some = draws(600)
        assert some.chance.sum() == pytest.approx(1)
        np.testing.assert_array_equal(some.weights, draws(600).weights)
    some = belief.draw(600)
    assert np.abs(some.chance[some.weights[:, 0] == 2].sum() - belief.chance[0]) < 2 / 600
    np.testing.assert_allclose(draw(FLAT, 600).weights.mean(axis=0), 0, atol=1e-12)


def test_bad_mixtures_are_named() -> None:
    """Points of other axes, and shares that can't be."""
    with pytest.raises(InputError, match=r"expected \(S, 3\)"):
        Mixture(FLAT, np.zeros((2, 4)), 0.5)
    with pytest.raises(InputError, match="share"):
        Mixture(FLAT, KINDS, 1.5)
    with pytest.raises(InputError, match="0 points"):
        Mixture(FLAT, KINDS[:0], 0.5)
