"""New people asked by the service on a basis of other people's log; and alpaca84's people among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lab.learning.populations import alpaca84
from lab.learning.populations.asked import (
    NewPerson,
    Population,
    ask_everyone,
    fitted,
    know_everything,
    of_kinds,
)
from personalign.basis import Basis
from tests.lab.learning import made_up

COUNTS = (0, 6)
KINDS = 3 * np.concatenate([np.eye(3), -np.eye(3)])
NUM_REPLIES = 200


@pytest.fixture(scope="module")
def population() -> Population:
    """Forty people in a log and eighteen new ones, of six kinds, who answer by a logistic."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(NUM_REPLIES, 3))

    def pairs(num: int) -> np.ndarray:
        return np.array([rng.choice(NUM_REPLIES, 2, replace=False) for _ in range(num)])

    def says(kind: int, shown: np.ndarray) -> np.ndarray:
        u = (features[shown[:, 0]] - features[shown[:, 1]]) @ KINDS[kind % 6]
        return np.asarray(rng.random(len(u)) < 1 / (1 + np.exp(-u)))

    shown, pool = pairs(40 * 30), pairs(60)
    user = np.repeat(np.arange(40), 30)
    left = np.concatenate([says(i, shown[user == i]) for i in range(40)])
    new = []
    for kind in range(18):
        tests = pairs(60)
        new.append(NewPerson(says(kind, pool), tests, says(kind, tests)))
    prompt = np.arange(NUM_REPLIES) % 7
    return Population(prompt, features, user, shown, np.where(left, "a", "b"), pool, new, KINDS)


@pytest.fixture(scope="module")
def basis(population: Population) -> Basis:
    return fitted(population, 0)


@pytest.mark.slow
def test_people_are_known_after_some_questions(population: Population, basis: Basis) -> None:
    """Before the first nobody knows anything; who knows the kinds beforehand predicts best."""
    served = ask_everyone(population, basis, None, COUNTS)
    known = ask_everyone(population, of_kinds(population), None, COUNTS)
    assert served[0].accuracy == pytest.approx(0.5, abs=0.1)
    assert served[6].accuracy > served[0].accuracy + 0.1
    assert known[6].log_loss < served[6].log_loss


@pytest.mark.slow
def test_the_sides_of_a_question_are_drawn_and_answers_turn_with_them(population: Population, basis: Basis) -> None:
    """All of a person's answers say as much as so many at random; answers turned against them say the opposite."""
    everything = know_everything(population, basis, 60, 0)
    served = ask_everyone(population, basis, "random", (0, 50))[50]
    assert served.accuracy == pytest.approx(everything.accuracy, abs=0.03)
    assert served.accuracy > 0.75


def test_an_attribute_may_be_unseen() -> None:
    """Where it is, all new people care about it and nobody seen does; at random both have some (the control)."""
    order = np.random.default_rng(0).permutation(84)

    def share(tastes: list[alpaca84.Taste]) -> float:
        return float(np.mean([any(attribute == 2 for attribute, _ in taste) for taste in tastes]))

    seen, new = alpaca84._split(order, unseen=2)
    assert (len(seen), len(new), share(seen), share(new)) == (60, 24, 0, 1)
    assert all(0 < share(some) < 1 for some in alpaca84._split(order, unseen=None))


def test_kinds_tell_what_people_say(tmp_path: Path) -> None:
    """All 84 tastes are known on the features, and some taste fits each new person better than another person's."""
    made_up.make(tmp_path, ["alpaca_eval"])
    of = alpaca84.population(alpaca84.load(tmp_path), 0)
    assert of.kinds is not None
    assert (len(of.kinds), len(np.unique(of.user)), len(of.new)) == (84, 60, 24)
    liked = of.difference(of.pool) @ of.kinds.T > 0
    fits = np.array([(liked == person.says[:, None]).mean(axis=0) for person in of.new])
    best = fits.argmax(axis=1)
    later = np.array([((of.difference(p.tests) @ of.kinds.T > 0) == p.prefers[:, None]).mean(axis=0) for p in of.new])
    own, others = later[np.arange(24), best], later[np.arange(24), np.roll(best, 1)]
    assert own.mean() > 0.6
    assert own.mean() > others.mean() + 0.1


def test_grades_are_the_same_minds_asked_for_more(tmp_path: Path) -> None:
    """A third of the seen answers are "much better"; sides, pairs and tests are those of the plain protocol."""
    made_up.make(tmp_path, ["alpaca_eval"])
    replies = alpaca84.load(tmp_path)
    plain = alpaca84.population(replies, 0)
    graded = alpaca84.population(replies, 0, grades=alpaca84.Grades(seen=True, new=True))
    assert [choice[0] for choice in graded.choice] == plain.choice.tolist()
    assert np.char.endswith(graded.choice, "++").mean() == pytest.approx(1 / 3, abs=0.001)
    for one, other in zip(plain.new, graded.new, strict=True):
        assert one.tests.tobytes() == other.tests.tobytes()
        assert set(one.choice) == {"a", "b"}
        assert set(other.choice) == {"a+", "b+", "a++", "b++"}
    own = alpaca84.population(replies, 0, grades=alpaca84.Grades(seen=True, new=True, spread=0.5))
    assert (own.choice != graded.choice).any()
