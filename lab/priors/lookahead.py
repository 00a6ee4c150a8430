"""Which pair of known items to ask about: the one whose answer would settle most of the forecasts in doubt.

D-optimality learns about all of a person's weights alike, also those that decide nothing. Here a question counts for
what it does to pairs of reference, and most for those whose sign is in doubt: an answer to v takes on average about
s·(xᵀΣv)²/(1 + s·vᵀΣv) off the variance of x's utility, s being Fisher's information in the answer, and the chance
of a wrong sign of x falls with that variance as the density of its utility at 0 is high. All of it is in closed form
and costs one small matrix an item, so that it is as fast as D-optimality where there are more pairs than items.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import NDArray
from scipy.special import ndtr

from personalign.types import Gaussian

PROBIT = 1.702  # logit units in a probit one (Haley 1952): σ(1.702·x) is Φ(x) to 0.01
_TINY = 1e-12  # a variance under which a pair is settled

Matrix = NDArray[np.float64]


def pair_moments(
    post: Gaussian,
    items: Float[NDArray[np.float64], "J d"],
    pairs: Integer[NDArray[np.int64], "m 2"],
    odd_variance: Float[NDArray[np.float64], "J"],
) -> tuple[Float[NDArray[np.float64], "m"], Float[NDArray[np.float64], "m"]]:
    """Mean and variance of each pair's utility difference; ``own`` is each item's variance that no axis accounts for.

    ``pairs`` are rows of ``items``, left and right.
    """
    mean = items @ post.mean
    return mean[pairs[:, 0]] - mean[pairs[:, 1]], _of_pairs(
        items @ post.covariance @ items.T + np.diag(odd_variance), pairs
    )


def settled(
    post: Gaussian,
    items: Float[NDArray[np.float64], "J d"],
    pairs: Integer[NDArray[np.int64], "m 2"],
    odd_variance: Float[NDArray[np.float64], "J"],
    reference: Float[NDArray[np.float64], "r c"],
) -> Float[NDArray[np.float64], "m"]:
    """About how many wrong signs of the reference pairs each pair's answer would set right; a scale, not a count.

    Reference pairs lie on the first c of the d axes: what is an item's own tells nothing of other items. Answers have
    logistic noise of scale 1, which is taken to be a normal one: then an answer's mean effect on a variance is exact.
    """
    mean, variance = pair_moments(post, items, pairs, odd_variance)
    total = variance + PROBIT**2
    z = mean / np.sqrt(total)
    won = ndtr(z)
    information = np.exp(-(z**2)) / (2 * np.pi) / np.maximum(won * (1 - won), _TINY) / total
    c = reference.shape[1]
    centre = reference @ post.mean[:c]
    spread = np.maximum(((reference @ post.covariance[:c, :c]) * reference).sum(axis=1), _TINY)
    doubt = np.exp(-(centre**2) / spread / 2) / np.sqrt(spread)
    shared = reference @ (post.covariance[:c] @ items.T)
    return np.asarray(information * _of_pairs(shared.T @ (doubt[:, None] * shared), pairs))


def _of_pairs(form: Matrix, pairs: NDArray[np.int64]) -> Matrix:
    """A quadratic form of items, for differences of two."""
    left, right = pairs.T
    diagonal = np.diag(form)
    return np.asarray(diagonal[left] + diagonal[right] - 2 * form[left, right])
