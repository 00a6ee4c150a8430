"""The block kernel: the posteriors of people with as many answers each, side by side.

The mode of (w, b) is found by Newton's method with a line search, in the dual form whose systems are n × n
(Rasmussen and Williams 2006, algorithm 3.1). The mixture with lapses isn't log-concave: where Newton's direction
falls, Fisher's information replaces the curvature, as it does in the covariance. Fisher scoring alone takes three to
nine times as many steps. People at their mode leave the block. A person's bytes don't depend on the others: each
operation is elementwise, a sum along one person's row, or BLAS or LAPACK on one person's matrix at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from personalign.learn.grades import LITTLE
from personalign.learn.likelihood import information, turned
from personalign.learn.rows import Rows
from personalign.types import Array, Gaussian, Ints, Noise

MAX_STEPS = 100
MAX_HALVINGS = 30
TOLERANCE = 1e-9  # of a utility difference: a smaller step changes nothing a person could see
ROUNDING = 1e-14  # of a log-posterior: a smaller fall doesn't count


class FittedMany(NamedTuple):
    """Of U people: the weights' means, their covariances where asked for, and the side biases' modes."""

    mean: Array  # (U, d)
    covariance: Array | None  # (U, d, d)
    bias: Array  # (U,)

    def put(self, people: NDArray[np.generic], fitted: FittedMany) -> None:
        """Fill in the posteriors of some people."""
        self.mean[people], self.bias[people] = fitted.mean, fitted.bias
        if self.covariance is not None:
            self.covariance[people] = fitted.covariance


def posteriors(rows: Rows, prior: Gaussian, noise: Noise, with_covariance: bool) -> FittedMany:
    """Approximate everyone's posterior by Laplace's method."""
    spread = rows.v @ prior.covariance  # (U, n, d): VΣ
    sides = noise.side * rows.side
    kernel = spread @ rows.v.transpose(0, 2, 1) + sides[:, :, None] * sides[:, None, :]
    hill = _Hill(rows.v @ prior.mean, kernel, rows.verdict, rows.weight, noise)
    mode = _to_mode(hill)
    return FittedMany(
        prior.mean + (mode.dual[:, None, :] @ spread)[:, 0],
        _covariance(kernel, hill.information(mode.u), spread, prior) if with_covariance else None,
        noise.side * rows.turn * (mode.dual * sides).sum(axis=1) + 0.0,
    )


@dataclass(frozen=True, eq=False)
class _Hill:
    """The log-posteriors of U people over u = Vμ + Ka, that is w = μ + ΣVᵀa."""

    start: Array  # (U, n) Vμ
    kernel: Array  # (U, n, n) K
    verdict: Ints  # (U, n)
    weight: Array  # (U, n)
    noise: Noise

    def select(self, people: NDArray[np.generic]) -> _Hill:
        return _Hill(self.start[people], self.kernel[people], self.verdict[people], self.weight[people], self.noise)

    def point(self, dual: Array, u: Array) -> _Point:
        answer = turned(u, self.verdict, self.noise)
        height = (self.weight * answer.log_prob - dual * (u - self.start) / 2).sum(axis=1)
        return _Point(dual, u, height, self.weight * answer.score, self.weight * answer.curvature)

    def information(self, u: Array) -> Array:
        """Fisher's information about u, the expected curvature."""
        return self.weight * information(u, self.noise, self.verdict >= LITTLE)


class _Point(NamedTuple):
    """Where U people stand on their hills."""

    dual: Array  # (U, n) a
    u: Array  # (U, n)
    height: Array  # (U,)
    score: Array  # (U, n) the log-likelihood's derivative by u
    curvature: Array  # (U, n) its negative second derivative

    def select(self, people: NDArray[np.generic]) -> _Point:
        return _Point(*(part[people] for part in self))

    def put(self, people: NDArray[np.generic], other: _Point) -> None:
        for part, new in zip(self, other, strict=True):
            part[people] = new


def _to_mode(hill: _Hill) -> _Point:
    point = hill.point(np.zeros_like(hill.start), hill.start)
    arrived, people = _Point(*(np.empty_like(part) for part in point)), np.arange(len(hill.start))
    for _ in range(MAX_STEPS):
        moved = _climb(hill, point)
        moving = np.abs(moved.u - point.u).max(axis=1) > TOLERANCE
        point = moved
        if not moving.all():
            arrived.put(people[~moving], point.select(~moving))
            people, hill, point = people[moving], hill.select(moving), point.select(moving)
        if not len(people):
            break
    arrived.put(people, point)
    return arrived


def _climb(hill: _Hill, point: _Point) -> _Point:
    """Take each person's largest step of 1, ½, ¼, … that doesn't lower their log-posterior, or none."""
    step, shift = _direction(hill, point)
    moved = hill.point(point.dual + step, point.u + shift)
    floor = point.height - ROUNDING * (1 + np.abs(point.height))
    low, share = np.flatnonzero(moved.height < floor), 1.0
    for _ in range(MAX_HALVINGS):
        if not len(low):
            break
        share /= 2
        moved.put(low, hill.select(low).point(point.dual[low] + share * step[low], point.u[low] + share * shift[low]))
        low = low[moved.height[low] < floor[low]]
    moved.put(low, point.select(low))
    return moved


def _direction(hill: _Hill, point: _Point) -> tuple[Array, Array]:
    """Newton's step of a and what it does to u, or Fisher's where Newton's doesn't climb."""
    pull = point.score - point.dual
    step = _solve(hill.kernel, point.curvature, pull)
    shift = _apply(hill.kernel, step)
    falls = np.flatnonzero((pull * shift).sum(axis=1) <= 0)
    if len(falls):
        part = hill.select(falls)
        step[falls] = _solve(part.kernel, part.information(point.u[falls]), pull[falls])
        shift[falls] = _apply(part.kernel, step[falls])
    return step, shift


def _solve(kernel: Array, curvature: Array, pull: Array) -> Array:
    """Solve (I + WK) Δa = pull; 0 for people whose system is singular."""
    system = curvature[:, :, None] * kernel
    n = system.shape[1]
    system.reshape(-1, n * n)[:, :: n + 1] += 1
    try:
        return np.asarray(np.linalg.solve(system, pull[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError:  # a person's negative curvature cancels the prior's exactly
        if len(pull) == 1:
            return np.zeros_like(pull)
        each = [_solve(kernel[i : i + 1], curvature[i : i + 1], pull[i : i + 1]) for i in range(len(pull))]
        return np.concatenate(each)


def _apply(kernel: Array, dual: Array) -> Array:
    return np.asarray((kernel @ dual[:, :, None])[:, :, 0])


def _covariance(kernel: Array, information: Array, spread: Array, prior: Gaussian) -> Array:
    """The weights' block of (prior precision + [V s]ᵀ W [V s])⁻¹, in which b is marginalised; (U, d, d)."""
    root = np.sqrt(information)
    factor = np.linalg.cholesky(np.eye(kernel.shape[1]) + root[:, :, None] * kernel * root[:, None, :])
    explained = np.linalg.solve(factor, root[:, :, None] * spread)
    gain = explained.transpose(0, 2, 1) @ explained
    np.subtract(prior.covariance, gain, out=gain)  # fresh memory would cost more than the difference
    return gain
