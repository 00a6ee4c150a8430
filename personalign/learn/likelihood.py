"""How likely an answer is, given the utility difference u of the reply on the left over the one on the right.

Rao and Kupper (1967): P(a) = σ(u − δ), P(b) = σ(−u − δ), and a tie takes the rest. A lapse ε is spread evenly over
the K outcomes that are offered, P = (1 − ε)·P_RaoKupper + ε/K. K is 3, or 2 where δ = 0, which says that ties aren't
offered. A tie that is given all the same counts as the limit of a narrow one: u is near 0. Everything is computed from
log σ or one exponential, so that |u| of 1e4 neither overflows nor divides 0 by 0.

Where a person is offered five choices, "much better" and "a little better" on either side, a second cut is m beyond
δ, as in an ordinal model: P(a++) = σ(u − δ − m), P(a+) = σ(u − δ) − P(a++). Lapses to a side fall on both grades alike.
So P(a++) + P(a+) is P(a), and a tie is as likely as where grades aren't offered.

The same likelihood is written four times, each as fast as its user needs. Tests compare them.

    form        gives                                      used by
    outcomes    log P, score and P of a, b and tie         ``ask``, ``prior``, ``predict``
    turned      log P, score and curvature of the answer,  ``kernel``, in every fit
                turned so that the left won or tied
    sides       P(a) and P(b)                              ``ask``, to look ahead
    information Fisher's, of an answer to come             ``ask``, ``kernel``
"""

from __future__ import annotations

from math import exp, expm1, log, log1p
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.special import expit, log_expit

from personalign.errors import InputError
from personalign.types import Array, Bools, Gaussian, Ints, Noise

A, B, TIE = 0, 1, 2  # the outcomes' order in the first dimension of every array here
LITTLE, MUCH = 5, 7  # a+ and a++ in the order of ``types.CHOICES``
# of every choice in that order: the verdict as if the left had won or tied, and the sign of u for that
VERDICTS = np.array([0, 0, 2, 3, 4, LITTLE, LITTLE, MUCH, MUCH])
SIGN = np.array([1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0, -1.0])
_NEVER = -1e3  # stands for log 0: its exponential is 0, but sums with it keep the differences of the rest
PROBIT = 1.702  # logit units in a probit one (Haley 1952)
_FAR = 600.0  # the largest |u| that is exponentiated: e^(600 + MAX_UTILITY) is still finite
_TINY = 1e-300  # the smallest probability that is divided by


class Turned(NamedTuple):
    """Of answers turned so that the left won or tied: log P, or its mean; its first and negative second derivative."""

    log_prob: Array
    score: Array
    curvature: Array


class Outcomes(NamedTuple):
    """Of each outcome, (3, *u): log P, its derivative by u, and P."""

    log_prob: Array
    score: Array
    prob: Array


def utility(v: Float[Array, "m d"], post: Gaussian) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """Mean and variance of ⟨w, v⟩ for every row of ``v``."""
    if v.ndim != 2 or v.shape[1] != len(post.mean):
        raise InputError(f"v has shape {v.shape}, expected (m, {len(post.mean)}): a column for each of the axes")
    if not np.isfinite(v).all():
        raise InputError("v holds NaN or Inf, expected finite features; measure the replies again")
    return v @ post.mean, np.maximum(((v @ post.covariance) * v).sum(axis=1), 0.0)


def outcomes(u: Float[Array, "*s"], noise: Noise) -> Outcomes:
    """Compute log-probabilities, scores d log P/du and probabilities of a, b and tie."""
    log_plain, score_plain = _rao_kupper(u, noise.tie)
    if noise.lapse == 0:
        return Outcomes(log_plain, score_plain, np.exp(log_plain))
    num, log_prob, score = 3 if noise.tie > 0 else 2, log_plain.copy(), score_plain.copy()
    log_kept = log1p(-noise.lapse) + log_plain[:num]
    log_prob[:num] = np.logaddexp(log_kept, log(noise.lapse) - log(num))
    score[:num] *= np.exp(log_kept - log_prob[:num])
    return Outcomes(log_prob, score, np.exp(log_prob))


def probabilities(u: Float[Array, "*s"], noise: Noise) -> Float[Array, "3 *s"]:
    """P(a), P(b) and P(tie)."""
    return outcomes(u, noise).prob


def information(u: Float[Array, "*s"], noise: Noise, is_graded: Bool[Bools, "*s"] | None = None) -> Float[Array, "*s"]:
    """Fisher information about u in one answer, Σ_c p′_c²/p_c."""
    plain = _information(u, noise)
    if is_graded is None or not is_graded.any():
        return plain
    each = outcomes(u, noise)
    grades = [graded(turn * u, np.full(u.shape, is_much), noise) for turn in (1, -1) for is_much in (False, True)]
    fine = each.prob[TIE] * each.score[TIE] ** 2 + sum(np.exp(grade.log_prob) * grade.score**2 for grade in grades)
    return np.where(is_graded, fine, plain)


def log_likelihood(
    u: Float[Array, "*s"], outcome: Integer[Ints, "*s"], noise: Noise
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Return log P(outcome | u) and its derivative by u."""
    each, pick, is_graded = outcomes(u, noise), np.minimum(outcome, TIE)[np.newaxis], outcome >= LITTLE
    log_prob, score = (np.take_along_axis(part, pick, 0)[0] for part in each[:2])
    if not is_graded.any():
        return log_prob, score
    grade = graded(SIGN[outcome] * u, VERDICTS[outcome] == MUCH, noise)
    return np.where(is_graded, grade.log_prob, log_prob), np.where(is_graded, SIGN[outcome] * grade.score, score)


def turned(u: Float[Array, "*s"], verdict: Integer[Ints, "*s"], noise: Noise) -> Turned:
    """The likelihood of verdicts: A, TIE, LITTLE or MUCH."""
    plain, is_graded = _turned(u, verdict == TIE, noise), verdict >= LITTLE
    if not np.any(is_graded):
        return plain
    grades = graded(u, verdict == MUCH, noise)
    return Turned(*(np.where(is_graded, fine, coarse) for fine, coarse in zip(grades, plain, strict=True)))


def _turned(u: Array, is_tie: Bools, noise: Noise) -> Turned:
    """Without grades, by one exponential: fits spend their time here."""
    near = np.clip(u, -_FAR, _FAR)
    odds, theta = np.exp(-near), exp(noise.tie)
    low = odds * theta
    prob = 1 / (1 + low)  # σ(u − δ)
    score = low * prob
    curvature, log_prob = prob * score, None
    meant, floor = 1 - noise.lapse, _floor(noise)
    is_unoffered = is_tie if noise.tie == 0 else False
    is_exact = floor < _TINY or bool(np.all(is_unoffered))
    if np.any(is_tie):
        high = odds + theta
        b, not_b = odds / high, theta / high  # σ(−u − δ), and the rest
        log_ties = log(-expm1(-2 * noise.tie)) if noise.tie > 0 else _NEVER
        if is_exact:
            log_prob = np.where(is_tie, log_ties + np.log(score) + np.log(not_b), np.log(prob))
        prob = np.where(is_tie, -expm1(-2 * noise.tie) * score * not_b, prob)
        curvature = np.where(is_tie, curvature + b * not_b, curvature)
        score = np.where(is_tie, score - not_b, score)
    if is_exact:
        log_prob = np.log(prob) if log_prob is None else log_prob
        return Turned(log_prob + (u - near) * score, score, curvature)
    plain = meant * prob
    prob = plain + floor
    share = plain / prob  # of such answers that aren't lapses
    mixed = Turned(np.log(prob), share * score, share * (curvature - (1 - share) * score**2))
    if np.any(is_unoffered):
        whole = _turned(u, is_tie, Noise(0.0, 0.0))
        return Turned(*(np.where(is_tie, tie, side) for tie, side in zip(whole, mixed, strict=True)))
    return mixed


def _information(u: Array, noise: Noise) -> Array:
    """Without grades, by one exponential: fits and questions take it of every answer."""
    odds, theta = np.exp(-np.clip(u, -_FAR, _FAR)), exp(noise.tie)
    low, high = odds * theta, odds + theta
    a, b = 1 / (1 + low), odds / high
    not_a, not_b = low * a, theta / high
    meant, floor = 1 - noise.lapse, _floor(noise)
    parts = [(a, not_a), (b, not_b)]
    if noise.tie > 0:
        parts.append((-expm1(-2 * noise.tie) * not_a * not_b, not_a - not_b))
    # p′²/p of m·p + ε/K, where p′ is p times its score
    terms = [meant * p * score**2 * (meant * p / (meant * p + floor) if floor else 1.0) for p, score in parts]
    return np.asarray(sum(terms))


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


def sides(u: Float[Array, "*s"], noise: Noise) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """P(a) and P(b), by one exponential each: looking ahead spends its time here."""
    meant, floor = 1 - noise.lapse, _floor(noise)
    return meant * expit(u - noise.tie) + floor, meant * expit(-u - noise.tie) + floor


def win_probability(u: Float[Array, "*s"], noise: Noise) -> Float[Array, "*s"]:
    """P(a | not a tie)."""
    prob = probabilities(u, noise)
    return np.asarray(prob[A] / (prob[A] + prob[B]))


def _rao_kupper(u: Array, tie: float) -> tuple[Array, Array]:
    """Log-probabilities and scores without lapses."""
    low, high = u - tie, u + tie
    log_ties = log(-np.expm1(-2 * tie)) if tie > 0 else _NEVER
    # 1 − σ(u − δ) − σ(−u − δ) = (1 − e^(−2δ))·σ(δ − u)·σ(δ + u): no cancellation
    log_prob = np.stack([log_expit(low), log_expit(-high), log_ties + (log_expit(-low) + log_expit(high))])
    not_a, not_b = expit(-low), expit(high)
    return log_prob, np.stack([not_a, -not_b, not_a - not_b])


def _floor(noise: Noise) -> float:
    """What lapses add to each outcome that is offered."""
    return noise.lapse / (3 if noise.tie > 0 else 2)
