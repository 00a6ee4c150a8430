"""The block kernel: the posteriors of people with as many answers each, side by side.

The mode of (w, b) is found by Newton's method with a line search, in the dual form whose systems are n × n
(Rasmussen and Williams 2006, algorithm 3.1). The mixture with lapses isn't log-concave: where Newton's direction
falls, Fisher's information replaces the curvature, as it does in the covariance. Fisher scoring alone takes three to
nine times as many steps. People at their mode leave the block. A person's bytes don't depend on the others: each
operation is elementwise, a sum along one person's row, or BLAS or LAPACK on one person's matrix at a time.

Where people feel about few axes, every axis has a variance of its own, λσ², with an inverse gamma prior: the weights
are Cauchy's. Mean fields find weights and variances in turn (automatic relevance determination: MacKay 1994, Tipping
2001). λ = (S + m)/2 follows from a weight's second moment m in units of σ², where S is ``TYPICAL``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from personalign.learn.likelihood import LITTLE, information, turned
from personalign.learn.rows import Rows
from personalign.types import Array, Bools, Gaussian, Ints, Noise

MAX_STEPS = 100
MAX_HALVINGS = 30
TOLERANCE = 1e-9  # of a utility difference: a smaller step changes nothing a person could see
TYPICAL = 0.5  # the λ of a person without answers: less than 1, because a Cauchy distribution has long tails
ROUNDS = 6  # of weights and variances; later ones change little
ROUNDING = 1e-14  # of a log-posterior: a smaller fall doesn't count


class FittedMany(NamedTuple):
    """Of U people: the weights' means and covariances, the side biases' modes, and the evidence."""

    mean: Array  # (U, d)
    covariance: Array  # (U, d, d), or (U, d) where only its diagonal is kept
    bias: Array  # (U,)
    evidence: Array  # (U,) log-probability of the answers under the prior

    def put(self, people: NDArray[np.generic], fitted: FittedMany) -> None:
        """Fill in the posteriors of some people."""
        for part, new in zip(self, fitted, strict=True):
            part[people] = new


def posteriors(
    rows: Rows, prior: Gaussian, noise: Noise, scale: Array | None = None, *, with_covariance: bool = True
) -> FittedMany:
    """Approximate everyone's posterior by Laplace's method, and its evidence (their equation 3.32).

    ``scale`` (U, d) multiplies the prior's deviations; 0 is somebody whom nothing sets apart.
    """
    scale = np.ones((len(rows.v), len(prior.mean))) if scale is None else scale
    return _Peak.climb(rows, prior, noise, scale).fitted(with_covariance=with_covariance)


def common_posteriors(rows: Rows, prior: Gaussian, noise: Noise, *, with_covariance: bool = True) -> FittedMany:
    """The posteriors of people whose weights are the prior's mean: only the side bias is their own."""
    sides, d = noise.side * rows.side, len(prior.mean)
    hill = _Hill(rows.v @ prior.mean, sides, rows.verdict, rows.weight, noise)
    mode = _to_mode(hill, None, MAX_STEPS)
    volume = np.log1p((hill.information(mode.u) * sides**2).sum(axis=1)) / 2
    return FittedMany(
        np.tile(prior.mean, (len(sides), 1)),
        np.zeros((len(sides), d, d) if with_covariance else (len(sides), d)),
        noise.side**2 * rows.turn * (mode.dual * rows.side).sum(axis=1) + 0.0,
        mode.height - volume,
    )


def sparse_posteriors(
    rows: Rows, prior: Gaussian, noise: Noise, is_fixed: Bools, *, with_covariance: bool = True
) -> FittedMany:
    """Approximate the posteriors of people who feel about few axes; the evidence is a bound, 0 without answers.

    The prior's own variance stays on the axes ``is_fixed`` (d,).
    """
    lam, dual = np.tile(np.where(is_fixed, 1.0, TYPICAL), (len(rows.v), 1)), None
    for _ in range(ROUNDS):
        peak = _Peak.climb(rows, prior, noise, np.sqrt(lam), dual, most=2 if dual is None else 1)
        lam = np.where(is_fixed, 1.0, (TYPICAL + peak.moment / np.diag(prior.covariance)) / 2)
        dual = peak.mode.dual
    fitted = _Peak.climb(rows, prior, noise, np.sqrt(lam), dual).fitted(with_covariance=with_covariance)
    # what the bound holds of λ beside: the divergence of its posterior from its prior, less that without answers
    price = ((np.log(lam / TYPICAL) + TYPICAL / lam - 1) * ~is_fixed).sum(axis=1) / 2
    return fitted._replace(evidence=fitted.evidence - price)


@dataclass(frozen=True, eq=False)
class _Peak:
    """The modes of U people, and the curvature there."""

    rows: Rows
    prior: Gaussian
    noise: Noise
    scale: Array  # (U, d)
    spread: Array  # (U, n, d) VΣ, of what is scaled
    mode: _Point
    factor: NDArray[np.floating[Any]]  # (U, n, n) the Cholesky factor of I + W^½ K W^½
    explained: Array  # (U, n, d) its product with itself is what answers take off Σ

    @classmethod
    def climb(
        cls, rows: Rows, prior: Gaussian, noise: Noise, scale: Array, dual: Array | None = None, most: int = MAX_STEPS
    ) -> _Peak:
        """Take so many steps at most, from the prior's mean or from where another climb ended."""
        v = rows.v * scale[:, None, :]
        spread, sides = v @ prior.covariance, noise.side * rows.side
        kernel = spread @ v.transpose(0, 2, 1)
        kernel += sides[:, :, None] * sides[:, None, :]
        hill = _Hill(rows.v @ prior.mean, kernel, rows.verdict, rows.weight, noise)
        mode = _to_mode(hill, dual, most)
        root = np.sqrt(hill.information(mode.u))
        factor = np.linalg.cholesky(_plus_one(root[:, :, None] * kernel * root[:, None, :]))
        # an inverse of n × n costs half of solving for d columns
        explained = (_invert(factor) * root[:, None, :]) @ spread
        return cls(rows, prior, noise, scale, spread, mode, factor, explained)

    @property
    def shift(self) -> Array:
        """How far the weights are from the prior's mean, (U, d)."""
        return np.asarray(self.scale * (self.mode.dual[:, None, :] @ self.spread)[:, 0])

    @property
    def moment(self) -> Array:
        """The second moments of that, (U, d)."""
        return np.asarray(self.shift**2 + self.variance)

    @property
    def variance(self) -> Array:
        """The covariances' diagonals, (U, d)."""
        explained = np.einsum("und,und->ud", self.explained, self.explained)
        return np.asarray(self.scale**2 * (np.diag(self.prior.covariance) - explained))

    def fitted(self, *, with_covariance: bool = True) -> FittedMany:
        """The weights' block of (prior precision + [V s]ᵀ W [V s])⁻¹, in which b is marginalised, and the rest."""
        return FittedMany(
            self.prior.mean + self.shift,
            self._covariance if with_covariance else self.variance,
            self.noise.side**2 * self.rows.turn * (self.mode.dual * self.rows.side).sum(axis=1) + 0.0,
            self.mode.height - np.log(np.diagonal(self.factor, axis1=1, axis2=2)).sum(axis=1),
        )

    @property
    def _covariance(self) -> Array:
        covariance = self.explained.transpose(0, 2, 1) @ self.explained
        np.subtract(self.prior.covariance, covariance, out=covariance)  # fresh memory would cost more
        covariance *= self.scale[:, :, None] * self.scale[:, None, :]
        return np.asarray(covariance)


@dataclass(frozen=True, eq=False)
class _Hill:
    """The log-posteriors of U people over u = Vμ + Ka, that is w = μ + ΣVᵀa."""

    start: Array  # (U, n) Vμ
    kernel: Array  # (U, n, n) K, or (U, n) f where K = f fᵀ
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


def _to_mode(hill: _Hill, dual: Array | None, most: int) -> _Point:
    first = np.zeros_like(hill.start) if dual is None else dual
    point = hill.point(first, hill.start + _apply(hill.kernel, first))
    arrived, people = _Point(*(np.empty_like(part) for part in point)), np.arange(len(hill.start))
    for _ in range(most):
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
    if kernel.ndim == 2:
        return _solve_rank_one(kernel, curvature, pull)
    try:
        return np.asarray(np.linalg.solve(_plus_one(curvature[:, :, None] * kernel), pull[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError:  # a person's negative curvature cancels the prior's exactly
        if len(pull) == 1:
            return np.zeros_like(pull)
        each = [_solve(kernel[i : i + 1], curvature[i : i + 1], pull[i : i + 1]) for i in range(len(pull))]
        return np.concatenate(each)


def _solve_rank_one(factor: Array, curvature: Array, pull: Array) -> Array:
    """The same for K = f fᵀ, by the formula of Sherman and Morrison."""
    gain = curvature * factor
    pivot = 1 + (gain * factor).sum(axis=1)
    share = (factor * pull).sum(axis=1) / np.where(pivot == 0, 1.0, pivot)
    return np.asarray((pull - gain * share[:, None]) * (pivot != 0)[:, None])


def _plus_one(matrices: Array) -> Array:
    """Add the identity to each matrix, in place."""
    n = matrices.shape[1]
    matrices.reshape(-1, n * n)[:, :: n + 1] += 1
    return matrices


def _invert(factor: NDArray[np.floating[Any]]) -> Array:
    """Invert triangular factors, (U, n, n), substituting for all people at once; LAPACK takes four times as long."""
    lower = factor.transpose(1, 2, 0).copy()
    inverse = np.zeros_like(lower)
    for k in range(len(lower)):
        inverse[k, k] = 1.0
        inverse[k, : k + 1] /= lower[k, k]
        inverse[k + 1 :, : k + 1] -= lower[k + 1 :, k, None] * inverse[k, : k + 1]
    return np.asarray(inverse.transpose(2, 0, 1).copy(), dtype=np.float64)


def _apply(kernel: Array, dual: Array) -> Array:
    if kernel.ndim == 2:
        return np.asarray(kernel * (kernel * dual).sum(axis=1)[:, None])
    return np.asarray((kernel @ dual[:, :, None])[:, :, 0])
