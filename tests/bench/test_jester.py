"""Jester's people: halves that share no joke, tests far apart, and each joke once among the answers of those met."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from personalign.bench.populations import jester
from personalign.bench.populations.asked import _Asked
from personalign.bench.populations.votes import MissingData
from personalign.learn.factorise import Factors
from personalign.learn.fit import fit_block
from personalign.types import Gaussian, Noise


def ratings(people: int = 30, jokes: int = 40, seed: int = 0) -> np.ndarray:
    """Two directions of taste, and a third of the jokes not rated."""
    rng = np.random.default_rng(seed)
    rated = 3 * rng.normal(size=(people, 2)) @ rng.normal(size=(2, jokes)) + rng.normal(size=(people, jokes))
    return np.where(rng.random(rated.shape) < 1 / 3, np.nan, rated)


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> jester.Population:
    """The population with one column a joke, so that pairs can be told."""
    monkeypatch.setattr(jester, "embed", lambda seen, _: np.eye(seen.shape[1]))
    return jester.population(ratings(), 0)


def test_questions_and_tests_share_no_joke(numbered: jester.Population) -> None:
    """A new person is judged by jokes that they were never asked about."""
    assert len(numbered.new) > 1
    for person in numbered.new:
        assert not (np.abs(person.pool).sum(0) * np.abs(person.tests).sum(0)).any()


def test_each_joke_comes_once_among_a_persons_answers(numbered: jester.Population) -> None:
    """Of the people met, no two answers share a joke; of the new ones' pools, many do."""
    for user in np.unique(numbered.user):
        assert np.abs(numbered.v[numbered.user == user]).sum(0).max() == 1
    assert np.abs(numbered.new[0].pool).sum(0).max() > 1


def test_answers_say_what_the_ratings_say(numbered: jester.Population) -> None:
    """Sides are even, the same seed gives the same people, another seed others."""
    assert 0.3 < (numbered.choice == "a").mean() < 0.7
    again, other = jester.population(ratings(), 0), jester.population(ratings(), 1)
    np.testing.assert_array_equal(again.choice, numbered.choice)
    assert not np.array_equal(other.choice, numbered.choice)


def test_components_find_what_goes_together() -> None:
    """Two directions of taste give two components that hold nearly all that any hold."""
    found = jester.embed(ratings(people=200), np.random.default_rng(0))[:, 1:]
    sizes = np.linalg.svd(found, compute_uv=False)
    assert (sizes[:2] ** 2).sum() > 0.9 * (sizes**2).sum()


def test_missing_set_is_named() -> None:
    """A folder without the ratings says which file it lacks."""
    with pytest.raises(MissingData, match=r"ratings\.csv"):
        jester.load(Path("nowhere"))


def test_no_joke_is_asked_about_twice_while_others_last(numbered: jester.Population) -> None:
    """A person's first questions share no joke; without the pool's items they do."""
    person = numbered.new[0]
    axes = np.eye(numbered.v.shape[1])[:, :8]
    factors = Factors(axes, Gaussian(np.zeros(8), np.eye(8)), Noise(), 2, 2, 0, 0, ())
    shown = []
    for of in (person, replace(person, items=None)):
        asked = _Asked.nothing(of, factors)
        for n in range(4):
            asked.ask(fit_block([asked.record], factors.prior, factors.noise)[0], factors, "d_optimal", n)
        shown.append(np.abs(person.pool[asked.asked]).sum(0).max())
    assert shown[0] == 1
    assert shown[1] > 1
