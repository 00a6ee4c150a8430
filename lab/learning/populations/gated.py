"""Whether a profile is ever worse than the population, where there may be nothing personal to learn.

People are split, and prompts: a basis is factorised from most people's votes on most of the prompts. Who is left over
is fitted by their own votes on these prompts, and judged by those on the others, of which nobody's votes were seen. How
many people are of which kind (``learn/mixture.py``) is chosen before, by folds of the basis's people, each of which
meets a basis of the rest. In a round a fold of people meets a fold of prompts.

Many votes are of the same few texts, so a model of everybody learns those texts by heart unless it is shrunk by how it
does on other prompts. It is a logistic regression, and its forecasts, those of its own votes from folds of prompts that
it hadn't seen, are the basis's mean; what people may differ in beside is the texts' main directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from numpy.typing import NDArray
from scipy.linalg import block_diag
from scipy.special import expit, log_expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from lab.learning.judged import Judged, joined
from lab.learning.populations.votes import Votes
from personalign.basis import Shares
from personalign.learn.factors import factorise
from personalign.learn.fit import Record, fit_block, predict
from personalign.learn.mixture import Mixture
from personalign.train.basis.judge import choose_shares, prequential
from personalign.types import Gaussian, Noise

RANK = 4
NUM_DIRECTIONS = 8
NUM_FOLDS = 4
NUM_PROMPT_FOLDS = 4  # of everybody's model
NUM_SHARE_FOLDS = 3  # of the people of a basis
ANSWERS = (0, 5, 10, 20)
MOST = 60  # answers of a person, the first; more would make the few with a thousand take all the time
UNGATED = Shares(0.0, 0.0)  # everybody has a taste of their own
SLOPES = np.linspace(0.3, 2.5, 23)  # of everybody's forecast
SLOPE_SPREAD = 0.1  # standard deviation over people
STRENGTHS = (0.0003, 0.001, 0.01, 0.1)  # of everybody's model, as scikit-learn's C


class Rows(NamedTuple):
    """Which votes of a round go where."""

    basis: Integer[NDArray[np.int64], "b"]
    answers: Integer[NDArray[np.int64], "o"]
    test: Integer[NDArray[np.int64], "t"]


@dataclass(frozen=True)
class Gated:
    """The same test votes under each forecast; ``after`` has people who gave that many answers and no others."""

    personal: Judged
    prior: Judged  # the basis's mean
    population: Judged  # logistic regression on all features, fitted apart
    ungated: Judged  # as if everybody had a taste of their own
    after: dict[int, tuple[Judged, Judged]]  # answers: personal, prior
    nothing: list[float]  # of the rounds: the share of people whom nothing sets apart
    others_agree: float | None = None  # how often the others who saw the same pair say what somebody says


def run(votes: Votes, num_rounds: int = NUM_FOLDS, rank: int = RANK) -> Gated:
    """Judge everybody in ``num_rounds`` rounds for each fold of people's first, and so on."""
    rounds = [_round(votes, rows, rank) for rows in splits(votes, num_rounds)]
    return replace(_joined(rounds), others_agree=others_agree(votes))


def others_agree(votes: Votes) -> float | None:
    """Share of answers that the majority of the other people says as well, of pairs that several people saw.

    No model of everybody can do much better: it is told what everybody said.
    """
    sided = np.flatnonzero(votes.choice != "tie")
    lead = votes.v[sided, 0] + np.pi * votes.v[sided, 1]  # both sides of a pair are the same pair
    sign = np.where(lead < 0, -1.0, 1.0)
    pair = np.unique(np.round(votes.v[sided] * sign[:, None], 9), axis=0, return_inverse=True)[1].ravel()
    signs = np.where(votes.choice[sided] == "a", 1.0, -1.0) * sign
    others = np.bincount(pair, signs)[pair] - signs
    decided = (others != 0) & (lead != 0)
    return float((np.sign(others) == signs)[decided].mean()) if decided.any() else None


def splits(votes: Votes, num_rounds: int, seed: int = 0) -> Iterator[Rows]:
    """Deal people and prompts into folds, and let fold k of people meet fold k + shift of prompts."""
    rng = np.random.default_rng(seed)
    num_people_folds = min(NUM_FOLDS, len(np.unique(votes.group)))
    people, prompts = (
        _folds(groups, n, rng) for groups, n in ((votes.group, num_people_folds), (votes.prompt, NUM_FOLDS))
    )
    for turn in range(num_rounds):
        shift, fold = divmod(turn, num_people_folds)
        judged, unseen = people == fold, prompts == (fold + shift) % NUM_FOLDS
        which = (~judged & ~unseen, judged & ~unseen, judged & unseen & (votes.choice != "tie"))
        yield Rows(*(np.flatnonzero(rows) for rows in which))


def _folds(
    group: Integer[NDArray[np.int64], "N"], num: int, rng: np.random.Generator
) -> Integer[NDArray[np.int64], "N"]:
    """The fold of each row's group, as many groups in each as can be."""
    names, index = np.unique(group, return_inverse=True)
    return np.asarray((rng.permutation(len(names)) * num // len(names))[index])


def _round(votes: Votes, rows: Rows, rank: int) -> Gated:
    x = _describe(votes, rows.basis)
    shares = _choose_shares(votes, x, rows.basis, rank)
    basis = _factorise(votes, x, rows.basis, rank)
    z = x @ basis.projection
    rows_of = _by_user(votes.user, rows.answers)
    test = {user: tests for user, tests in _by_user(votes.user, rows.test, len(votes.user)).items() if user in rows_of}
    people = [_Person(_record(votes, z, rows_of[u]), votes.prompt[rows_of[u]], z[tests]) for u, tests in test.items()]
    posts = _Posts(people, Mixture(basis.prior, shares), basis.noise)
    every = np.concatenate(list(test.values()))
    judged = _Judge(votes, every)
    enough = {
        n: np.repeat([len(p.answers.choice) >= n for p in people], [len(p.test) for p in people]) for n in ANSWERS
    }
    prior = np.concatenate([predict(p.test, basis.prior, basis.noise) for p in people])
    return Gated(
        personal=judged.judge(posts.predicted(MOST)),
        prior=judged.judge(prior),
        population=judged.judge(expit(x[every, 0])),
        ungated=judged.judge(replace(posts, prior=Mixture(basis.prior, UNGATED)).predicted(MOST)),
        after={
            n: (judged.judge(posts.predicted(n), is_used), judged.judge(prior, is_used))
            for n, is_used in enough.items()
        },
        nothing=[shares.nothing],
    )


def _describe(votes: Votes, rows: Integer[NDArray[np.int64], "b"]) -> Float[NDArray[np.float64], "N x"]:
    """Everybody's model fitted to ``rows``, and the main directions of their texts."""
    sided = rows[votes.choice[rows] != "tie"]
    folds = list(GroupKFold(NUM_PROMPT_FOLDS).split(sided, groups=votes.prompt[sided]))
    losses = {c: np.mean([_log_loss(votes, sided[fit], sided[held], c) for fit, held in folds]) for c in STRENGTHS}
    strength = min(losses, key=lambda c: losses[c])
    forecast = votes.v @ _weights(votes, sided, strength)
    for _, held in folds:
        unseen = np.isin(votes.prompt[rows], votes.prompt[sided[held]])
        seen = sided[~np.isin(votes.prompt[sided], votes.prompt[sided[held]])]
        forecast[rows[unseen]] = votes.v[rows[unseen]] @ _weights(votes, seen, strength)
    directions = np.linalg.svd(votes.v[rows], full_matrices=False)[2][:NUM_DIRECTIONS]
    return np.column_stack([forecast, votes.v @ directions.T])


def _weights(votes: Votes, sided: Integer[NDArray[np.int64], "n"], strength: float) -> Float[NDArray[np.float64], "F"]:
    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=300)
    return np.asarray(model.fit(votes.v[sided], votes.choice[sided] == "a").coef_[0])


def _log_loss(
    votes: Votes, sided: Integer[NDArray[np.int64], "n"], held: Integer[NDArray[np.int64], "h"], strength: float
) -> float:
    u = votes.v[held] @ _weights(votes, sided, strength)
    return float(-log_expit(np.where(votes.choice[held] == "a", u, -u)).mean())


class _Basis(NamedTuple):
    projection: NDArray[np.float64]
    prior: Gaussian
    noise: Noise


def _factorise(
    votes: Votes, x: Float[NDArray[np.float64], "N x"], rows: Integer[NDArray[np.int64], "b"], rank: int
) -> _Basis:
    """What people differ in, around everybody's model: an axis of its own, with the slope that foretells votes best."""
    factors = factorise(votes.user[rows], x[rows], votes.choice[rows], rank)
    projection = np.column_stack([factors.projection, np.eye(x.shape[1])[0]])
    sided = rows[votes.choice[rows] != "tie"]
    won = x[sided] @ projection * np.where(votes.choice[sided] == "a", 1.0, -1.0)[:, None]
    covariance = block_diag(factors.prior.covariance, SLOPE_SPREAD**2)
    priors = [Gaussian(np.append(np.zeros(factors.rank), slope), covariance) for slope in SLOPES]
    best = max(priors, key=lambda prior: np.log(predict(won, prior, factors.noise)).mean())
    return _Basis(projection, best, factors.noise)


def _record(votes: Votes, z: Float[NDArray[np.float64], "N d"], rows: Integer[NDArray[np.int64], "n"]) -> Record:
    return Record(z[rows], votes.choice[rows].tolist())


def _choose_shares(
    votes: Votes, x: Float[NDArray[np.float64], "N x"], rows: Integer[NDArray[np.int64], "b"], rank: int
) -> Shares:
    """Choose it by people who are held out in turn from a basis of the others; ``rows`` are the votes of all."""
    fold = _folds(votes.user[rows], NUM_SHARE_FOLDS, np.random.default_rng(1))
    scores = []
    for held in range(NUM_SHARE_FOLDS):
        basis = _factorise(votes, x, rows[fold != held], rank)
        z = x @ basis.projection
        theirs = _by_user(votes.user, rows[fold == held]).values()
        prompts = [votes.prompt[indices] for indices in theirs]
        same = [prompt[:, None] == prompt for prompt in prompts]
        people = [(_record(votes, z, indices), overlaps) for indices, overlaps in zip(theirs, same, strict=True)]
        scores.append(prequential(people, Mixture(basis.prior), basis.noise))
    return choose_shares(np.concatenate(scores))


class _Person(NamedTuple):
    answers: Record
    prompt: Integer[NDArray[np.int64], "o"]
    test: Float[NDArray[np.float64], "t d"]


@dataclass(frozen=True, eq=False)
class _Judge:
    votes: Votes
    rows: Integer[NDArray[np.int64], "t"]

    def judge(self, probability: NDArray[np.float64], is_used: Bool[NDArray[np.bool_], "t"] | None = None) -> Judged:
        which = slice(None) if is_used is None else is_used
        rows = self.rows[which]
        left = probability[which]
        return Judged(self.votes.user[rows], np.where(self.votes.choice[rows] == "a", left, 1 - left))


@dataclass(frozen=True, eq=False)
class _Posts:
    people: Sequence[_Person]
    prior: Mixture
    noise: Noise

    def predicted(self, num_answers: int) -> NDArray[np.float64]:
        """Predict everyone's tests by the first of their own answers."""
        first = [Record(p.answers.v[:num_answers], p.answers.choice[:num_answers]) for p in self.people]
        posts = [fitted.weights for fitted in fit_block(first, self.prior, self.noise)]
        return np.concatenate(
            [predict(person.test, post, self.noise) for person, post in zip(self.people, posts, strict=True)]
        )


def _by_user(
    user: Integer[NDArray[np.int64], "N"], rows: Integer[NDArray[np.int64], "n"], most: int = MOST
) -> dict[int, Integer[NDArray[np.int64], "m"]]:
    """The first rows of each user."""
    names, counts = np.unique(user[rows], return_counts=True)
    parts = np.split(rows[np.argsort(user[rows], kind="stable")], np.cumsum(counts)[:-1])
    return {int(name): part[:most] for name, part in zip(names, parts, strict=True)}


def _joined(rounds: Sequence[Gated]) -> Gated:
    return Gated(
        personal=joined([r.personal for r in rounds]),
        prior=joined([r.prior for r in rounds]),
        population=joined([r.population for r in rounds]),
        ungated=joined([r.ungated for r in rounds]),
        after={n: (joined([r.after[n][0] for r in rounds]), joined([r.after[n][1] for r in rounds])) for n in ANSWERS},
        nothing=[share for r in rounds for share in r.nothing],
    )
