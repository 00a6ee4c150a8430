"""Calibration: the strongest steering that stays within its bounds, judged by people who never existed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from personalign.decode import Request, generate
from personalign.learn.axes import measure_many
from personalign.options import Options
from personalign.train.basis.calibrate import Trials, repetition, simulate_profile
from personalign.train.card import Outcome
from personalign.train.plans import Calibration, Plan
from personalign.types import Guidance, Steering
from tests.train.conftest import PROMPTS, Made

GENTLE, STRONG = Steering(0.5, 3.0, 20), Steering(12.0, 5.0, 20)
FAULTLESS = Outcome(GENTLE, utility=0.0, kl=0.0, repetition=0.1, empty=0.0, truncated=0.2)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("two words", 0.0),
        ("three different words", 0.0),
        ("one two three one two three", 1 / 4),
        ("Ha ha HA ha ha ha", 3 / 4),
        ("Sure! Sure! Sure!", 2 / 4),
    ],
)
def test_repetition_is_the_share_of_word_triples_that_came_before(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share)


@pytest.mark.parametrize("fault", ["repetition", "empty", "truncated"])
def test_a_setting_may_break_no_more_than_the_plain_model(fault: str) -> None:
    """Each fault counts by itself, and one reply in a hundred is forgiven."""
    at = getattr(FAULTLESS, fault)
    assert FAULTLESS.breaks_less_than(FAULTLESS, 0.01)
    assert replace(FAULTLESS, **{fault: at + 0.009}).breaks_less_than(FAULTLESS, 0.01)
    assert not replace(FAULTLESS, **{fault: at + 0.02}).breaks_less_than(FAULTLESS, 0.01)
    assert not replace(FAULTLESS, **{fault: at + 0.02}, utility=9.0).breaks_less_than(FAULTLESS, 0.01)
    assert replace(FAULTLESS, utility=-9.0, kl=9.0).breaks_less_than(FAULTLESS, 0.01)  # neither of these is a fault


ANYTHING = Calibration((GENTLE, STRONG), num_people=3, max_kl=math.inf, enough=1.0, tolerance=1.0)
SAMPLED = Plan(replies_per_prompt=1, max_tokens=64, num_candidates=20)


@pytest.fixture(scope="module")
def trials(made: Made) -> Trials:
    return Trials(made.guided, made.basis, PROMPTS.dev, made.work / "trials", SAMPLED)


@pytest.mark.slow
def test_a_setting_beyond_the_cap_is_never_chosen(trials: Trials) -> None:
    """However much utility it has; without the cap it would be the choice."""
    best, grid = trials.calibrate(ANYTHING)
    _, gentle, strong = grid
    assert (gentle.steering, strong.steering) == (GENTLE, STRONG)
    assert strong.kl > gentle.kl > 0
    assert best in (gentle, strong)  # control

    capped = replace(ANYTHING, max_kl=best.kl / 2)
    other, _ = trials.calibrate(capped)
    assert other != best
    assert other.kl <= capped.max_kl


@pytest.mark.slow
def test_the_plain_model_is_the_choice_where_nothing_is_allowed(trials: Trials) -> None:
    """No steering at all rather than one that is out of bounds."""
    strong = replace(ANYTHING, grid=(STRONG,))
    best, grid = trials.calibrate(replace(strong, max_kl=-1.0))
    assert best.steering.beta == 0
    assert best == grid[0]
    assert [o.steering for o in grid[1:]] == [STRONG]
    assert trials.calibrate(strong)[0].steering == STRONG  # control


@pytest.mark.slow
def test_a_setting_that_breaks_replies_is_never_chosen(trials: Trials) -> None:
    """Faults rule out what KL allows."""
    best, _ = trials.calibrate(replace(ANYTHING, grid=(STRONG,), tolerance=-2.0))
    assert best.steering.beta == 0


class Counting(Trials):
    """Trials that count the settings they measure, and may be stopped."""

    measured, most = 0, 100

    def _figures(self, *setting) -> dict:
        if Counting.measured == Counting.most:
            raise KeyboardInterrupt
        Counting.measured += 1
        return super()._figures(*setting)


@pytest.mark.slow
def test_a_killed_calibration_goes_on_with_the_setting_it_was_at(made: Made, trials: Trials, tmp_path: Path) -> None:
    """What was measured isn't measured again, and the figures are the same to the bit."""
    killed = Counting(made.guided, made.basis, PROMPTS.dev, tmp_path, SAMPLED)
    Counting.most = 2
    with pytest.raises(KeyboardInterrupt):
        killed.calibrate(ANYTHING)
    Counting.most = 100
    assert killed.calibrate(ANYTHING) == trials.calibrate(ANYTHING)
    assert Counting.measured == 3
    other = replace(killed, basis=replace(made.basis, head={k: v * 2 for k, v in (made.basis.head or {}).items()}))
    other.calibrate(ANYTHING)
    assert Counting.measured == 6  # control: another head's outcomes are others


@pytest.mark.slow
def test_an_outcome_is_what_the_replies_say(made: Made, trials: Trials) -> None:
    """By hand for one person: true weights of length 1 on the standardised axes, the mean KL, the shares of faults."""
    basis, prompts = made.basis, PROMPTS.dev
    person = simulate_profile(basis, 0)
    measured = trials.outcome([person], STRONG)
    guidance = Guidance(person.fitted.mean)
    replies = generate(
        replace(made.guided, steering=STRONG),
        [Request(p, Options(64, 1.0, seed=i), guidance) for i, p in enumerate(prompts)],
    )
    features = basis.standardise(measure_many(prompts, [r.text for r in replies], basis.axes))
    weights = person.weights / np.linalg.norm(person.weights)
    assert measured.utility == pytest.approx((features @ weights).mean())
    assert measured.kl == pytest.approx(np.mean([r.kl for r in replies]))
    assert measured.truncated == np.mean([r.finish_reason == "length" for r in replies])
    plain = trials.outcome([person], replace(STRONG, beta=0.0))
    assert plain.kl == 0
    assert plain.utility != measured.utility  # control: steering is felt


@pytest.mark.slow
def test_a_simulated_person_is_the_same_each_time(made: Made) -> None:
    """Seed for seed the same weights and the same fit; another seed is another person."""
    one, again, other = (simulate_profile(made.basis, seed) for seed in (3, 3, 4))
    assert np.array_equal(one.weights, again.weights)
    assert np.array_equal(one.fitted.mean, again.fitted.mean)
    assert np.array_equal(one.fitted.covariance, again.fitted.covariance)
    assert not np.allclose(one.weights, other.weights)


@pytest.mark.slow
def test_ten_answers_tell_something_of_a_person(made: Made) -> None:
    """Fits point towards the true weights on average, towards another person's they don't; and doubt shrinks."""
    people = [simulate_profile(made.basis, seed) for seed in range(30)]
    true, fitted = np.array([p.weights for p in people]), np.array([p.fitted.mean for p in people])
    assert cosine(true, fitted).mean() > 0.2
    strangers = [cosine(np.roll(true, shift, 0), fitted).mean() for shift in range(1, len(people))]
    assert abs(np.mean(strangers)) < 0.15  # control
    doubt = np.mean([np.trace(p.fitted.covariance) for p in people])
    assert 0 < doubt < 0.9 * np.trace(made.basis.prior.covariance)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
