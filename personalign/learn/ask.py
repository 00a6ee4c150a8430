"""Which question to ask next, and when to stop.

The rules in ``SCORES`` score a pair by the mean and variance of its utility difference under what is known so far.
EUBO also needs what both replies are worth, and ``AHEAD`` looks one answer ahead (``ahead``), for what the answer would
do to the predictions of all other pairs. The caller keeps the history: which pairs are still allowed, how often
others saw them, which side they go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.special import entr, ndtr

from personalign.errors import InputError
from personalign.learn.ahead import Draws, accuracy_after, draw
from personalign.learn.fit import utility
from personalign.learn.likelihood import information, probabilities
from personalign.options import check_number, check_whole
from personalign.types import Gaussian, Noise

Score = Callable[[NDArray[np.float64], NDArray[np.float64], Noise, int], NDArray[np.float64]]

QuestionRule = Literal["d_optimal", "bald", "eubo", "gap", "pref", "random", "accuracy"]
QUESTION_RULES: tuple[QuestionRule, ...] = get_args(QuestionRule)
AHEAD, EUBO = "accuracy", "eubo"  # the rules that need more than the moments of a difference
CANDIDATES, REFERENCES = 300, 300  # pairs that it looks at: the best by D-optimality, and what they are good for
DRAWS = 1024  # of the posterior, that stand for it
QUANTILE = 0.9  # of the pool's lengths in the prior's metric; longer pairs count as this long
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_TELLING = _WEIGHTS > 1e-10  # the nodes beyond, a third of them, weigh nothing
_NODES, _WEIGHTS = _NODES[_TELLING], _WEIGHTS[_TELLING]
_PER_UNIT, _PLACES = 50, 2001
_GRID = np.arange(_PLACES) / _PER_UNIT  # |u|; beyond it an answer is certain
_DEFAULT_NOISE = Noise()


@dataclass(frozen=True)
class StopRule:
    """When enough has been asked: any one of three reasons."""

    accuracy: float = 0.9  # expected latent accuracy on the reference pairs
    information: float = 0.01  # nats; a best question below it teaches nothing worth a person's time
    max_questions: int = 10

    def __post_init__(self) -> None:
        check_number("accuracy", self.accuracy, 0.0, 1.0)
        check_number("information", self.information, 0.0, 1.0)
        check_whole("max_questions", self.max_questions, 0, 10**6)


_DEFAULT_RULE = StopRule()


def acquire(
    post: Gaussian,
    pool: Float[NDArray[np.float64], "m d"],
    rule: str = "d_optimal",
    noise: Noise = _DEFAULT_NOISE,
    allowed: Bool[NDArray[np.bool_], "m"] | None = None,
    seed: int = 0,
    draws: Draws | None = None,
    sums: Float[NDArray[np.float64], "m2 d2"] | None = None,
) -> int:
    """Return the index of the pair to ask about: the best by ``rule`` among those ``allowed``.

    Give the pool through ``clip_pairs``, or the pairs with the most extreme features win every time. The rule
    "accuracy" looks ahead, and takes the pool to be like what will be compared later; it needs some fifty milliseconds.
    It weighs ``draws`` of the posterior, which by default come from the Gaussian. The rule "eubo" shows the pair whose
    better reply is expected to please most, E max (Lin et al. 2022): it needs ``sums``, the features of both replies
    added. Differences alone allow its other half, "gap", which prefers replies that lie far apart, good or bad.

    Raises:
        InputError: an unknown rule, a pool or sums of another shape, "eubo" without sums, or nothing allowed.
    """
    check_rule(rule)
    if allowed is not None and allowed.shape != (len(pool),):
        raise InputError(f"allowed has shape {allowed.shape}, expected ({len(pool)},): one flag per pair")
    can_ask = np.ones(len(pool), dtype=bool) if allowed is None else allowed
    if not can_ask.any():
        raise InputError("no pair of the pool is allowed, expected at least one; stop asking or add questions")
    mean, variance = utility(pool, post)
    if rule == EUBO:
        score = _gap(mean, variance, noise, seed) + _mean_utility(post, pool, sums)
    else:
        score = SCORES["d_optimal" if rule == AHEAD else rule](mean, variance, noise, seed)
    score = np.where(can_ask, score, -np.inf)
    if rule != AHEAD:
        return int(np.argmax(score))
    candidates = np.argsort(-score, kind="stable")[: min(CANDIDATES, int(can_ask.sum()))]
    reference = pool[:: -(-len(pool) // REFERENCES)]
    draws = draw(post, DRAWS) if draws is None else draws
    return int(candidates[np.argmax(accuracy_after(draws, pool[candidates], reference, noise))])


def check_rule(rule: str) -> None:
    """Refuse a name that isn't one of ``QUESTION_RULES``."""
    if rule not in QUESTION_RULES:
        raise InputError(f"found the rule {rule!r}, expected one of {', '.join(QUESTION_RULES)}")


def _mean_utility(post: Gaussian, pool: NDArray[np.float64], sums: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """What the two replies of each pair are worth on average."""
    if sums is None or sums.shape != pool.shape:
        given = "no sums" if sums is None else f"sums of shape {sums.shape}"
        raise InputError(
            f'the rule "eubo" has {given}, expected {pool.shape}: the features of both replies, added; for pairs of '
            'which only the difference is known pass rule="gap"'
        )
    return np.asarray(utility(sums, post)[0] / 2)


def clip_pairs(
    pool: Float[NDArray[np.float64], "m d"], prior: Gaussian, quantile: float = QUANTILE
) -> Float[NDArray[np.float64], "m d"]:
    """Shorten the longest pairs in the prior's metric √(vᵀΣ₀v) to the pool's given quantile.

    The likelihood is linear in v without end, people aren't: a pair ten times as different isn't answered ten times as
    surely. Shortened pairs keep their direction; they serve to choose a question, and answers are fitted to the pair.
    """
    if not len(pool):
        return pool
    lengths = np.sqrt(utility(pool, prior)[1])
    limit = np.quantile(lengths, quantile)
    return np.asarray(pool * np.minimum(1, limit / np.maximum(lengths, 1e-12))[:, None])


def expected_information(
    post: Gaussian, pool: Float[NDArray[np.float64], "m d"], noise: Noise = _DEFAULT_NOISE
) -> Float[NDArray[np.float64], "m"]:
    """Nats that each pair's answer is expected to tell about the weights, ½ log(1 + s·vᵀΣv)."""
    return _d_optimal(*utility(pool, post), noise, 0)


def latent_accuracy(post: Gaussian, reference: Float[NDArray[np.float64], "m d"]) -> float:
    """Expected share of the reference pairs whose sign of ⟨w, v⟩ the posterior mean gets right.

    Raises:
        InputError: there are no reference pairs, or they have other axes than the posterior.
    """
    if not len(reference):
        raise InputError("there are no reference pairs, expected at least one; make the basis again")
    mean, variance = utility(reference, post)
    return float(ndtr(np.abs(mean) / np.sqrt(np.maximum(variance, 1e-300))).mean())


def why_stop(
    post: Gaussian,
    reference: Float[NDArray[np.float64], "r d"],
    pool: Float[NDArray[np.float64], "m d"],
    asked: int,
    rule: StopRule = _DEFAULT_RULE,
    noise: Noise = _DEFAULT_NOISE,
) -> str | None:
    """Say in words why no further question is due, or None; ``pool`` holds the pairs still allowed."""
    if asked >= rule.max_questions:
        return f"reached {rule.max_questions} questions"
    accuracy = latent_accuracy(post, reference)
    if accuracy >= rule.accuracy:
        return f"sure enough: {100 * accuracy:.0f} % expected accuracy"
    if expected_information(post, pool, noise).max(initial=0.0) < rule.information:
        return "no question left would teach enough"
    return None


def _d_optimal(
    mean: NDArray[np.float64], variance: NDArray[np.float64], noise: Noise, _seed: int
) -> NDArray[np.float64]:
    curve = _information_curve(noise)
    slope = np.diff(curve, append=curve[-1])
    center, spread = mean * _PER_UNIT, np.sqrt(variance) * _PER_UNIT
    expected, place = np.zeros_like(mean), np.empty_like(mean)
    for node, weight in zip(_NODES, _WEIGHTS / _WEIGHTS.sum(), strict=True):
        # straight between the grid's places, which are even: a search as in ``np.interp`` takes four times as long
        np.multiply(spread, node, out=place)
        place += center
        np.abs(place, out=place)
        np.minimum(place, _PLACES - 1, out=place)
        below = place.astype(np.intp)
        place -= below
        place *= slope.take(below)
        place += curve.take(below)
        place *= weight
        expected += place
    return np.asarray(np.log1p(expected * variance) / 2)


def _bald(mean: NDArray[np.float64], variance: NDArray[np.float64], noise: Noise, _seed: int) -> NDArray[np.float64]:
    """Information between answer and weights (Houlsby et al. 2011): entropy of the mean minus mean entropy."""
    shares = _WEIGHTS / _WEIGHTS.sum()
    prob = probabilities(mean + _NODES[:, None] * np.sqrt(variance), noise)  # (3, nodes, m)
    mixed = (prob * shares[:, None]).sum(axis=1)
    return np.asarray(entr(mixed).sum(axis=0) - (entr(prob).sum(axis=0) * shares[:, None]).sum(axis=0))


def _gap(mean: NDArray[np.float64], variance: NDArray[np.float64], _noise: Noise, _seed: int) -> NDArray[np.float64]:
    """By how much the better reply is expected to exceed the pair's mean utility, E|u|/2."""
    spread = np.sqrt(np.maximum(variance, 1e-300))
    z = mean / spread
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return np.asarray(mean * (2 * ndtr(z) - 1) / 2 + spread * density)


def _pref(_mean: NDArray[np.float64], variance: NDArray[np.float64], _noise: Noise, _seed: int) -> NDArray[np.float64]:
    """PReF's rule (arXiv 2503.06358): the most uncertain difference, vᵀΣv."""
    return variance


def _random(mean: NDArray[np.float64], _variance: NDArray[np.float64], _noise: Noise, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random(len(mean))


SCORES: Mapping[str, Score] = MappingProxyType(
    {"d_optimal": _d_optimal, "bald": _bald, "gap": _gap, "pref": _pref, "random": _random}
)


@cache
def _information_curve(noise: Noise) -> NDArray[np.float64]:
    """Fisher information on the grid of |u|, which it depends on alone."""
    return information(_GRID, noise)
