"""New people are asked by the service, on a basis fitted to other people's log, and their other answers predicted.

Everything goes the way of a user: ``basis fit`` finds axes and prior in the log, ``ask`` and ``answer`` onboard, and
forecasts are those of the profile as it is served. Replies have no words here. They are named by their numbers, and the
log's features are what an embedder makes of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer
from numpy.typing import NDArray

from lab.learning.judged import Judged
from personalign.basis import ITEMS, BankQuestion, Basis, Learnt, Shares
from personalign.bundled import TINY
from personalign.decode.embed import HIDDEN
from personalign.learn.ask import StopRule
from personalign.learn.axes import features
from personalign.learn.fit import Record, fit_block, predict
from personalign.learn.items import Ratings
from personalign.learn.mixture import Mixture
from personalign.service import Personalign
from personalign.train.basis.people import fit_basis
from personalign.train.log import MIRRORED, Answer, AnswerLog, LogCounts
from personalign.types import Array, Gaussian, Message, Noise
from personalign.words import Axis

RIDGE = 1e-6  # variance that kinds have in directions in which they don't differ
UNTIL_TOLD = StopRule(accuracy=1.0, information=0.0, max_questions=1000)


@dataclass(frozen=True, eq=False)
class NewPerson:
    """Someone the axes have never met: what they say of the pairs they may be asked about, and the pairs that judge.

    ``says`` and ``prefers`` tell where the left is preferred. ``limit`` is the share of the tests that anyone would
    predict who knew the person's mind, where that is known. ``much`` tells of which pairs they say "much better", and
    is None where only sides are asked for. ``knows`` tells which pairs they answer and don't skip, None for all.
    """

    says: Bool[NDArray[np.bool_], "m"]
    tests: Integer[NDArray[np.int64], "t 2"]
    prefers: Bool[NDArray[np.bool_], "t"]
    limit: float | None = None
    much: Bool[NDArray[np.bool_], "m"] | None = None
    knows: Bool[NDArray[np.bool_], "m"] | None = None

    @property
    def choice(self) -> NDArray[Any]:
        """What they say of each pair of the pool."""
        said = choices(self.says, self.much)
        return said if self.knows is None else np.where(self.knows, said, "skip")

    @property
    def answered(self) -> Integer[NDArray[np.int64], "k"]:
        """The pairs they answer."""
        return np.arange(len(self.says)) if self.knows is None else np.flatnonzero(self.knows)


def choices(left: NDArray[np.bool_], much: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """Answers in words: the side, and beside it the grade where that is asked for."""
    sides = np.where(left, "a", "b")
    return sides if much is None else np.char.add(sides, np.where(much, "++", "+"))


@dataclass(frozen=True, eq=False)
class Population:
    """Replies, answers of the people the axes are made from (user, pairs, choice), and new people.

    Pairs are numbers of replies, left and right. ``pool`` are the pairs that new people may be asked about. ``kinds``
    are weights on the features of everybody there could be, where that is known.
    """

    prompt: Integer[NDArray[np.int64], "R"]
    features: Float[Array, "R F"]
    user: Integer[NDArray[np.int64], "N"]
    pairs: Integer[NDArray[np.int64], "N 2"]
    choice: NDArray[Any]  # texts
    pool: Integer[NDArray[np.int64], "m 2"]
    new: Sequence[NewPerson]
    kinds: Float[Array, "k F"] | None = None
    items: Sequence[str] = ()  # the replies' names, where they are all that there are
    rated: Ratings | None = None  # what the answers come from

    @property
    def v(self) -> Float[Array, "N F"]:
        """Left minus right of what the log's people answered."""
        return self.difference(self.pairs)

    def difference(self, pairs: Integer[NDArray[np.int64], "n 2"]) -> Float[Array, "n F"]:
        """Features of the left minus those of the right."""
        return np.asarray(self.features[pairs[:, 0]] - self.features[pairs[:, 1]])

    def conversation(self, reply: int) -> tuple[Message, ...]:
        """What a reply answers."""
        return ({"role": "user", "content": f"prompt {self.prompt[reply]}"},)

    def embed(self, _prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> Float[Array, "n F"]:
        """The features of replies by their names."""
        return np.asarray(self.features[[int(name) for name in replies]])

    def log(self) -> AnswerLog:
        """What the log's people answered."""
        answers = [
            Answer(f"user {user:06d}", self.conversation(a), str(a), str(b), str(choice))
            for user, (a, b), choice in zip(self.user, self.pairs.tolist(), self.choice, strict=True)
        ]
        counts = LogCounts(len(answers), len(np.unique(self.user)), 0, 0, 0, 0, 0, {})
        return AnswerLog(tuple(answers), counts, "log.jsonl", self.rated)

    @cached_property
    def limit(self) -> float | None:
        """What anyone would predict who knew people's minds, the mean over people."""
        limits = [person.limit for person in self.new if person.limit is not None]
        return float(np.mean(limits)) if limits else None


def fitted(population: Population, seed: int, rank: int | str = "auto") -> Basis:
    """The basis that is fitted to a log, with the population's pool as its questions."""
    tiny, nothing = Basis.load(TINY / "basis"), np.zeros(0)
    draft = replace(
        tiny, axes=(), center=nothing, scale=nothing, prior=Gaussian(nothing, np.zeros((0, 0))), noise=Noise(),
        reference=np.zeros((0, 0)), bank=(), head=None,
    )  # fmt: skip
    embedder = ITEMS if population.items else HIDDEN
    basis = fit_basis(population.log(), population.embed, draft, embedder, rank, seed).basis
    return _with_pool(population, basis)


def of_kinds(population: Population) -> Basis:
    """A basis that knows all kinds of people beforehand: what learning can't beat."""
    assert population.kinds is not None, "the population's kinds are known"
    size = population.kinds.shape[1]
    covariance = population.kinds.T @ population.kinds / len(population.kinds) + RIDGE * np.eye(size)
    known = replace(
        fitted(population, 0, rank=1),
        axes=tuple(Axis(f"feature_{i}", "a feature", "less", "more") for i in range(size)),
        center=np.zeros(size),
        scale=np.ones(size),
        learnt=Learnt(np.eye(size), HIDDEN),
        prior=Gaussian(np.zeros(size), covariance),
        noise=Noise(tie=0.0, lapse=0.0, side=0.0),
        shares=Shares(0.0, 1.0),
        particles=population.kinds,
        reference=population.difference(population.pool),
        active=True,
    )
    return _with_pool(population, known)


def _with_pool(population: Population, basis: Basis) -> Basis:
    phi = _features(population, basis)
    bank = [
        BankQuestion(str(i), population.conversation(a), str(a), str(b), phi[a], phi[b])
        for i, (a, b) in enumerate(population.pool.tolist())
    ]
    return replace(basis, bank=tuple(bank))


def _features(population: Population, basis: Basis) -> Float[Array, "R d"]:
    names = [str(reply) for reply in range(len(population.features))]
    return features(basis, [()] * len(names), names, population.embed)


def ask_everyone(
    population: Population, basis: Basis, rule: str | None, counts: Sequence[int], *, graded: bool = False
) -> dict[int, Judged]:
    """Let the service ask each new person as ``rule`` says, or as it is served; judge after each of ``counts``."""
    phi, asked, judged = _features(population, basis), _numbers(population), dict[int, Judged]()
    with _service(basis, rule) as p:
        for n in range(max(counts) + 1):
            if n in counts:
                beliefs = [p.serving.belief(p.profile(f"new {i}")) for i in range(len(population.new))]
                judged[n] = judge(population, phi, beliefs, basis.noise)
            for i, person in enumerate(population.new if n < max(counts) else ()):
                _let_answer(p, f"new {i}", person.choice, asked, graded=graded)
    return judged


def _let_answer(
    p: Personalign, user: str, says: NDArray[Any], numbers: Mapping[tuple[str, str], tuple[int, bool]], *, graded: bool
) -> None:
    """Ask until an answer says something."""
    choice = "skip"
    while choice == "skip" and (question := p.ask(user, graded=graded)):
        number, is_turned = numbers[question.a, question.b]
        side, _, grade = str(says[number]).partition("+")
        side = MIRRORED.get(side, side) if is_turned else side
        choice = f"{side}++" if grade else side
        p.answer(user, question.id, choice)  # type: ignore[arg-type]


def know_everything(population: Population, basis: Basis, most: int, seed: int) -> Judged:
    """Forecasts from so many answers of each person, drawn at random."""
    rng, phi = np.random.default_rng(seed), _features(population, basis)
    some = [rng.permutation(person.answered)[:most] for person in population.new]
    v = [phi[population.pool[rows, 0]] - phi[population.pool[rows, 1]] for rows in some]
    records = [
        Record(each, np.where(person.says[rows], "a", "b").tolist())
        for each, person, rows in zip(v, population.new, some, strict=True)
    ]
    posts = [one.weights for one in fit_block(records, Mixture.of_people(basis), basis.noise)]
    return judge(population, phi, posts, basis.noise)


def judge(population: Population, phi: Float[Array, "R d"], beliefs: Sequence[Gaussian], noise: Noise) -> Judged:
    """How likely each new person's test answers are under what is believed of them."""
    chances = [
        np.where(person.prefers, left, 1 - left)
        for person, belief in zip(population.new, beliefs, strict=True)
        for left in [predict(phi[person.tests[:, 0]] - phi[person.tests[:, 1]], belief, noise)]
    ]
    return Judged(np.repeat(np.arange(len(chances)), [len(each) for each in chances]), np.concatenate(chances))


def _numbers(population: Population) -> dict[tuple[str, str], tuple[int, bool]]:
    """Which question of the pool shows two replies, and whether they are turned."""
    pool = [(str(a), str(b)) for a, b in population.pool.tolist()]
    return {(b, a): (i, True) for i, (a, b) in enumerate(pool)} | {pair: (i, False) for i, pair in enumerate(pool)}


@contextmanager
def _service(basis: Basis, rule: str | None) -> Iterator[Personalign]:
    """A service on a basis, whose store is thrown away in the end; no model is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        basis.save(Path(folder) / "basis")
        url = f"sqlite:///{Path(folder) / 'people.db'}"
        with Personalign.open(url, basis=Path(folder) / "basis", question_rule=rule, stop_rule=UNTIL_TOLD) as p:
            yield p
