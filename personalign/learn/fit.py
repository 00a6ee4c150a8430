"""Answers to a profile: the posterior over a person's reward weights, by Laplace's approximation.

One person or a hundred thousand take the same path, and get the same bytes on one machine. ``rows`` puts their answers
in a canonical order; ``kernel`` fits people with as many answers side by side. ``ask`` chooses the questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from personalign.basis import Shares
from personalign.errors import InputError
from personalign.learn.kernel import FittedMany
from personalign.learn.likelihood import utility, win_probability
from personalign.learn.mixture import Mixed, Mixture, mixed_posteriors
from personalign.learn.rows import SKIP, canonical, check_answers, encode, says_something
from personalign.types import Array, Gaussian, Ints, Noise, is_covariance

BLOCK = 1 << 17  # numbers of v that are fitted at once: fewer cost more calls, more leave a core's cache
_DEFAULT_NOISE = Noise()


@dataclass(frozen=True, eq=False)
class Fitted:
    """A person's weights and the side bias b that was marginalised out of them.

    ``evidence`` is the log-probability of their answers, ``chance`` that of each kind in a mixture: nothing, few, any.
    """

    weights: Gaussian
    bias: float
    evidence: float
    chance: Float[Array, "3"]


@dataclass(frozen=True, eq=False)
class Record:
    """One person's answers: v (n, d) left minus right, n choices, and weights (n,) or None for 1 each."""

    v: Array
    choice: Sequence[str]
    weight: Array | None = None


def fit(
    v: Float[Array, "n d"],
    choice: Sequence[str],
    prior: Gaussian | Mixture,
    noise: Noise = _DEFAULT_NOISE,
    weight: Float[Array, "n"] | None = None,
) -> Gaussian:
    """Fit one person's weights to their answers; without an informative answer return the prior's Gaussian itself.

    ``v`` is φ(left) − φ(right); ``weight`` discounts answers, by age or because they were feedback.

    Raises:
        InputError: wrong shapes, NaN or Inf, more than 100 answers or 64 axes, a prior that isn't a distribution.
        QuestionError: an unknown choice.
    """
    return fit_block([Record(v, choice, weight)], prior, noise)[0].weights


def fit_block(records: Sequence[Record], prior: Gaussian | Mixture, noise: Noise = _DEFAULT_NOISE) -> list[Fitted]:
    """Fit people at once; each gets the bytes that a fit of their own would give."""
    mixture = _checked(prior)
    v, outcome, weight = _stack(records, len(mixture.normal.mean))
    fitted, chance = _fit_checked(v, outcome, weight, mixture, noise)
    return [
        Fitted(
            Gaussian(fitted.mean[i], fitted.covariance[i]) if row.any() else mixture.normal,
            float(fitted.bias[i]),
            float(fitted.evidence[i]),
            chance[i],
        )
        for i, row in enumerate(says_something(outcome, weight))
    ]


def fit_many(
    v: Float[Array, "U n d"],
    outcome: Int[Ints, "U n"],
    prior: Gaussian | Mixture,
    noise: Noise = _DEFAULT_NOISE,
    weight: Float[Array, "U n"] | None = None,
    covariance: bool = False,
) -> FittedMany:
    """Fit people in bulk, arrays in and arrays out; the bytes and errors are those of ``fit``.

    ``outcome`` numbers the choices in the order of ``types.CHOICES``: 0 is a, 1 b, 2 a tie, from 5 on grades. 3 and 4
    say nothing, and fill up the rows of people who answered less. People who said nothing get the prior. Without
    ``covariance`` its diagonal alone is computed, up to rounding.
    """
    mixture = _checked(prior)
    check_answers(v, outcome, weight, len(mixture.normal.mean))
    weight = np.ones(outcome.shape) if weight is None else weight
    return _fit_checked(v, outcome, weight, mixture, noise, with_covariance=covariance).fitted


def predict(v: Float[Array, "m d"], post: Gaussian, noise: Noise = _DEFAULT_NOISE) -> Float[Array, "m"]:
    """P(left preferred | not a tie) for an unbiased person, (m,).

    Uncertainty about the weights draws it towards ½ by MacKay's (1992) factor 1/√(1 + πs²/8), s² = vᵀΣv.
    """
    mean, variance = utility(v, post)
    return win_probability(mean / np.sqrt(1 + np.pi * variance / 8), noise)


def check_prior(prior: Gaussian) -> None:
    """Refuse what isn't a proper normal distribution over the weights."""
    d = prior.mean.size
    if d == 0:
        raise InputError("the prior has no axes, expected at least one; make the basis from replies that differ")
    if prior.mean.shape != (d,) or prior.covariance.shape != (d, d):
        raise InputError(
            f"the prior has shapes {prior.mean.shape} and {prior.covariance.shape}, expected (d,) and (d, d)"
        )
    if not (np.isfinite(prior.mean).all() and np.isfinite(prior.covariance).all()):
        raise InputError("the prior holds NaN or Inf, expected finite numbers")
    if not is_covariance(prior.covariance):
        raise InputError(
            "the prior's covariance isn't symmetric and positive definite; use for example σ² times identity"
        )


def _stack(records: Sequence[Record], num_axes: int) -> tuple[Array, Ints, Array]:
    """Check records and stack their v, outcomes and weights, filled up with answers that say nothing."""
    outcomes = [encode(record.choice) for record in records]
    shape = (len(records), max((len(row) for row in outcomes), default=0))
    v, outcome, weight = np.zeros((*shape, num_axes)), np.full(shape, SKIP), np.ones(shape)
    for i, (record, row) in enumerate(zip(records, outcomes, strict=True)):
        check_answers(record.v, row, record.weight, num_axes)
        v[i, : len(row)], outcome[i, : len(row)] = record.v, row
        weight[i, : len(row)] = 1.0 if record.weight is None else record.weight
    return v, outcome, weight


def _checked(prior: Gaussian | Mixture) -> Mixture:
    """A Gaussian alone is a mixture in which any axes matter to everybody."""
    mixture = Mixture(prior, Shares(0.0, 0.0)) if isinstance(prior, Gaussian) else prior
    check_prior(mixture.normal)
    return mixture


def _fit_checked(
    v: Array, outcome: Ints, weight: Array, prior: Mixture, noise: Noise, *, with_covariance: bool = True
) -> Mixed:
    num_people, _, d = v.shape
    covariance = np.empty((num_people, d, d) if with_covariance else (num_people, d))
    fitted = FittedMany(np.empty((num_people, d)), covariance, np.empty(num_people), np.empty(num_people))
    chance = np.tile([prior.shares.nothing, prior.shares.few, prior.shares.any], (num_people, 1))
    counts = says_something(outcome, weight).sum(axis=1)
    whole = prior.normal.covariance if with_covariance else np.diag(prior.normal.covariance)
    fitted.put(counts == 0, FittedMany(prior.normal.mean, whole, np.zeros(()), np.zeros(())))
    for people, size in _blocks(counts, d):
        rows = canonical(v[people], outcome[people], weight[people], size, noise.side > 0)
        mixed = mixed_posteriors(rows, prior, noise, with_covariance=with_covariance)
        fitted.put(people, mixed.fitted)
        chance[people] = mixed.chance
    return Mixed(fitted, chance)


def _blocks(counts: Ints, d: int) -> Iterator[tuple[Ints, int]]:
    """Blocks of people with as many informative answers each, and how many answers these are."""
    for size in np.unique(counts[counts > 0]).tolist():
        people = np.flatnonzero(counts == size)
        width = max(1, BLOCK // (size * d))
        yield from ((people[i : i + width], size) for i in range(0, len(people), width))
