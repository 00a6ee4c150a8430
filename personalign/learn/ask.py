"""Which question to ask next, and when to stop.

The rules in ``SCORES`` score a pair by the mean and variance of its utility difference under what is known so far.
EUBO also needs what both replies are worth. ``AHEAD`` weighs what the answer would do to all other predictions. The
caller keeps the history: which pairs are still allowed, how often others saw them, which side they go on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import entr, ndtr

from personalign.basis import BankQuestion, Basis
from personalign.errors import InputError
from personalign.learn.likelihood import information, probabilities, sides, utility
from personalign.messages import MAX_REPLIES
from personalign.options import check_choice, check_number, check_whole
from personalign.types import Array, Bools, Gaussian, Ints, Noise

Score = Callable[[Array, Array, Noise, int], Array]

QuestionRule = Literal["d_optimal", "bald", "eubo", "gap", "pref", "random", "accuracy"]
QUESTION_RULES: tuple[QuestionRule, ...] = get_args(QuestionRule)
AHEAD, EUBO = "accuracy", "eubo"  # the rules that need more than the moments of a difference
PARALLEL = 0.98  # the cosine, in the prior's metric, from which on two differences ask about the same
CANDIDATES, REFERENCES = 300, 300  # pairs that ``AHEAD`` looks at: the best by D-optimality, and those to predict
DRAWS = 1024  # of the posterior, which stand for it
QUANTILE = 0.9  # of the pool's lengths in the prior's metric; longer pairs count as this long
_NODES, _SHARES = np.polynomial.hermite_e.hermegauss(32)
_NODES, _SHARES = _NODES[_SHARES > 1e-10], _SHARES[_SHARES > 1e-10]  # the others, a third, weigh nothing
_SHARES = _SHARES / _SHARES.sum()
_GRID = np.linspace(0, 40, 2001)  # |u|; beyond it an answer is certain
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


def acquire(
    post: Gaussian,
    pool: Float[Array, "m d"],
    rule: str = "d_optimal",
    noise: Noise = _DEFAULT_NOISE,
    allowed: Bool[Bools, "m"] | None = None,
    seed: int = 0,
    sums: Float[Array, "m2 d2"] | None = None,
) -> int:
    """Return the index of the pair to ask about: the best by ``rule`` among those ``allowed``.

    Give the pool through ``clip_pairs``, or the pairs with the most extreme features win every time. The rule
    "accuracy" takes the pool to be like what will be compared later, and needs some fifty milliseconds. The rule
    "eubo" shows the pair whose better reply is expected to please most, E max (Lin et al. 2022). It needs ``sums``, the
    features of both replies added. Differences alone allow its other half, "gap", which prefers replies that are far
    apart, good or bad.

    Raises:
        InputError: an unknown rule, a pool or sums of another shape, "eubo" without sums, or nothing allowed.
    """
    check_choice("rule", rule, QUESTION_RULES)
    if allowed is not None and allowed.shape != (len(pool),):
        raise InputError(f"allowed has shape {allowed.shape}, expected ({len(pool)},): one flag per pair")
    can_ask = np.ones(len(pool), dtype=bool) if allowed is None else allowed
    if not can_ask.any():
        raise InputError("no pair of the pool is allowed, expected at least one; stop asking or add questions")
    score = SCORES[rule](*utility(pool, post), noise, seed)
    if rule == EUBO:
        score = score + _mean_utility(post, pool, sums)
    score = np.where(can_ask, score, -np.inf)
    if rule != AHEAD:
        return int(np.argmax(score))
    candidates = np.argsort(-score, kind="stable")[: min(CANDIDATES, int(can_ask.sum()))]
    reference = pool[:: -(-len(pool) // REFERENCES)]
    return int(candidates[np.argmax(accuracy_after(draw(post, DRAWS), pool[candidates], reference, noise))])


def _mean_utility(post: Gaussian, pool: Array, sums: Array | None) -> Array:
    if sums is None or sums.shape != pool.shape:
        given = "no sums" if sums is None else f"sums of shape {sums.shape}"
        raise InputError(
            f'the rule "eubo" has {given}, expected {pool.shape}: the features of both replies, added; for pairs of '
            'which only the difference is known pass rule="gap"'
        )
    return np.asarray(utility(sums, post)[0] / 2)


def clip_pairs(pool: Float[Array, "m d"], prior: Gaussian, quantile: float = QUANTILE) -> Float[Array, "m d"]:
    """Shorten the longest pairs in the prior's metric √(vᵀΣ₀v) to the pool's given quantile.

    Utility is linear in v without end, but people don't answer a pair ten times as different ten times as surely.
    Shortened pairs keep their direction. They serve to choose a question; answers are fitted to the pair itself.
    """
    if not len(pool):
        return pool
    lengths = np.sqrt(utility(pool, prior)[1])
    limit = np.quantile(lengths, quantile)
    return np.asarray(pool * np.minimum(1, limit / np.maximum(lengths, 1e-12))[:, None])


def expected_information(post: Gaussian, pool: Float[Array, "m d"], noise: Noise = _DEFAULT_NOISE) -> Float[Array, "m"]:
    """Nats that each pair's answer is expected to add about the weights, ½ log(1 + s·vᵀΣv)."""
    return _d_optimal(*utility(pool, post), noise, 0)


def latent_accuracy(post: Gaussian, reference: Float[Array, "m d"]) -> float:
    """Expected share of the reference pairs whose sign of ⟨w, v⟩ the posterior mean gets right."""
    if not len(reference):
        raise InputError("there are no reference pairs, expected at least one; make the basis again")
    mean, variance = utility(reference, post)
    return float(ndtr(np.abs(mean) / np.sqrt(np.maximum(variance, 1e-300))).mean())


def why_stop(
    post: Gaussian,
    reference: Float[Array, "r d"],
    pool: Float[Array, "m d"],
    asked: int,
    rule: StopRule,
    noise: Noise,
) -> str | None:
    """Say in words why no further question is due, or None; ``pool`` holds the pairs still allowed."""
    if asked >= rule.max_questions:
        return f"reached {rule.max_questions} questions"
    if not len(pool):
        return "no question left"
    accuracy = latent_accuracy(post, reference)
    if accuracy >= rule.accuracy:
        return f"sure enough: {100 * accuracy:.0f} % expected accuracy"
    if expected_information(post, pool, noise).max(initial=0.0) < rule.information:
        return "no question left would teach enough"
    return None


def _d_optimal(mean: Array, variance: Array, noise: Noise, _seed: int) -> Array:
    # interpolated on the grid, whose points are evenly spaced: searching them would take most of the time
    place = np.minimum(np.abs(mean + _NODES[:, None] * np.sqrt(variance)) / _GRID[1], len(_GRID) - 1)
    point = np.minimum(place.astype(np.int32), len(_GRID) - 2)
    curve = _information_curve(noise)
    expected = _SHARES @ (curve[point] + (place - point) * np.diff(curve)[point])
    return np.asarray(np.log1p(expected * variance) / 2)


def _bald(mean: Array, variance: Array, noise: Noise, _seed: int) -> Array:
    """The answer's information about the weights (Houlsby et al. 2011): entropy of the mean minus mean entropy."""
    prob = probabilities(mean + _NODES[:, None] * np.sqrt(variance), noise)  # (3, nodes, m)
    mixed = (prob * _SHARES[:, None]).sum(axis=1)
    return np.asarray(entr(mixed).sum(axis=0) - (entr(prob).sum(axis=0) * _SHARES[:, None]).sum(axis=0))


def _gap(mean: Array, variance: Array, _noise: Noise, _seed: int) -> Array:
    """By how much the better reply is expected to exceed the pair's mean utility, E|u|/2."""
    spread = np.sqrt(np.maximum(variance, 1e-300))
    z = mean / spread
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return np.asarray(mean * (2 * ndtr(z) - 1) / 2 + spread * density)


def _pref(_mean: Array, variance: Array, _noise: Noise, _seed: int) -> Array:
    """PReF's rule (arXiv 2503.06358): the most uncertain difference, vᵀΣv."""
    return variance


def _random(mean: Array, _variance: Array, _noise: Noise, seed: int) -> Array:
    return np.random.default_rng(seed).random(len(mean))


SCORES: Mapping[str, Score] = MappingProxyType(
    {"d_optimal": _d_optimal, "bald": _bald, "gap": _gap, "pref": _pref, "random": _random}
    | {AHEAD: _d_optimal, EUBO: _gap}  # which ``acquire`` adds to
)


@cache
def _information_curve(noise: Noise) -> Array:
    """Fisher information on the grid of |u|, which it depends on alone."""
    return information(_GRID, noise)


# ---------------------------------------------------------------- one answer ahead


def draw(post: Gaussian, num: int) -> Float[Array, "S d"]:
    """Draw weights from a posterior, the same ones each time.

    They come in pairs that mirror each other at the mean, so that the draws' mean is the Gaussian's. The covariance's
    symmetric root is the same on every machine; eigenvectors alone have any sign, and any turn where values are equal.
    """
    values, vectors = np.linalg.eigh(post.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    half = np.random.default_rng(0).standard_normal(((num + 1) // 2, len(values)))
    plain = np.concatenate([half, -half])[:num]
    return np.asarray(post.mean + plain @ root)


def accuracy_after(
    known: Float[Array, "S d"], pairs: Float[Array, "m d"], reference: Float[Array, "r d"], noise: Noise
) -> Float[Array, "m"]:
    """Expected share of reference pairs that are predicted right once a pair is answered; one number for each pair.

    The person is one of the draws ``known``. Each answer that a pair may get weighs them by its likelihood, and their
    vote predicts. That is the knowledge gradient (Frazier et al. 2008) of accuracy. Ties aren't counted.
    """
    left, right = sides(known @ reference.T, noise)
    lean = (left / (left + right) - 0.5) / len(known)  # (S, r)
    a, b = sides(pairs @ known.T, noise)  # (m, S)
    correct = 0.5 + np.abs(a @ lean).mean(axis=1) + np.abs(b @ lean).mean(axis=1)
    return np.asarray(correct + np.abs((1 - a - b) @ lean).mean(axis=1) if noise.tie > 0 else correct)


# ---------------------------------------------------------------- questions that are nearly the same


@dataclass(frozen=True, eq=False)
class Likeness:
    """What makes questions of a bank alike: a person who was asked one of them isn't asked the other."""

    prompt: Int[Ints, "m"]  # the same number for the same prompt
    words: Int[Ints, "m"]  # the same number for replies that are equal but for case and punctuation
    replies: Int[Ints, "m k"]  # the same number for one text; the first again where there are fewer
    direction: Float[Array, "m d"]  # of length 1, or 0, in the prior's metric

    @classmethod
    def measure(cls, basis: Basis) -> Likeness:
        """Compare the bank of a basis."""
        differences = basis.pool @ np.linalg.cholesky(basis.prior.covariance)
        length = np.linalg.norm(differences, axis=1, keepdims=True)
        keys = [[json.dumps(question.prompt) for question in basis.bank], list(map(_words, basis.bank))]
        prompt, words = (np.unique(key, return_inverse=True)[1] for key in keys)
        if basis.learnt is not None and basis.learnt.items:
            prompt = np.arange(len(basis.bank))  # two pairs of items aren't alike because tastes are few
        filled = [(*q.replies, *[q.first] * (MAX_REPLIES - len(q.replies))) for q in basis.bank]
        replies = np.unique(np.array(filled, dtype=object), return_inverse=True)[1].reshape(-1, MAX_REPLIES)
        return cls(prompt, words, replies, differences / np.maximum(length, 1e-12))

    def repeats(self, asked: Bool[Bools, "m"]) -> Bool[Bools, "m"]:
        """Which questions were asked, have the same words, or the same prompt and a parallel difference of replies."""
        parallel = np.abs(self.direction @ self.direction[asked].T) >= PARALLEL
        is_same = parallel & (self.prompt[:, None] == self.prompt[asked])
        return np.asarray(asked | is_same.any(axis=1) | np.isin(self.words, self.words[asked]))

    def shows_again(self, asked: Bool[Bools, "m"], picked: Bool[Bools, "m"], num: int = 2) -> Bool[Bools, "m"]:
        """Which questions show among ``num`` replies one that was shown before: its oddity would be asked twice.

        Of the questions ``asked`` the pair was shown, and all replies of those ``picked``.
        """
        shown = np.append(self.replies[asked, :2], self.replies[picked])
        return np.asarray(np.isin(self.replies[:, :num], shown).any(axis=1))


def _words(question: BankQuestion) -> str:
    """Both replies without case, punctuation and order; a reply without words, such as an emoji, stays as it is."""
    replies = (question.first, question.second)
    return "\n".join(sorted({" ".join(re.findall(r"\w+", reply.casefold())) or reply for reply in replies}))
