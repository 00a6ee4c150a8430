"""The low-rank model of many people's answers: everyone's weights over the features are m + L·a, a ~ N(0, I).

The fit maximises a lower bound on the marginal likelihood of (m, L, σ_b). Each person's a and side bias get the best
normal distribution there is (Opper and Archambeau 2009), whose fixed point is a Newton step, batched over people.
L-BFGS climbs over (m, L, σ_b), in coordinates in which the problem is nearly round. Each column of L is shrunk by a
precision that MacKay's evidence (1992) chooses; tie, lapse and "much" are estimated in between. ``factors`` makes
axes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer
from scipy.optimize import minimize

from personalign.learn.likelihood import LITTLE, TIE, Turned, turned
from personalign.types import Array, Bools, Ints, Noise

ROUNDS = 3  # of climbing; shrinkage, tie and lapse are chosen anew between them
CLIMBS = 20  # steps of L-BFGS in a round
SETTLE = 4  # Newton steps of people's beliefs at each point of the climb; they start from the last beliefs
RANDOM, MEANT = 2.0, 38.0  # pseudo-counts of lapses and other answers: a Beta prior of mode 0.05
AT_ONCE = 1 << 13  # expectations: what is made of them fits a cache
NODES = 7  # of the Gauss–Hermite sums in ``expected``
_NARROW = 1e-8  # the smallest standard deviation: below it the expected curvature divides rounding errors
_PLACES, _SHARE = np.polynomial.hermite_e.hermegauss(NODES)
_SHARE = _SHARE / _SHARE.sum()
_SLOPES = _SHARE * _PLACES
_CURVATURE = 0.2  # of a typical answer, in information about its utility; only scales the climber's coordinates


class Group(NamedTuple):
    """People with about as many answers: rows (people, n) of the log; the padding points behind its end."""

    people: Int[Ints, "p"]
    rows: Int[Ints, "p n"]


@dataclass(frozen=True, eq=False)
class Log:
    """Informative answers of many people, turned so that the left side won or tied; ``side`` −1 where turned."""

    x: Float[Array, "N F"]
    verdict: Integer[Ints, "N"]  # A, TIE, LITTLE or MUCH
    side: Float[Array, "N"]
    person: Int[Ints, "N"]
    groups: Sequence[Group]

    @property
    def num_people(self) -> int:
        """How many people gave an informative answer."""
        return sum(len(group.people) for group in self.groups)


@dataclass(frozen=True, eq=False)
class Model:
    """Weights are mean + loading @ a; the shrinkage is the precision of the mean's and each column's entries."""

    mean: Float[Array, "F"]
    loading: Float[Array, "F r"]
    noise: Noise
    mean_shrinkage: float
    shrinkage: Float[Array, "r"]


@dataclass(frozen=True, eq=False)
class Beliefs:
    """Everyone's normal distribution over (a, b/σ_b)."""

    mean: Float[Array, "p s"]
    covariance: Float[Array, "p s s"]


class Bound(NamedTuple):
    """The bound, and its derivatives by each row's fixed utility and by each row's factors."""

    value: float
    slope: Array  # a number for each row
    pull: Array  # s numbers for each row


def group_rows(person: Int[Ints, "N"]) -> list[Group]:
    """Group people numbered from 0 by the power of two that their answers fit in."""
    order = np.argsort(person, kind="stable")
    people, starts, counts = np.unique(person[order], return_index=True, return_counts=True)
    sizes = np.array([1 << (int(n) - 1).bit_length() for n in counts], dtype=np.int64)
    groups = []
    for size in np.unique(sizes):
        chosen = np.flatnonzero(sizes == size)
        widest = counts[chosen].max()
        rows = np.full((len(chosen), widest), len(person), dtype=np.int64)
        for row, k in zip(rows, chosen, strict=True):
            row[: counts[k]] = order[starts[k] : starts[k] + counts[k]]
        groups.append(Group(people[chosen], rows))
    return groups


def fit_population(log: Log, rank: int, noise: Noise, start: Model | None = None) -> Model:
    """Fit a model of the given rank: from moments, or in a single round from a model of other people."""
    spread = (log.x**2).mean(0)
    strength = len(log.x) * _CURVATURE * spread  # information about each feature's weight
    tie = (start and start.noise.tie) or noise.tie if (log.verdict == TIE).any() else 0.0  # 0: ties aren't offered
    model = _start(log, rank, replace(noise, tie=tie), spread) if start is None else _narrow(start, rank)
    model = replace(model, noise=replace(model.noise, tie=tie))
    for _ in range(ROUNDS if start is None else 1):
        model = _shrink(model, _believe(model, log)[0], strength)
        model, beliefs = _climb(model, log, strength)
        model = _renoise(model, log, beliefs)
    return model


def expected(
    mean: Float[Array, "*s"], variance: Float[Array, "*s"], verdict: Integer[Ints, "*s"], noise: Noise
) -> Turned:
    """Average log P of the answers given over u ~ N(mean, variance), with derivatives by the mean.

    They come from the score by Gauss–Hermite sums (Stein's identity), so that they are the derivatives of the very sum
    that is the value. Ties need δ > 0.
    """
    means, variances, verdicts = mean.ravel(), variance.ravel(), verdict.ravel()
    blocks = [slice(i, i + AT_ONCE) for i in range(0, max(mean.size, 1), AT_ONCE)]
    parts = [_expected(means[block], variances[block], verdicts[block], noise) for block in blocks]
    return Turned(*(np.concatenate(columns).reshape(mean.shape) for columns in zip(*parts, strict=True)))


def _expected(mean: Float[Array, "n"], variance: Float[Array, "n"], verdict: Int[Ints, "n"], noise: Noise) -> Turned:
    spread = np.sqrt(np.maximum(variance, _NARROW**2))
    u = mean[:, None] + spread[:, None] * _PLACES
    log_prob, score, _ = turned(u, np.broadcast_to(verdict[:, None], u.shape), noise)
    return Turned(log_prob @ _SHARE, score @ _SHARE, np.maximum(-(score @ _SLOPES) / spread, 0.0))


# ---------------------------------------------------------------- people


def _factors(model: Model, log: Log) -> tuple[Array, Array]:
    """Each row's utility at a = 0, and its factors of (a, b/σ_b)."""
    both = log.x @ np.column_stack([model.mean, model.loading])
    return both[:, 0], np.column_stack([both[:, 1:], model.noise.side * log.side])


def _believe(model: Model, log: Log, start: Beliefs | None = None) -> tuple[Beliefs, Bound]:
    """Improve everyone's beliefs by Newton steps, and bound the log marginal likelihood with them."""
    fixed, z = _factors(model, log)
    size, steps = z.shape[1], SETTLE if start else 2 * SETTLE
    mean = start.mean.copy() if start else np.zeros((log.num_people, size))
    covariance = start.covariance.copy() if start else np.tile(np.eye(size), (log.num_people, 1, 1))
    value, slope, pull = 0.0, np.zeros(len(z)), np.zeros_like(z)
    fixed, z = np.append(fixed, 0.0), np.vstack([z, np.zeros(size)])
    verdict, exists = np.append(log.verdict, 0), np.append(np.ones(len(log.x)), 0.0)
    for people, rows in log.groups:
        block = _Block(fixed[rows], z[rows], verdict[rows], exists[rows], model.noise)
        mean[people], covariance[people], bound = block.settle(mean[people], covariance[people], steps)
        is_row = rows < len(log.x)
        slope[rows[is_row]], pull[rows[is_row]] = bound.slope[is_row], bound.pull[is_row]
        value += bound.value
    return Beliefs(mean, covariance), Bound(value, slope, pull)


@dataclass(frozen=True, eq=False)
class _Block:
    """People of one group: (p, n) rows, of which some are padding."""

    fixed: Array
    z: Array  # (p, n, s)
    verdict: Ints
    exists: Array
    noise: Noise

    def expect(self, mean: Array, covariance: Array) -> tuple[Turned, Array]:
        """The likelihood of each answer under the beliefs, 0 for padding; and z @ covariance."""
        spread = self.z @ covariance
        u = self.fixed + (self.z @ mean[:, :, None])[:, :, 0]
        likelihood = expected(u, (spread * self.z).sum(-1), self.verdict, self.noise)
        return Turned(*(part * self.exists for part in likelihood)), spread

    def settle(self, mean: Array, covariance: Array, steps: int) -> tuple[Array, Array, Bound]:
        """Improve beliefs, and give the best with their bound.

        Each step is Newton's, or the part of it, from half down, that didn't make a person's bound worse: lapses and
        close cuts make likelihoods that aren't concave, and whole steps would swing to and fro there.
        """
        across, one = self.z.transpose(0, 2, 1), np.eye(self.z.shape[2])
        state = _State(*self._look(mean, covariance), mean, covariance)
        share = np.ones(len(mean))
        for _ in range(steps):
            target = one + (across * state.curvature[:, None, :]) @ self.z
            precision = (1 - share[:, None, None]) * np.linalg.inv(state.covariance) + share[:, None, None] * target
            covariance = np.asarray(np.linalg.inv(precision))
            way = covariance @ (across @ state.score[:, :, None] - state.mean[:, :, None])
            mean = state.mean + share[:, None] * way[:, :, 0]
            new = _State(*self._look(mean, covariance), mean, covariance)
            is_better = new.value >= state.value
            state, share = new.where(is_better, state), np.where(is_better, np.minimum(1.0, 2 * share), share / 2)
        pull = state.score[..., None] * state.mean[:, None] - state.curvature[..., None] * (self.z @ state.covariance)
        return state.mean, state.covariance, Bound(float(state.value.sum()), state.score, pull)

    def _look(self, mean: Array, covariance: Array) -> tuple[Array, Array, Array]:
        """Everyone's bound, (p,), and score and curvature of each answer."""
        log_prob, score, curvature = self.expect(mean, covariance)[0]
        trace, size = np.trace(covariance, axis1=1, axis2=2), mean.shape[1]
        divergence = (trace + (mean**2).sum(1) - np.linalg.slogdet(covariance)[1] - size) / 2
        return log_prob.sum(1) - divergence, score, curvature


class _State(NamedTuple):
    """Beliefs of p people, and what their answers make of them."""

    value: Array  # (p,) the bound
    score: Array  # (p, n)
    curvature: Array
    mean: Array  # (p, s)
    covariance: Array

    def where(self, flags: Bools, other: _State) -> _State:
        """Of each person this state or another."""
        pairs = zip(self, other, strict=True)
        return _State(*(np.where(flags.reshape(-1, *[1] * (new.ndim - 1)), new, old) for new, old in pairs))


# ---------------------------------------------------------------- the population


def _start(log: Log, rank: int, noise: Noise, spread: Array) -> Model:
    """One model for all people, and the directions in which each person's scores at it agree.

    A person's mean score is their difference from that model, as their answers show it. Its second moment, less what
    single answers add to it, is the covariance of tastes up to a known factor.
    """
    mean = _everyone(log, noise, spread)
    likelihood = expected(log.x @ mean, np.zeros(len(log.x)), log.verdict, noise)
    whiten = 1 / np.sqrt(spread + 1 / (len(log.x) * _CURVATURE))
    x = log.x * whiten
    scores = np.zeros((log.num_people, x.shape[1]))
    np.add.at(scores, log.person, likelihood.score[:, None] * x)
    counts = np.bincount(log.person, minlength=log.num_people)
    pairs = max(float((counts * (counts - 1.0)).sum()), 1.0)
    moment = (scores.T @ scores - (x * likelihood.score[:, None] ** 2).T @ x) / (
        pairs * likelihood.curvature.mean() ** 2
    )
    values, vectors = np.linalg.eigh((moment + moment.T) / 2)
    top = np.argsort(values)[::-1][:rank]
    loading = (whiten[:, None] * vectors[:, top]) * np.sqrt(np.clip(values[top], 0.01, 100.0))
    return Model(mean, loading, noise, 1.0, np.ones(rank))


def _narrow(model: Model, rank: int) -> Model:
    """Keep the directions that people differ in most."""
    u, s, _ = np.linalg.svd(model.loading, full_matrices=False)
    return replace(model, loading=(u * s)[:, :rank], shrinkage=model.shrinkage[:rank])


def _everyone(log: Log, noise: Noise, spread: Array) -> Array:
    """One weight vector for all people, by maximum likelihood with a weak pull to 0."""
    scale = 1 / np.sqrt(len(log.x) * _CURVATURE * spread + 1)
    certain = np.zeros(len(log.x))

    def loss(theta: Array) -> tuple[float, Array]:
        weights = theta * scale
        likelihood = expected(log.x @ weights, certain, log.verdict, noise)
        value = (weights**2).sum() / 2 - likelihood.log_prob.sum()
        return float(value), scale * (weights - log.x.T @ likelihood.score)

    climbed = minimize(loss, np.zeros(len(scale)), jac=True, method="L-BFGS-B", options={"maxiter": 50})
    return np.asarray(climbed.x * scale)


def _climb(model: Model, log: Log, strength: Array) -> tuple[Model, Beliefs]:
    """Climb over mean, loading and the side bias's scale."""
    rank = model.loading.shape[1]
    scales = 1 / np.sqrt(
        np.column_stack([strength + model.mean_shrinkage, strength[:, None] + model.shrinkage])
    )  # (F, 1 + r)
    side_scale = 1 / np.sqrt(len(log.x) * _CURVATURE)
    shrinkage = np.append(model.mean_shrinkage, model.shrinkage)
    known = [_believe(model, log)[0]]

    def unpack(theta: Array) -> Model:
        entries = theta[:-1].reshape(-1, rank + 1) * scales
        noise = replace(model.noise, side=float(abs(theta[-1]) * side_scale))
        return replace(model, mean=entries[:, 0], loading=entries[:, 1:], noise=noise)

    def loss(theta: Array) -> tuple[float, Array]:
        now = unpack(theta)
        entries = np.column_stack([now.mean, now.loading])
        known[0], bound = _believe(now, log, known[0])
        value = bound.value - (shrinkage * entries**2).sum() / 2
        slopes = log.x.T @ np.column_stack([bound.slope, bound.pull[:, :-1]]) - shrinkage * entries
        side = np.sign(theta[-1]) * (bound.pull[:, -1] @ log.side)
        return -value, -np.append((slopes * scales).ravel(), side * side_scale)

    start = np.append((np.column_stack([model.mean, model.loading]) / scales).ravel(), model.noise.side / side_scale)
    climbed = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": CLIMBS})
    best = unpack(climbed.x)
    return best, _believe(best, log, known[0])[0]


def _renoise(model: Model, log: Log, beliefs: Beliefs) -> Model:
    """Choose tie and lapse by the expected log-likelihood under the beliefs; "much", too, where that was said."""
    fixed, z = _factors(model, log)
    mean = fixed + (z * beliefs.mean[log.person]).sum(1)
    variance = np.einsum("ns,nst,nt->n", z, beliefs.covariance[log.person], z)
    has_ties, has_grades = bool((log.verdict == TIE).any()), bool((log.verdict >= LITTLE).any())

    def noise_of(theta: Array) -> Noise:
        tie = float(np.exp(np.clip(theta[0], -6, 2))) if has_ties else 0.0
        much = float(np.exp(np.clip(theta[2], -3, 3))) if has_grades else model.noise.much
        return replace(model.noise, tie=tie, lapse=float(np.exp(np.clip(theta[1], -9, -0.7))), much=much)

    def loss(theta: Array) -> float:
        noise = noise_of(theta)
        belief = RANDOM * np.log(noise.lapse) + MEANT * np.log1p(-noise.lapse)
        return -float(belief + expected(mean, variance, log.verdict, noise).log_prob.sum())

    start = np.log([max(model.noise.tie, 0.05), max(model.noise.lapse, 1e-3), model.noise.much])[: 2 + has_grades]
    options = {"maxfev": 40 * (1 + has_grades), "xatol": 0.02, "fatol": 0.1}
    climbed = minimize(loss, start, method="Nelder-Mead", options=options)
    return replace(model, noise=noise_of(climbed.x))


def _shrink(model: Model, beliefs: Beliefs, strength: Array) -> Model:
    """Choose the precisions by the evidence: each column is as large as its well-determined entries say.

    The columns are turned to be orthogonal first. That changes nothing else: a is as likely in every direction. The
    log says less of a column the less it says of people's places on it.
    """
    u, s, turn = np.linalg.svd(model.loading, full_matrices=False)
    loading = u * s
    share = ((beliefs.mean[:, :-1] @ turn.T) ** 2).mean(axis=0)
    mean_shrinkage = _precision(model.mean, strength, model.mean_shrinkage)
    columns = zip(loading.T, np.minimum(share, 1.0), model.shrinkage, strict=True)
    shrinkage = np.array([_precision(column, part * strength, now) for column, part, now in columns])
    return replace(model, loading=loading, mean_shrinkage=mean_shrinkage, shrinkage=shrinkage)


def _precision(entries: Array, strength: Array, now: float) -> float:
    size = max(float(entries @ entries), 1e-12)
    for _ in range(20):
        now = float((strength / (strength + now)).sum()) / size
    return min(now, 1e8)
