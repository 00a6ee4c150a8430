"""What people are like, before their answers and after: a mixture of three kinds of people.

Either nothing sets a person apart from everybody's taste μ; or they feel about few axes, which points stand for, each a
made-up person; or about any of them, which a normal distribution describes. Answers weigh every point by its likelihood
and every kind by its evidence. Who answers at random, or as everybody does, so stays near μ. Who is unlike all points
is fitted as a normal distribution would. What is left is drawn together to one Gaussian of the same mean and
covariance, because a profile is one. Its mean is what steers.

A point's likelihood is exact. Its side bias is one draw of all people's. The normal kind is fitted by Laplace's method
(``kernel``), and its evidence is Laplace's approximation (Rasmussen and Williams 2006, equation 3.32).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from personalign.basis import Shares
from personalign.errors import InputError
from personalign.learn.ask import Draws, mirrored
from personalign.learn.fit import Fitted, Record, check_prior, fit_block
from personalign.learn.grades import LITTLE, VERDICTS
from personalign.learn.likelihood import information, log_prob
from personalign.learn.prior import conditioned
from personalign.learn.rows import Rows, canonical, encode, says_something, signs
from personalign.types import Array, Gaussian, Ints, Noise, Statement
from personalign.words import Axis

NUM_POINTS = 4096
MOST_AXES = 5  # that a point feels about
WIDTH = 0.1  # of what answers leave of the Gaussian's variance: a point stands for the people around it, too
_DEFAULT_NOISE = Noise()
_DEFAULT_SHARES = Shares()
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)  # over the side bias of somebody whom nothing sets apart
_NODE_SHARES = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True, eq=False)
class Mixture:
    """Everybody's mean with ``shares.nothing``, one of the points (S, d) with ``shares.few``, else the Gaussian.

    Raises:
        InputError: points of other axes than the Gaussian's, or a share of no points.
    """

    normal: Gaussian
    points: Float[Array, "S d"]
    shares: Shares = _DEFAULT_SHARES

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != len(self.normal.mean):
            raise InputError(
                f"points have shape {self.points.shape}, expected (S, {len(self.normal.mean)}): a column per axis"
            )
        if self.shares.few and not len(self.points):
            raise InputError(f"found a share {self.shares.few} of no points, expected points or a share of 0")

    @classmethod
    def make(cls, normal: Gaussian, shares: Shares = _DEFAULT_SHARES) -> Mixture:
        """The points that stand for people with few tastes, around a Gaussian."""
        check_prior(normal)
        return cls(normal, few_tastes(normal) if shares.few else np.zeros((0, len(normal.mean))), shares)

    def conditioned(self, statements: Sequence[Statement], axes: Sequence[Axis]) -> Mixture:
        """Condition on what a person stated; without a statement on these axes return ``self``.

        On a stated axis the points are moved and drawn together as the Gaussian is; on others they stay, because who
        says something of one axis tells little of the others. What a person states is theirs even if nothing else is.
        """
        normal = conditioned(self.normal, statements, axes)
        if normal is self.normal:
            return self
        is_stated = np.isin([axis.name for axis in axes], [statement.axis for statement in statements])
        narrower = np.sqrt(np.diag(normal.covariance) / np.diag(self.normal.covariance))
        moved = normal.mean + narrower * (self.points - self.normal.mean)
        return Mixture(normal, np.where(is_stated, moved, self.points), self.shares)


@dataclass(frozen=True, eq=False)
class Belief:
    """What answers leave of a mixture: the chance of each kind, of each point among them, and the fitted Gaussian."""

    prior: Mixture
    kinds: Float[Array, "3"]  # nothing, few and any
    chance: Float[Array, "S"]  # sums to 1
    fitted: Gaussian

    def collapse(self) -> Gaussian:
        """The one Gaussian of the same mean and covariance; of one kind alone that kind's own.

        Where nothing is personal at all it is the prior, so that what is stated stays as sure as it is.
        """
        nothing, few, many = self.kinds.tolist()
        if many == 1:
            return self.fitted
        if self.prior.shares.nothing == 1:
            return self.prior.normal
        points, everybodys = self.prior.points, self.prior.normal.mean
        of_points = self.chance @ points if few else everybodys
        mean = nothing * everybodys + few * of_points + many * self.fitted.mean
        covariance = many * (self.fitted.covariance + _square(self.fitted.mean - mean))
        covariance += nothing * _square(everybodys - mean)
        if few:
            deviations = points - mean
            covariance += few * (deviations * self.chance[:, None]).T @ deviations
            covariance += few * WIDTH * self.fitted.covariance
        return Gaussian(mean, (covariance + covariance.T) / 2)

    def draw(self, num: int, seed: int = 0) -> Draws:
        """Draw weights, points by systematic resampling, so that likely ones come as often as they should."""
        rng = np.random.default_rng(seed)
        num_none, num_points = (round(share * num) for share in self.kinds[:2].tolist())
        places = (rng.random() + np.arange(num_points)) / max(num_points, 1)
        last = max(len(self.prior.points) - 1, 0)
        which = np.minimum(np.searchsorted(np.cumsum(self.chance), places), last)
        which, counts = np.unique(which, return_counts=True)
        normal = mirrored(self.fitted, max(num - num_none - num_points, 0), rng)
        parts = (self.prior.normal.mean[np.newaxis][:num_none], self.prior.points[which], normal)
        times = np.concatenate([[num_none][:num_none], counts, np.ones(len(normal))]).astype(np.float64)
        return Draws(np.concatenate(parts), times / times.sum())


def few_tastes(normal: Gaussian, num: int = NUM_POINTS) -> Float[Array, "S d"]:
    """Make up people who feel about one to five axes, the same ones each time, in pairs that mirror each other.

    Their weights vary as much altogether as the Gaussian's, in fewer directions.
    """
    rng, d = np.random.default_rng(0), len(normal.mean)
    most = rng.integers(1, min(MOST_AXES, d) + 1, num // 2)
    cares = rng.random((num // 2, d)).argsort(axis=1).argsort(axis=1) < most[:, None]
    half = rng.standard_normal((num // 2, d)) * cares * np.sqrt(np.diag(normal.covariance) * (d / most)[:, None])
    return np.asarray(normal.mean + np.concatenate([half, -half]))


def believe(records: Sequence[Record], prior: Mixture, noise: Noise = _DEFAULT_NOISE) -> list[Belief]:
    """Fit some people at once; ``Belief.collapse`` is what ``fit`` would return of the Gaussian alone.

    Where nothing is all that there is, answers change nothing.

    Raises:
        InputError: as ``fit``.
        QuestionError: an unknown choice.
    """
    fitted = fit_block(records, prior.normal, noise)
    return [_weighed(record, posterior, prior, noise) for record, posterior in zip(records, fitted, strict=True)]


def log_probabilities(
    points: Float[Array, "S d"], v: Float[Array, "n d"], choice: Sequence[str], noise: Noise
) -> Float[Array, "S n"]:
    """Log-probability of each answer under each point, whose side bias is one draw of all people's."""
    outcome = encode(choice)
    sign = signs(v, outcome)
    return _of_points(points, sign[:, None] * v, VERDICTS[outcome], sign, noise)


def _of_points(
    points: Float[Array, "S d"], v: Float[Array, "n d"], verdict: Ints, side: Float[Array, "n"], noise: Noise
) -> Float[Array, "S n"]:
    half = np.random.default_rng(1).standard_normal(len(points) // 2)
    bias = noise.side * np.concatenate([half, -half, np.zeros(len(points) % 2)])
    u = points @ v.T
    if noise.side:
        u += bias[:, None] * side
    return log_prob(u, verdict, noise)


def _weighed(record: Record, fitted: Fitted, prior: Mixture, noise: Noise) -> Belief:
    shares = np.array([prior.shares.nothing, prior.shares.few, prior.shares.any])
    outcome = encode(record.choice)
    weight = np.ones(len(outcome)) if record.weight is None else record.weight
    num_told = int(says_something(outcome, weight).sum())
    even = np.full(len(prior.points), 1 / max(len(prior.points), 1))
    if not num_told or shares.max() == 1:
        return Belief(prior, shares if num_told else np.array([0.0, 0.0, 1.0]), even, fitted.weights)
    rows = canonical(record.v[np.newaxis], outcome[np.newaxis], weight[np.newaxis], num_told, noise.side > 0)
    person = _Person(rows.v[0], rows.verdict[0], rows.side[0], rows.weight[0], noise)
    evidence, log_chance = np.full(3, -np.inf), np.log(even)
    evidence[0] = person.of_nothing(prior.normal.mean)
    if prior.shares.few:
        log_chance = person.of_points(prior.points)
        evidence[1] = logsumexp(log_chance) - np.log(len(log_chance))
    evidence[2] = person.of_any(fitted, rows, prior.normal)
    with np.errstate(divide="ignore"):
        odds = evidence + np.log(shares)
    return Belief(prior, np.exp(odds - logsumexp(odds)), np.exp(log_chance - logsumexp(log_chance)), fitted.weights)


@dataclass(frozen=True, eq=False)
class _Person:
    """One person's informative answers in canonical order, and how likely they are."""

    v: Float[Array, "n d"]
    verdict: Ints
    side: Float[Array, "n"]
    weight: Float[Array, "n"]
    noise: Noise

    def of_nothing(self, mean: Float[Array, "d"]) -> float:
        """Log-probability of the answers of somebody with everybody's weights."""
        u = self.v @ mean + self.noise.side * _NODES[:, None] * self.side
        return float(logsumexp(log_prob(u, self.verdict, self.noise) @ self.weight, b=_NODE_SHARES))

    def of_points(self, points: Float[Array, "S d"]) -> Float[Array, "S"]:
        """Log-probability of the answers under each point."""
        return np.asarray(_of_points(points, self.v, self.verdict, self.side, self.noise) @ self.weight)

    def of_any(self, fitted: Fitted, rows: Rows, prior: Gaussian) -> float:
        """Log-probability of the answers of somebody drawn from the Gaussian."""
        bias, shift = float(rows.turn[0]) * fitted.bias, fitted.weights.mean - prior.mean
        u = self.v @ fitted.weights.mean + bias * self.side
        cost = float(shift @ np.linalg.solve(prior.covariance, shift))
        if self.noise.side:
            cost += (bias / self.noise.side) ** 2
        root = np.sqrt(self.weight * information(u, self.noise, self.verdict >= LITTLE))
        sides = self.noise.side * self.side
        kernel = self.v @ prior.covariance @ self.v.T + sides[:, None] * sides
        volume = np.linalg.slogdet(np.eye(len(u)) + root[:, None] * kernel * root)[1]
        height = log_prob(u[np.newaxis], self.verdict, self.noise)[0] @ self.weight
        return float(height) - (cost + float(volume)) / 2


def _square(shift: Float[Array, "d"]) -> Float[Array, "d d"]:
    return np.outer(shift, shift)
