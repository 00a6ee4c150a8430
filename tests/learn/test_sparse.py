"""People with few tastes, made up as a log's people are where they have few tastes, and not at all where they don't."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from personalign.learn import sparse
from personalign.learn.factors import Factors, factorise
from personalign.learn.sparse import NUM_PARTICLES, make_up
from personalign.types import Gaussian
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

    def make_up(self) -> Array | None:
        """On the features themselves, by the factors' prior there."""
        factors = self.factors
        lifted = factors.projection @ factors.prior.covariance @ factors.projection.T
        prior = Gaussian(factors.projection @ factors.prior.mean, lifted + 1e-6 * np.eye(NUM_FEATURES))
        return make_up(self.user, self.v, self.choice, prior, factors.noise)


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
def particles(few: Crowd) -> Array:
    made = few.make_up()
    assert made is not None
    return made


def test_made_up_people_have_as_few_tastes(few: Crowd, particles: Array) -> None:
    """They care about as many things as those met, on either side; their mean is everybody's."""
    places = np.linalg.lstsq(few.directions.T, particles.T, rcond=None)[0].T
    strong = np.abs(places) > 0.4 * np.abs(places).max(axis=0)
    assert strong.sum(axis=1).mean() == pytest.approx((few.tastes != 0).sum(axis=1).mean(), abs=0.3)
    common = few.factors.projection @ few.factors.prior.mean
    np.testing.assert_allclose(particles.mean(axis=0), common, atol=1e-9)
    assert particles.shape == (NUM_PARTICLES, NUM_FEATURES)


def test_a_single_taste_is_found(few: Crowd, particles: Array) -> None:
    """For every hidden direction somebody was made up who cares about it alone; a random direction has nobody."""
    shifts = particles - particles.mean(axis=0)

    def closest(direction: Array) -> float:
        return max(abs(cosine(direction, shift)) for shift in shifts)

    assert min(closest(direction) for direction in few.directions) > 0.97
    assert closest(np.random.default_rng(9).normal(size=NUM_FEATURES)) < 0.9


def test_where_tastes_are_many_so_are_those_of_made_up_people() -> None:
    """People drawn from a Gaussian: made-up ones are spread as widely, and care about as many things."""
    many = crowd(np.random.default_rng(2).normal(size=(NUM_PEOPLE, NUM_TASTES)) * 1.2)
    particles = many.make_up()
    assert particles is not None
    shifts = particles - particles.mean(axis=0)
    met = many.tastes @ many.directions
    assert np.trace(np.cov(shifts.T)) == pytest.approx(np.trace(np.cov(met.T)), rel=0.25)
    near = np.linalg.norm(shifts, axis=1) < 0.3 * np.sqrt((shifts**2).sum(axis=1).mean())
    assert near.mean() < 0.1


def test_one_direction_has_no_turn(few: Crowd) -> None:
    """With a single direction that tells people apart there is nothing to turn."""
    single = few._replace(factors=factorise(few.user, few.v, few.choice, 1))
    assert single.make_up() is None


@pytest.mark.parametrize(
    ("v", "choice"),
    [
        (np.zeros((0, 3)), []),
        (np.random.default_rng(0).normal(size=(400, 3)), ["tie"] * 400),
        (np.tile(np.random.default_rng(0).normal(size=(10, 3)), (40, 1)), ["a"] * 400),
        (1e100 * np.random.default_rng(0).normal(size=(400, 3)), ["a", "b"] * 200),
    ],
    ids=["nobody", "ties only", "all alike", "huge"],
)
@pytest.mark.filterwarnings("error")
def test_where_people_do_not_differ_nobody_is_made_up(v: Array, choice: list[str]) -> None:
    """Without a warning."""
    person = np.arange(len(v)) // 10
    assert make_up(person, v, choice, Gaussian(np.zeros(3), np.eye(3)), UNBIASED) is None


def test_a_person_who_said_nearly_nothing_changes_little(few: Crowd, particles: Array) -> None:
    """One more person with one answer about equal replies."""
    user, v = np.append(few.user, NUM_PEOPLE), np.vstack([few.v, np.zeros((1, NUM_FEATURES))])
    made = few._replace(user=user, v=v, choice=[*few.choice, "a"]).make_up()
    assert made is not None
    assert np.trace(np.cov(made.T)) == pytest.approx(np.trace(np.cov(particles.T)), rel=0.1)


def test_slopes_are_the_densities_own() -> None:
    """Against finite differences, where parts overlap and far outside."""
    places = np.array([[-3.0, -1.4, -0.3], [0.02, 0.7, 2.0]])
    step = 1e-6
    for density in (sparse._gaussian, sparse._laplace, sparse._Parts(0.3, 1.5, 0.3, 0.2).log_density):
        slope = (density(places + step)[0] - density(places - step)[0]) / (2 * step)
        np.testing.assert_allclose(density(places)[1], slope, rtol=1e-5, atol=1e-6)
