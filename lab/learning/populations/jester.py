"""Jester (Goldberg et al. 2001): people who rated a hundred jokes; the one set here with clear personal taste.

The jokes are known, so their axes are what the ratings tell of them (``learn/ratings.py``): how they were liked on
average, and what goes with what. People are split 80/20. A new person's rated jokes are halved at random: questions
come from one half, with any gap between the two ratings, tests from the other, with a gap above 4 of 20.

What is odd about a person's rating of one joke would pass for a taste where the joke is asked about again. So the
jokes that a person was asked about get axes of their own, too, on which only their own questions lie.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from lab.learning.judged import Judged
from lab.learning.populations.votes import read
from lab.priors.lookahead import PROBIT, pair_moments, settled
from lab.priors.ratings import Items, fit_items, normal_scores
from personalign.learn.ask import SCORES
from personalign.learn.fit import Record, fit_block, predict
from personalign.learn.rows import MAX_ANSWERS
from personalign.types import Gaussian, Noise

NEW = 0.2  # of the people
GAP = 4.0  # between the ratings of a test's jokes
RULE = "settled"  # the rule of lookahead.py; the others are those of ask.py
OWN = 40  # of a person's jokes at most get an axis: twenty questions' worth
SLIP = 0.5  # of what is odd about a rating, that would be another one if the joke were asked about again
NUM_REFERENCE = 300  # pairs, of jokes that the person isn't asked about
MATCHES = 4  # rounds in which the jokes that found no partner are paired again
CERTAIN = 1e-6  # variance of a weight that is known
ANSWER = Noise(tie=0.0, lapse=0.0, side=0.0)  # ratings have no sides and don't lapse

Ratings = Float[NDArray[np.float64], "people jokes"]


@dataclass(frozen=True, eq=False)
class Rater:
    """A new person: the jokes they may be asked about, pairs of these, and the pairs they are judged by.

    ``says`` and ``prefers`` tell where the left is preferred.
    """

    who: int  # the same number in every split
    jokes: Integer[NDArray[np.int64], "J"]
    scores: Float[NDArray[np.float64], "J"]  # of these jokes alone
    pairs: Integer[NDArray[np.int64], "m 2"]  # places in jokes
    reference: Integer[NDArray[np.int64], "r 2"]  # other jokes, that questions are judged by
    says: Bool[NDArray[np.bool_], "m"]
    tested: Integer[NDArray[np.int64], "t 2"]  # jokes
    prefers: Bool[NDArray[np.bool_], "t"]


@dataclass(frozen=True, eq=False)
class Split:
    """The jokes as the people met rated them; their answers (pair, choice) to pairs of them; and new people."""

    items: Items
    gap: float  # of a test at least, in a typical person's standard deviations
    shared: Float[NDArray[np.float64], "jokes shared"]  # each joke on the axes of all jokes: its mean, and tastes
    pair: Integer[NDArray[np.int64], "N 2"]
    choice: NDArray[Any]  # texts
    new: Sequence[Rater]

    @property
    def num_shared(self) -> int:
        """How many axes all jokes lie on; the others are a person's own jokes'."""
        return int(self.shared.shape[1])

    @property
    def unit(self) -> float:
        """Utility of a difference of 1 in scores: the logistic noise of answers is 1."""
        return PROBIT / float(np.sqrt(2 * SLIP * self.items.oddity))

    @property
    def test_unit(self) -> float:
        """The same, where all that is odd about the two jokes is noise."""
        return PROBIT / float(np.sqrt(2 * self.items.oddity))

    @property
    def test_noise(self) -> Noise:
        """A test is of two ratings further apart than the gap: closer ones would be ties."""
        return Noise(tie=self.gap * self.test_unit, lapse=0.0, side=0.0)

    @property
    def prior(self) -> Gaussian:
        """Over the mean's weight, which is 1, tastes, and what is odd about a person's own jokes."""
        d = self.num_shared + OWN
        return Gaussian(np.eye(d)[0], np.diag([CERTAIN, *np.ones(d - 1)]))

    def differences(self, pairs: Integer[NDArray[np.int64], "m 2"]) -> Float[NDArray[np.float64], "m shared"]:
        """Left minus right, in scores."""
        return np.asarray(self.shared[pairs[:, 0]] - self.shared[pairs[:, 1]])


def load(data: Path) -> Ratings:
    """Read everyone's ratings, −10 to 10; NaN where a joke wasn't rated.

    Raises:
        MissingData: the folder doesn't hold the set.
    """
    rows = list(csv.reader(read(data / "jester5k" / "ratings.csv").splitlines()))[1:]
    return np.array([[float(rating) if rating else np.nan for rating in row[1:]] for row in rows])


def split(ratings: Ratings, seed: int, rank: int) -> Split:
    """Draw who is new, learn the jokes' axes from the others, ``rank`` of taste, and halve the new ones' jokes."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(ratings))
    num_new = round(NEW * len(ratings))
    seen = ratings[order[num_new:]]
    items = fit_items(normal_scores(seen), rank)
    shared = np.column_stack([items.mean, items.loading])
    pairs = [_once_each(rated, rng) for rated in seen]
    liked = [rated[pair[:, 0]] > rated[pair[:, 1]] for rated, pair in zip(seen, pairs, strict=True)]
    new = [_rater(int(i), ratings[i], rng) for i in order[:num_new]]
    return Split(
        items,
        GAP / float(np.median(np.nanstd(seen, axis=1))),
        shared,
        np.concatenate(pairs),
        np.where(np.concatenate(liked), "a", "b"),
        [rater for rater in new if len(rater.tested)],
    )


def fit_apart(split: Split, strength: float) -> Judged:
    """One model for all people, fitted apart from any prior; ``strength`` is scikit-learn's C."""
    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=500)
    model.fit(split.differences(split.pair), split.choice == "a")
    return _judged(split, [model.predict_proba(split.differences(rater.tested))[:, 1] for rater in split.new])


def ask_everyone(split: Split, rule: str, counts: Sequence[int], seed: int = 0) -> dict[int, Judged]:
    """Ask each new person questions chosen by ``rule``, none twice; judge the forecasts after each of ``counts``."""
    people = [_Asked.nothing(rater, split) for rater in split.new]
    judged = {}
    for n in range(max(counts) + 1):
        posts = _fit(people, split)
        if n in counts:
            judged[n] = _judge(split, posts)
        for i, (person, post) in enumerate(zip(people, posts, strict=True)):
            if n < max(counts):
                person.ask(post, split, rule, seed + len(people) * n + i)
    return judged


def know_everything(split: Split, seed: int) -> Judged:
    """What could be known: as many of a person's answers as a fit takes, about as many jokes as have axes."""
    rng = np.random.default_rng(seed)
    people = [_Asked.nothing(rater, split) for rater in split.new]
    for person in people:
        places = rng.permutation(len(person.rater.jokes))[:OWN]
        rows = np.flatnonzero(np.isin(person.rater.pairs, places).all(axis=1))
        for row in rng.permutation(rows)[:MAX_ANSWERS]:
            person.take(int(row))
    return _judge(split, _fit(people, split))


def know_ratings(split: Split, num: int, seed: int) -> Judged:
    """What ``num`` of a person's ratings themselves would tell, of jokes at random."""
    rng = np.random.default_rng(seed)
    prior = _on_shared(split.prior, split)
    precision = np.diag(1 / np.diag(prior.covariance))
    posts = []
    for rater in split.new:
        places = rng.permutation(len(rater.jokes))[:num]
        x = split.shared[rater.jokes[places]]
        covariance = np.asarray(np.linalg.inv(precision + x.T @ x / split.items.oddity), dtype=np.float64)
        residual = rater.scores[places] - x @ prior.mean
        posts.append(Gaussian(prior.mean + covariance @ (x.T @ residual) / split.items.oddity, covariance))
    return _judge(split, posts)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A new person, the questions they were asked so far, and the jokes they know on this person's axes."""

    rater: Rater
    items: NDArray[np.float64]  # (J, d), the own axes filled as jokes are asked about
    odd_variance: NDArray[np.float64]  # (J,) variance of what is odd about jokes without an axis yet
    num_shared: int
    asked: list[int]
    shown: list[int]  # jokes with an axis of their own, in its order

    @classmethod
    def nothing(cls, rater: Rater, split: Split) -> _Asked:
        """Before the first question."""
        shared = split.unit * split.shared[rater.jokes]
        odd_variance = np.full(len(shared), split.unit**2 * (1 - SLIP) * split.items.oddity)
        return cls(rater, np.hstack([shared, np.zeros((len(shared), OWN))]), odd_variance, split.num_shared, [], [])

    @property
    def record(self) -> Record:
        """What was asked and answered."""
        left, right = self.rater.pairs[self.asked].T
        return Record(self.items[left] - self.items[right], np.where(self.rater.says[self.asked], "a", "b").tolist())

    def ask(self, post: Gaussian, split: Split, rule: str, seed: int) -> None:
        """Ask one more, if any is left."""
        allowed = np.ones(len(self.rater.pairs), dtype=bool)
        allowed[self.asked] = False
        if rule == RULE:
            score = settled(
                post, self.items, self.rater.pairs, self.odd_variance, split.differences(self.rater.reference)
            )
        else:  # these would ask about what is odd
            is_fresh = allowed & ~np.isin(self.rater.pairs, self.shown).any(axis=1)
            allowed = is_fresh if is_fresh.any() else allowed
            score = SCORES[rule](*pair_moments(post, self.items, self.rater.pairs, self.odd_variance), ANSWER, seed)
        if allowed.any():
            self.take(int(np.argmax(np.where(allowed, score, -np.inf))))

    def take(self, row: int) -> None:
        """Put a question, and give its jokes their axes."""
        self.asked.append(row)
        for joke in self.rater.pairs[row].tolist():
            if joke not in self.shown:
                self.items[joke, self.num_shared + len(self.shown)] = np.sqrt(self.odd_variance[joke])
                self.odd_variance[joke] = 0.0
                self.shown.append(joke)


def _fit(people: Sequence[_Asked], split: Split) -> list[Gaussian]:
    """Everyone's weights."""
    return [post.weights for post in fit_block([person.record for person in people], split.prior, ANSWER)]


def _judge(split: Split, posts: Sequence[Gaussian]) -> Judged:
    left = [
        predict(split.test_unit * split.differences(rater.tested), _on_shared(post, split), split.test_noise)
        for rater, post in zip(split.new, posts, strict=True)
    ]
    return _judged(split, left)


def _judged(split: Split, left: Sequence[NDArray[np.float64]]) -> Judged:
    chances = [np.where(rater.prefers, p, 1 - p) for rater, p in zip(split.new, left, strict=True)]
    return Judged(np.repeat([rater.who for rater in split.new], [len(p) for p in chances]), np.concatenate(chances))


def _on_shared(weights: Gaussian, split: Split) -> Gaussian:
    c = split.num_shared
    return Gaussian(weights.mean[:c], weights.covariance[:c, :c])


def _rater(who: int, rated: NDArray[np.float64], rng: np.random.Generator) -> Rater:
    judged = rng.permutation(np.flatnonzero(~np.isnan(rated)))
    jokes, others = judged[: len(judged) // 2], judged[len(judged) // 2 :]
    pairs, tested = _pairs(rated[jokes], 0.0, rng), others[_pairs(rated[others], GAP, rng)]
    says, prefers = (rated[pair[:, 0]] > rated[pair[:, 1]] for pair in (jokes[pairs], tested))
    reference = rng.choice(np.setdiff1d(np.arange(len(rated)), jokes), size=(NUM_REFERENCE, 2))
    return Rater(who, jokes, normal_scores(rated[None, jokes])[0], pairs, reference, says, tested, prefers)


def _once_each(rated: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Pairs (m, 2) as far apart as a test's, in which each of a person's jokes comes at most once.

    The model that is fitted apart takes all answers to be independent, and pairs that share a joke share what is odd
    about how this person rated it.
    """
    left = np.flatnonzero(~np.isnan(rated))
    parts = []
    for _ in range(MATCHES):
        left = rng.permutation(left)
        pairs = left[: len(left) // 2 * 2].reshape(-1, 2)
        is_far = np.abs(rated[pairs[:, 0]] - rated[pairs[:, 1]]) > GAP
        parts.append(pairs[is_far])
        left = np.concatenate([pairs[~is_far].ravel(), left[2 * len(pairs) :]])
    return np.concatenate(parts)


def _pairs(rated: NDArray[np.float64], gap: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """The places (m, 2) of all pairs rated further apart than ``gap``, in random order, on random sides."""
    pairs = np.column_stack(np.triu_indices(len(rated), 1))
    pairs = pairs[np.abs(rated[pairs[:, 0]] - rated[pairs[:, 1]]) > gap]
    turned = rng.random(len(pairs)) < 0.5
    pairs[turned] = pairs[turned, ::-1]
    return pairs[rng.permutation(len(pairs))]
