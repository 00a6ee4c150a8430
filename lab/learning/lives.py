"""Lives of simulated people on a bundled basis: questions by D-optimality, then use, and perhaps a change.

Tastes come from the basis's own prior, and people answer by its likelihood; some err more often, or look at the side
alone. The service looks one answer ahead instead, which takes fifty times as long. Nothing here watches for a change,
so that every watch is judged by the same lives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Integer
from numpy.typing import NDArray

from personalign.basis import Basis
from personalign.bundled import ZOO
from personalign.learn.ask import Likeness, acquire, clip_pairs
from personalign.learn.fit import Record, fit_block
from personalign.learn.likelihood import probabilities, win_probability
from personalign.learn.mixture import Mixture
from personalign.types import WEIGHTS, Array, Gaussian

Change = Literal["none", "reversal", "another"]
NUM_ASKED = 10  # questions, before somebody who is done with them gives thumbs
CHOICES = ("a", "b", "tie")


@dataclass(frozen=True)
class Scene:
    """What happens to people, and how they answer."""

    change: Change = "none"
    at: int = 50  # answers before the change; without one, all there are
    after: int = 0
    wrong: float = 0.0  # the share of answers against the sign of the person's utility; 0: the likelihood's own
    is_left: bool = False  # whether they take the left side always
    is_used: bool = False  # whether thumbs follow the first questions

    @property
    def kinds(self) -> list[str]:
        """What each answer comes from."""
        num = self.at + self.after
        return ["thumbs" if self.is_used and i >= NUM_ASKED else "question" for i in range(num)]


@dataclass(frozen=True, eq=False)
class Lives:
    """What people answered, oldest first, and their tastes before and after."""

    kinds: list[str]
    v: Float[NDArray[np.float64], "people n d"]
    outcome: Integer[NDArray[np.int64], "people n"]  # an index into ``CHOICES``
    before: Float[NDArray[np.float64], "people d"]
    after: Float[NDArray[np.float64], "people d"]

    @cached_property
    def weight(self) -> Float[NDArray[np.float64], "n"]:
        """What each answer counts."""
        return np.array([WEIGHTS[kind] for kind in self.kinds])

    def choices(self, person: int) -> list[str]:
        """What one person said."""
        return [CHOICES[i] for i in self.outcome[person]]


class World:
    """A bundled basis, and its people."""

    def __init__(self, name: str) -> None:
        self.name, self.basis = name, Basis.load(ZOO / name / "basis")
        self._clipped = clip_pairs(self.basis.pool, self.basis.prior)
        self._likeness = Likeness.measure(self.basis)

    def live(self, scene: Scene, num_people: int, seed: int) -> Lives:
        """Let people live through a scene."""
        rng, prior = np.random.default_rng(seed), self.basis.prior
        before, other = (rng.multivariate_normal(prior.mean, prior.covariance, num_people) for _ in range(2))
        after = {"none": before, "reversal": 2 * prior.mean - before, "another": other}[scene.change]
        bias = self.basis.noise.side * rng.normal(size=num_people)
        kinds, d = scene.kinds, self.basis.num_axes
        v, outcome = np.zeros((num_people, len(kinds), d)), np.zeros((num_people, len(kinds)), dtype=np.int64)
        asked = np.zeros((num_people, len(self.basis.pool)), dtype=bool)
        for t, kind in enumerate(kinds):
            v[:, t] = self._show(kind, v[:, :t], outcome[:, :t], asked, rng)
            u = (v[:, t] * (before if t < scene.at else after)).sum(axis=1)
            outcome[:, t] = self._answer(scene, kind, u + bias * (kind == "question"), rng)
        return Lives(kinds, v, outcome, before, after)

    def fit(self, lives: Lives, weight: Float[NDArray[np.float64], "people num"]) -> list[Gaussian]:
        """Everyone's posterior after as many answers as there are weights."""
        num = weight.shape[1]
        return _fit(self.basis, lives.v[:, :num], lives.outcome[:, :num], weight)

    def _show(
        self,
        kind: str,
        v: Array,
        outcome: NDArray[np.int64],
        asked: Bool[NDArray[np.bool_], "people m"],
        rng: np.random.Generator,
    ) -> Array:
        num_people = len(v)
        swap = rng.choice([-1.0, 1.0], size=(num_people, 1))
        if kind != "question":
            return np.asarray(swap * self.basis.reference[rng.integers(len(self.basis.reference), size=num_people)])
        posts = _fit(self.basis, v, outcome, np.ones(outcome.shape))
        chosen = [self._choose(post, row) for post, row in zip(posts, asked, strict=True)]
        asked[np.arange(num_people), chosen] = True
        return np.asarray(swap * self.basis.pool[chosen])

    def _choose(self, post: Gaussian, asked: Bool[NDArray[np.bool_], "m"]) -> int:
        allowed = ~self._likeness.repeats(asked)
        return acquire(post, self._clipped, "d_optimal", self.basis.noise, allowed)

    def _answer(
        self, scene: Scene, kind: str, u: Array, rng: np.random.Generator
    ) -> Integer[NDArray[np.int64], "people"]:
        """Say what people choose whose utility differs by ``u``; feedback follows it less often than answers do."""
        draw, is_plain = rng.random(len(u)), not (scene.wrong or scene.is_left)
        if is_plain and kind == "question":
            upto = np.cumsum(probabilities(u, self.basis.noise), axis=0)[:2]
            return np.asarray((draw > upto).sum(axis=0))
        if scene.is_left:
            left = np.full(len(u), 1.0 if kind == "question" else 0.5)
        elif scene.wrong:
            left = np.where(u > 0, 1 - scene.wrong, scene.wrong)
        else:
            left = win_probability(u, self.basis.noise)
        return np.where(draw < 0.5 + np.sqrt(WEIGHTS[kind]) * (left - 0.5), 0, 1)


def _fit(basis: Basis, v: Array, outcome: NDArray[np.int64], weight: Array) -> list[Gaussian]:
    rows = [[CHOICES[i] for i in row] for row in outcome]
    records = [Record(v[i], row, weight[i]) for i, row in enumerate(rows)]
    return [fitted.weights for fitted in fit_block(records, Mixture.of_people(basis), basis.noise)]
