"""What a trial says: its intervals hold whenever one looks, people are the unit, and length is told from liking."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from lab.learning.trials import ARMS, draw, false_alarms, first_pair, fixed, is_told_apart, until
from personalign.learn.shares import (
    COUNTED,
    MISS,
    Pair,
    Results,
    bet,
    even_shares,
    interval,
    pairs,
    regress,
    shares,
    widening,
)


@pytest.mark.slow
def test_no_effect_is_not_found_however_often_one_looks() -> None:
    """In 1,000 trials of equal arms, looked at each day, at most 5 % ever tell them apart; a fixed interval's do."""
    assert false_alarms(first_pair, 1000, seed=13).mean() <= MISS
    assert false_alarms(fixed, 200, seed=13).mean() > MISS


def test_an_effect_is_found() -> None:
    """Where the profile is liked better, most trials of 120 people find it, none the contrary."""
    rng = np.random.default_rng(14)
    found = [pairs(draw(rng, people=120, liking=1.2)[0])[0] for _ in range(40)]
    assert sum(pair.high < 0 for pair in found) >= 32
    assert not any(pair.low > 0 for pair in found)


def test_the_best_of_four_arms_is_found_and_the_others_are_not_told_apart() -> None:
    """Of six pairs those of the better arm come to be known."""
    arms = ("plain", "population", "personal", "words")
    found = pairs(draw(np.random.default_rng(15), people=600, most=10, liking=1.5, arms=arms)[0])
    assert {pair.first for pair in found if pair.high < 0 and pair.second == "words"} == set(arms[:3])
    assert not any(is_told_apart(pair) for pair in found if pair.second != "words")


def test_people_are_the_unit() -> None:
    """One person who chooses a hundred times doesn't tell arms apart; a hundred people do (the control)."""
    rng = np.random.default_rng(16)
    n = 100
    left = rng.integers(2, size=n)
    alone = Results(ARMS, np.zeros(n, dtype=np.int64), left, 1 - left, left.astype(np.float64), np.zeros(n))
    assert not is_told_apart(pairs(alone)[0])
    assert pairs(replace(alone, person=np.arange(n)))[0].high < 0


def test_a_bet_is_the_one_of_the_paper() -> None:
    """The bounds are where the capital of hedged bets, written out, reaches 2/α; without numbers they are 0 and 1."""
    x, miss = np.random.default_rng(17).beta(2, 1, 50), 0.05
    low, high = bet(x, miss)

    def capital(mean: float, sign: float) -> float:
        money, total, squares = 1.0, 0.5, 0.25
        for i, value in enumerate(x, start=1):
            stake = np.sqrt(2 * log(2 / miss) / (squares / i * i * log(i + 1)))
            money *= 1 + sign * min(stake, 0.5 / (mean if sign > 0 else 1 - mean)) * (value - mean)
            total += value
            squares += (value - total / (i + 1)) ** 2
        return money

    assert capital(low, 1) == pytest.approx(2 / miss, rel=1e-3)
    assert capital(high, -1) == pytest.approx(2 / miss, rel=1e-3)
    assert low < x.mean() < high
    assert bet(x[:0], miss) == (0.0, 1.0)
    assert bet(1 - x, miss) == pytest.approx((1 - high, 1 - low), abs=1e-5)


def test_an_interval_takes_the_first_choices_of_each_person() -> None:
    """What somebody chooses between the counts changes nothing; one choice more, up to a count, does."""
    person, values = np.repeat(np.arange(40), 3), np.tile([1.0, 0.0, 0.5], 40)
    before = interval(person, values, MISS)
    assert COUNTED == (1, 3, 10)
    more = np.concatenate([person, np.arange(40)]), np.concatenate([values, np.ones(40)])
    assert interval(*more, MISS) == before
    assert interval(person[:-40], values[:-40], MISS) != before


def test_shares_add_up_and_turn_with_the_sides() -> None:
    """Two arms' shares come to 1, their intervals mirror each other, and which side an arm wrote doesn't matter."""
    results, _ = draw(np.random.default_rng(18), liking=0.5)
    first, second = shares(results)
    assert first.value + second.value == pytest.approx(1)
    assert (first.low, first.high) == pytest.approx((1 - second.high, 1 - second.low), abs=1e-5)
    turned = replace(results, left=results.right, right=results.left, score=1 - results.score, longer=-results.longer)
    for one, other in zip(shares(results), shares(turned), strict=True):
        assert vars(one) == pytest.approx(vars(other), abs=1e-5)


def test_length_is_told_from_liking() -> None:
    """An arm that wins by writing longer has the larger share, but not at equal length; a liked one has both."""
    rng = np.random.default_rng(19)
    longer, _ = draw(rng, people=300, by_length=0.6)
    assert shares(longer)[1].low > 0.5
    assert even_shares(longer)[1].low < 0.5 < even_shares(longer)[1].high
    liked, _ = draw(rng, people=300, liking=1.2)
    assert shares(liked)[1].low > 0.5
    assert even_shares(liked)[1].low > 0.5


def test_few_people_say_nothing_at_equal_length() -> None:
    """The interval is everything while people are few, also where all chose the same, or nobody did."""
    results, day = draw(np.random.default_rng(20), people=15, liking=9.0)
    for some in (results, until(results, day, -1)):
        assert [(share.low, share.high) for share in even_shares(some)] == [(0.0, 1.0)] * 2
    assert [share.value for share in shares(until(results, day, -1))] == [0.5, 0.5]


def test_the_regression_is_at_its_optimum() -> None:
    """Its gradient is 0, also where the classes are apart; the variance is that of people (as R's sandwich)."""
    rng = np.random.default_rng(21)
    x, person = rng.normal(size=(200, 3)), np.repeat(np.arange(50), 4)
    for score in ((x[:, 0] > 0).astype(np.float64), rng.random(200)):
        fitted, covariance = regress(x, score, np.ones(200), person)
        pull = x * (score - expit(x @ fitted))[:, np.newaxis]
        assert pull.sum(0) - fitted / 9 == pytest.approx(np.zeros(3), abs=1e-6)
        chance = expit(x @ fitted)
        bread = np.linalg.inv((x.T * (chance * (1 - chance))) @ x + np.eye(3) / 9)
        by_person = pull.reshape(50, 4, 3).sum(1)
        assert covariance == pytest.approx(bread @ by_person.T @ by_person @ bread, rel=1e-6)


def test_an_interval_for_all_times_is_wider_than_one_for_a_single_look() -> None:
    """But not by much: for a hundred people less than twice as wide."""
    assert norm.ppf(1 - MISS / 2) < widening(100, MISS) < 2 * norm.ppf(1 - MISS / 2)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.04, 0.31, "personal beats plain: its share of wins is 4 to 31 points larger"),
        (-0.31, -0.04, "plain beats personal: its share of wins is 4 to 31 points larger"),
        (-0.06, 0.08, "personal and plain are alike: their shares differ by less than 8 points"),
        (
            -0.1,
            0.3,
            (
                "no difference between personal and plain is seen yet; "
                "with 23 people so far, differences under 20 points can't be told"
            ),
        ),
    ],
)
def test_a_verdict_in_words(low: float, high: float, words: str) -> None:
    """Says which is better, or that they are alike, or what can't be told yet."""
    pair = Pair("personal", "plain", low, high, 23)
    assert pair.explain() == words
    assert pair.is_known == ("yet" not in words)
