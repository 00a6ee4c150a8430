"""Made-up people with few tastes, as a log's people have them: the second kind of ``mixture``.

A Gaussian prior says nothing about directions in the space that people differ in: any turn of its axes is as good.
Where a person cares about few things, one turn is better than all others, the one in which most people have zeros. It
is found as independent components are, under a Laplace density (Bell and Sejnowski 1995), and made sharper by fitting
axes and everyone's place on them together. The made-up people are those met, with their tastes on other axes and of
other signs: how many things a person cares about, and how much, is learnt, which things isn't. How many people are like
that is up to held-out people, as for each kind of people (``train.basis.judge``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import logsumexp

from personalign.learn.likelihood import information, log_likelihood
from personalign.learn.rows import encode
from personalign.types import Array, Gaussian, Ints, Noise

NUM_PARTICLES = 2048
STARTS = 10  # random turns that the search for zeros begins at
ROUNDS = 4  # of fitting axes and places; the density is chosen anew between them
STEPS = 60  # of L-BFGS in a round
SMOOTH = 0.1  # standard deviations within which the Laplace density's peak is rounded
FLOOR = 0.05  # standard deviations; a narrower part of the density would trust places more than answers allow
ALIKE = 1e-6  # standard deviations: people whose places differ less don't differ
AXIS_SHRINKAGE = 3.0  # answers' worth of belief that an axis is flat

Density = Callable[[Array], tuple[Array, Array]]  # log p and its slope


@dataclass(frozen=True, eq=False)
class _Log:
    """Informative answers; person (N,) counts from 0. ``common`` is what everybody's mean makes of each pair."""

    person: Int[Ints, "N"]
    v: Float[Array, "N d"]
    outcome: Int[Ints, "N"]
    common: Float[Array, "N"]
    noise: Noise

    @property
    def num_people(self) -> int:
        return int(self.person.max()) + 1


class _Turn(NamedTuple):
    """Directions of taste, and everyone's places on them."""

    axes: Array  # (d, K)
    places: Array  # (people, K) with a mean square of 1 on each axis


def make_up(
    person: Int[Ints, "N"],
    v: Float[Array, "N d"],
    choice: Sequence[str],
    prior: Gaussian,
    noise: Noise,
    seed: int = 0,
) -> Float[Array, "S d"] | None:
    """Make up people's weights from a log of informative answers, v being φ(left) − φ(right).

    None where people differ in a single direction or not at all, or are no more than the directions.
    """
    if not len(person):
        return None
    person = np.unique(person, return_inverse=True)[1].astype(np.int64).ravel()
    log = _Log(person, v, encode(choice), v @ prior.mean, noise)
    axes = _telling(log, prior)
    if axes.shape[1] < 2 or log.num_people <= axes.shape[1]:
        return None
    turn = _find(log, axes, seed)
    if turn is None:
        return None
    return np.asarray(prior.mean + _made_up(turn.places, np.random.default_rng(seed)) @ turn.axes.T)


def _telling(log: _Log, prior: Gaussian) -> Float[Array, "d K"]:
    """The main directions of the prior in which people differ more than answers err, as long as people differ."""
    variance, directions = np.linalg.eigh(prior.covariance)
    precision = np.zeros((log.num_people, len(variance)))
    np.add.at(precision, log.person, information(log.common, log.noise)[:, None] * (log.v @ directions) ** 2)
    is_telling = variance > np.median(1 / np.maximum(precision, 1e-12), axis=0)  # some may have said hardly anything
    return np.asarray((directions * np.sqrt(variance))[:, is_telling])


def _find(log: _Log, axes: Array, seed: int) -> _Turn | None:
    places = _settle(log, axes, np.zeros((log.num_people, axes.shape[1])), _gaussian, fit_axes=False).places
    if not np.isfinite(places).all():
        return None
    if np.linalg.svd(places - places.mean(axis=0), compute_uv=False).min() <= ALIKE:
        return None
    unmix = _unmix(places / places.std(axis=0), np.random.default_rng(seed)) / places.std(axis=0)
    turn = _scaled(axes @ np.linalg.inv(unmix), places @ unmix.T)
    density = _START
    for _ in range(ROUNDS):
        density = density.fitted(turn.places)
        turn = _scaled(*_settle(log, turn.axes, turn.places, density.log_density, fit_axes=True))
    return turn


def _scaled(axes: Array, places: Array) -> _Turn:
    size = np.sqrt(np.maximum((places**2).mean(axis=0), 1e-12))
    return _Turn(axes * size, places / size)


def _settle(log: _Log, axes: Array, places: Array, density: Density, *, fit_axes: bool) -> _Turn:
    """Find everyone's likeliest place and side bias, and with them the likeliest axes where those are free."""
    shape, num_axes = (len(places), places.shape[1] + 1), axes.size if fit_axes else 0
    flat = AXIS_SHRINKAGE * (log.v**2).mean(axis=0)[:, None]
    start = np.concatenate([axes.ravel()[:num_axes], np.column_stack([places, np.zeros(len(places))]).ravel()])

    def unpack(theta: Array) -> tuple[Array, Array]:
        return theta[:num_axes].reshape(axes.shape) if fit_axes else axes, theta[num_axes:].reshape(shape)

    def loss(theta: Array) -> tuple[float, Array]:
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
    return _Turn(axes, places[:, :-1])


def _unmix(places: Array, rng: np.random.Generator) -> Float[Array, "K K"]:
    """The turn and stretch W under which places·Wᵀ are likeliest to be independent and Laplace."""
    num, size = places.shape

    def loss(theta: Array) -> tuple[float, Array]:
        w = theta.reshape(size, size)
        log_prob, pull = _laplace(places @ w.T)
        value = log_prob.sum() / num + np.linalg.slogdet(w)[1]
        return -float(value), -(pull.T @ places / num + np.linalg.inv(w).T).ravel()

    starts = [np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(STARTS)]
    fits = [minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200}) for start in starts]
    return np.asarray(min(fits, key=lambda one: float(one.fun)).x.reshape(size, size))


def _gaussian(places: Array) -> tuple[Array, Array]:
    return -(places**2) / 2, -places


def _laplace(places: Array) -> tuple[Array, Array]:
    distance = np.sqrt(places**2 + SMOOTH**2)
    return -np.sqrt(2) * distance, -np.sqrt(2) * places / distance


class _Parts(NamedTuple):
    """A density of three normal parts: indifferent, and a taste of a typical size for or against."""

    share: float  # of tastes
    size: float
    near: float  # standard deviation of the indifferent
    spread: float  # and of the tastes

    def _weighed(self, places: Array) -> tuple[Array, Array]:
        """Log-density of each part (3, …), and each part's standard distance."""
        centers, widths = (0.0, self.size, -self.size), (self.near, self.spread, self.spread)
        shares = (1 - self.share, self.share / 2, self.share / 2)
        distance = np.stack([(places - center) / width for center, width in zip(centers, widths, strict=True)])
        scales = np.log(np.array(shares) / np.array(widths)).reshape(3, *[1] * places.ndim)
        return scales - distance**2 / 2, distance

    def log_density(self, places: Array) -> tuple[Array, Array]:
        parts, distance = self._weighed(places)
        log_prob = logsumexp(parts, axis=0)
        widths = np.array([self.near, self.spread, self.spread]).reshape(3, *[1] * places.ndim)
        return log_prob, -(np.exp(parts - log_prob) * distance / widths).sum(axis=0)

    def fitted(self, places: Array, steps: int = 30) -> _Parts:
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


def _made_up(places: Array, rng: np.random.Generator) -> Float[Array, "S K"]:
    """Those met, with their tastes on other axes and of other signs, each beside their opposite."""
    half = NUM_PARTICLES // 2
    spaced = np.arange(half) * max(len(places), half) // half  # evenly over all of them, where they are more
    who = rng.permutation(spaced % len(places))
    moved = rng.permuted(places[who], axis=1) * rng.choice([-1.0, 1.0], size=(len(who), places.shape[1]))
    return np.concatenate([moved, -moved])
