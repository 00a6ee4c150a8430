"""Grades: an answer "much better" or "a little better", where a person is offered five choices instead of three.

A second cut is m beyond Rao and Kupper's δ, as in an ordinal model: P(a++) = σ(u − δ − m), P(a+) = σ(u − δ) − P(a++).
Lapses to a side fall on both grades alike. So P(a++) + P(a+) is P(a), and a tie is as likely as where grades aren't
offered. ``likelihood`` has the rest.
"""

from __future__ import annotations

from math import expm1, log, log1p
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit, log_expit

from personalign.types import Array, Bools, Noise

LITTLE, MUCH = 5, 7  # a+ and a++ in the order of ``types.CHOICES``
# of every choice in that order: the verdict as if the left had won or tied, and the sign of u for that
VERDICTS = np.array([0, 0, 2, 3, 4, LITTLE, LITTLE, MUCH, MUCH])
SIGN = np.array([1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0, -1.0])


class Turned(NamedTuple):
    """Of answers turned so that the left won or tied: log P, or its mean; its first and negative second derivative."""

    log_prob: Array
    score: Array
    curvature: Array


def graded(u: Float[Array, "*s"], is_much: Bool[Bools, "*s"], noise: Noise) -> Turned:
    """The likelihood of "much better" and of "a little better"."""
    low, high = u - noise.tie, u - noise.tie - noise.much
    # σ(x) − σ(x − m) = (1 − e^(−m))·σ(x)·σ(m − x)
    log_prob = np.where(is_much, log_expit(high), log(-expm1(-noise.much)) + (log_expit(low) + log_expit(-high)))
    score = np.where(is_much, expit(-high), expit(-low) - expit(high))
    curvature = np.where(is_much, 0.0, expit(low) * expit(-low)) + expit(high) * expit(-high)
    if noise.lapse == 0:
        return Turned(log_prob, score, curvature)
    log_kept = log1p(-noise.lapse) + log_prob
    mixed = np.logaddexp(log_kept, log(noise.lapse) - log(6 if noise.tie > 0 else 4))
    share = np.exp(log_kept - mixed)
    return Turned(mixed, share * score, share * (curvature - (1 - share) * score**2))
