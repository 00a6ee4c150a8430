"""What people are like, before their answers and after: a mixture of three kinds of people.

Either nothing sets a person apart from everybody's taste μ; or they feel about few axes (``kernel``); or about any of
them, with normally distributed weights. Answers weigh each kind by its evidence. So who answers at random, or as
everybody does, stays near μ. What is left is drawn together to one Gaussian of the same mean and covariance, because a
profile is one. Its mean is what steers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from personalign.basis import ASSUMED, Shares
from personalign.learn.kernel import FittedMany, posteriors, sparse_posteriors
from personalign.learn.prior import conditioned
from personalign.learn.rows import Rows
from personalign.types import Array, Bools, Gaussian, Noise, Statement
from personalign.words import Axis


@dataclass(frozen=True, eq=False)
class Mixture:
    """Everybody's mean with ``shares.nothing``, weights on few axes with ``shares.few``, else the Gaussian.

    On the axes ``is_stated`` (d,) the weights of all kinds are the Gaussian's.
    """

    normal: Gaussian
    shares: Shares = ASSUMED
    is_stated: Bools | None = None

    def conditioned(self, statements: Sequence[Statement], axes: Sequence[Axis]) -> Mixture:
        """Condition on what a person stated, which is theirs even if nothing else is, and as sure as they said it."""
        stated = np.isin([axis.name for axis in axes], [statement.axis for statement in statements])
        return Mixture(conditioned(self.normal, statements, axes), self.shares, stated)


class Mixed(NamedTuple):
    """Of U people: their posteriors, and the chances (U, 3) that nothing, few axes or any matter to them."""

    fitted: FittedMany
    chance: Array


def mixed_posteriors(rows: Rows, prior: Mixture, noise: Noise) -> Mixed:
    """Weigh the kinds by their evidence, and draw everyone's posterior together to one Gaussian.

    Where nothing is all that there is, answers change nothing, and the Gaussian stays as it was.
    """
    normal, shares = prior.normal, np.array([prior.shares.nothing, prior.shares.few, prior.shares.any])
    is_stated = np.zeros(len(normal.mean), dtype=bool)
    if prior.shares.nothing == 1:
        same = _nothing(rows, normal, noise, is_stated)
        same = same._replace(covariance=np.tile(normal.covariance, (len(rows.v), 1, 1)))
        return Mixed(same, np.tile(shares, (len(rows.v), 1)))
    is_stated = is_stated if prior.is_stated is None else prior.is_stated
    kinds = [fit(rows, normal, noise, is_stated) for fit, share in zip(_KINDS, shares.tolist(), strict=True) if share]
    odds = np.stack([kind.evidence for kind in kinds], axis=1) + np.log(shares[shares > 0])
    evidence = logsumexp(odds, axis=1)
    chance = np.exp(odds - evidence[:, None])
    weighed = list(zip(chance.T, kinds, strict=True))
    mean = _sum(share[:, None] * kind.mean for share, kind in weighed)
    bias = _sum(share * kind.bias for share, kind in weighed)
    of_all = np.zeros((len(mean), len(shares)))
    of_all[:, shares > 0] = chance
    return Mixed(FittedMany(mean, _covariance(weighed, mean), bias, evidence), of_all)


def _nothing(rows: Rows, normal: Gaussian, noise: Noise, is_stated: Bools) -> FittedMany:
    return posteriors(rows, normal, noise, np.tile(is_stated.astype(np.float64), (len(rows.v), 1)))


def _any(rows: Rows, normal: Gaussian, noise: Noise, is_stated: Bools) -> FittedMany:  # noqa: ARG001 - as the others
    return posteriors(rows, normal, noise)


_KINDS: tuple[Callable[[Rows, Gaussian, Noise, Bools], FittedMany], ...] = (_nothing, sparse_posteriors, _any)


def _covariance(weighed: Sequence[tuple[Array, FittedMany]], mean: Array) -> Array:
    """Within the kinds and between them, (U, d, d)."""
    shifts = [kind.mean - mean for _, kind in weighed]
    between = _sum(
        share[:, None, None] * shift[:, :, None] * shift[:, None, :]
        for (share, _), shift in zip(weighed, shifts, strict=True)
    )
    return between + _sum(share[:, None, None] * kind.covariance for share, kind in weighed)


def _sum(parts: Iterable[Array]) -> Array:
    return np.asarray(sum(parts))
