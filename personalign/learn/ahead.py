"""What an answer would do to the forecasts: how often they would be right after it, seen from before it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.learn.likelihood import sides
from personalign.types import Gaussian, Noise


class Draws(NamedTuple):
    """Weights (S, d) that stand for a posterior, and the chance of each (S,)."""

    weights: Float[NDArray[np.float64], "S d"]
    chance: Float[NDArray[np.float64], "S"]


def draw(post: Gaussian, num: int) -> Draws:
    """Draw weights from a posterior, the same ones each time."""
    return Draws(mirrored(post, num, np.random.default_rng(0)), np.full(num, 1 / num))


def mirrored(post: Gaussian, num: int, rng: np.random.Generator) -> Float[NDArray[np.float64], "S d"]:
    """Draws in pairs that mirror each other at the mean, so that the draws' mean is the Gaussian's."""
    values, vectors = np.linalg.eigh(post.covariance)
    half = rng.standard_normal(((num + 1) // 2, len(values)))
    plain = np.concatenate([half, -half])[:num]
    return np.asarray(post.mean + (plain * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def accuracy_after(
    known: Draws,
    pairs: Float[NDArray[np.float64], "m d"],
    reference: Float[NDArray[np.float64], "r d"],
    noise: Noise,
) -> Float[NDArray[np.float64], "m"]:
    """Expected share of reference pairs whose answers are forecast right once a pair was answered; for each pair.

    The person is one of the weights ``known``: after every answer that a pair may get these are weighed by its
    likelihood, and forecast by their vote. That is the knowledge gradient (Frazier et al. 2008) of accuracy. Ties
    among the reference pairs aren't counted.
    """
    lean = known.chance[:, None] * _lean(known.weights @ reference.T, noise)  # (S, r)
    a, b = sides(pairs @ known.weights.T, noise)  # (m, S)
    right = 0.5 + np.abs(a @ lean).mean(axis=1) + np.abs(b @ lean).mean(axis=1)
    return np.asarray(right + np.abs((1 - a - b) @ lean).mean(axis=1) if noise.tie > 0 else right)


def _lean(u: NDArray[np.float64], noise: Noise) -> NDArray[np.float64]:
    """P(a | not a tie) − ½."""
    a, b = sides(u, noise)
    return np.asarray(a / (a + b) - 0.5)
