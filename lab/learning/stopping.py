"""Whether "80 % sure" is right in four cases of five, for simulated people whose tastes are known.

Their tastes are drawn around a common one, most of what they differ in is in a few directions, and they answer with
the noise of the likelihood. A basis is factorised from some of them, as for real people; others are asked the questions
of most information until the service would stop, and judged on fresh pairs by the sign of their true utility.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from lab.harness import turns
from personalign.learn.ask import AHEAD, StopRule, acquire, clip_pairs, latent_accuracy, why_stop
from personalign.learn.factors import Factors, factorise
from personalign.learn.fit import fit
from personalign.learn.likelihood import probabilities
from personalign.types import Gaussian, Noise

NUM_FEATURES, NUM_TASTES = 32, 4
NUM_SEEN, NUM_ANSWERS = 200, 60
NUM_POOL, NUM_REFERENCE, NUM_FRESH = 400, 300, 500
SHARED, OWN, REST = 0.7, 1.3, 0.25  # standard deviations of a pair's utility: everybody's, a person's, and outside
NOISE = Noise(tie=0.2, lapse=0.05, side=0.2)
RULE = StopRule(accuracy=0.8)
CHOICES = ("a", "b", "tie")

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stopped:
    """How many questions each person was asked, how accurate their profile is, and whether it was thought to be."""

    questions: Float[NDArray[np.float64], "people"]
    accuracy: Float[NDArray[np.float64], "people"]
    promised: Float[NDArray[np.float64], "people"]
    is_sure: Bool[NDArray[np.bool_], "people"]
    oracle: Float[NDArray[np.float64], "people"]  # accuracy after as many answers on the true directions and prior


@dataclass(frozen=True, eq=False)
class Population:
    """A common taste and the directions in which people differ from it."""

    shared: Float[NDArray[np.float64], "F"]
    directions: Float[NDArray[np.float64], "F tastes"]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Population:
        """Draw both; a pair of replies differs by √2 standard deviations in every feature."""
        shared = rng.normal(size=NUM_FEATURES)
        directions = np.linalg.qr(rng.normal(size=(NUM_FEATURES, NUM_TASTES)))[0]
        strength = np.linspace(1.3, 0.7, NUM_TASTES) * OWN / np.sqrt(2 * NUM_TASTES)
        return cls(shared * SHARED / np.linalg.norm(shared) / np.sqrt(2), directions * strength)

    def person(self, rng: np.random.Generator) -> Array:
        """Somebody's weights."""
        residual = rng.normal(size=NUM_FEATURES) * REST / np.sqrt(2 * NUM_FEATURES)
        return np.asarray(self.shared + self.directions @ rng.normal(size=NUM_TASTES) + residual)

    @property
    def prior(self) -> Gaussian:
        """What is true of people, on all features."""
        residual = REST**2 / (2 * NUM_FEATURES) * np.eye(NUM_FEATURES)
        return Gaussian(self.shared, self.directions @ self.directions.T + residual)


def pairs(num: int, rng: np.random.Generator) -> Array:
    """Differences of two replies' standardised features."""
    return np.asarray(rng.normal(size=(num, NUM_FEATURES)) - rng.normal(size=(num, NUM_FEATURES)))


def answers(u: Array, rng: np.random.Generator) -> list[str]:
    """What somebody says, by the likelihood's own probabilities; b is their side bias."""
    bias = rng.normal() * NOISE.side
    return [str(rng.choice(CHOICES, p=p / p.sum())) for p in probabilities(u + bias, NOISE).T]


def learn_basis(population: Population, rng: np.random.Generator, rank: int = NUM_TASTES + 1) -> Factors:
    """Factorise what people said who aren't judged."""
    v = [pairs(NUM_ANSWERS, rng) for _ in range(NUM_SEEN)]
    choices = [answers(pair @ population.person(rng), rng) for pair in v]
    return factorise(np.repeat(np.arange(NUM_SEEN), NUM_ANSWERS), np.concatenate(v), np.concatenate(choices), rank)


def stop_people(num_people: int, num_bases: int, rule: StopRule = RULE) -> Stopped:
    """Ask so many people of each of some populations until they are known well enough."""
    rows = [row for seed in turns(num_bases, "stopping") for row in _stop_some(num_people, seed, rule)]
    questions, accuracy, promised, is_sure, oracle = (np.array(column) for column in zip(*rows, strict=True))
    return Stopped(questions, accuracy, promised, is_sure, oracle)


class _Stop(NamedTuple):
    questions: float
    accuracy: float
    promised: float
    is_sure: bool
    oracle: float


def _stop_some(num_people: int, seed: int, rule: StopRule) -> list[_Stop]:
    rng = np.random.default_rng(seed)
    population = Population.draw(rng)
    basis = learn_basis(population, rng)
    pool, reference = pairs(NUM_POOL, rng), pairs(NUM_REFERENCE, rng)
    return [_stop(population, basis, pool, reference, rule, rng) for _ in range(num_people)]


def _stop(
    population: Population, basis: Factors, pool: Array, reference: Array, rule: StopRule, rng: np.random.Generator
) -> _Stop:
    weights, fresh = population.person(rng), pairs(NUM_FRESH, rng)
    choices = answers(pool @ weights, rng)
    z, shown = clip_pairs(pool @ basis.projection, basis.prior), reference @ basis.projection
    asked: list[int] = []
    post, reason = basis.prior, None
    while reason is None:
        allowed = ~np.isin(np.arange(len(pool)), asked)
        reason = why_stop(post, shown, z[allowed], len(asked), rule, basis.noise)
        if reason is None:
            asked.append(acquire(post, z, AHEAD, basis.noise, allowed))
            post = fit(z[asked], [choices[i] for i in asked], basis.prior, basis.noise)
    best = fit(pool[asked], [choices[i] for i in asked], population.prior, NOISE)
    truth, learnt, oracle = (fresh @ w > 0 for w in (weights, basis.projection @ post.mean, best.mean))
    return _Stop(
        float(len(asked)),
        float((learnt == truth).mean()),
        latent_accuracy(post, shown),
        "sure" in reason,
        float((oracle == truth).mean()),
    )
