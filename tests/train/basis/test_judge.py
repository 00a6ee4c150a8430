"""Judged by people who had no part: what is known of them is never about the texts that are predicted."""

from __future__ import annotations

import numpy as np
import pytest

from personalign.basis import Shares
from personalign.errors import InputError
from personalign.train.basis.judge import Person, calibration_error, judge
from personalign.types import Gaussian, Noise

NOISE = Noise(tie=0.0, lapse=0.02, side=0.1)
PRIOR = Gaussian(np.zeros(3), np.eye(3))


def people(number: int, answers: int, strength: float, seed: int = 0) -> list[Person]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        v, weights = rng.normal(size=(answers, 3)), strength * rng.normal(size=3)
        left = rng.random(answers) < 1 / (1 + np.exp(-v @ weights))
        found.append(Person(v, ["a" if x else "b" for x in left], np.arange(2 * answers).reshape(-1, 2)))
    return found


@pytest.mark.slow
def test_people_of_the_prior_are_foretold() -> None:
    """More with every answer, about as surely as it is right, so that questions may be chosen."""
    found = judge(people(50, 24, 1.0), PRIOR, NOISE, 0)
    accuracy = [after.accuracy for after in found.after]
    assert accuracy[2] > accuracy[1] > accuracy[0] == 0.5
    assert found.accuracy == accuracy[2]
    assert found.shares.nothing < 0.2
    assert found.active
    assert found.calibration_error < 0.05


@pytest.mark.slow
def test_people_without_taste_stay_with_the_population() -> None:
    """Nothing is gained by leaving it, so nobody does, and questions aren't chosen."""
    found = judge(people(50, 24, 0.0), PRIOR, NOISE, 0)
    assert found.shares == Shares(1.0, 0.0)
    assert not found.active
    assert {after.accuracy for after in found.after} == {0.5}


@pytest.mark.slow
def test_with_few_answers_each_nobody_can_tell() -> None:
    """People who gave nine answers are judged after five, but don't show that questions may be chosen."""
    found = judge(people(80, 9, 1.0), PRIOR, NOISE, 0)
    assert [after.answers for after in found.after] == [0, 5]
    assert found.accuracy == found.after[1].accuracy > 0.5
    assert not found.active


def test_nothing_is_predicted_from_the_same_text() -> None:
    """Whose answers all share a text is predicted by the population alone; other people aren't (the control)."""
    chained = [
        Person(p.v, p.choice, np.column_stack([np.zeros(12, int), np.arange(1, 13)])) for p in people(40, 12, 1.0)
    ]
    assert [after.answers for after in judge(chained, PRIOR, NOISE, 0).after] == [0]
    assert judge(chained, PRIOR, NOISE, 0).shares == Shares(1.0, 0.0)
    assert len(judge(people(40, 12, 1.0), PRIOR, NOISE, 0).after) == 3


def test_answers_hang_together_by_their_texts() -> None:
    """0–1 and 1–2 share a text, 3–4 doesn't; which number a text has doesn't matter."""
    texts = np.array([[0, 1], [30, 40], [2, 1]])
    groups = Person(np.zeros((3, 3)), ["a"] * 3, texts).groups
    assert groups[0] == groups[2] != groups[1]


def test_people_who_prefer_nothing_are_refused() -> None:
    """Ties tell how strongly people feel, but can't be predicted right or wrong."""
    tied = [Person(p.v, ["tie"] * 5, p.texts) for p in people(4, 5, 1.0)]
    with pytest.raises(InputError, match="4 held-out people preferred no reply"):
        judge(tied, PRIOR, Noise(), 0)


def test_the_calibration_error_is_how_far_surety_is_from_being_right() -> None:
    """Sure by nine tenths and right in nine of ten: none; in half of them: four tenths."""
    assert calibration_error(np.repeat([0.9, 0.1], [900, 100])) == pytest.approx(0, abs=0.2)
    assert calibration_error(np.tile([0.9, 0.1], 500)) == pytest.approx(0.4, abs=0.02)
