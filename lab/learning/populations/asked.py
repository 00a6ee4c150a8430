"""New people are asked by a rule, and their other answers predicted after each number of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer
from numpy.typing import NDArray

from lab.learning.judged import Judged
from lab.priors.mixture import Belief, Mixture, believe
from personalign.learn.ask import DRAWS, acquire
from personalign.learn.factors import Factors
from personalign.learn.fit import Record, predict
from personalign.types import Gaussian, Noise

RIDGE = 1e-6  # variance that kinds have in directions in which they don't differ


@dataclass(frozen=True, eq=False)
class NewPerson:
    """Someone the axes have never met: pairs they may be asked about, and pairs they are judged by.

    Pairs are left minus right; ``says`` and ``prefers`` tell where the left is preferred. ``limit`` is the share
    of the tests that anyone would predict who knew the person's mind, where that is known. ``much`` tells of which
    pairs they say "much better", and is None where only sides are asked for.
    """

    pool: Float[NDArray[np.float64], "m F"]
    says: Bool[NDArray[np.bool_], "m"]
    tests: Float[NDArray[np.float64], "t F"]
    prefers: Bool[NDArray[np.bool_], "t"]
    limit: float | None = None
    much: Bool[NDArray[np.bool_], "m"] | None = None

    @property
    def choice(self) -> NDArray[Any]:
        """What they say of each pair of the pool."""
        return choices(self.says, self.much)


def choices(left: NDArray[np.bool_], much: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """Answers in words: the side, and beside it the grade where that is asked for."""
    sides = np.where(left, "a", "b")
    return sides if much is None else np.char.add(sides, np.where(much, "++", "+"))


@dataclass(frozen=True, eq=False)
class Population:
    """Answers of the people the axes are made from (user, v, choice), and new people.

    ``kinds`` are weights on the features of everybody there could be, where that is known.
    """

    user: Integer[NDArray[np.int64], "N"]
    v: Float[NDArray[np.float64], "N F"]
    choice: NDArray[Any]  # texts
    new: Sequence[NewPerson]
    kinds: Float[NDArray[np.float64], "k F"] | None = None


def ask_everyone(
    population: Population,
    factors: Factors,
    rule: str,
    counts: Sequence[int],
    seed: int = 0,
    prior: Mixture | None = None,
) -> dict[int, Judged]:
    """Ask each new person questions chosen by ``rule``, none twice; judge the forecasts after each of ``counts``.

    People are fitted under ``prior``, or where it is None under the factors' own; forecasts are those of a profile,
    which is one Gaussian whatever the prior is.
    """
    start = Mixture.plain(factors.prior) if prior is None else prior
    people = [_Asked.nothing(person, factors) for person in population.new]
    judged = {}
    for n in range(max(counts) + 1):
        beliefs = believe([person.record for person in people], start, factors.noise)
        if n in counts:
            judged[n] = _judge(people, [belief.collapse() for belief in beliefs], factors)
        if n < max(counts):
            for i, (person, belief) in enumerate(zip(people, beliefs, strict=True)):
                person.ask(belief, factors, rule, seed + len(people) * n + i)
    return judged


def ask_kinds(population: Population, rule: str, counts: Sequence[int], seed: int = 0) -> dict[int, Judged]:
    """Ask as ``ask_everyone`` does somebody who knows all kinds of people beforehand: what learning can't beat."""
    assert population.kinds is not None, "the population's kinds are known"
    size = population.kinds.shape[1]
    gaussian = Gaussian(
        np.zeros(size), population.kinds.T @ population.kinds / len(population.kinds) + RIDGE * np.eye(size)
    )
    noise = Noise(tie=0.0, lapse=0.0, side=0.0)
    factors = Factors(np.eye(size), gaussian, noise, len(population.kinds), 0, 0, 0, ())
    return ask_everyone(population, factors, rule, counts, seed, Mixture(gaussian, population.kinds, 1.0))


@dataclass(frozen=True, eq=False)
class _Asked:
    """A new person on the axes, and the questions they were asked so far."""

    pool: NDArray[np.float64]
    tests: NDArray[np.float64]
    person: NewPerson
    asked: list[int]

    @classmethod
    def nothing(cls, person: NewPerson, factors: Factors) -> _Asked:
        """Before the first question."""
        return cls(person.pool @ factors.projection, person.tests @ factors.projection, person, [])

    @property
    def record(self) -> Record:
        """What was asked and answered."""
        return Record(self.pool[self.asked], self.person.choice[self.asked].tolist())

    def ask(self, belief: Belief, factors: Factors, rule: str, seed: int) -> None:
        """Ask one more, if any is left."""
        allowed = np.ones(len(self.pool), dtype=bool)
        allowed[self.asked] = False
        if allowed.any():
            self.asked.append(
                acquire(belief.collapse(), self.pool, rule, factors.noise, allowed, seed, belief.draw(DRAWS))
            )

    def chances(self, post: Gaussian, factors: Factors) -> NDArray[np.float64]:
        """Of each test, the probability given to the side preferred."""
        left = predict(self.tests, post, factors.noise)
        return np.where(self.person.prefers, left, 1 - left)


def _judge(people: Sequence[_Asked], posts: Sequence[Gaussian], factors: Factors) -> Judged:
    owner = np.repeat(np.arange(len(people)), [len(person.tests) for person in people])
    return Judged(owner, np.concatenate([p.chances(post, factors) for p, post in zip(people, posts, strict=True)]))
