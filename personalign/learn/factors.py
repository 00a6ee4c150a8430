"""Many people's answers or ratings to a few reward axes, the prior over people on them, and how people answer.

A reply may have hundreds of features, and people differ in a few directions of them. ``population`` finds those. Here
they become axes: of standard deviation 1 over the log's replies, uncorrelated over replies and over people, the axes
that people differ in most first. People who had no part in finding the axes judge them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from personalign.errors import InputError
from personalign.learn.fit import Record, fit_block, predict
from personalign.learn.items import Items, fit_items, foretold, normal_scores, pairs_of
from personalign.learn.likelihood import PROBIT, VERDICTS
from personalign.learn.population import Log, Model, fit_population, group_rows
from personalign.learn.rows import encode, signs
from personalign.types import INFORMATIVE, MAX_AXES, SIDES, Array, Gaussian, Ints, Noise

RANKS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32)  # that "auto" chooses from
COUNTS = (0, 5, 10, 20)  # answers of a held-out person that are known when others are predicted
SCALES = (1.0, 0.7, 0.5, 1.4)  # of the prior's covariance, tried on held-out people; the first of equals wins
HELD_OUT = 0.2  # of the people, in each of so many folds that enough judge
ENOUGH = 40  # people: by fewer a rank would win by chance
PEOPLE_AN_AXIS = 4  # at least: more axes couldn't be told from chance
MAX_TESTS = 200  # of a held-out person's answers
FLAT = 1e-9  # of the largest variance: a direction of features below it doesn't vary
FLOOR = 1e-4  # of the largest variance over people: a surer prior would never learn
CERTAIN = 1e-6  # variance of a weight that is known
_START = Noise(tie=0.2, lapse=0.02, side=0.2)
_RATED = Noise(tie=0.0, lapse=0.02, side=0.0)  # ratings have no sides, and what was rated alike is no answer


@dataclass(frozen=True)
class Held:
    """How well held-out people are predicted when ``answers`` of theirs are known; 0 is the population's model."""

    answers: int
    accuracy: float
    log_loss: float


@dataclass(frozen=True, eq=False)
class Factors:
    """Axes, the prior over people's weights on them, how people answer, and what was found in the log.

    φ(reply) @ projection are the axes.
    """

    projection: Float[Array, "F rank"]
    prior: Gaussian
    noise: Noise
    people: int
    answers: int
    uninformative: int  # answers that say nothing: "neither" and "skip"
    constant_people: int  # who always took the same side; they are kept, and their side bias accounts for it
    held_out: tuple[Held, ...]

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.prior.mean)


class _Axes(NamedTuple):
    projection: Array
    prior: Gaussian
    noise: Noise


@dataclass(frozen=True, eq=False)
class _Answers:
    """Informative answers: person (N,) counts from 0 in the order of ids."""

    person: Int[Ints, "N"]
    v: Float[Array, "N F"]
    choice: NDArray[Any]

    def select(self, people: Ints) -> _Answers:
        """The answers of these people, who are numbered anew."""
        new = np.full(int(self.person.max()) + 1, -1)
        new[people] = np.arange(len(people))
        person = new[self.person]
        return _Answers(person[person >= 0], self.v[person >= 0], self.choice[person >= 0])

    @property
    def num_people(self) -> int:
        return int(self.person.max()) + 1


def factorise(
    user: Sequence[Any] | NDArray[Any],
    v: Float[Array, "N F"],
    choice: Sequence[str] | NDArray[Any],
    rank: int | str = "auto",
    *,
    seed: int = 0,
) -> Factors:
    """Find the axes that people differ in from a log of answers: v is φ(left) − φ(right), one row an answer.

    "auto" takes the rank that predicts held-out people's answers best. They choose the scale of the prior, too:
    directions seem wider on the people whom they were fitted to. The seed draws the held-out people.

    Raises:
        InputError: wrong shapes, NaN or Inf, a rank that can't be, or informative answers of fewer than two people.
        QuestionError: an unknown choice.
    """
    users, choices = np.asarray(user), np.asarray(choice, dtype=object)
    features = np.asarray(v, dtype=np.float64)
    _check(users, features, choices)
    answers = _informative(users, features, choices)
    turn = _directions(answers.v)
    ranks = _ranks(rank, answers.num_people, turn.shape[1])
    folds = _folds(answers, np.random.default_rng(seed), ENOUGH if len(ranks) > 1 else 1)
    models = [fit_population(_log(known, turn), max(ranks), _START) for known, _ in folds]

    def report(rank: int, scale: float) -> tuple[Held, ...]:
        of_folds = zip(models, folds, strict=True)
        axes = [(_scaled(_axes(model, known, turn, rank), scale), held) for model, (known, held) in of_folds]
        return _joined([_report(each, held, seed) for each, held in axes])

    best = min(ranks, key=lambda r: _loss(report(r, 1.0)))
    reports = {scale: report(best, scale) for scale in SCALES}
    scale = min(SCALES, key=lambda scale: _loss(reports[scale]))
    final = fit_population(_log(answers, turn), best, _START, models[0])
    return Factors(
        *_scaled(_axes(final, answers, turn, best), scale),
        people=len(np.unique(users)),
        answers=len(users),
        uninformative=len(users) - len(answers.person),
        constant_people=_num_constant(answers),
        held_out=reports[scale],
    )


def factorise_ratings(ratings: Float[Array, "U J"], rank: int | str = "auto", *, seed: int = 0) -> Factors:
    """Find the axes that people differ in from their ratings of known items, NaN where there is none.

    An item's features are its own flag alone. The first axis is what everybody makes of the items, with a weight that
    is known, and ``rank`` others are tastes. What is odd about a person and an item is the noise of their answers.

    Raises:
        InputError: people who all put the items in the same order, or a rank that can't be.
    """
    rng, scores = np.random.default_rng(seed), normal_scores(ratings)
    order, is_known = rng.permutation(len(scores)), rng.random(scores.shape) < 0.5
    num_held = max(1, round(HELD_OUT * len(order)))
    held, met = order[:num_held], scores[order[num_held:]]
    halves = [np.where(half, scores, np.nan)[held] for half in (is_known, ~is_known)]
    ranks = _ranks(rank, len(met), scores.shape[1] - 1, MAX_AXES - 1)
    best = min(ranks, key=lambda r: foretold(fit_items(met, r), *halves))
    axes, tests = _of_items(fit_items(met, best)), pairs_of(ratings[held])
    v = axes.projection[tests.pair[:, 0]] - axes.projection[tests.pair[:, 1]]
    as_is = axes._replace(projection=np.eye(v.shape[1]))
    return Factors(
        *_of_items(fit_items(scores, best)),
        people=len(scores),
        answers=int(np.isfinite(scores).sum()),
        uninformative=0,
        constant_people=0,
        held_out=_report(as_is, _Answers(tests.person, v, tests.choice), seed),
    )


def _of_items(items: Items) -> _Axes:
    """Utilities in the unit in which an answer's noise, the oddity of two items, is a logistic one of scale 1."""
    unit, rank = PROBIT / np.sqrt(2 * items.oddity), items.loading.shape[1]
    prior = Gaussian(np.eye(rank + 1)[0], np.diag([CERTAIN, *np.ones(rank)]))
    return _Axes(unit * np.column_stack([items.mean, items.loading]), prior, _RATED)


def _check(users: NDArray[Any], v: Array, choices: NDArray[Any]) -> None:
    n = len(choices) if choices.ndim == 1 else -1
    if users.shape != (n,) or v.ndim != 2 or len(v) != n:
        raise InputError(
            f"found users of shape {users.shape}, v of shape {v.shape} and choices of shape {choices.shape}; "
            "expected (N,), (N, F) and (N,): a user, a row of features and a choice for each answer"
        )
    wrong = np.flatnonzero(~np.isfinite(v).all(axis=1))
    if len(wrong):
        raise InputError(
            f"v holds NaN or Inf in {len(wrong)} rows, the first is row {wrong[0]}; expected finite features; "
            "measure those replies again or leave their answers out"
        )
    encode(choices.tolist())


def _informative(users: NDArray[Any], v: Array, choices: NDArray[Any]) -> _Answers:
    is_informative = np.isin(choices.astype(str), sorted(INFORMATIVE))
    names, person = np.unique(users[is_informative], return_inverse=True)
    if len(names) < 2:
        raise InputError(
            f"found informative answers (a, b or tie) of {len(names)} of {len(np.unique(users))} people, expected two "
            "people at least, for axes are what people differ in; collect more answers, or use fit for a single person"
        )
    return _Answers(person.astype(np.int64), v[is_informative], choices[is_informative])


def _directions(v: Array) -> Array:
    """The orthogonal directions (F, K) in which features vary, largest first."""
    values, vectors = np.linalg.eigh(v.T @ v / len(v))
    varying = np.flatnonzero(values > FLAT * values[-1])[::-1]
    if values[-1] <= 0:
        raise InputError("the features don't differ in any pair, expected replies that do; measure them again")
    return np.asarray(vectors[:, varying])


def _ranks(rank: int | str, num_people: int, num_varying: int, most: int = MAX_AXES) -> list[int]:
    most = min(most, num_varying)
    if rank == "auto":
        return [r for r in RANKS if r <= min(most, max(1, num_people // PEOPLE_AN_AXIS))]
    if isinstance(rank, bool) or not isinstance(rank, (int, np.integer)) or not 1 <= rank <= most:
        raise InputError(
            f'found rank {rank!r}, expected "auto" or a whole number from 1 to {most}: at most {MAX_AXES}, and as many '
            f"as features vary independently ({num_varying})"
        )
    return [int(rank)]


def _folds(answers: _Answers, rng: np.random.Generator, enough: int) -> list[tuple[_Answers, _Answers]]:
    """The people who are fitted, and the people who judge; others judge in turn until so many did, or all."""
    order = rng.permutation(answers.num_people)
    num_held = max(1, round(HELD_OUT * len(order)))
    num_folds = min(-(-enough // num_held), len(order) // num_held)
    parts = [order[i * num_held : (i + 1) * num_held] for i in range(num_folds)]
    return [
        (answers.select(np.sort(np.setdiff1d(order, held))), _without_retests(answers.select(np.sort(held)), rng))
        for held in parts
    ]


def _without_retests(answers: _Answers, rng: np.random.Generator) -> _Answers:
    """One answer a person and pair, drawn at random: what somebody answered before is no test of what was learnt."""
    drawn: dict[tuple[int, bytes], int] = {}
    for i in rng.permutation(len(answers.person)):
        v = answers.v[i]
        pair = min((0.0 + v).tobytes(), (0.0 - v).tobytes())  # the same where its sides are changed
        drawn.setdefault((int(answers.person[i]), pair), int(i))
    rows = np.sort(list(drawn.values()))
    return _Answers(answers.person[rows], answers.v[rows], answers.choice[rows])


def _log(answers: _Answers, turn: Array) -> Log:
    """Turn each answer so that its left side won or tied, and project the features on their directions."""
    outcome = encode(answers.choice.tolist())
    side = signs(answers.v, outcome)
    verdict = VERDICTS[outcome]
    return Log((side[:, None] * answers.v) @ turn, verdict, side, answers.person, group_rows(answers.person))


def _num_constant(answers: _Answers) -> int:
    """People with several answers who always took the same side."""
    counts = np.zeros((answers.num_people, 2))
    side = np.array([SIDES.get(choice) for choice in answers.choice])
    np.add.at(counts[:, 0], answers.person[side == "a"], 1)
    np.add.at(counts[:, 1], answers.person[side == "b"], 1)
    total = np.bincount(answers.person)
    return int(((counts.max(axis=1) == total) & (total > 1)).sum())


def _axes(model: Model, answers: _Answers, turn: Array, rank: int) -> _Axes:
    """The best ``rank`` directions of the population's weights, as standardised axes and a prior on them.

    Utility is ⟨m + La, x⟩. In the metric of the pairs' features the second moment of a person's weights is
    LLᵀ + mmᵀ; its largest directions are kept.
    """
    spread = np.sqrt(((answers.v @ turn) ** 2).mean(axis=0) / 2)  # of a reply: a pair's difference varies twice as much
    mean, loading = spread * model.mean, spread[:, None] * model.loading
    directions = np.linalg.svd(np.column_stack([loading, mean]), full_matrices=False)[0][:, :rank]
    small = directions.T @ loading
    values, vectors = np.linalg.eigh(small @ small.T)
    directions = directions @ vectors[:, ::-1]
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(rank)]
    directions = directions * np.where(largest < 0, -1.0, 1.0)
    variance = np.maximum(values[::-1], FLOOR * max(values[-1], FLOOR))
    center, error = directions.T @ mean, variance / answers.num_people
    # Stein's rule draws the mean over few people towards 0
    center = center * np.maximum(0.0, 1 - error / np.maximum(center**2, 1e-300))
    prior = Gaussian(center, np.diag(variance))
    return _Axes(turn @ (directions / spread[:, None]), prior, model.noise)


def _scaled(axes: _Axes, scale: float) -> _Axes:
    return axes._replace(prior=Gaussian(axes.prior.mean, scale * axes.prior.covariance))


def _loss(report: tuple[Held, ...]) -> float:
    """Mean log-loss after the first answers; 0 where there are too few answers to judge by."""
    return float(np.mean([after.log_loss for after in report[1:]] or [0.0]))


def _joined(reports: Sequence[tuple[Held, ...]]) -> tuple[Held, ...]:
    """The mean over folds, of equally many people."""
    every = [after for report in reports for after in report]
    counts = sorted({after.answers for after in every})
    columns = [[(after.accuracy, after.log_loss) for after in every if after.answers == n] for n in counts]
    return tuple(Held(n, *np.mean(column, axis=0).tolist()) for n, column in zip(counts, columns, strict=True))


def _report(axes: _Axes, held: _Answers, seed: int) -> tuple[Held, ...]:
    """Predict held-out people's answers from some of their others; ties aren't predicted."""
    rng = np.random.default_rng(seed)
    z = held.v @ axes.projection
    rows = [rng.permutation(np.flatnonzero(held.person == i)) for i in range(held.num_people)]
    most = max((n for n in COUNTS if any(len(r) > n for r in rows)), default=0)
    tests = [[j for j in r[most:][:MAX_TESTS] if held.choice[j] != "tie"] for r in rows]
    report = []
    for n in (n for n in COUNTS if n <= most):
        asked = [r[:n] for r, t in zip(rows, tests, strict=True) if t]
        records = [Record(z[r], [str(c) for c in held.choice[r]]) for r in asked]
        posts = fit_block(records, axes.prior, axes.noise)
        chances = [
            np.where([SIDES[choice] == "a" for choice in held.choice[t]], prob, 1 - prob)
            for t, post in zip([t for t in tests if t], posts, strict=True)
            for prob in [predict(z[t], post.weights, axes.noise)]
        ]
        if chances:
            accuracy = float(np.mean([((c > 0.5) + (c == 0.5) / 2).mean() for c in chances]))
            report.append(Held(n, accuracy, float(np.mean([-np.log(np.maximum(c, 1e-12)).mean() for c in chances]))))
    return tuple(report)
