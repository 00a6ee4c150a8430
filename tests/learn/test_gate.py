"""The gate lets a profile leave the population as far as it predicts better, and no further."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from personalign.basis import Gate
from personalign.errors import InputError
from personalign.learn.fit import Record, fit, predict
from personalign.learn.gate import FROM, LEAST, choose_gate, gain_by, openness, prequential, shrink
from personalign.learn.likelihood import win_probability
from personalign.types import Gaussian, Noise
from tests.learn.people import Array, answers, gain_of, prior_of, record_of

NOISE = Noise(tie=0.2, lapse=0.02, side=0.2)
PRIOR = Gaussian(np.array([0.8, -0.4, 0.3, 0.0]), 0.6 * np.eye(4))
ALIKE, DIFFERENT = 0.0, 1.0


def person(spread: float, num_answers: int, rng: np.random.Generator) -> tuple[Array, Record]:
    """Somebody whose weights are ``spread`` prior deviations from everybody's, and what they say."""
    w = PRIOR.mean + spread * np.sqrt(np.diag(PRIOR.covariance)) * rng.normal(size=4)
    v = rng.normal(size=(num_answers, 4))
    return w, Record(v, answers(v @ w, NOISE, rng))


def fit_gate(people: Sequence[Record], prior: Gaussian, noise: Noise) -> Gate:
    return choose_gate(np.array([prequential(record, prior, noise).sum(axis=0) for record in people]))


def crowd(spread: float, num: int = 60, num_answers: int = 20, seed: int = 0) -> list[tuple[Array, Record]]:
    rng = np.random.default_rng([seed, num_answers])
    return [person(spread, num_answers, rng) for _ in range(num)]


def records(people: Sequence[tuple[Array, Record]]) -> list[Record]:
    return [record for _, record in people]


@cache
def gate_of(spread: float) -> Gate:
    return fit_gate(records(crowd(spread)), PRIOR, NOISE)


def accuracy(w: Array, mean: Array, v: Array) -> float:
    return float(((v @ w > 0) == (v @ mean > 0)).mean())


def gains_in_accuracy(spread: float, gate: Gate, seed: int = 1) -> Array:
    """How much more accurate on new pairs each of a crowd's profiles is than everybody's."""
    v = np.random.default_rng(seed).normal(size=(400, 4))
    found = []
    for w, record in crowd(spread, seed=seed):
        post = fit(record.v, record.choice, PRIOR, NOISE)
        through = shrink(gate, post, PRIOR, gain_of(record, PRIOR, gate.kappa, NOISE), len(record.choice))
        found.append(accuracy(w, through.mean, v) - accuracy(w, PRIOR.mean, v))
    return np.array(found)


def test_where_people_differ_the_gate_is_open() -> None:
    """People as different as the prior says are told apart: κ near 1, for nearly everyone."""
    gate = gate_of(DIFFERENT)
    assert gate.kappa >= 0.8
    assert gate.share > 0.6


@pytest.mark.slow
def test_where_all_are_alike_the_gate_is_shut() -> None:
    """People who only differ by their noise are all the population: κ is 0, or as good as 0, whoever is held out."""
    kappas = [fit_gate(records(crowd(ALIKE, seed=seed)), PRIOR, NOISE).kappa for seed in range(8)]
    assert np.mean(kappas) < 0.05
    assert max(kappas) <= 0.2


def test_nobody_is_worse_off_on_average() -> None:
    """Through the gate people who are alike lose nothing; ungated fits lose several points (the control)."""
    gate = gate_of(ALIKE)
    assert gains_in_accuracy(ALIKE, gate).mean() > -0.003
    assert gains_in_accuracy(ALIKE, Gate(1.0, 1 - 1e-9)).mean() < -0.03


def test_what_can_be_gained_is_kept() -> None:
    """Where people differ, the gate costs little of what a fit without it gains."""
    gate = gate_of(DIFFERENT)
    free = gains_in_accuracy(DIFFERENT, Gate(1.0, 1 - 1e-9)).mean()
    assert free > 0.05
    assert gains_in_accuracy(DIFFERENT, gate).mean() > 0.8 * free


def test_a_person_is_judged_by_their_own_record() -> None:
    """In a crowd of both kinds those who differ keep more of their weights than those who don't."""
    different, alike = crowd(2.0, 30, 40), crowd(ALIKE, 30, 40)
    gate = fit_gate(records([*different, *alike]), PRIOR, NOISE)
    of = [
        np.mean([openness(gate, gain_of(r, PRIOR, gate.kappa, NOISE), 40) for r in records(people)])
        for people in (different, alike)
    ]
    assert gate.kappa > 0
    assert of[0] > of[1] + 0.2


def test_the_future_is_not_known() -> None:
    """An answer's prediction depends on those before it alone; the control: the next one's on this."""
    record = record_of(12, 4, choices=("a", "b", "tie"))
    other = Record(record.v, [*record.choice[:6], "a" if record.choice[6] == "b" else "b", *record.choice[7:]])
    before, after = (prequential(of, PRIOR, NOISE, np.array([0.0, 1.0])) for of in (record, other))
    np.testing.assert_array_equal(before[:6], after[:6])
    assert np.abs(before[7:, 1] - after[7:, 1]).max() > 1e-3


def test_predictions_are_those_of_predict() -> None:
    """At κ = 1 an answer that can't be a tie is predicted as ``predict`` would from the answers before it."""
    noise = Noise(tie=0.0, lapse=0.05, side=0.0)
    record = record_of(5, 4, choices=("a",))
    post = fit(record.v[:4], record.choice[:4], PRIOR, noise)
    told = np.exp(prequential(record, PRIOR, noise, np.array([1.0]))[4, 0])
    assert told == pytest.approx(predict(record.v[4:], post, noise)[0], abs=1e-9)
    at_mu = np.exp(prequential(record, PRIOR, noise, np.array([0.0]))[4, 0])
    variance = record.v[4] @ post.covariance @ record.v[4]
    u = record.v[4] @ PRIOR.mean / np.sqrt(1 + np.pi * variance / 8)
    assert at_mu == pytest.approx(win_probability(np.array([u]), noise)[0], abs=1e-9)


def test_what_each_answer_adds_is_the_gain() -> None:
    """Told one by one as the answers come, gains add up to that of the whole record; later answers have no say."""
    record = record_of(12, 4, choices=("a", "b", "tie", "skip"))
    told = []
    for t, choice in enumerate(record.choice):
        before = fit(record.v[:t], record.choice[:t], PRIOR, NOISE)
        told.append(gain_by(record.v[t], choice, before, PRIOR, 0.7, NOISE))
    assert [gain is None for gain in told] == [choice == "skip" for choice in record.choice]
    assert sum(gain or 0.0 for gain in told) == pytest.approx(gain_of(record, PRIOR, 0.7, NOISE))
    assert (
        next(gain for gain in told if gain is not None) == 0.0
    )  # from the prior nothing can be foreseen better than from the prior


def test_what_says_nothing_counts_for_nothing() -> None:
    """Skips and neithers neither gain nor lose, and weights count answers as often as they say."""
    record = record_of(8, 4, choices=("a", "b"))
    more = Record(np.vstack([record.v, record.v[:2]]), [*record.choice, "skip", "neither"])
    assert gain_of(more, PRIOR, 1.0, NOISE) == gain_of(record, PRIOR, 1.0, NOISE)
    none = Record(record.v, record.choice, np.zeros(8))
    assert gain_of(none, PRIOR, 1.0, NOISE) == 0.0
    assert gain_of(Record(np.zeros((0, 4)), []), PRIOR, 1.0, NOISE) == 0.0


@given(st.floats(-50, 50), st.integers(0, 100), st.floats(0.01, 1), st.floats(0.01, 0.99))
def test_no_ones_weights_are_switched_off(gain: float, num_answers: int, kappa: float, share: float) -> None:
    """Only the basis can shut the gate: a person's own record leaves a tenth at least, and gives no more than κ."""
    own = openness(Gate(kappa, share), gain, num_answers)
    assert LEAST * kappa <= own <= kappa
    if num_answers < FROM:
        assert own == kappa


@given(st.lists(st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)), min_size=1, max_size=30))
def test_a_mixture_of_both_forecasts_loses_little(chances: list[tuple[float, float]]) -> None:
    """Forecasts mixed by the gate's own weights lose at most −log(1 − π) to the population's, whatever happens."""
    share, gain, mixed, population = 0.7, 0.0, 0.0, 0.0
    for own, common in chances:
        weight = expit(logit(share) + gain)
        mixed -= np.log(weight * own + (1 - weight) * common)
        population -= np.log(common)
        gain += np.log(own) - np.log(common)
    assert mixed <= population - np.log(1 - share) + 1e-9


def test_shrinking_is_towards_the_prior() -> None:
    """κ = 0 is the prior's mean to the bit, κ = 1 the posterior itself, and the covariance stays."""
    prior = prior_of(4)
    post = fit(np.eye(4), ["a", "b", "a", "a"], prior, NOISE)
    shut, half, free = (shrink(Gate(kappa, 0.5), post, prior, 0.0, 4) for kappa in (0.0, 0.5, 1.0))
    np.testing.assert_array_equal(shut.mean, prior.mean)
    np.testing.assert_allclose(half.mean, (prior.mean + post.mean) / 2)
    assert half.covariance is post.covariance
    assert free is post
    assert shrink(Gate(0.5, 0.5), prior, prior, 0.0, 0) is prior


@pytest.mark.parametrize("gate", [(-0.1, 0.5), (1.1, 0.5), (0.5, 0.0), (0.5, 1.0), (float("nan"), 0.5)])
def test_a_gate_that_is_none_is_refused(gate: tuple[float, float]) -> None:
    """A κ outside 0 … 1 or a share that is certain."""
    with pytest.raises(InputError, match="fit the gate again"):
        Gate(*gate)


def test_one_person_is_no_population() -> None:
    """Of a single held-out person nothing can be said of people."""
    with pytest.raises(InputError, match="two at least"):
        fit_gate([record_of(12, 4)], PRIOR, NOISE)
