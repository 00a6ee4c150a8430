"""Jester's people: new ones are asked about other jokes than they are judged by, and skip what they didn't rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lab.learning.learn import run_learn
from lab.learning.populations import jester
from lab.learning.populations.asked import Population
from lab.learning.populations.votes import MissingData
from lab.learning.sets import Plan
from tests.lab.learning import made_up


def ratings(people: int = 150, jokes: int = 60, seed: int = 0) -> np.ndarray:
    """Two directions of taste, in whole numbers, and half of the people didn't rate a third of the jokes."""
    rng = np.random.default_rng(seed)
    rated = 3 * rng.normal(size=(people, 2)) @ rng.normal(size=(2, jokes)) + rng.normal(size=(people, jokes))
    is_left_out = (rng.random(rated.shape) < 1 / 3) & (np.arange(people) % 2 == 0)[:, None]
    return np.where(is_left_out, np.nan, rated.round())


@pytest.fixture(scope="module")
def population() -> Population:
    return jester.population(ratings(), 0)


def test_questions_and_tests_share_no_joke(population: Population) -> None:
    """Half of the jokes are asked about, the others judge; no pair is asked about twice."""
    asked = set(population.pool.ravel().tolist())
    assert len(asked) == 30
    assert len({frozenset(pair) for pair in population.pool.tolist()}) == len(population.pool)
    assert len(population.new) > 10
    for person in population.new:
        assert not asked & set(person.tests.ravel().tolist())


def test_people_say_what_they_rated(population: Population) -> None:
    """Of each new person one row of the ratings fits all answers, skipped pairs and tests; of another it doesn't."""
    rated = ratings()

    def fits(who: int, number: int) -> bool:
        person, row = population.new[number], rated[who]
        said, tests = (row[pairs[:, 0]] - row[pairs[:, 1]] for pairs in (population.pool, person.tests))
        expected = np.where(said == 0, "skip", np.where(said > 0, "a", "b"))
        return bool((person.choice == expected).all() and ((tests > jester.GAP) == person.prefers).all())

    owners = [[who for who in range(len(rated)) if fits(who, number)] for number in range(3)]
    assert [len(owner) for owner in owners] == [1, 1, 1]
    assert owners[0] != owners[1]


def test_nobody_is_both_met_and_new(population: Population) -> None:
    """The log holds the ratings of everyone but a fifth of the people, from whom the new ones are taken."""
    assert population.rated is not None
    assert len(population.rated.users) == 120
    met = {row[np.isfinite(row)].tobytes() for row in population.rated.ratings}
    assert len(met & {row[np.isfinite(row)].tobytes() for row in ratings()}) == 120


def test_pairs_tell_what_ratings_do_but_for_their_size() -> None:
    """By pairs the log has the same answers and no ratings."""
    both = [jester.population(ratings(), 0, by_pairs=by_pairs) for by_pairs in (False, True)]
    assert both[1].rated is None
    np.testing.assert_array_equal(both[0].pairs, both[1].pairs)
    assert both[1].log().answers == both[0].log().answers


def test_missing_set_is_named() -> None:
    """A folder without the ratings says which file it lacks."""
    with pytest.raises(MissingData, match=r"ratings\.csv"):
        jester.load(Path("nowhere"))


@pytest.mark.slow
def test_the_figures_have_their_ceilings(tmp_path: Path) -> None:
    """New people are understood better with answers, from ratings and from pairs; the ceiling stands beside."""
    data = made_up.make(tmp_path, ["jester5k"])
    result = run_learn(Plan(jester_splits=2, compared_splits=1), data, "jester")
    assert result["skipped"] == []
    figures = {row["figure"]: row for row in result["rows"]}
    assert {"jester.population", "jester.gain_10", "jester.gain_20", "jester.pairs.gain_20"} <= figures.keys()
    for n in (10, 20):
        assert figures[f"jester.gain_{n}"]["ceiling"] > 0
        assert figures[f"jester.gain_{n}"]["value"] > 0
