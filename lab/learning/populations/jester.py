"""Jester (Goldberg et al. 2001): people who rated a hundred jokes; the one set here with clear personal taste.

The jokes are known items. People are split 80/20, and the jokes in halves: new people are asked about one half, and
judged on pairs of the other that they rated more than 4 of 20 apart. Those are asked who rated all jokes, three in ten.
What they rated alike they skip.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import NDArray

from lab.learning.populations.asked import NewPerson, Population
from lab.learning.populations.votes import read
from personalign.learn.items import Ratings as Rated
from personalign.learn.items import match, pairs_of
from personalign.train.basis.bank import MAX_QUESTIONS

NUM_NEW = 100  # people who are asked in a split
NEW = 0.2  # of the people, from whom these are taken
GAP = 4.0  # between the ratings of a test's jokes

Ratings = Float[NDArray[np.float64], "people jokes"]


def load(data: Path) -> Ratings:
    """Read everyone's ratings, −10 to 10; NaN where a joke wasn't rated.

    Raises:
        MissingData: the folder doesn't hold the set.
    """
    rows = list(csv.reader(read(data / "jester5k" / "ratings.csv").splitlines()))[1:]
    return np.array([[float(rating) if rating else np.nan for rating in row[1:]] for row in rows])


def population(ratings: Ratings, seed: int, *, by_pairs: bool = False) -> Population:
    """Draw who is new and which jokes they are asked about; the others' log holds ratings, or pairs of these."""
    rng = np.random.default_rng([seed, 77])
    num_people, num_jokes = ratings.shape
    people, jokes = rng.permutation(num_people), rng.permutation(num_jokes)
    num_new = round(NEW * num_people)
    is_asked = np.isin(np.arange(num_jokes), jokes[: num_jokes // 2])
    seen = ratings[np.sort(people[num_new:])]
    pool = match(is_asked, 2 * MAX_QUESTIONS // num_jokes * 2, rng)[:MAX_QUESTIONS]
    complete = [who for who in people[:num_new] if not np.isnan(ratings[who]).any()]
    new = [_new(ratings[who], pool, is_asked, rng) for who in complete]
    new = [person for person in new if len(person.tests)][:NUM_NEW]
    answers = pairs_of(seen)
    names = tuple(str(joke) for joke in range(num_jokes))
    users = tuple(f"user {user:06d}" for user in range(len(seen)))
    return Population(
        np.zeros(num_jokes, dtype=np.int64),
        np.eye(num_jokes),
        answers.person,
        answers.pair,
        answers.choice,
        pool,
        new,
        items=names,
        rated=None if by_pairs else Rated(users, names, seen),
    )


def _new(
    rated: Float[NDArray[np.float64], "jokes"],
    pool: Integer[NDArray[np.int64], "m 2"],
    is_asked: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NewPerson:
    said = rated[pool[:, 0]] - rated[pool[:, 1]]
    others = np.flatnonzero(~is_asked)
    tests = others[np.column_stack(np.triu_indices(len(others), 1))]
    tests = tests[np.abs(rated[tests[:, 0]] - rated[tests[:, 1]]) > GAP]
    turned = rng.random(len(tests)) < 0.5
    tests[turned] = tests[turned, ::-1]
    prefers = rated[tests[:, 0]] > rated[tests[:, 1]]
    return NewPerson(said > 0, tests, prefers, knows=said != 0)
