"""How often a trial tells arms apart, equal ones and better ones: ``python -m lab.learning.trials``.

Simulated people come on a day of thirty, each with tastes of their own, and choose one to six times. Equal arms may be
told apart in 5 % of the trials at most, whenever one looks. The interval made for a single look is the control.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.special import expit
from scipy.stats import norm

from lab.bootstrap import mean
from lab.harness import Bar, Report, Row
from personalign.learn.shares import MISS, Pair, Results, pairs, shares
from personalign.types import Array

ARMS = ("plain", "personal")
DAYS, PEOPLE, MOST = 30, 60, 6
LIKINGS, SIZES = (0.6, 1.2, 2.4), (30, 60, 120, 240)  # log-odds; people
FEWEST = 10  # people that the control waits for
Look = Callable[[Results], Pair]


def draw(
    rng: np.random.Generator,
    people: int = PEOPLE,
    liking: float = 0.0,
    arms: tuple[str, ...] = ARMS,
    most: int = MOST,
    by_length: float = 0.0,
) -> tuple[Results, Array]:
    """A trial and the day of each choice; ``liking`` is by how many log-odds the last arm is liked better.

    It also writes longer by ``by_length``, which people like.
    """
    person = np.repeat(np.arange(people), rng.integers(1, most + 1, people))
    n, is_last = len(person), np.arange(len(arms)) == len(arms) - 1
    day = np.minimum(rng.integers(0, DAYS, people)[person] + rng.integers(0, 10, n), DAYS - 1)
    order = np.argsort(day, kind="stable")
    person, day = person[order], day[order]
    left = rng.integers(len(arms), size=n)
    right = (left + rng.integers(1, len(arms), n)) % len(arms)
    taste, size = rng.normal(0, 1, (people, len(arms))) + liking * is_last, by_length * is_last
    longer = rng.normal(0, 0.3, n) + size[left] - size[right]
    odds = taste[person, left] - taste[person, right] + (2 * longer if by_length else 0.0)
    score = (rng.random(n) < expit(odds)).astype(np.float64)
    score[rng.random(n) < 0.1] = 0.5
    return Results(arms, person, left, right, score, longer), day.astype(np.float64)


def until(results: Results, day: Array, last: int) -> Results:
    """What was chosen up to a day."""
    names = ("person", "left", "right", "score", "longer")
    return replace(results, **{name: getattr(results, name)[day <= last] for name in names})


def first_pair(results: Results) -> Pair:
    """What a report says of the first two arms."""
    return pairs(results)[0]


def fixed(results: Results) -> Pair:
    """The usual 95 % interval of the mean over people, which is made for a single look."""
    weight, (chosen, place) = results.weight, np.unique(results.person, return_inverse=True)
    first, second = results.arms
    if len(chosen) < FEWEST:
        return Pair(first, second, -1.0, 1.0, len(chosen))
    gaps = 2 * np.bincount(place, weight * results.credit[:, 0])
    middle, reach = float(gaps.mean()), float(norm.ppf(0.975) * gaps.std() / np.sqrt(len(gaps)))
    return Pair(first, second, middle - reach, middle + reach, len(gaps))


def is_told_apart(pair: Pair) -> bool:
    """Whether one arm is said to be better."""
    return pair.low > 0 or pair.high < 0


def is_ever_told_apart(results: Results, day: Array, look: Look) -> bool:
    """Whether it is on any day."""
    return any(is_told_apart(look(until(results, day, last))) for last in range(DAYS))


def false_alarms(look: Look, trials: int, seed: int) -> Array:
    """Of trials of equal arms, those that ever tell them apart."""
    rng = np.random.default_rng(seed)
    return np.array([is_ever_told_apart(*draw(rng), look) for _ in range(trials)], dtype=np.float64)


def _rows(trials: int, seed: int) -> Iterator[Row]:
    for name, look in (("alarms", first_pair), ("alarms_fixed", fixed)):
        yield Row.estimated(f"trials.{name}", mean(false_alarms(look, trials, seed)), {"trials": trials})
    for liking in LIKINGS:
        for people in SIZES:
            rng = np.random.default_rng([seed, people])
            drawn = [draw(rng, people, liking)[0] for _ in range(trials // 5)]
            found = np.array([first_pair(one).high < 0 for one in drawn], dtype=np.float64)
            wins = float(np.mean([shares(one)[1].value for one in drawn]))
            yield Row.estimated(f"trials.found.{liking:g}.{people}", mean(found), {"wins": wins})


def main(
    trials: Annotated[int, typer.Option(min=10, help="number of trials of equal arms")] = 1000,
    seed: Annotated[int, typer.Option(help="number that repeats the draws")] = 13,
    out: Annotated[Path | None, typer.Option(help="file to write the result to")] = None,
) -> None:
    """Print one JSON object."""
    report = Report(
        "python -m lab.learning.trials",
        "cpu",
        ("numpy", "scipy", "personalign"),
        {"trials.alarms": Bar("≤", MISS)},
        out,
    )
    report.extend(_rows(trials, seed))
    typer.echo(json.dumps(report.to_json(), ensure_ascii=False))


if __name__ == "__main__":
    typer.run(main)
