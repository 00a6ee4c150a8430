"""What a basis is worth to people who had no part in finding it.

Their answers are predicted from so many others of theirs, and from none: the population's forecast of the same answers.
An answer is never predicted from one that shares a text with it, because what is odd about one text isn't a taste. How
many people are of which kind (``learn/mixture.py``) is fitted to the same people, in the order in which they answered:
each kind predicts every answer from those before it (prequentially: Dawid 1984), and the shares are the likeliest ones.
Made-up people (``learn/sparse.py``) stay only if they predict better than few tastes on the basis's own axes.
Unless people so mixed are predicted better than by everybody's mean, nothing is personal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import logsumexp

from personalign.basis import Shares
from personalign.errors import InputError
from personalign.learn.fit import Record, fit_block, predict
from personalign.learn.likelihood import log_likelihood
from personalign.learn.mixture import Mixture
from personalign.learn.rows import encode
from personalign.types import INFORMATIVE, SIDES, Array, Bools, Gaussian, Ints, Noise

COUNTS = (0, 5, 10, 20)  # answers of a person that are known
JUDGED_AFTER = 10  # answers, as many as are asked
MOST = 60  # answers of a person, the first; more would let the few with a thousand take all the time
AT_ONCE = 32  # people whose answers are predicted together
BINS = 10  # of equal mass
SURE = 1.64  # standard errors that a gain has to be above 0
FEW, ANY = Shares(0.0, 1.0), Shares(0.0, 0.0)  # one kind alone
_STEPS = 200  # of the shares' fixed point
# whose each of N predictions is, and the chance given to the side they preferred: as served, and by the population
_Forecast = tuple[Ints, Array, Array]


@dataclass(frozen=True, eq=False)
class Person:
    """A held-out person's informative answers, oldest first: v (n, d), choices, and the two texts (n, 2) of each."""

    v: Float[Array, "n d"]
    choice: Sequence[str]
    texts: Int[Ints, "n 2"]

    @property
    def overlaps(self) -> Bool[Bools, "n n"]:
        """Which answers are about a text that another one is about, too."""
        left, right = self.texts[:, None, :, None], self.texts[None, :, None, :]
        return np.asarray((left == right).any(axis=(2, 3)))


@dataclass(frozen=True)
class After:
    """How well people are predicted after so many answers, and how the population's mean predicts the same answers.

    Accuracy is the mean over people, log-loss (nats) over answers; ``margin`` is how much accuracy people gain, less
    1.64 standard errors: above 0 it isn't chance.
    """

    answers: int
    people: int
    predicted: int
    accuracy: float
    population_accuracy: float
    log_loss: float
    population_log_loss: float
    margin: float


@dataclass(frozen=True)
class Judgement:
    """The kinds' shares, the curve over numbers of answers, and the calibration error of all predictions together.

    ``has_particles`` says whether made-up people stand for those with few tastes.
    """

    shares: Shares
    has_particles: bool
    after: tuple[After, ...]
    calibration_error: float

    @property
    def accuracy(self) -> float:
        """After ten answers, or as many as there are."""
        return [after for after in self.after if after.answers <= JUDGED_AFTER][-1].accuracy

    @property
    def active(self) -> bool:
        """Whether questions may be chosen by it: after ten answers or all there are, people gain more than chance."""
        most = max(after.people for after in self.after)
        known = [a for a in self.after if 0 < a.answers <= JUDGED_AFTER and 2 * a.people >= most]  # not of a few alone
        return self.shares.nothing < 1 and bool(known) and known[-1].margin > 0


def judge(people: Sequence[Person], prior: Mixture, noise: Noise, seed: int) -> Judgement:
    """Fit the shares of the prior's kinds to held-out people, and predict their answers with them."""
    people = [Person(p.v[:MOST], p.choice[:MOST], p.texts[:MOST]) for p in people]
    prior, scores = _better(prior, [(Record(p.v, p.choice), p.overlaps) for p in people], noise)
    shares = choose_shares(scores)
    mixture = replace(prior, shares=shares)
    forecasts = {n: forecast for n in COUNTS if (forecast := _forecast(people, n, mixture, noise, seed))}
    if not forecasts:
        raise InputError(
            f"{len(people)} held-out people preferred no reply, expected answers a or b; collect more answers"
        )
    chances = np.concatenate([served for _, served, _ in forecasts.values()])
    after = tuple(_after(n, *forecast) for n, forecast in forecasts.items())
    return Judgement(shares, prior.particles is not None, after, calibration_error(chances))


def _better(
    prior: Mixture, people: Sequence[tuple[Record, Bool[Bools, "_ _"]]], noise: Noise
) -> tuple[Mixture, Float[Array, "people 3"]]:
    """The prior with its particles, or without them where few tastes on the basis's own axes predict better."""
    scores = prequential(people, prior, noise)
    if prior.particles is None:
        return prior, scores
    plain = replace(prior, particles=None)
    others = prequential(people, plain, noise)
    return (prior, scores) if scores[:, 1].sum() >= others[:, 1].sum() else (plain, others)


def prequential(
    people: Sequence[tuple[Record, Bool[Bools, "_ _"]]], prior: Mixture, noise: Noise
) -> Float[Array, "people 3"]:
    """Log-probability of each person's answers by each kind of people: nothing, few and any.

    Each informative answer is predicted from those before it, but not from those that share a text with it: what is
    odd about a text is no taste.
    """
    blocks = [people[i : i + AT_ONCE] for i in range(0, len(people), AT_ONCE)]
    return np.concatenate([_prequential(block, prior, noise) for block in blocks])


def _prequential(
    people: Sequence[tuple[Record, Bool[Bools, "_ _"]]], prior: Mixture, noise: Noise
) -> Float[Array, "people 3"]:
    answers, befores, owner = list[Record](), list[Record](), list[int]()
    for person, (record, overlaps) in enumerate(people):
        informative = [i for i, choice in enumerate(record.choice) if choice in INFORMATIVE]
        for t, i in enumerate(informative):
            before = [j for j in informative[:t] if not overlaps[i, j]]
            answers.append(Record(record.v[i], [record.choice[i]]))
            befores.append(Record(record.v[before], [record.choice[j] for j in before]))
            owner.append(person)
    mean = prior.normal.mean
    v = np.array([answer.v for answer in answers]).reshape(-1, len(mean))
    outcome = encode([answer.choice[0] for answer in answers])
    kinds = [v @ mean, *(_predicted(v, befores, replace(prior, shares=only), noise) for only in (FEW, ANY))]
    each = np.stack([log_likelihood(u, outcome, noise)[0] for u in kinds], axis=1)
    sums = np.zeros((len(people), len(kinds)))
    np.add.at(sums, np.array(owner, dtype=np.int64), each)
    return sums


def _predicted(v: Array, befores: Sequence[Record], prior: Mixture, noise: Noise) -> Array:
    """Utility differences by what was known before each, drawn towards 0 as ``predict`` does."""
    posts = [fitted.weights for fitted in fit_block(befores, prior, noise)]
    mean = np.array([row @ post.mean for row, post in zip(v, posts, strict=True)])
    variance = np.array([row @ post.covariance @ row for row, post in zip(v, posts, strict=True)])
    return np.asarray(mean / np.sqrt(1 + np.pi * np.maximum(variance, 0.0) / 8))


def choose_shares(scores: Float[Array, "people 3"]) -> Shares:
    """The likeliest shares of the kinds by each person's log-probability under each, if they predict better than μ.

    Expectation and maximisation; one more person of each kind is a Dirichlet(2, 2, 2) prior.
    """
    if len(scores) < 2:
        raise InputError(f"found {len(scores)} held-out people, expected two at least; hold out more of them")
    shares = np.full(3, 1 / 3)
    for _ in range(_STEPS):
        odds = scores + np.log(shares)
        kind = np.exp(odds - logsumexp(odds, axis=1, keepdims=True))
        shares = (kind.sum(axis=0) + 1) / (len(scores) + 3)
    gain = logsumexp(scores + np.log(shares), axis=1) - scores[:, 0]
    is_real = gain.mean() > SURE * gain.std(ddof=1) / np.sqrt(len(gain))
    return Shares(*shares[:2].tolist()) if is_real else Shares(1.0, 0.0)


def calibration_error(chance: Float[Array, "N"]) -> float:
    """Mean |how sure − how often right| over ten bins of as many predictions; ``chance`` of the side preferred."""
    sure = np.maximum(chance, 1 - chance)
    bins = np.array_split(np.argsort(sure, kind="stable"), BINS)
    return float(sum(abs(sure[b].mean() - _right(chance)[b].mean()) * len(b) for b in bins if len(b)) / len(chance))


def _forecast(people: Sequence[Person], num_answers: int, prior: Mixture, noise: Noise, seed: int) -> _Forecast | None:
    """Predict everyone who has answers left after so many; None where no one has."""
    parts = [_split(person, num_answers, np.random.default_rng([seed, i])) for i, person in enumerate(people)]
    tested = [i for i, (_, tests) in enumerate(parts) if len(tests)]
    if not tested:
        return None
    posts = fit_block([_record(people[i], parts[i][0]) for i in tested], prior, noise)
    served, population = [], []
    for i, post in zip(tested, posts, strict=True):
        tests = _record(people[i], parts[i][1])
        served.append(_chance(tests, post.weights, noise))
        population.append(_chance(tests, prior.normal, noise))
    person = np.repeat(np.arange(len(tested)), [len(chance) for chance in served])
    return person, np.concatenate(served), np.concatenate(population)


def _after(answers: int, person: Ints, served: Array, population: Array) -> After:
    right, by_population = (np.bincount(person, _right(c)) / np.bincount(person) for c in (served, population))
    gain = right - by_population
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
    return After(
        answers=answers,
        people=len(gain),
        predicted=len(served),
        accuracy=float(right.mean()),
        population_accuracy=float(by_population.mean()),
        log_loss=_log_loss(served),
        population_log_loss=_log_loss(population),
        margin=float(gain.mean() - SURE * error),
    )


def _split(person: Person, num_answers: int, rng: np.random.Generator) -> tuple[Int[Ints, "n"], Int[Ints, "m"]]:
    """The answers that are known, and those to predict: about other texts, and no ties; none if there are too few."""
    order = rng.permutation(len(person.choice))
    known, left = order[:num_answers], order[num_answers:]
    is_test = ~person.overlaps[np.ix_(left, known)].any(axis=1) & (np.array(person.choice)[left] != "tie")
    return known, left[is_test]


def _record(person: Person, rows: Int[Ints, "n"]) -> Record:
    return Record(person.v[rows], [person.choice[j] for j in rows])


def _chance(tests: Record, post: Gaussian, noise: Noise) -> Array:
    left = predict(tests.v, post, noise)
    return np.where([SIDES[choice] == "a" for choice in tests.choice], left, 1 - left)


def _right(chance: Array) -> Array:
    """1 where the likelier side was preferred, ½ where neither was likelier."""
    return np.where(chance == 0.5, 0.5, (chance > 0.5).astype(np.float64))


def _log_loss(chance: Array) -> float:
    return float(-np.log(np.maximum(chance, 1e-12)).mean())
