"""Jester's people: halves that share no joke, tests far apart, and jokes asked about with axes of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lab.learning.learn import run_learn
from lab.learning.populations import jester
from lab.learning.populations.votes import MissingData
from lab.learning.sets import Plan
from personalign.learn.fit import fit_block
from tests.lab.learning import made_up

RANK = 2


def ratings(people: int = 150, jokes: int = 40, seed: int = 0) -> np.ndarray:
    """Two directions of taste, and a third of the jokes not rated."""
    rng = np.random.default_rng(seed)
    rated = 3 * rng.normal(size=(people, 2)) @ rng.normal(size=(2, jokes)) + rng.normal(size=(people, jokes))
    return np.where(rng.random(rated.shape) < 1 / 3, np.nan, rated)


@pytest.fixture(scope="module")
def split() -> jester.Split:
    return jester.split(ratings(), 0, RANK)


def test_questions_and_tests_share_no_joke(split: jester.Split) -> None:
    """A new person's halves are apart, and what they say and prefer is what they rated."""
    rated = ratings()
    assert len(split.new) > 20
    for person in split.new:
        own = np.flatnonzero(~np.isnan(rated[person.who]))
        assert set(person.jokes) < set(own)
        assert not set(person.tested.ravel()) & set(person.jokes)
        left, right = rated[person.who][person.jokes[person.pairs]].T
        np.testing.assert_array_equal(person.says, left > right)
        assert not set(person.reference.ravel()) & set(person.jokes)
        left, right = rated[person.who][person.tested].T
        np.testing.assert_array_equal(person.prefers, left > right)
        assert (np.abs(left - right) > jester.GAP).all()


def test_nobody_is_both_met_and_new(split: jester.Split) -> None:
    """Another person's ratings change the jokes' axes only if they aren't new; the same seed gives the same split."""
    rated = ratings()
    new = split.new[0].who
    met = next(i for i in range(len(rated)) if i not in {person.who for person in split.new})
    for who, changes in ((new, False), (met, True)):
        other = rated.copy()
        other[who] = -other[who]
        assert np.array_equal(jester.split(other, 0, RANK).shared, split.shared) != changes
    assert not np.array_equal(jester.split(rated, 1, RANK).shared, split.shared)


def test_each_joke_comes_once_among_a_persons_answers() -> None:
    """Of the pairs that the separate model is fitted to, no two of a person share a joke, and all are far apart."""
    rated = max(ratings(), key=np.nanstd)
    pairs = jester._once_each(rated, np.random.default_rng(0))
    assert len(np.unique(pairs)) == pairs.size > 10
    assert (np.abs(rated[pairs[:, 0]] - rated[pairs[:, 1]]) > jester.GAP).all()


def test_a_joke_asked_about_again_tells_less_of_tastes(split: jester.Split) -> None:
    """Each joke shown has an axis of its own, so that its oddity counts once; without them the fit is too sure."""
    person = jester._Asked.nothing(split.new[0], split)
    with_first = np.flatnonzero((person.rater.pairs == 0).any(axis=1))[:8]
    for row in with_first:
        person.take(int(row))
    assert len(person.shown) == len(with_first) + 1
    assert np.count_nonzero(person.odd_variance) == len(person.odd_variance) - len(person.shown)
    shared = slice(1, split.num_shared)
    sure = [
        np.trace(fit_block([record], split.prior, jester.ANSWER)[0].weights.covariance[shared, shared])
        for record in (person.record, _without_own_axes(person, split))
    ]
    assert sure[0] > 1.02 * sure[1]


def _without_own_axes(person: jester._Asked, split: jester.Split) -> jester.Record:
    v = person.record.v.copy()
    v[:, split.num_shared :] = 0
    return jester.Record(v, person.record.choice)


def test_people_are_understood_better_with_answers(split: jester.Split) -> None:
    """Clear tastes are learnt in ten questions, by every rule; knowing the ratings themselves is no worse than few."""
    for rule in (jester.RULE, "random", "d_optimal"):
        after = jester.ask_everyone(split, rule, (0, 10))
        assert after[10].better_than(after[0]).low > 0.05
    assert jester.know_ratings(split, 10, 0).better_than(after[0]).low > 0.05
    assert jester.know_everything(split, 0).accuracy > after[10].accuracy - 0.02


def test_forecasts_of_a_person_are_their_own(split: jester.Split) -> None:
    """Before the first answer everybody's forecasts are those of the jokes' mean ratings."""
    first = jester.ask_everyone(split, jester.RULE, (0,))[0]
    person = split.new[0]
    mean = split.items.mean[person.tested]
    expected = (mean[:, 0] > mean[:, 1]) == person.prefers
    np.testing.assert_array_equal(first.correct[first.person == person.who], expected)


def test_missing_set_is_named() -> None:
    """A folder without the ratings says which file it lacks."""
    with pytest.raises(MissingData, match=r"ratings\.csv"):
        jester.load(Path("nowhere"))


def test_the_figures_have_their_ceilings(tmp_path: Path) -> None:
    """The benchmark's rows: every rule has a curve, and beside the gains stands what ratings themselves tell."""
    data = made_up.make(tmp_path, ["jester5k"])
    found = run_learn(Plan(jester_splits=2, jester_rank=2, compared_splits=1), data, "jester")
    assert found["skipped"] == []
    rows = {row["figure"]: row for row in found["rows"]}
    assert rows.keys() == {"jester.population", "jester.gain_10", "jester.gain_10_low", "jester.gain_20"}
    for n in (10, 20):
        assert rows[f"jester.gain_{n}"]["ceiling"] > 0
        value, low, high = rows[f"jester.gain_{n}"]["as_many_ratings"]
        assert 0 < low < value < high
        assert rows[f"jester.gain_{n}"]["all_ratings"][0] > value
    assert {curve["rule"] for curve in found["curves"]} == {jester.RULE, "d_optimal", "random", "gap", "pref"}
