"""How likely an answer is, given the utility difference u of the reply on the left over the one on the right.

Rao and Kupper (1967): P(a) = σ(u − δ), P(b) = σ(−u − δ), and a tie takes the rest, mixed with a lapse:
P = (1 − ε)·P_RaoKupper + ε/3. Everything is computed from log σ, so that |u| of 1e4 neither overflows nor
divides 0 by 0.
"""

from __future__ import annotations

from math import exp, expm1, log, log1p
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from numpy.typing import NDArray
from scipy.special import expit, log_expit

from personalign.types import Noise

A, B, TIE = 0, 1, 2  # the outcomes' order in the first dimension of every array here
_NEVER = -1e3  # stands for log 0: its exponential is 0, yet sums with it still tell differences of the rest
_FAR = 600.0  # |u| beyond which exponentials are taken as there: e^(600 + MAX_UTILITY) is still finite
_TINY = 1e-300  # probabilities below it aren't divided by


class Outcomes(NamedTuple):
    """Of each outcome, (3, *u): log P, its derivative by u, and P."""

    log_prob: NDArray[np.float64]
    score: NDArray[np.float64]
    prob: NDArray[np.float64]


class Turned(NamedTuple):
    """Of answers turned so that the left side won or tied: log P, and its first and negative second derivative by u."""

    log_prob: NDArray[np.float64]
    score: NDArray[np.float64]
    curvature: NDArray[np.float64]


def outcomes(u: Float[NDArray[np.float64], "*s"], noise: Noise) -> Outcomes:
    """Compute log-probabilities, scores d log P/du and probabilities of a, b and tie."""
    log_plain, score_plain = _rao_kupper(u, noise.tie)
    if noise.lapse == 0:
        return Outcomes(log_plain, score_plain, np.exp(log_plain))
    log_kept = log1p(-noise.lapse) + log_plain
    log_prob = np.logaddexp(log_kept, log(noise.lapse) - log(3))
    return Outcomes(log_prob, score_plain * np.exp(log_kept - log_prob), np.exp(log_prob))


def probabilities(u: Float[NDArray[np.float64], "*s"], noise: Noise) -> Float[NDArray[np.float64], "3 *s"]:
    """P(a), P(b) and P(tie)."""
    return outcomes(u, noise).prob


def information(u: Float[NDArray[np.float64], "*s"], noise: Noise) -> Float[NDArray[np.float64], "*s"]:
    """Fisher information about u in one answer, Σ_c p′_c²/p_c."""
    of = outcomes(u, noise)
    return np.asarray((of.prob * of.score**2).sum(axis=0))


def log_likelihood(
    u: Float[NDArray[np.float64], "*s"], outcome: Integer[NDArray[np.int64], "*s"], noise: Noise
) -> tuple[Float[NDArray[np.float64], "*s"], Float[NDArray[np.float64], "*s"]]:
    """Return log P(outcome | u) and its derivative by u."""
    of = outcomes(u, noise)
    pick = outcome[np.newaxis]
    return np.take_along_axis(of.log_prob, pick, 0)[0], np.take_along_axis(of.score, pick, 0)[0]


def turned(u: Float[NDArray[np.float64], "*s"], is_tie: Bool[NDArray[np.bool_], "*s"], noise: Noise) -> Turned:
    """Tell of the one outcome that happened, by one exponential: fits spend their time here."""
    near = np.clip(u, -_FAR, _FAR)
    odds, theta = np.exp(-near), exp(noise.tie)
    low, high = odds * theta, odds + theta
    a, b = 1 / (1 + low), odds / high  # σ(u − δ), σ(−u − δ)
    not_a, not_b = low * a, theta / high
    slope_a, slope_b, score_tie = a * not_a, b * not_b, not_a - not_b
    score, curvature = np.where(is_tie, score_tie, not_a), np.where(is_tie, slope_a + slope_b, slope_a)
    kept, floor = 1 - noise.lapse, noise.lapse / 3
    if floor < _TINY:
        log_ties = log(-expm1(-2 * noise.tie)) if noise.tie > 0 else _NEVER
        log_prob = np.where(is_tie, log_ties + np.log(not_a) + np.log(not_b), np.log(a))
        return Turned(log_prob + (u - near) * score, score, curvature)
    plain = kept * np.where(is_tie, -expm1(-2 * noise.tie) * not_a * not_b, a)
    prob = plain + floor
    share = plain / prob  # of these answers that are no lapse
    return Turned(np.log(prob), share * score, share * (curvature - (1 - share) * score**2))


def sides(
    u: Float[NDArray[np.float64], "*s"], noise: Noise
) -> tuple[Float[NDArray[np.float64], "*s"], Float[NDArray[np.float64], "*s"]]:
    """P(a) and P(b) alone, by one exponential each: looking ahead spends its time here."""
    kept, floor = 1 - noise.lapse, noise.lapse / 3
    return kept * expit(u - noise.tie) + floor, kept * expit(-u - noise.tie) + floor


def win_probability(u: Float[NDArray[np.float64], "*s"], noise: Noise) -> Float[NDArray[np.float64], "*s"]:
    """P(a | not a tie)."""
    prob = probabilities(u, noise)
    return np.asarray(prob[A] / (prob[A] + prob[B]))


def _rao_kupper(u: NDArray[np.float64], tie: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-probabilities and scores without lapses."""
    low, high = u - tie, u + tie
    log_ties = log(-np.expm1(-2 * tie)) if tie > 0 else _NEVER
    # 1 − σ(u − δ) − σ(−u − δ) = (1 − e^(−2δ))·σ(δ − u)·σ(δ + u): no cancellation
    log_prob = np.stack([log_expit(low), log_expit(-high), log_ties + (log_expit(-low) + log_expit(high))])
    not_a, not_b = expit(-low), expit(high)
    return log_prob, np.stack([not_a, -not_b, not_a - not_b])
