"""The sets that learning is measured on: each is run once, when a figure first asks for it, and leaves its curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from lab.harness import turns
from lab.learning.judged import ENOUGH, Judged, joined
from lab.learning.populations import alpaca84, gated, jester, pandalm, prism, ukp
from lab.learning.populations.alpaca84 import Replies, Sizes
from lab.learning.populations.asked import Population, ask_everyone, fitted, know_everything, of_kinds
from lab.learning.populations.gated import Gated
from lab.learning.populations.votes import MissingData, Votes
from personalign.basis import Shares
from personalign.errors import InputError
from personalign.learn.ask import AHEAD
from personalign.learn.rows import MAX_ANSWERS

GATED: Mapping[str, Callable[[Path], Votes]] = {"ukp": ukp.load, "prism": prism.load, "pandalm": pandalm.load}
COUNTS = (0, 5, 10, 20)
RULE = AHEAD  # as is served
STRENGTH = 0.1  # of the separate population model's pull to 0, as scikit-learn's C


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    num_repeats: int = 300  # of what takes milliseconds
    num_bank: int = 1000  # questions
    num_pairs: int = 10_000  # the same for a rule that is fast
    num_watched: int = 100  # answers
    num_bulk: int = 100_000
    num_bulk_repeats: int = 3
    num_sample: int = 1000  # of people whose bulk fit is compared with their own
    basis: tuple[int, int, int] = (400, 24_000, 384)  # people, answers, features
    num_stop_bases: int = 4
    num_stopped: int = 100  # people of each of them
    jester_splits: int = 2
    first_split: int = 200  # of Jester; fixed before any of their results was seen
    alpaca_seeds: int = 10
    first_seed: int = 320  # of the eighty-four tastes; fixed before any of their results was seen
    alpaca: Sizes = field(default_factory=Sizes)
    other_rules: Sequence[str] = ("d_optimal", "random", "gap", "pref")
    compared_splits: int = 2  # from seed 0 on, in which other rules ask and other priors are tried
    gate_rounds: Mapping[str, int] = field(  # until everyone has met all prompts; of the largest set a quarter
        default_factory=lambda: {"ukp": 4, "prism": 16, "pandalm": 12}
    )


@dataclass(frozen=True, eq=False)
class Met:
    """New people of one split: forecasts of the same tests after each number of answers, by each rule.

    The figures are those of the first rule, by which ``plain``, a Gaussian prior, asks as well.
    """

    after: Mapping[str, Mapping[int, Judged]]
    population: Judged  # logistic regression, fitted apart
    everything: Judged  # as many of their answers as a fit takes, at random
    limit: float | None  # share of tests that the hidden taste itself is right about
    plain: Mapping[int, Judged] | None = None
    kinds_known: Mapping[int, Judged] | None = None  # by somebody who knows beforehand what kinds of people there are

    @property
    def asked(self) -> Mapping[int, Judged]:
        """By the first rule."""
        return next(iter(self.after.values()))

    @property
    def prior(self) -> Judged:
        """The basis's mean."""
        return self.asked[0]


class Sets:
    """The data folder's sets, and the curves found so far."""

    def __init__(self, data: Path, plan: Plan) -> None:
        self.plan = plan
        self.curves: list[dict[str, Any]] = []
        self._data = data
        self._gated: dict[str, Gated] = {}

    @cached_property
    def jester(self) -> list[Met]:
        """Every split's people, under the numbers that they have in all of them."""
        met = self._meet_raters(self.plan.jester_splits, by_pairs=False)
        self._tell("jester", met)
        return met

    @cached_property
    def jester_by_pairs(self) -> list[Met]:
        """The first of them again, from a log of pairs."""
        return self._meet_raters(self.plan.compared_splits, by_pairs=True)

    @cached_property
    def alpaca84(self) -> list[Met]:
        """Every seed's people."""
        replies, met = _load(alpaca84.load, self._data), []
        for number in turns(self.plan.alpaca_seeds, "alpaca84"):
            seed = self.plan.first_seed + number
            met.append(self._meet(self._tastes(replies, seed), seed, number))
        self._tell("alpaca84", met)
        return met

    @cached_property
    def alpaca84_compared(self) -> list[Met]:
        """A few others, whom all rules ask."""
        replies = _load(alpaca84.load, self._data)
        seeds = turns(self.plan.compared_splits, "alpaca84, compared")
        met = [self._meet(self._tastes(replies, seed), seed, seed, is_compared=True) for seed in seeds]
        self._tell("alpaca84, compared", met)
        return met

    @cached_property
    def alpaca84_unseen(self) -> list[Met]:
        """Some seeds with one attribute that nobody cared about whom the axes were made from, and all new people do."""
        replies = _load(alpaca84.load, self._data)
        seeds = turns(self.plan.compared_splits, "alpaca84, unseen attribute")
        return [self._meet(self._tastes(replies, seed, unseen=seed % 7), seed, seed) for seed in seeds]

    @cached_property
    def alpaca84_encoded(self) -> list[Met]:
        """Some seeds with an encoder's features, in which nobody has put the attributes."""
        replies = _load(alpaca84.load, self._data)
        encoded, seeds = replies.encoded(), turns(self.plan.compared_splits, "alpaca84, encoded")
        return [self._meet(self._tastes(replies, seed, encoded=encoded), seed, seed) for seed in seeds]

    def _tastes(self, replies: Replies, seed: int, **otherwise: Any) -> Population:  # noqa: ANN401 - named
        return alpaca84.population(replies, seed, sizes=self.plan.alpaca, **otherwise)

    def gated(self, name: str) -> Gated:
        """A set in which nobody may be worse off than with the population's model."""
        if name not in self._gated:
            rounds = gated.run(GATED[name](self._data), self.plan.gate_rounds[name])
            self._gated[name] = rounds
            for n, (personal, prior) in rounds.after.items():
                self._curve(name, "as given", n, personal, prior)
            self._curve(name, "as given", None, rounds.personal, rounds.prior)
        return self._gated[name]

    def all_curves(self) -> list[dict[str, Any]]:
        """Run what hasn't been run yet and is there; the curves with enough predictions for a calibration error."""
        for name in ("jester", "alpaca84", *GATED):
            with suppress(MissingData):
                self.gated(name) if name in GATED else getattr(self, name)
        curves = [curve for curve in self.curves if curve["ece"] is not None]
        if not curves:
            raise MissingData(f"none of the sets is in {self._data}; pass the folder that holds them with --data")
        return curves

    def _meet_raters(self, num_splits: int, *, by_pairs: bool) -> list[Met]:
        ratings, met = _load(jester.load, self._data), []
        for number in turns(num_splits, "jester by pairs" if by_pairs else "jester"):
            seed = self.plan.first_split + number
            met.append(self._meet(jester.population(ratings, seed, by_pairs=by_pairs), seed, number))
        return met

    def _meet(self, population: Population, seed: int, number: int, *, is_compared: bool = False) -> Met:
        """Fit a basis to the log, and ask new people as they are served; where that is compared, in other ways, too."""
        basis = fitted(population, seed)
        rules = (RULE, *(self.plan.other_rules if is_compared else ()))
        asked = {rule: ask_everyone(population, basis, rule, COUNTS) for rule in rules}
        owner = len(population.new) * number + asked[RULE][0].person

        def owned(after: Mapping[int, Judged]) -> dict[int, Judged]:
            return {n: Judged(owner, judged.chance) for n, judged in after.items()}

        plain = kinds_known = None
        if is_compared:
            gaussian = replace(basis, shares=Shares(0.0, 0.0), particles=None)
            plain = owned(ask_everyone(population, gaussian, RULE, COUNTS))
            kinds_known = owned(ask_everyone(population, of_kinds(population), RULE, COUNTS))
        return Met(
            {rule: owned(after) for rule, after in asked.items()},
            Judged(owner, _population(population)),
            Judged(owner, know_everything(population, basis, MAX_ANSWERS, seed).chance),
            population.limit,
            plain=plain,
            kinds_known=kinds_known,
        )

    def _tell(self, name: str, met: Sequence[Met]) -> None:
        for rule in met[0].after if met else ():
            having = [m for m in met if rule in m.after]
            for n in COUNTS if having else ():
                after, prior = joined([m.after[rule][n] for m in having]), joined([m.prior for m in having])
                self._curve(name, rule, n, after, prior)

    def _curve(self, name: str, rule: str, answers: int | None, judged: Judged, population: Judged) -> None:
        if not len(judged):
            return
        gain, low, high = (round(x, 5) for x in judged.better_than(population))
        self.curves.append(
            {
                "set": name,
                "rule": rule,
                "answers": answers,
                "people": len(np.unique(judged.person)),
                "predictions": len(judged),
                "accuracy": round(judged.accuracy, 5),
                "log_loss": round(judged.log_loss, 5),
                "ece": round(judged.calibration_error, 5) if len(judged) >= ENOUGH else None,
                "gain": gain,
                "low": low,
                "high": high,
            }
        )


def _load(load: Callable[[Path], Any], data: Path) -> Any:  # noqa: ANN401 - of each set its own
    """Read a set, whose loader's only complaint is that it isn't there."""
    try:
        return load(data)
    except InputError as error:
        raise MissingData(str(error)) from error


def _population(population: Population) -> Float[NDArray[np.float64], "M"]:
    """One model for all people, fitted apart from any basis."""
    model = LogisticRegression(C=STRENGTH, fit_intercept=False, max_iter=500).fit(
        population.v, population.choice == "a"
    )
    left = [model.predict_proba(population.difference(person.tests))[:, 1] for person in population.new]
    return _chance_of_preferred(population, np.concatenate(left))


def _chance_of_preferred(
    population: Population, left: Float[NDArray[np.float64], "M"]
) -> Float[NDArray[np.float64], "M"]:
    prefers = np.concatenate([person.prefers for person in population.new])
    return np.asarray(np.where(prefers, left, 1 - left))
