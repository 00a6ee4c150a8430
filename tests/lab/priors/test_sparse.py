"""Axes turned to where people have zeros: found where tastes are few, and left alone where they aren't."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from lab.priors import sparse
from lab.priors.sparse import Sparse, sparsify
from personalign.learn.factors import Factors, factorise
from tests.learn.people import UNBIASED, Array, answers, cosine

NUM_TASTES, NUM_FEATURES, NUM_PEOPLE, NUM_ANSWERS = 4, 7, 50, 150


class Crowd(NamedTuple):
    """A log, the directions of features that tastes are about (tastes, features), and people's tastes."""

    user: Array
    v: Array
    choice: list[str]
    directions: Array
    tastes: Array
    factors: Factors


def crowd(tastes: Array, seed: int = 0) -> Crowd:
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(NUM_TASTES, NUM_FEATURES)) / np.sqrt(NUM_FEATURES)
    user = np.repeat(np.arange(len(tastes)), NUM_ANSWERS)
    v = rng.normal(size=(len(user), NUM_FEATURES))
    choice = answers(((v @ directions.T) * tastes[user]).sum(axis=1), UNBIASED, rng)
    return Crowd(user, v, choice, directions, tastes, factorise(user, v, choice, NUM_TASTES))


def one_or_two(rng: np.random.Generator) -> Array:
    """Tastes of people who care about one thing or two, for or against."""
    cares = rng.permuted(np.tile([1, 0, 0, 0], (NUM_PEOPLE, 1)), axis=1) + (rng.random((NUM_PEOPLE, NUM_TASTES)) < 0.15)
    return np.where(cares > 0, rng.choice([-2.5, 2.5], size=cares.shape), 0.0)


@pytest.fixture(scope="module")
def few() -> Crowd:
    return crowd(one_or_two(np.random.default_rng(1)))


@pytest.fixture(scope="module")
def turned(few: Crowd) -> Sparse:
    return sparsify(few.user, few.v, few.choice, few.factors)


def closest(projection: Array, directions: Array) -> list[float]:
    return [max(abs(cosine(direction, axis)) for axis in projection.T) for direction in directions]


def test_each_taste_gets_an_axis(few: Crowd, turned: Sparse) -> None:
    """Every hidden direction is one axis; among those that ``factorise`` found some lie between all (the control)."""
    assert min(closest(turned.factors.projection, few.directions)) > 0.95
    assert min(closest(few.factors.projection, few.directions)) < 0.9


def test_made_up_people_have_as_few_tastes(few: Crowd, turned: Sparse) -> None:
    """The prior takes them up, and they care about as many things as those met, on either side."""
    assert turned.prior.share > 0
    strong = np.abs(turned.prior.points) > 0.4 * np.abs(turned.prior.points).max(axis=0)
    assert strong.sum(axis=1).mean() == pytest.approx((few.tastes != 0).sum(axis=1).mean(), abs=0.25)
    np.testing.assert_allclose(turned.prior.points.mean(axis=0), turned.factors.prior.mean, atol=1e-9)


def test_axes_are_standardised(few: Crowd, turned: Sparse) -> None:
    """Each varies with standard deviation 1 over replies, and no axis is lost."""
    z = few.v @ turned.factors.projection
    np.testing.assert_allclose((z**2).mean(axis=0) / 2, 1)
    assert turned.factors.rank == few.factors.rank


def test_where_tastes_are_many_nothing_changes() -> None:
    """People drawn from a Gaussian get the factors they had, and a prior without points."""
    of = crowd(np.random.default_rng(2).normal(size=(NUM_PEOPLE, NUM_TASTES)) * 1.2)
    found = sparsify(of.user, of.v, of.choice, of.factors)
    assert found.factors is of.factors
    assert found.prior.share == 0
    assert found.prior.gaussian is of.factors.prior


def test_one_axis_has_no_turn(few: Crowd) -> None:
    """With a single direction there is nothing to turn."""
    single = factorise(few.user, few.v, few.choice, 1)
    assert sparsify(few.user, few.v, few.choice, single).factors is single


def test_slopes_are_the_densities_own() -> None:
    """Against finite differences, where parts overlap and far outside."""
    places = np.array([[-3.0, -1.4, -0.3], [0.02, 0.7, 2.0]])
    step = 1e-6
    for density in (sparse._gaussian, sparse._laplace, sparse._Parts(0.3, 1.5, 0.3, 0.2).log_density):
        slope = (density(places + step)[0] - density(places - step)[0]) / (2 * step)
        np.testing.assert_allclose(density(places)[1], slope, rtol=1e-5, atol=1e-6)
