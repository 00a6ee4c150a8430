"""What people are like, before their answers and after: a mixture of three kinds of people.

Either nothing sets a person apart from everybody's taste μ; or they have few tastes; or they may feel about any axis,
with normally distributed weights. Few tastes lie on the basis's own axes (``kernel``), or are those of made-up people,
the particles, where a log says what its people's tastes are like (``sparse``). Answers weigh each kind by its evidence.
So who answers at random, or as everybody does, stays near μ. What is left is drawn together to one Gaussian of the same
mean and covariance, because a profile is one. Its mean is what steers.

Without a log, how strongly people feel is assumed. What a person states is evidence before their answers: it conditions
whatever prior there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from personalign.basis import ASSUMED, Basis, Shares
from personalign.errors import InputError
from personalign.learn.kernel import FittedMany, common_posteriors, posteriors, sparse_posteriors
from personalign.learn.likelihood import turned, win_probability
from personalign.learn.rows import Rows
from personalign.types import SPREADS, Array, Bools, Gaussian, Noise, Statement
from personalign.words import Axis

SELF_AGREEMENT = 0.75  # the share of answers that are as the person's own weights say, where no log tells
FULL = 2.0  # standard deviations of the prior that position 1 stands for: those of its strongest twentieth
NEAR = 0.01  # of the prior's variance: a person is near a made-up one, not there
AT_ONCE = 1 << 17  # utilities of particles: what is made of them fits a cache
_NODES, _CHANCES = np.polynomial.hermite_e.hermegauss(3)  # over the side bias
_CHANCES = _CHANCES / _CHANCES.sum()
_PEOPLE, _DENSITY = np.polynomial.hermite_e.hermegauss(64)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Everybody's mean with ``shares.nothing``, few tastes with ``shares.few``, else the Gaussian.

    On the axes ``is_stated`` (d,) the weights of all kinds are the Gaussian's.
    """

    normal: Gaussian
    shares: Shares = ASSUMED
    particles: Float[Array, "S d"] | None = None
    is_stated: Bools | None = None

    @classmethod
    def of_people(cls, basis: Basis) -> Mixture:
        """The people of a basis."""
        return cls(basis.prior, basis.shares, basis.particles)

    def around(self, belief: Gaussian) -> Mixture:
        """One person whom a log has told of; where nothing is personal, all people stay as they are."""
        return self if self.shares.nothing == 1 else Mixture(belief, Shares(nothing=0.0, few=0.0))

    def conditioned(self, statements: Sequence[Statement], axes: Sequence[Axis]) -> Mixture:
        """Condition on what a person stated, which is theirs even if nothing else is, and as sure as they said it."""
        stated = np.isin([axis.name for axis in axes], [statement.axis for statement in statements])
        particles = None if self.particles is None else moved(self.particles, self.normal, statements, axes)
        return Mixture(conditioned(self.normal, statements, axes), self.shares, particles, stated)


class Mixed(NamedTuple):
    """Of U people: their posteriors, and the chances (U, 3) that nothing, few axes or any matter to them."""

    fitted: FittedMany
    chance: Array


def mixed_posteriors(rows: Rows, prior: Mixture, noise: Noise, *, with_covariance: bool = True) -> Mixed:
    """Weigh the kinds by their evidence, and draw everyone's posterior together to one Gaussian.

    Where nothing is all that there is, answers change nothing, and the Gaussian stays as it was.
    """
    normal, shares = prior.normal, np.array([prior.shares.nothing, prior.shares.few, prior.shares.any])
    if prior.is_stated is None:
        prior = replace(prior, is_stated=np.zeros(len(normal.mean), dtype=bool))
    if prior.shares.nothing == 1:
        same = _nothing(rows, prior, noise, with_covariance=with_covariance)
        whole = normal.covariance if with_covariance else np.diag(normal.covariance)
        same.covariance[:] = whole
        return Mixed(same, np.tile(shares, (len(rows.v), 1)))
    fits = [fit for fit, share in zip(_KINDS, shares.tolist(), strict=True) if share]
    kinds = [fit(rows, prior, noise, with_covariance=with_covariance) for fit in fits]
    odds = np.stack([kind.evidence for kind in kinds], axis=1) + np.log(shares[shares > 0])
    chance, evidence = _normalised(odds)
    weighed = list(zip(chance.T, kinds, strict=True))
    mean = _sum(share[:, None] * kind.mean for share, kind in weighed)
    bias = _sum(share * kind.bias for share, kind in weighed)
    of_all = np.zeros((len(mean), len(shares)))
    of_all[:, shares > 0] = chance
    covariances = _covariance if with_covariance else _variance
    return Mixed(FittedMany(mean, covariances(weighed, mean), bias, evidence), of_all)


def _nothing(rows: Rows, prior: Mixture, noise: Noise, *, with_covariance: bool) -> FittedMany:
    if not np.any(prior.is_stated):
        return common_posteriors(rows, prior.normal, noise, with_covariance=with_covariance)
    scale = np.tile(np.asarray(prior.is_stated, dtype=np.float64), (len(rows.v), 1))
    return posteriors(rows, prior.normal, noise, scale, with_covariance=with_covariance)


def _few(rows: Rows, prior: Mixture, noise: Noise, *, with_covariance: bool) -> FittedMany:
    is_stated = np.asarray(prior.is_stated)
    if prior.particles is None:
        return sparse_posteriors(rows, prior.normal, noise, is_stated, with_covariance=with_covariance)
    near = NEAR * prior.normal.covariance
    near += (1 - NEAR) * prior.normal.covariance * np.outer(is_stated, is_stated)
    width = max(1, AT_ONCE // (rows.v.shape[1] * len(prior.particles)))
    blocks = [rows.select(slice(i, i + width)) for i in range(0, len(rows.v), width)]
    parts = [_weigh(block, prior.particles, near, noise, with_covariance=with_covariance) for block in blocks]
    return FittedMany(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _any(rows: Rows, prior: Mixture, noise: Noise, *, with_covariance: bool) -> FittedMany:
    return posteriors(rows, prior.normal, noise, with_covariance=with_covariance)


_KINDS = (_nothing, _few, _any)


def _weigh(
    rows: Rows, particles: Float[Array, "S d"], near: Float[Array, "d d"], noise: Noise, *, with_covariance: bool
) -> FittedMany:
    """Weigh particles by the likelihood, exactly but for the side bias, for which three nodes stand."""
    nodes, shares = (_NODES, _CHANCES) if noise.side > 0 else (np.zeros(1), np.ones(1))
    sides = noise.side * nodes[:, None, None] * rows.side[:, None, :, None]
    u = (rows.v @ particles.T)[:, None] + sides  # (U, nodes, n, S)
    answers = turned(u, np.broadcast_to(rows.verdict[:, None, :, None], u.shape), noise).log_prob
    joint = (answers * rows.weight[:, None, :, None]).sum(axis=2) + np.log(shares / len(particles))[:, None]
    flat, evidence = _normalised(joint.reshape(len(joint), -1))
    chance = flat.reshape(joint.shape)
    each = chance.sum(axis=1)[:, None]
    mean = (each @ particles)[:, 0]
    bias = noise.side * rows.turn * (chance.sum(axis=2) * nodes).sum(axis=1)
    shift = particles - mean[:, None]
    if with_covariance:
        return FittedMany(mean, (each * shift.transpose(0, 2, 1)) @ shift + near, bias, evidence)
    return FittedMany(mean, (each @ shift**2)[:, 0] + np.diag(near), bias, evidence)


def _normalised(log_odds: Float[Array, "U k"]) -> tuple[Float[Array, "U k"], Float[Array, "U"]]:
    """Chances that sum to 1 along each person's row, and the logarithm of the odds' sum, however large they are."""
    most = log_odds.max(axis=1, keepdims=True)
    odds = np.exp(log_odds - most)
    total = odds.sum(axis=1, keepdims=True)
    return odds / total, (most + np.log(total))[:, 0]


def _covariance(weighed: Sequence[tuple[Array, FittedMany]], mean: Array) -> Array:
    """Within the kinds and between them, (U, d, d)."""
    shifts = [kind.mean - mean for _, kind in weighed]
    between = _sum(
        share[:, None, None] * shift[:, :, None] * shift[:, None, :]
        for (share, _), shift in zip(weighed, shifts, strict=True)
    )
    return between + _sum(share[:, None, None] * kind.covariance for share, kind in weighed)


def _variance(weighed: Sequence[tuple[Array, FittedMany]], mean: Array) -> Array:
    """The diagonals of that, (U, d)."""
    return _sum(share[:, None] * (kind.covariance + (kind.mean - mean) ** 2) for share, kind in weighed)


def _sum(parts: Iterable[Array]) -> Array:
    return np.asarray(sum(parts))


def prior_scale(reference: Float[Array, "m d"], noise: Noise, shape: Float[Array, "d d"] | None = None) -> float:
    """Return σ such that people drawn from N(0, σ²·shape) agree with themselves in three cases of four.

    Agreement is P(the answer is the side that ⟨w, v⟩ prefers | not a tie), over people and reference pairs; None as
    ``shape`` is the identity.
    """
    if not reference.shape[1]:
        raise InputError("the reference pairs have no axes, expected at least one; make them of replies that differ")
    if not np.isfinite(reference).all():
        raise InputError("the reference pairs hold NaN or Inf, expected finite features; measure the replies again")
    metric = np.eye(reference.shape[1]) if shape is None else shape
    lengths = np.sqrt(((reference @ metric) * reference).sum(axis=1))
    if not lengths.any():
        raise InputError("the reference pairs hold no difference, expected pairs of different replies; make them again")
    low, high = 0.0, 1e4
    if _agreement(high * lengths, noise) < SELF_AGREEMENT:
        raise InputError(f"with {noise} no one agrees with themselves in three cases of four; lower its lapse")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _agreement(middle * lengths, noise) < SELF_AGREEMENT else (low, middle)
    return (low + high) / 2


def make_prior(reference: Float[Array, "m d"], noise: Noise, shape: Float[Array, "d d"] | None = None) -> Gaussian:
    """Make the prior N(0, σ²·shape) with σ from ``prior_scale``."""
    d = reference.shape[1]
    metric = np.eye(d) if shape is None else shape
    return Gaussian(np.zeros(d), prior_scale(reference, noise, metric) ** 2 * metric)


def conditioned(prior: Gaussian, statements: Sequence[Statement], axes: Sequence[Axis]) -> Gaussian:
    """Condition a prior on what was stated; without a statement on these axes return ``prior`` itself.

    A statement is a pseudo-observation of one weight, w_j = m ± s, in standard deviations of the prior on that axis.
    For a normal prior this is exact.
    """
    index, target, gain = _observed(prior, statements, axes)
    if not len(index):
        return prior
    covariance = prior.covariance - gain @ prior.covariance[index]
    return Gaussian(prior.mean + gain @ (target - prior.mean[index]), (covariance + covariance.T) / 2)


def moved(
    particles: Float[Array, "S d"], prior: Gaussian, statements: Sequence[Statement], axes: Sequence[Axis]
) -> Float[Array, "S d"]:
    """Move each particle as ``conditioned`` moves the prior's mean (an ensemble's update: Evensen 1994)."""
    index, target, gain = _observed(prior, statements, axes)
    return np.asarray(particles + (target - particles[:, index]) @ gain.T)


def _observed(
    prior: Gaussian, statements: Sequence[Statement], axes: Sequence[Axis]
) -> tuple[list[int], Array, Float[Array, "d k"]]:
    """Which weights were observed, as what, and how far a surprise moves every weight."""
    places = {axis.name: j for j, axis in enumerate(axes)}
    usable = [statement for statement in statements if statement.axis in places]
    index = [places[statement.axis] for statement in usable]
    unit = np.sqrt(np.diag(prior.covariance))[index]
    target = unit * FULL * np.array([statement.position for statement in usable])
    spread = unit * np.array([SPREADS[statement.kind] for statement in usable])
    shared = prior.covariance[index]
    gain = np.linalg.solve(shared[:, index] + np.diag(spread**2), shared).T
    return index, target, np.asarray(gain, dtype=np.float64)


def _agreement(deviation: Array, noise: Noise) -> float:
    """Mean of P(answer = sign u | not a tie) over u ~ N(0, deviation²)."""
    u = np.abs(_PEOPLE[:, None] * deviation)
    return float((win_probability(u, noise) * _DENSITY[:, None]).sum() / (_DENSITY.sum() * len(deviation)))
