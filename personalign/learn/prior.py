"""The prior of a basis made without human data: how strongly people are assumed to feel about the axes.

What a person states is evidence that comes before their answers: it conditions whatever prior there is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from personalign.errors import InputError
from personalign.learn.likelihood import win_probability
from personalign.types import SPREADS, Array, Gaussian, Noise, Statement
from personalign.words import Axis

SELF_AGREEMENT = 0.75  # the share of answers that are as the person's own weights say
FULL = 2.0  # standard deviations of the prior that position 1 stands for: those of its strongest twentieth
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(64)


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
    u = np.abs(_NODES[:, None] * deviation)
    return float((win_probability(u, noise) * _WEIGHTS[:, None]).sum() / (_WEIGHTS.sum() * len(deviation)))
