"""A prior that isn't normal: with some probability a person is one of many made-up ones, else drawn from a Gaussian.

Where people are of kinds, a Gaussian has to be told again what it could know: that who cares about these two things
cares about no third. The made-up people (``points``) carry such knowledge; ``sparse`` makes them from a log. Answers
weigh each point by its likelihood and the Gaussian by its evidence, so that somebody unlike all points is fitted as
without them once the answers say so. At the end everything is drawn together to one Gaussian, because a Profile is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import logsumexp

from personalign.errors import InputError
from personalign.learn.ask import Draws, mirrored
from personalign.learn.fit import Fitted, Record, fit_block
from personalign.learn.grades import SIGN, VERDICTS
from personalign.learn.likelihood import information, log_likelihood, turned
from personalign.learn.rows import encode, says_something
from personalign.types import Gaussian, Noise

_DEFAULT_NOISE = Noise()
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(3)  # over the side bias


@dataclass(frozen=True, eq=False)
class Mixture:
    """With probability ``share`` one of the points (S, d), each as likely as another; else from the Gaussian.

    A share of 0 is the Gaussian, and gives its bytes.

    Raises:
        InputError: points of other axes than the Gaussian's, a share outside 0 … 1, or a share of no points.
    """

    gaussian: Gaussian
    points: Float[NDArray[np.float64], "S d"]
    share: float

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != len(self.gaussian.mean):
            raise InputError(
                f"points have shape {self.points.shape}, expected (S, {len(self.gaussian.mean)}): a column per axis"
            )
        if not 0 <= self.share <= (1 if len(self.points) else 0):
            raise InputError(f"found share {self.share} of {len(self.points)} points, expected 0 … 1, and 0 of none")

    @classmethod
    def plain(cls, gaussian: Gaussian) -> Mixture:
        """No points."""
        return cls(gaussian, np.zeros((0, len(gaussian.mean))), 0.0)


@dataclass(frozen=True, eq=False)
class Belief:
    """What answers leave of a mixture: the Gaussian's posterior, each point's chance, and how much is on points."""

    gaussian: Gaussian
    points: Float[NDArray[np.float64], "S d"]
    chance: Float[NDArray[np.float64], "S"]  # sums to 1
    share: float

    def collapse(self) -> Gaussian:
        """The one Gaussian of the same mean and covariance; without points the very Gaussian that was fitted."""
        if self.share == 0:
            return self.gaussian
        kinds = self.chance @ self.points
        mean = self.share * kinds + (1 - self.share) * self.gaussian.mean
        deviations, shift = self.points - mean, self.gaussian.mean - mean
        between = (deviations * self.chance[:, None]).T @ deviations
        return Gaussian(
            mean, self.share * between + (1 - self.share) * (self.gaussian.covariance + np.outer(shift, shift))
        )

    def draw(self, num: int, seed: int = 0) -> Draws:
        """Draw weights, the points by systematic resampling, so that likely ones come as often as they should."""
        rng = np.random.default_rng(seed)
        num_points = round(self.share * num)
        places = (rng.random() + np.arange(num_points)) / max(num_points, 1)
        last = max(len(self.points) - 1, 0)
        which = np.minimum(np.searchsorted(np.cumsum(self.chance), places), last)
        which, counts = np.unique(which, return_counts=True)
        normal = mirrored(self.gaussian, num - num_points, rng)
        return Draws(
            np.concatenate([self.points[which], normal]),
            np.append(counts, np.ones(len(normal))).astype(np.float64) / num,
        )


def believe(records: Sequence[Record], prior: Mixture, noise: Noise = _DEFAULT_NOISE) -> list[Belief]:
    """Fit some people at once under a mixture; ``Belief.collapse`` is what ``fit`` would return.

    The points' likelihood is exact but for the side bias, over which three nodes stand for its normal distribution;
    the Gaussian's evidence is Laplace's approximation, as its posterior is.

    Raises:
        InputError: as ``fit``.
        QuestionError: an unknown choice.
    """
    fitted = fit_block(records, prior.gaussian, noise)
    return [_weigh(record, posterior, prior, noise) for record, posterior in zip(records, fitted, strict=True)]


def _weigh(record: Record, fitted: Fitted, prior: Mixture, noise: Noise) -> Belief:
    chance = np.full(len(prior.points), 1 / max(len(prior.points), 1))
    outcome = encode(record.choice)
    weight = np.ones(len(outcome)) if record.weight is None else record.weight
    tells = says_something(outcome, weight)
    if prior.share == 0 or not tells.any():
        return Belief(fitted.weights, prior.points, chance, prior.share)
    v, outcome, weight = record.v[tells], outcome[tells], weight[tells]
    fit_of_point = _log_likelihoods(prior.points @ v.T, outcome, weight, noise)
    evidence = logsumexp(fit_of_point) - np.log(len(prior.points))
    odds = np.log(prior.share) + evidence
    if prior.share == 1:
        share = 1.0
    else:
        log_rest = np.log1p(-prior.share) + _log_evidence(v, outcome, weight, fitted, prior.gaussian, noise)
        share = float(np.exp(odds - np.logaddexp(odds, log_rest)))
    return Belief(fitted.weights, prior.points, np.exp(fit_of_point - logsumexp(fit_of_point)), share)


def _log_likelihoods(
    u: NDArray[np.float64], outcome: NDArray[np.int64], weight: NDArray[np.float64], noise: Noise
) -> NDArray[np.float64]:
    """Of all answers (n,), under each row of utilities (S, n)."""
    nodes, shares = (_NODES, _WEIGHTS / _WEIGHTS.sum()) if noise.side > 0 else (np.zeros(1), np.ones(1))
    sign, verdict = SIGN[outcome], np.broadcast_to(VERDICTS[outcome], u.shape)
    each = [turned(sign * (u + noise.side * node), verdict, noise).log_prob for node in nodes]
    return np.asarray(logsumexp(np.stack(each) @ weight, axis=0, b=shares[:, None]))


def _log_evidence(
    v: NDArray[np.float64],
    outcome: NDArray[np.int64],
    weight: NDArray[np.float64],
    fitted: Fitted,
    prior: Gaussian,
    noise: Noise,
) -> float:
    """Laplace's approximation of the log-probability of the answers (Rasmussen and Williams 2006, equation 3.32)."""
    u = v @ fitted.weights.mean + fitted.bias
    shift = fitted.weights.mean - prior.mean
    cost = float(shift @ np.linalg.solve(prior.covariance, shift))
    if noise.side > 0:
        cost += (fitted.bias / noise.side) ** 2
    root = np.sqrt(weight * information(u, noise))
    kernel = v @ prior.covariance @ v.T + noise.side**2
    volume = np.linalg.slogdet(np.eye(len(u)) + root[:, None] * kernel * root)[1]
    return float(log_likelihood(u, outcome, noise)[0] @ weight) - (cost + float(volume)) / 2
