"""The gate: a profile leaves the population as far as it has shown that it predicts better.

Some people's answers teach nothing that others' don't, and a basis may hold nothing personal at all. So weights w are
drawn back to w′ = μ + κ(w − μ). The gain of predicting an answer by w over μ is counted before the answer is used
(prequentially: Dawid 1984). Both take the variance of the posterior before it, so that only the shift is judged:

    G(κ) = Σ_t log P(c_t | μ + κ(w_{t−1} − μ), Σ_{t−1}) − log P(c_t | μ, Σ_{t−1})

κ is one number per basis: the best of a grid for held-out people, or 0 where their mean gain isn't above 0 by 1.64
standard errors (95 %, one-sided). π, the share of people whom the shift describes, is the population's prior on the
gain: the maximum of Σ log(π·exp G + 1 − π) with a Beta(2, 2) prior. From ten answers on, Bayes' rule multiplies a
person's κ by π·exp G / (π·exp G + 1 − π). Predictions mixed so lose at most −log(1 − π) nats to the population's over
any answers. We mix the means instead, because a person is served one weight vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer
from scipy.special import expit, logit

from personalign.basis import Gate
from personalign.errors import InputError
from personalign.learn.fit import Record, fit_block
from personalign.learn.likelihood import log_likelihood
from personalign.learn.rows import encode
from personalign.types import INFORMATIVE, Array, Gaussian, Ints, Noise

FROM = 10  # answers; with fewer, a person's own record says nothing yet
LEAST = 0.1  # a person's own record takes at most nine tenths of their weights
SURE = 1.64  # standard errors that the mean gain has to be above 0
GRID = np.linspace(0, 1, 21)
_DEFAULT_NOISE = Noise()
_STEPS = 200  # of the share's fixed point


def openness(gate: Gate, gain: float, num_answers: int) -> float:
    """A person's own κ, from what their answers gained and how many of them were informative."""
    if num_answers < FROM:
        return gate.kappa
    return gate.kappa * max(LEAST, float(expit(logit(gate.share) + gain)))


def shrink(gate: Gate, post: Gaussian, prior: Gaussian, gain: float, num_answers: int) -> Gaussian:
    """Draw a posterior's mean back to the prior's; its covariance stays."""
    share = openness(gate, gain, num_answers)
    if share == 1.0 or post is prior:
        return post
    return Gaussian(prior.mean + share * (post.mean - prior.mean), post.covariance)


def choose_gate(scores: Float[Array, "people grid"]) -> Gate:
    """Choose κ and π by each person's log-probability for each κ of ``GRID``."""
    if len(scores) < 2:
        raise InputError(f"found {len(scores)} held-out people, expected two at least; hold out more of them")
    gains = scores - scores[:, :1]
    best = int(gains.mean(axis=0).argmax())
    gain = gains[:, best]
    is_real = gain.mean() > SURE * gain.std(ddof=1) / np.sqrt(len(gain))
    return Gate(float(GRID[best]), _share(gain)) if is_real else Gate(0.0, 0.5)


def gain_by(
    v: Float[Array, "d"], choice: str, before: Gaussian, prior: Gaussian, kappa: float, noise: Noise = _DEFAULT_NOISE
) -> float | None:
    """What one answer adds to the gain, given the posterior ``before`` it; None where it says nothing."""
    if choice not in INFORMATIVE:
        return None
    at_mu, shifted = _log_probabilities(v[np.newaxis], [choice], [before], prior, noise, np.array([0.0, kappa]))[0]
    return float(shifted - at_mu)


def prequential(
    record: Record,
    prior: Gaussian,
    noise: Noise,
    kappas: Float[Array, "k"] = GRID,
    prompt: Integer[Ints, "n"] | None = None,
) -> Float[Array, "t k"]:
    """Log-probability of each informative answer given those before it, times its weight, for every κ.

    Answers to one prompt compare the same texts: with ``prompt``, they aren't predicted from each other.
    """
    informative = np.array([i for i, choice in enumerate(record.choice) if choice in INFORMATIVE], dtype=np.int64)
    v, choices = record.v[informative], [record.choice[i] for i in informative]
    weight = np.ones(len(informative)) if record.weight is None else record.weight[informative]
    asked = np.arange(len(informative)) if prompt is None else prompt[informative]
    befores = [np.flatnonzero(asked[:t] != asked[t]) for t in range(len(informative))]
    records = [Record(v[before], [choices[i] for i in before], weight[before]) for before in befores]
    posts = [fitted.weights for fitted in fit_block(records, prior, noise)]
    return _log_probabilities(v, choices, posts, prior, noise, kappas) * weight[:, None]


def _log_probabilities(
    v: Float[Array, "t d"],
    choices: Sequence[str],
    posts: Sequence[Gaussian],
    prior: Gaussian,
    noise: Noise,
    kappas: Float[Array, "k"],
) -> Float[Array, "t k"]:
    """Log-probability of each answer by the posterior before it, drawn back by each κ."""
    shift = np.array([row @ (post.mean - prior.mean) for row, post in zip(v, posts, strict=True)])
    variance = np.array([row @ post.covariance @ row for row, post in zip(v, posts, strict=True)])
    u = (v @ prior.mean)[:, None] + shift[:, None] * kappas
    u = u / np.sqrt(1 + np.pi * np.maximum(variance, 0.0) / 8)[:, None]  # as in ``predict``
    return log_likelihood(u, np.repeat(encode(choices)[:, None], len(kappas), axis=1), noise)[0]


def _share(gain: Float[Array, "people"]) -> float:
    """The most likely π, by expectation and maximisation; one more person on either side is the Beta(2, 2)."""
    share = 0.5
    for _ in range(_STEPS):
        share = float((expit(logit(share) + gain).sum() + 1) / (len(gain) + 2))
    return share
