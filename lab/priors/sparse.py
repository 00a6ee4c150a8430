"""Tastes in few directions: axes on which most people are indifferent, and a prior that knows it.

``factorise`` finds the space that people differ in, and a Gaussian prior says nothing about directions in it: any turn
of the axes is as good. Where a person cares about few things, one turn is better than all others, the one that most
people have zeros on. It is found as independent components are, under a Laplace density (Bell and Sejnowski 1995),
and made sharper by fitting axes and everyone's place on them together. The prior's made-up people are those met, with
their tastes on other axes and of other signs: how many things a person cares about, and how much, is learnt, which
things isn't. Whether all that holds is up to held-out people: if their places aren't likelier by it, nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

from lab.priors.mixture import Mixture
from personalign.learn.factors import HELD_OUT, Factors
from personalign.learn.likelihood import information, log_likelihood
from personalign.learn.rows import encode
from personalign.types import INFORMATIVE, Gaussian, Noise

SHARE = 0.5  # of made-up people in the prior, where they are in it
NUM_POINTS = 4096
STARTS = 10  # random turns that the search for zeros begins at
ROUNDS = 4  # of fitting axes and places; the density is chosen anew between them
STEPS = 60  # of L-BFGS in a round
SMOOTH = 0.1  # standard deviations within which the Laplace density's peak is rounded
FLOOR = 0.05  # standard deviations; a narrower part of the density would trust places more than answers allow
AXIS_SHRINKAGE = 3.0  # answers' worth of belief that an axis is flat

Density = Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]  # log p and its slope


class Sparse(NamedTuple):
    """Axes turned to where people have zeros, and the prior on them."""

    factors: Factors
    prior: Mixture


@dataclass(frozen=True, eq=False)
class _Log:
    """Informative answers; person (N,) counts from 0. ``common`` is what everybody's mean makes of each pair."""

    person: Int[NDArray[np.int64], "N"]
    v: Float[NDArray[np.float64], "N F"]
    outcome: Int[NDArray[np.int64], "N"]
    common: Float[NDArray[np.float64], "N"]
    noise: Noise

    @property
    def num_people(self) -> int:
        return int(self.person.max()) + 1

    def subset(self, people: NDArray[np.int64]) -> _Log:
        """The answers of some people, who are numbered anew."""
        new = np.full(self.num_people, -1)
        new[people] = np.arange(len(people))
        is_member = new[self.person] >= 0
        return _Log(
            new[self.person[is_member]], self.v[is_member], self.outcome[is_member], self.common[is_member], self.noise
        )


class _Found(NamedTuple):
    axes: NDArray[np.float64]  # (F, K)
    places: NDArray[np.float64]  # (people, K) with a mean square of 1 on each axis


def sparsify(
    user: Sequence[Any] | NDArray[Any],
    v: Float[NDArray[np.float64], "N F"],
    choice: Sequence[str] | NDArray[Any],
    factors: Factors,
    *,
    seed: int = 0,
) -> Sparse:
    """Turn a log's axes to where people have zeros, and make a prior of made-up people, if people are so.

    The arguments are those that ``factorise`` made ``factors`` of. A fifth of the people is held out; unless their
    places on the others' axes are likelier by a standard error to be those of people with few tastes than normally
    distributed, the factors come back as they were, with their own prior.
    """
    log = _read(user, v, choice, factors)
    axes, leftover = _telling(log, factors)
    rng = np.random.default_rng(seed)
    order = rng.permutation(log.num_people)
    num_held = max(1, round(HELD_OUT * len(order)))
    held, known = log.subset(np.sort(order[:num_held])), log.subset(np.sort(order[num_held:]))
    plain = Sparse(factors, Mixture.plain(factors.prior))
    if axes.shape[1] < 2 or known.num_people <= axes.shape[1]:
        return plain
    gain = _gains(_find(known, axes, seed), known, held)
    if len(gain) < 2 or gain.mean() <= gain.std(ddof=1) / np.sqrt(len(gain)):
        return plain
    return _prior(_find(log, axes, seed), leftover, log, factors, seed)


def _read(
    user: Sequence[Any] | NDArray[Any], v: NDArray[np.float64], choice: Sequence[str] | NDArray[Any], factors: Factors
) -> _Log:
    choices = np.asarray(choice, dtype=object).astype(str)
    is_informative = np.isin(choices, sorted(INFORMATIVE))
    person = np.unique(np.asarray(user)[is_informative], return_inverse=True)[1].astype(np.int64)
    common = v[is_informative] @ (factors.projection @ factors.prior.mean)
    return _Log(person, v[is_informative], encode(choices[is_informative].tolist()), common, factors.noise)


def _telling(log: _Log, factors: Factors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The axes (F, K) on which people differ more than answers err, and the rest; scaled by how much people differ."""
    z = log.v @ factors.projection
    precision = np.zeros((log.num_people, z.shape[1]))
    np.add.at(precision, log.person, information(log.common, log.noise)[:, None] * z**2)
    variance = np.diag(factors.prior.covariance)
    is_telling = variance > (1 / np.maximum(precision, 1e-12)).mean(axis=0)
    scaled = factors.projection * np.sqrt(variance)
    return scaled[:, is_telling], scaled[:, ~is_telling]


def _find(log: _Log, axes: NDArray[np.float64], seed: int) -> _Found:
    places = _settle(log, axes, np.zeros((log.num_people, axes.shape[1])), _gaussian, fit_axes=False).places
    unmix = _unmix(places / places.std(axis=0), np.random.default_rng(seed)) / places.std(axis=0)
    solution = _scaled(axes @ np.linalg.inv(unmix), places @ unmix.T)
    density = _START
    for _ in range(ROUNDS):
        density = density.fitted(solution.places)
        solution = _scaled(*_settle(log, solution.axes, solution.places, density.log_density, fit_axes=True))
    return solution


def _scaled(axes: NDArray[np.float64], places: NDArray[np.float64]) -> _Found:
    size = np.sqrt(np.maximum((places**2).mean(axis=0), 1e-12))
    return _Found(axes * size, places / size)


def _gains(solution: _Found, known: _Log, held: _Log) -> NDArray[np.float64]:
    """How much likelier each held-out person's place is under the density in parts than under a normal one, in nats.

    Both densities are those of the people that the axes were found on, whose places here are made as the others' are.
    """
    met, new = (
        _settle(
            some, solution.axes, np.zeros((some.num_people, solution.axes.shape[1])), _gaussian, fit_axes=False
        ).places
        for some in (known, held)
    )
    size = np.sqrt((met**2).mean(axis=0))
    return np.asarray((_START.fitted(met).log_density(new)[0] + (new / size) ** 2 / 2 + np.log(size)).sum(axis=1))


def _settle(
    log: _Log, axes: NDArray[np.float64], places: NDArray[np.float64], density: Density, *, fit_axes: bool
) -> _Found:
    """Find everyone's likeliest place and side bias, and with them the likeliest axes where those are free."""
    shape, num_axes = (len(places), places.shape[1] + 1), axes.size if fit_axes else 0
    flat = AXIS_SHRINKAGE * (log.v**2).mean(axis=0)[:, None]
    start = np.concatenate([axes.ravel()[:num_axes], np.column_stack([places, np.zeros(len(places))]).ravel()])

    def unpack(theta: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return theta[:num_axes].reshape(axes.shape) if fit_axes else axes, theta[num_axes:].reshape(shape)

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        axes, places = unpack(theta)
        z, coordinates = log.v @ axes, places[log.person]
        u = log.common + (z * coordinates[:, :-1]).sum(axis=1) + log.noise.side * coordinates[:, -1]
        likelihood, slope = log_likelihood(u, log.outcome, log.noise)
        log_prob, pull = density(places[:, :-1])
        value = (places[:, -1] ** 2).sum() / 2 - likelihood.sum() - log_prob.sum()
        slopes = np.column_stack([-pull, places[:, -1]])
        np.subtract.at(slopes, log.person, slope[:, None] * np.column_stack([z, np.full(len(z), log.noise.side)]))
        if not fit_axes:
            return float(value), slopes.ravel()
        steepness = flat * axes - log.v.T @ (slope[:, None] * coordinates[:, :-1])
        return float(value + (flat * axes**2).sum() / 2), np.concatenate([steepness.ravel(), slopes.ravel()])

    axes, places = unpack(minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x)
    return _Found(axes, places[:, :-1])


def _unmix(places: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """The turn and stretch W (K, K) under which places·Wᵀ are likeliest to be independent and Laplace."""
    num, size = places.shape

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w = theta.reshape(size, size)
        log_prob, pull = _laplace(places @ w.T)
        value = log_prob.sum() / num + np.linalg.slogdet(w)[1]
        return -float(value), -(pull.T @ places / num + np.linalg.inv(w).T).ravel()

    starts = [np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(STARTS)]
    fits = [minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200}) for start in starts]
    return np.asarray(min(fits, key=lambda one: float(one.fun)).x.reshape(size, size))


def _gaussian(places: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return -(places**2) / 2, -places


def _laplace(places: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    distance = np.sqrt(places**2 + SMOOTH**2)
    return -np.sqrt(2) * distance, -np.sqrt(2) * places / distance


class _Parts(NamedTuple):
    """A density of three normal parts: indifferent, and a taste of a typical size for or against."""

    share: float  # of tastes
    size: float
    near: float  # standard deviation of the indifferent
    spread: float  # and of the tastes

    def _weighed(self, places: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log-density of each part (3, …), and each part's standard distance."""
        centers, widths = (0.0, self.size, -self.size), (self.near, self.spread, self.spread)
        shares = (1 - self.share, self.share / 2, self.share / 2)
        distance = np.stack([(places - center) / width for center, width in zip(centers, widths, strict=True)])
        scales = np.log(np.array(shares) / np.array(widths)).reshape(3, *[1] * places.ndim)
        return scales - distance**2 / 2, distance

    def log_density(self, places: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        parts, distance = self._weighed(places)
        log_prob = logsumexp(parts, axis=0)
        widths = np.array([self.near, self.spread, self.spread]).reshape(3, *[1] * places.ndim)
        return log_prob, -(np.exp(parts - log_prob) * distance / widths).sum(axis=0)

    def fitted(self, places: NDArray[np.float64], steps: int = 30) -> _Parts:
        """Improve by expectation and maximisation."""
        mixture = self
        for _ in range(steps):
            parts, _ = mixture._weighed(places)
            near, more, less = np.exp(parts - logsumexp(parts, axis=0))
            share = float(np.clip((more + less).mean(), 0.01, 0.99))
            total = (more + less).sum()
            size = max(float(((more - less) * places).sum() / total), FLOOR)
            spread = np.sqrt((more * (places - size) ** 2 + less * (places + size) ** 2).sum() / total)
            width = np.sqrt((near * places**2).sum() / near.sum())
            mixture = _Parts(share, size, max(float(width), FLOOR), max(float(spread), FLOOR))
        return mixture


_START = _Parts(share=0.4, size=1.5, near=0.4, spread=0.4)


def _prior(solution: _Found, leftover: NDArray[np.float64], log: _Log, factors: Factors, seed: int) -> Sparse:
    """Standardised axes, the axes left as they were behind them, and on both the Gaussian and the points."""
    moment = log.v.T @ log.v / (2 * len(log.v))  # of a reply: a pair's difference varies twice as much
    size = np.sqrt(np.einsum("fk,fg,gk->k", solution.axes, moment, solution.axes))
    projection = np.column_stack(
        [solution.axes / size, leftover / np.sqrt(np.einsum("fk,fg,gk->k", leftover, moment, leftover))]
    )
    common = factors.projection @ factors.prior.mean
    mean = np.linalg.lstsq(projection.T @ moment @ projection, projection.T @ moment @ common, rcond=None)[0]
    spread = np.concatenate([size, np.sqrt(np.einsum("fk,fg,gk->k", leftover, moment, leftover))])
    prior = Gaussian(mean, np.diag(spread**2))
    points = np.tile(mean, (NUM_POINTS, 1))
    points[:, : len(size)] += size * _made_up(solution.places, np.random.default_rng(seed))
    return Sparse(replace(factors, projection=projection, prior=prior), Mixture(prior, points, SHARE))


def _made_up(places: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Those met, with their tastes on other axes and of other signs, each beside their opposite: (NUM_POINTS, K)."""
    who = rng.permutation(np.arange(NUM_POINTS // 2) % len(places))
    moved = rng.permuted(places[who], axis=1) * rng.choice([-1.0, 1.0], size=(len(who), places.shape[1]))
    return np.concatenate([moved, -moved])
