"""Several replies to one prompt: how a person would rank them, and what their pick among them says.

A reply's utility is ⟨w, φ⟩, and of w a normal distribution is known. Its mean gives the order. Its covariance gives the
probabilities: of one reply being better than another exactly, of being the best of all by draws. Texts of any model can
be ranked.

In a pick a person names the best reply, and the worst if they like. By Plackett and Luce (Luce 1959, Plackett 1975)
reply i is the best of k with probability exp uᵢ / Σ exp uⱼ, and the worst of those left likewise by −u. A pick is
fitted as answers to pairs: the best was better than each other reply, and each of these better than the worst. Pairs
that share a reply aren't independent. So each counts 2/k in a choice among k, with which they hold as much Fisher
information near indifference as the pick does. We depart from Plackett and Luce in the rest: far from indifference such
pairs say a little less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtr

from personalign.basis import Basis
from personalign.learn.ask import QUANTILE, expected_information
from personalign.messages import read_pick
from personalign.types import INFORMATIVE, Array, Bools, Gaussian, Message, Noise, Reason

DRAWS = 8192  # of weights: probabilities are right to about half a hundredth
READING = 4.0  # words a second, until a person's own pace is known
TAP_S = 2.0  # to decide and to tap
USUAL = 200.0  # words that the usual pace counts as
LONGEST_S = 120.0  # a person who takes longer did something else meanwhile


@dataclass(frozen=True)
class Candidate:
    """A reply as a person would judge it; utilities are standard deviations of the model's own replies, weighed."""

    index: int  # among the texts that were passed
    text: str
    utility: float
    probability: float  # of being the best of all


@dataclass(frozen=True)
class Ranking:
    """Replies in the order that a person would put them, the best first; equally good ones as they were passed.

    ``surety`` is the probability that the first is better than the second, and 1 for one alone. ``reason`` says why the
    order isn't the person's own: "no_answers", "nothing_personal" or "paused". It is by everybody's mean weights then.
    """

    candidates: tuple[Candidate, ...]
    surety: float
    reason: Reason | None
    revision: int

    @property
    def best(self) -> str:
        """The text to show."""
        return self.candidates[0].text

    @property
    def order(self) -> tuple[int, ...]:
        """The places of the texts that were passed, the best one's first."""
        return tuple(candidate.index for candidate in self.candidates)


def rank(
    texts: Sequence[str], features: Float[Array, "n d"], belief: Gaussian, reason: Reason | None, revision: int
) -> Ranking:
    """Rank replies with these features under what is believed of a person's weights."""
    utility = features @ belief.mean
    order = np.argsort(-utility, kind="stable").tolist()
    chance = best_of(features, belief)
    candidates = tuple(Candidate(i, texts[i], float(utility[i]), float(chance[i])) for i in order)
    surety = better(features[order[0]] - features[order[1]], belief) if len(order) > 1 else 1.0
    return Ranking(candidates, surety, reason, revision)


def better(v: Float[Array, "d"], belief: Gaussian) -> float:
    """P(⟨w, v⟩ > 0), v being the features of one reply minus another's; ½ where they are alike."""
    mean, deviation = float(v @ belief.mean), float(np.sqrt(max(float(v @ belief.covariance @ v), 0.0)))
    return float(ndtr(mean / deviation)) if deviation > 0 else (1.0 + float(np.sign(mean))) / 2


def best_of(features: Float[Array, "n d"], belief: Gaussian) -> Float[Array, "n"]:
    """The probability of each reply that it is the best; those with equal features share theirs."""
    kinds, kind, count = np.unique(features, axis=0, return_inverse=True, return_counts=True)
    if len(kinds) == 2:
        first = better(kinds[0] - kinds[1], belief)
        chance = np.array([first, 1 - first])
    else:
        values, vectors = np.linalg.eigh(belief.covariance)
        draws = np.random.default_rng(0).standard_normal((DRAWS, len(values)))
        weights = belief.mean + (draws * np.sqrt(values.clip(min=0.0))) @ vectors.T
        winners = (weights @ kinds.T).argmax(axis=1)
        chance = np.bincount(winners, minlength=len(kinds)) / DRAWS
    return np.asarray((chance / count)[kind.reshape(-1)])


def as_pairs(features: Float[Array, "k d"], choice: str) -> tuple[Float[Array, "p d"], Float[Array, "p"]]:
    """A pick as pairs whose left reply was preferred, and how much each of them counts."""
    best, worst = read_pick(choice, len(features))
    others = [i for i in range(len(features)) if i != best]
    middle = [] if worst is None else [i for i in others if i != worst]
    v = [features[best] - features[i] for i in others] + [features[i] - features[worst] for i in middle]
    weight = [2 / len(features)] * len(others) + [2 / len(others)] * len(middle)
    return np.array(v), np.array(weight)


def as_pair(features: Float[Array, "k d"], choice: str) -> Float[Array, "d"]:
    """The best reply over the mean of the others: one pair that stands for a pick where it is predicted."""
    best, _ = read_pick(choice, len(features))
    return np.asarray(features[best] - np.delete(features, best, axis=0).mean(axis=0))


class Row(NamedTuple):
    """An answer as a fit takes it; a pick is several."""

    v: Array  # (d,)
    choice: str
    kind: str
    weight: float


def as_rows(v: Array, choice: str, kind: str, weight: float) -> list[Row]:
    """What a fit takes of an answer to a pair (d,) or a pick (k, d)."""
    if v.ndim == 1:
        return [Row(v, choice, kind, weight)]
    if choice not in INFORMATIVE:
        return []
    pairs, shares = as_pairs(v, choice)
    return [Row(pair, "a", kind, weight * share) for pair, share in zip(pairs, shares.tolist(), strict=True)]


def stand_in(v: Array, choice: str) -> tuple[Array, str]:
    """The difference and the choice by which an answer is predicted: of a pick, its best reply over the others."""
    if v.ndim == 1:
        return v, choice
    return (as_pair(v, choice), "a") if choice in INFORMATIVE else (np.zeros(v.shape[1]), choice)


def expected_pick_information(post: Gaussian, features: Float[Array, "k d"]) -> float:
    """Nats that naming the best reply and the worst adds about the weights, ½ log det(I + (B + W)FΣFᵀ).

    B = diag p − ppᵀ is the best one's Fisher information about the replies' utilities, with p Plackett and Luce's at
    the mean weights. W is likewise of −u. Because the worst is one of those left, it counts k(k − 2)/(k − 1)².
    """
    k, utility = len(features), features @ post.mean
    fisher = _information(utility) + k * (k - 2) / (k - 1) ** 2 * _information(-utility)
    return float(np.linalg.slogdet(np.eye(k) + fisher @ (features @ post.covariance @ features.T))[1]) / 2


def _information(utility: Float[Array, "k"]) -> Float[Array, "k k"]:
    chance = np.exp(utility - utility.max())
    chance = chance / chance.sum()
    return np.asarray(np.diag(chance) - np.outer(chance, chance))


@dataclass(frozen=True, eq=False)
class Picks:
    """Which questions of a bank have more than two replies, and how many words reading takes."""

    features: Mapping[int, Float[Array, "k d"]]  # by place in the bank, as questions are chosen by them
    pair_words: Float[Array, "m"]
    words: Float[Array, "m"]  # of all replies
    place: Mapping[str, int]  # of a question in the bank, by its id

    @classmethod
    def measure(cls, basis: Basis) -> Picks:
        """Compare the bank of a basis; the longest differences count as shorter, as those of pairs do."""
        scale = np.linalg.cholesky(basis.prior.covariance)
        with_others = {i: q.features for i, q in enumerate(basis.bank) if q.others}
        lengths = {i: max(np.linalg.norm((f[:, None] - f) @ scale, axis=2).ravel()) for i, f in with_others.items()}
        limit = np.quantile(np.linalg.norm(basis.pool @ scale, axis=1), QUANTILE) if with_others else 0.0
        return cls(
            {i: _shortened(features, min(1.0, limit / lengths[i])) for i, features in with_others.items()},
            np.array([_words(q.prompt, q.replies[:2]) for q in basis.bank], dtype=np.float64),
            np.array([_words(q.prompt, q.replies) for q in basis.bank], dtype=np.float64),
            {question.id: i for i, question in enumerate(basis.bank)},
        )

    def better(
        self,
        post: Gaussian,
        allowed: Bool[Bools, "m"],
        pair: int,
        v: Float[Array, "d"],
        noise: Noise,
        words_a_second: float,
    ) -> int | None:
        """The question whose pick tells most for each second, unless ``v``, that of the pair, tells as much."""
        rates = {
            i: expected_pick_information(post, features) / seconds(self.words[i], words_a_second)
            for i, features in self.features.items()
            if allowed[i]
        }
        best = max(rates, key=lambda i: rates[i], default=None)
        nats = float(expected_information(post, v[np.newaxis], noise)[0])
        least = nats / seconds(self.pair_words[pair], words_a_second)
        return best if best is not None and rates[best] > least else None

    def pace(self, read: Sequence[tuple[str, bool, float]]) -> float:
        """Words that a person reads in a second, by which questions they read, whether as picks, and in which time."""
        known = [(self.place[name], is_pick, taken) for name, is_pick, taken in read if name in self.place]
        words = np.array([(self.words if is_pick else self.pair_words)[i] for i, is_pick, _ in known])
        return pace(words, np.array([taken for _, _, taken in known]))


def _shortened(features: Float[Array, "k d"], share: float) -> Float[Array, "k d"]:
    center = features.mean(axis=0)
    return np.asarray(center + share * (features - center))


def _words(prompt: Sequence[Message], replies: Sequence[str]) -> int:
    return sum(len(text.split()) for text in (*(message["content"] for message in prompt), *replies))


def pace(words: Float[Array, "n"], taken_s: Float[Array, "n"]) -> float:
    """Words that a person reads in a second, by what they took for their answers; the usual pace counts as some."""
    reading_s = np.clip(taken_s - TAP_S, 0, LONGEST_S).sum()
    return float((words.sum() + USUAL) / (reading_s + USUAL / READING))


def seconds(words: float, words_a_second: float) -> float:
    """How long answering takes."""
    return TAP_S + words / words_a_second
