"""How likely an answer is where the utility difference is only known as u ~ N(mean, variance).

The variational fit of a population (``population``) needs E[log P], its slope by the mean and its curvature
−∂²E[log P]/∂mean²; both come from the score by Gauss–Hermite sums (Stein's identity), so that they are the
derivatives of the very sum that is the value. Rows are turned: the left side won or tied. It is the likelihood of
``likelihood``, which tells all three outcomes; here only the one that happened is computed.
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from personalign.types import Noise

NODES = 7
_AT, _SHARE = np.polynomial.hermite_e.hermegauss(NODES)
_SHARE = _SHARE / _SHARE.sum()
_SLOPES = _SHARE * _AT
_TINY = 1e-8  # of a standard deviation: below it the curvature would divide rounding errors


class Expected(NamedTuple):
    """Of each row: E[log P], its derivative by the mean, and the negative of the second one."""

    value: NDArray[np.float64]
    slope: NDArray[np.float64]
    curvature: NDArray[np.float64]


def expected(
    mean: Float[NDArray[np.float64], "*s"],
    variance: Float[NDArray[np.float64], "*s"],
    is_tie: Bool[NDArray[np.bool_], "*s"],
    noise: Noise,
) -> Expected:
    """Average log P(outcome | u) over u ~ N(mean, variance)."""
    spread = np.sqrt(np.maximum(variance, _TINY**2))
    u = mean[..., None] + spread[..., None] * _AT
    log_prob, score = _won(u, noise)
    if is_tie.any():
        log_prob[is_tie], score[is_tie] = _tied(u[is_tie], noise)
    return Expected(log_prob @ _SHARE, score @ _SHARE, np.maximum(-(score @ _SLOPES) / spread, 0.0))


def _won(u: NDArray[np.float64], noise: Noise) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = u - noise.tie
    small = np.exp(-np.abs(x))
    total = 1 + small
    score = np.where(x > 0, small, 1.0) / total
    log_prob = np.minimum(x, 0.0) - np.log(total)
    if noise.lapse == 0:
        return log_prob, score
    won = (1 - noise.lapse) * (np.where(x > 0, 1.0, small) / total)
    prob = won + noise.lapse / 3
    return np.log(prob), score * (won / prob)


def _tied(u: NDArray[np.float64], noise: Noise) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rao and Kupper's tie, (1 − e^(−2δ))·σ(δ − u)·σ(δ + u); its tie must be above 0."""
    low, high = u - noise.tie, u + noise.tie
    log_plain = log(-np.expm1(-2 * noise.tie)) - np.logaddexp(0, low) - np.logaddexp(0, -high)
    score = 1 / (1 + np.exp(np.minimum(high, 700.0))) - 1 / (1 + np.exp(np.minimum(-low, 700.0)))
    if noise.lapse == 0:
        return log_plain, score
    kept = (1 - noise.lapse) * np.exp(log_plain)
    prob = kept + noise.lapse / 3
    return np.log(prob), score * (kept / prob)
