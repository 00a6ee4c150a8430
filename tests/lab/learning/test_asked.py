"""New people asked one question after another, under a Gaussian or a mixture; and alpaca84's people among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lab.learning.judged import Judged
from lab.learning.populations import alpaca84
from lab.learning.populations.asked import NewPerson, Population, ask_everyone, ask_kinds
from lab.priors.mixture import Mixture
from personalign.learn.ask import AHEAD
from personalign.learn.factors import Factors
from personalign.types import Gaussian, Noise
from tests.lab.learning import made_up

COUNTS = (0, 3)
KINDS = 3 * np.concatenate([np.eye(3), -np.eye(3)])
NOISE = Noise(tie=0.0, lapse=0.0, side=0.0)
FACTORS = Factors(np.eye(3), Gaussian(np.zeros(3), 3 * np.eye(3)), NOISE, 2, 2, 0, 0, ())


@pytest.fixture(scope="module")
def population() -> Population:
    """Thirty new people of six kinds, who answer by a logistic."""
    rng = np.random.default_rng(0)

    def person(weights: np.ndarray) -> NewPerson:
        pool, tests = rng.normal(size=(2, 40, 3))
        says, prefers = (rng.random(40) < 1 / (1 + np.exp(-v @ weights)) for v in (pool, tests))
        return NewPerson(pool, says, tests, prefers)

    nobody = np.zeros((0, 3))
    return Population(np.zeros(0, int), nobody, np.zeros(0, str), [person(KINDS[i % 6]) for i in range(30)], KINDS)


def test_a_mixture_without_points_is_no_mixture(population: Population) -> None:
    """The same questions and the same forecasts, to the bit, as under the factors' own prior."""
    given = ask_everyone(population, FACTORS, "d_optimal", COUNTS)
    plain = ask_everyone(population, FACTORS, "d_optimal", COUNTS, prior=Mixture.plain(FACTORS.prior))
    mixed = ask_everyone(population, FACTORS, "d_optimal", COUNTS, prior=Mixture(FACTORS.prior, KINDS, 0.5))
    np.testing.assert_array_equal(given[3].chance, plain[3].chance)
    assert not np.array_equal(given[3].chance, mixed[3].chance)


def test_who_knows_the_kinds_predicts_best(population: Population) -> None:
    """After three questions asked by looking ahead; before the first nobody knows anything."""
    plain: dict[int, Judged] = ask_everyone(population, FACTORS, "random", COUNTS)
    known = ask_kinds(population, AHEAD, COUNTS)
    assert known[3].accuracy > plain[3].accuracy + 0.05
    assert known[0].accuracy == pytest.approx(0.5, abs=0.1)


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
    fits = np.array([((person.pool @ of.kinds.T > 0) == person.says[:, None]).mean(axis=0) for person in of.new])
    best = fits.argmax(axis=1)
    later = np.array([((p.tests @ of.kinds.T > 0) == p.prefers[:, None]).mean(axis=0) for p in of.new])
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
