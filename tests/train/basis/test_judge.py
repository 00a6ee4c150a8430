"""Judged by people who had no part: what is known of them is never about the texts that are predicted."""

from __future__ import annotations

import numpy as np
import pytest

from personalign.basis import Shares
from personalign.errors import InputError
from personalign.learn.fit import Record, fit, fit_block, predict
from personalign.learn.likelihood import win_probability
from personalign.learn.mixture import Mixture
from personalign.train.basis.judge import (
    AT_ONCE,
    After,
    Judgement,
    Person,
    calibration_error,
    choose_shares,
    judge,
    prequential,
)
from personalign.types import Gaussian, Noise
from tests.learn.people import Array, answers, record_of

NOISE = Noise(tie=0.0, lapse=0.02, side=0.1)
PRIOR = Gaussian(np.zeros(3), np.eye(3))
AROUND = Gaussian(np.full(6, 0.4), 0.64 * np.eye(6))  # people who share a taste, and differ
FEW, ANY = Shares(0.0, 1.0), Shares(0.0, 0.0)


def people(number: int, answers: int, strength: float, seed: int = 0) -> list[Person]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        v, weights = rng.normal(size=(answers, 3)), strength * rng.normal(size=3)
        left = rng.random(answers) < 1 / (1 + np.exp(-v @ weights))
        found.append(Person(v, ["a" if x else "b" for x in left], np.arange(2 * answers).reshape(-1, 2)))
    return found


@pytest.mark.slow
def test_particles_stay_only_where_they_predict_better() -> None:
    """Those of the people's own kind stay; those that feel ten times as strongly go, as if never made."""
    some, rng = people(50, 24, 1.0), np.random.default_rng(0)
    own = rng.multivariate_normal(PRIOR.mean, PRIOR.covariance, 500)
    wild = judge(some, Mixture(PRIOR, particles=10 * own), NOISE, 0)
    assert not wild.has_particles
    assert wild == judge(some, Mixture(PRIOR), NOISE, 0)
    assert judge(some, Mixture(PRIOR, particles=own), NOISE, 0).has_particles


@pytest.mark.slow
def test_people_of_the_prior_are_foretold() -> None:
    """More with every answer, about as surely as it is right, so that questions may be chosen."""
    found = judge(people(50, 24, 1.0), Mixture(PRIOR), NOISE, 0)
    accuracy = [after.accuracy for after in found.after]
    assert accuracy[2] > accuracy[1] > accuracy[0] == 0.5
    assert found.accuracy == accuracy[2]
    assert found.shares.nothing < 0.2
    assert found.active
    assert found.calibration_error < 0.05


@pytest.mark.slow
def test_people_without_taste_stay_with_the_population() -> None:
    """Nothing is gained by leaving it, so nobody does, and questions aren't chosen."""
    found = judge(people(50, 24, 0.0), Mixture(PRIOR), NOISE, 0)
    assert found.shares == Shares(1.0, 0.0)
    assert not found.active
    assert {after.accuracy for after in found.after} == {0.5}


@pytest.mark.slow
def test_people_with_few_answers_each_are_judged_by_those() -> None:
    """Of nine answers each, five are known: questions may be chosen where these foretell the others."""
    found = judge(people(80, 9, 1.0), Mixture(PRIOR), NOISE, 0)
    assert [after.answers for after in found.after] == [0, 5]
    assert found.accuracy == found.after[1].accuracy > 0.5
    assert found.active
    assert not judge(people(80, 9, 0.0), Mixture(PRIOR), NOISE, 0).active  # control: they have no taste


ACTIVE: dict[str, tuple[dict[int, float], float, bool]] = {  # margins after so many answers, nobody's share
    "after ten it gains": ({0: 0.0, 5: -0.1, 10: 0.1, 20: -0.1}, 0.1, True),
    "after ten it doesn't": ({0: 0.0, 5: 0.1, 10: -0.1, 20: 0.1}, 0.1, False),
    "after five, and there are no ten": ({0: 0.0, 5: 0.1}, 0.1, True),
    "after five it doesn't, and there are no ten": ({0: 0.0, 5: -0.1}, 0.1, False),
    "after five, and twenty don't count": ({0: 0.0, 5: 0.1, 20: -0.1}, 0.1, True),
    "without an answer": ({0: 0.1}, 0.1, False),
    "after twenty alone": ({0: 0.0, 20: 0.1}, 0.1, False),
    "no gain at all": ({0: 0.0, 10: 0.0}, 0.1, False),
    "nothing is personal": ({0: 0.0, 10: 0.1}, 1.0, False),
}


@pytest.mark.parametrize("name", ACTIVE)
def test_questions_are_chosen_where_the_last_answers_up_to_ten_tell(name: str) -> None:
    """The largest number of known answers that there is, up to ten, decides alone, unless nothing is personal."""
    margins, nothing, is_active = ACTIVE[name]
    after = tuple(After(n, 20, 100, 0.5 + n / 100, 0.5, 0.6, 0.6, margin) for n, margin in margins.items())
    found = Judgement(Shares(nothing, 0.0), has_particles=False, after=after, calibration_error=0.0)
    assert found.active == is_active
    assert found.accuracy == 0.5 + max(n for n in margins if n <= 10) / 100


def test_nothing_is_predicted_from_the_same_text() -> None:
    """Whose answers all share a text is predicted by the population alone; other people aren't (the control)."""
    chained = [
        Person(p.v, p.choice, np.column_stack([np.zeros(12, int), np.arange(1, 13)])) for p in people(40, 12, 1.0)
    ]
    assert [after.answers for after in judge(chained, Mixture(PRIOR), NOISE, 0).after] == [0]
    assert judge(chained, Mixture(PRIOR), NOISE, 0).shares == Shares(1.0, 0.0)
    assert len(judge(people(40, 12, 1.0), Mixture(PRIOR), NOISE, 0).after) == 3


def test_answers_share_texts() -> None:
    """The first and the last are about text 1, on whichever side; by way of others nothing is shared."""
    texts = np.array([[0, 1], [30, 40], [1, 2], [2, 3]])
    overlaps = Person(np.zeros((4, 3)), ["a"] * 4, texts).overlaps
    assert np.argwhere(np.triu(overlaps, 1)).tolist() == [[0, 2], [2, 3]]


def test_people_who_prefer_nothing_are_refused() -> None:
    """Ties tell how strongly people feel, but can't be predicted right or wrong."""
    tied = [Person(p.v, ["tie"] * 5, p.texts) for p in people(4, 5, 1.0)]
    with pytest.raises(InputError, match="4 held-out people preferred no reply"):
        judge(tied, Mixture(PRIOR), Noise(), 0)


def test_the_calibration_error_is_how_far_surety_is_from_being_right() -> None:
    """Sure by nine tenths and right in nine of ten: none; in half of them: four tenths."""
    assert calibration_error(np.repeat([0.9, 0.1], [900, 100])) == pytest.approx(0, abs=0.2)
    assert calibration_error(np.tile([0.9, 0.1], 500)) == pytest.approx(0.4, abs=0.02)


# ---------------------------------------------------------------- of how many people nothing is personal


def apart(record: Record) -> tuple[Record, np.ndarray]:
    """Every answer is about other texts."""
    return record, np.eye(len(record.choice), dtype=bool)


def scores_of(record: Record) -> Array:
    return prequential([apart(record)], Mixture(PRIOR), NOISE)[0]


def test_each_answer_is_predicted_from_those_before_it() -> None:
    """What the last answer adds is its log-probability by μ, or by a fit of the others; its own fit says more."""
    record = record_of(9, 3, choices=("a",))
    before = Record(record.v[:8], record.choice[:8])
    added = np.exp(scores_of(record) - scores_of(before))
    assert added[0] == pytest.approx(win_probability(record.v[8:] @ PRIOR.mean, NOISE)[0])
    for chance, kind in zip(added[1:].tolist(), (FEW, ANY), strict=True):
        prior = Mixture(PRIOR, kind)
        posts = [fit(known.v, known.choice, prior, NOISE) for known in (before, record)]
        honest, knowing = (predict(record.v[8:], post, NOISE)[0] for post in posts)
        assert chance == pytest.approx(honest)
        assert knowing > honest + 0.01  # the control


def test_answers_about_one_text_are_not_predicted_from_each_other() -> None:
    """All about one text are as if each was given first; apart, the control, they aren't."""
    record = record_of(6, 3, choices=("a", "b"))
    together = prequential([(record, np.ones((6, 6), dtype=bool))], Mixture(PRIOR), NOISE)[0]
    first = sum(scores_of(Record(record.v[[i]], [record.choice[i]])) for i in range(6))
    np.testing.assert_allclose(together, first)
    assert np.abs(scores_of(record) - first)[1:].min() > 0.01


def test_what_says_nothing_counts_for_nothing() -> None:
    """Skips and neithers are neither predicted nor known; whoever only skips has no score."""
    record = record_of(8, 3, choices=("a", "b"))
    more = Record(np.vstack([record.v[:1], record.v, record.v[:1]]), ["skip", *record.choice, "neither"])
    np.testing.assert_array_equal(scores_of(more), scores_of(record))
    np.testing.assert_array_equal(scores_of(Record(record.v[:2], ["skip", "neither"])), 0)


def test_scores_do_not_depend_on_the_others() -> None:
    """More people than are predicted at once have the scores that each has alone."""
    crowd = [apart(record_of(1 + i % 5, 3, i, choices=("a", "b", "tie", "skip"))) for i in range(AT_ONCE + 3)]
    together = prequential(crowd, Mixture(PRIOR), NOISE)
    for i in (0, 7, AT_ONCE - 1, AT_ONCE + 2):
        np.testing.assert_allclose(together[i], prequential([crowd[i]], Mixture(PRIOR), NOISE)[0], atol=1e-12)
    assert len(np.unique(together[:, 2])) > AT_ONCE / 2


def test_the_likeliest_shares_are_found() -> None:
    """Of people whose kind is plain to see, in the shares in which they are; none is ever 0."""
    scores = np.repeat(np.diag([30.0, 30.0, 30.0]) - 40, [50, 30, 20], axis=0)
    shares = choose_shares(scores)
    assert shares.nothing == pytest.approx(51 / 103)
    assert shares.few == pytest.approx(31 / 103)
    assert choose_shares(scores[50:80]).nothing > 0


def test_unless_people_are_predicted_better_nothing_is_personal() -> None:
    """A gain that may be chance isn't taken for one; the same gain of many more people is."""
    rng = np.random.default_rng(0)
    scores = np.tile([0.0, -9.0, -0.5], (4000, 1))
    scores[rng.random(4000) < 0.1, 2] = 2.0
    assert choose_shares(scores[:15]) == Shares(1.0, 0.0)
    assert choose_shares(scores).nothing < 1


def test_one_person_is_no_population() -> None:
    """Of a single held-out person nothing can be said of people."""
    with pytest.raises(InputError, match="two at least"):
        choose_shares(np.zeros((1, 3)))


def mixed_crowd(num: int, num_answers: int, seed: int, *, is_few: bool) -> list[Record]:
    """Half of the people have everybody's taste, the others one of their own, on one axis or on all."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(num):
        w, axis = AROUND.mean.copy(), rng.integers(6)
        if i % 2 and is_few:
            w[axis] += rng.choice([-2.0, 2.0])
        elif i % 2:
            w = rng.multivariate_normal(AROUND.mean, AROUND.covariance)
        v = rng.normal(size=(num_answers, 6))
        records.append(Record(v, answers(v @ w + NOISE.side * rng.standard_normal(), NOISE, rng)))
    return records


@pytest.mark.slow
@pytest.mark.parametrize("is_few", [True, False])
def test_where_half_have_no_taste_nobody_loses_by_being_served(is_few: bool) -> None:
    """New people are predicted after 3, 10 and 30 answers as by the better of two, or better.

    The two are everybody's taste for all, and a taste of their own for all.
    """
    known = mixed_crowd(120, 20, 0, is_few=is_few)
    shares = choose_shares(prequential([apart(record) for record in known], Mixture(AROUND), NOISE))
    assert 0.2 < shares.nothing < 0.7
    new = mixed_crowd(300, 60, 1, is_few=is_few)
    tests = [Record(record.v[30:], record.choice[30:]) for record in new]
    of_all = log_loss(tests, [Gaussian(AROUND.mean, 1e-9 * np.eye(6))] * len(new))
    for n in (3, 10, 30):
        first = [Record(record.v[:n], record.choice[:n]) for record in new]
        losses = [
            log_loss(tests, [fitted.weights for fitted in fit_block(first, Mixture(AROUND, kinds), NOISE)])
            for kinds in (shares, ANY)
        ]
        assert losses[0] <= min(losses[1], of_all) + 0.001
        assert losses[1] != pytest.approx(of_all, abs=0.001)  # the control: the two differ


def log_loss(tests: list[Record], posts: list[Gaussian]) -> float:
    chances = [
        np.where(np.array(test.choice) == "a", left, 1 - left)
        for test, left in ((test, predict(test.v, post, NOISE)) for test, post in zip(tests, posts, strict=True))
    ]
    return float(-np.log(np.concatenate(chances)).mean())
