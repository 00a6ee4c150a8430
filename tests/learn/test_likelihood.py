"""How likely an answer is: probabilities, their slopes, and what one answer tells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from personalign.errors import InputError
from personalign.learn.fit import fit
from personalign.learn.likelihood import (
    LITTLE,
    MUCH,
    TIE,
    A,
    B,
    information,
    log_likelihood,
    outcomes,
    probabilities,
    sides,
    turned,
    win_probability,
)
from personalign.learn.mixture import prior_scale
from personalign.learn.population import expected
from personalign.types import CHOICES, Gaussian, Noise

NOISES = [Noise(), Noise(0.0, 0.0, 0.0), Noise(0.0, 0.1), Noise(0.7, 0.0), Noise(2.0, 0.3)]
U = np.linspace(-8, 8, 81)
STEP = 1e-5

each_noise = pytest.mark.parametrize("noise", NOISES)


def offered(noise: Noise) -> int:
    return 3 if noise.tie else 2


@given(st.floats(-1e4, 1e4), st.floats(0, 20), st.just(0.0) | st.floats(1e-12, 0.99))
def test_probabilities_are_a_distribution(u: float, tie: float, lapse: float) -> None:
    """They add up to 1 and none that is offered falls under ε/K, however surely a side is preferred."""
    prob = probabilities(np.array([u]), Noise(tie, lapse))[: offered(Noise(tie)), 0]
    assert prob.sum() == pytest.approx(1, abs=1e-12)
    assert prob.min() >= lapse / len(prob) * (1 - 1e-12)


@each_noise
def test_the_floor_is_reached(noise: Noise) -> None:
    """The control: where a side is certain, the other's probability is the floor and no more."""
    assert probabilities(np.array([200.0]), noise)[B, 0] == pytest.approx(noise.lapse / offered(noise))


@each_noise
def test_swapping_the_sides_swaps_the_outcomes(noise: Noise) -> None:
    """P(a | u) = P(b | −u), and a tie doesn't know sides; a itself isn't even in u."""
    there, back = probabilities(U, noise), probabilities(-U, noise)
    np.testing.assert_allclose(there[A], back[B], rtol=1e-12)
    np.testing.assert_allclose(there[TIE], back[TIE], rtol=1e-12, atol=1e-300)
    assert np.abs(there[A] - back[A]).max() > 0.5


@pytest.mark.parametrize(("u", "tie"), [(0.0, 0.4), (1.3, 0.4), (-2.0, 1.5)])
def test_without_lapses_it_is_rao_and_kupper(u: float, tie: float) -> None:
    """P(a) = e^u / (e^u + θ) with θ = e^δ, in the paper's own form; δ = 0 gives Bradley and Terry."""
    theta, ratio = np.exp(tie), np.exp(u)
    plain = ratio / (ratio + theta), 1 / (1 + theta * ratio)
    np.testing.assert_allclose(probabilities(np.array([u]), Noise(tie, 0.0))[:, 0], [*plain, 1 - sum(plain)])
    assert probabilities(np.array([u]), Noise(0.0, 0.0))[TIE, 0] == 0


@pytest.mark.parametrize("tie", [0.1, 0.5, 2.0])
def test_more_indifference_means_more_ties(tie: float) -> None:
    """A tie is most likely between equals, and the likelier the larger δ is."""
    ties = probabilities(U, Noise(tie, 0.05))[TIE]
    assert U[np.argmax(ties)] == pytest.approx(0)
    assert (probabilities(U, Noise(tie * 2, 0.05))[TIE] > ties).all()


@each_noise
@pytest.mark.parametrize("outcome", [A, B, TIE])
def test_the_slope_is_that_of_the_logarithm(noise: Noise, outcome: int) -> None:
    """Scores agree with central differences of log P over all u; another outcome's don't."""
    said = np.full(U.shape, outcome)
    slope = (log_likelihood(U + STEP, said, noise)[0] - log_likelihood(U - STEP, said, noise)[0]) / (2 * STEP)
    _, score = log_likelihood(U, said, noise)
    if not is_impossible(outcome, noise):
        np.testing.assert_allclose(score, slope, atol=1e-8)
    other = np.full(U.shape, B if outcome != B else A)
    assert np.abs(log_likelihood(U, other, noise)[1] - slope).max() > 0.1


def is_impossible(outcome: int, noise: Noise) -> bool:
    return outcome == TIE and not noise.tie


@each_noise
def test_the_likelihood_is_the_probability_of_what_was_said(noise: Noise) -> None:
    """log_likelihood picks the outcome's own row of log P."""
    said = np.arange(len(U)) % 3
    np.testing.assert_array_equal(
        log_likelihood(U, said, noise)[0], outcomes(U, noise).log_prob[said, np.arange(len(U))]
    )


@each_noise
def test_information_is_fishers(noise: Noise) -> None:
    """It is Σ p′²/p, by central differences of the probabilities, never negative and even in u."""
    prob = probabilities(U, noise)
    slope = (probabilities(U + STEP, noise) - probabilities(U - STEP, noise)) / (2 * STEP)
    fisher = (slope**2 / np.maximum(prob, 1e-300)).sum(axis=0)
    found = information(U, noise)
    np.testing.assert_allclose(found, fisher, atol=1e-7)
    assert found.min() >= 0
    np.testing.assert_allclose(found, information(-U, noise), rtol=1e-9)
    assert np.abs(found - (slope**2).sum(axis=0)).max() > 0.01  # the control: the weights 1/p are felt


def test_lapses_take_information_away() -> None:
    """An answer that may be random tells less, everywhere."""
    assert (information(U, Noise(0.2, 0.2)) < information(U, Noise(0.2, 0.0))).all()


@each_noise
@pytest.mark.parametrize("size", [1e2, 1e3, 1e4])
def test_certainty_stays_finite(noise: Noise, size: float) -> None:
    """At |u| of 1e4 nothing overflows or divides 0 by 0 (a warning would fail the test), and the sure side wins."""
    u = np.array([-size, size])
    of = outcomes(u, noise)
    assert all(np.isfinite(part).all() for part in of)
    assert np.isfinite(information(u, noise)).all()
    sure = 1 - noise.lapse * (1 - 1 / offered(noise))
    np.testing.assert_allclose(of.prob[[B, A], [0, 1]], sure)


def test_the_textbook_form_overflows() -> None:
    """The control: written with e^u, the same |u| does overflow, and the suite makes a failure of that."""
    with pytest.raises(RuntimeWarning, match="overflow"):
        np.exp(np.array([1e3]))


@each_noise
def test_winning_leaves_ties_out(noise: Noise) -> None:
    """P(a | not a tie) is ½ between equals, rises with u, and both sides make 1."""
    win = win_probability(U, noise)
    prob = probabilities(U, noise)
    np.testing.assert_allclose(win * (prob[A] + prob[B]), prob[A], rtol=1e-12)
    np.testing.assert_allclose(win + win_probability(-U, noise), 1)
    assert win[len(U) // 2] == pytest.approx(0.5)
    assert (np.diff(win) > 0).all()


def test_any_shape_goes() -> None:
    """Arrays of any shape keep it, behind the outcomes; no utilities at all too."""
    assert probabilities(np.zeros((4, 5)), Noise()).shape == (3, 4, 5)
    assert information(np.zeros(0), Noise()).shape == (0,)


REFUSED = [
    {"tie": -1e-9},
    {"tie": np.inf},
    {"tie": np.nan},
    {"tie": 101.0},
    {"lapse": -0.01},
    {"lapse": 1.0},
    {"lapse": np.nan},
    {"side": -1.0},
    {"side": np.inf},
    {"side": 1e12},
    {"much": 0.0},
    {"much": -1.0},
    {"much": np.nan},
    {"much": 101.0},
]


@pytest.mark.parametrize("values", REFUSED)
def test_what_isnt_noise_is_refused(values: dict[str, float]) -> None:
    """Negative, infinite and boundless scales and impossible shares are named, wherever a noise is made."""
    with pytest.raises(InputError, match=r"found Noise.*expected tie and side from 0 to 100"):
        Noise(**values)
    with pytest.raises(InputError):
        replace(Noise(), **values)


@pytest.mark.parametrize("tie", [0.0, 5e-324, 100.0])
@pytest.mark.parametrize("lapse", [0.0, 5e-324, np.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("side", [0.0, 5e-324, 100.0])
@pytest.mark.parametrize("much", [5e-324, 100.0])
def test_noise_at_its_limits_gives_numbers(tie: float, lapse: float, side: float, much: float) -> None:
    """Whatever noise can be made, chances, information and fits are finite."""
    noise = Noise(tie, lapse, side, much)
    for values in (probabilities(U, noise), information(U, noise), win_probability(U, noise)):
        assert np.isfinite(values).all()
    post = fit(np.eye(5), ["a", "b", "tie", "a++", "b+"], Gaussian(np.zeros(5), np.eye(5)), noise)
    assert np.isfinite(post.mean).all()
    assert np.isfinite(post.covariance).all()


FAR = np.array([-1e4, -700.0, -40.0, 0.0, 40.0, 700.0, 1e4])


@each_noise
@pytest.mark.parametrize("u", [U, FAR])
def test_turned_rows_are_told_the_same(u: NDArray[np.float64], noise: Noise) -> None:
    """The fast path of fits gives log P, score and curvature of wins, graded or not, and of ties, near and far."""
    for outcome in (A, TIE, LITTLE, MUCH):
        fast = turned(u, np.full(u.shape, outcome), noise)
        log_prob, score = log_likelihood(u, np.full(u.shape, outcome), noise)
        np.testing.assert_allclose(fast.log_prob, log_prob, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(fast.score, score, rtol=1e-10, atol=1e-15)
        higher, lower = (log_likelihood(u + s, np.full(u.shape, outcome), noise)[1] for s in (STEP, -STEP))
        np.testing.assert_allclose(fast.curvature, (lower - higher) / (2 * STEP), atol=1e-9)
    assert np.abs(fast.score - turned(u, np.full(u.shape, A), noise).score).max() > 0.1  # the control


def by_hand(u: float, noise: Noise) -> list[float]:
    """P(a), P(b) and P(tie) from the formula, in Python's own numbers."""
    a, b = 1 / (1 + np.exp(noise.tie - u)), 1 / (1 + np.exp(noise.tie + u))
    plain = [a, b, 1 - a - b] if noise.tie else [a, b]
    return [(1 - noise.lapse) * p + noise.lapse / len(plain) for p in plain]


@each_noise
def test_every_form_is_normalised_over_what_is_offered(noise: Noise) -> None:
    """All four forms give the formula's numbers, adding up to 1; the control: with ε/3 for two outcomes they don't."""
    never, always = np.full(U.shape, A), np.full(U.shape, TIE)
    hand = np.array([by_hand(u, noise) for u in U]).T
    np.testing.assert_allclose(hand.sum(axis=0), 1, rtol=1e-12)
    np.testing.assert_allclose(probabilities(U, noise)[: len(hand)], hand, rtol=1e-9)
    np.testing.assert_allclose(sides(U, noise), hand[:2], rtol=1e-9)
    for part in (turned, lambda u, verdict, noise: expected(u, np.zeros(len(u)), verdict, noise)):
        rows = [part(U, never, noise)[0], part(-U, never, noise)[0]]
        rows += [part(U, always, noise)[0]] if noise.tie else []
        np.testing.assert_allclose(np.exp(rows), hand, rtol=1e-6)
    if noise.lapse and not noise.tie:
        assert np.abs(hand.sum(axis=0) - noise.lapse / 3 - 1).min() > 0.01


def test_a_tie_that_is_not_offered_says_that_both_are_alike() -> None:
    """Where δ = 0 a tie weighs as the limit of narrow ties, with lapses and without; beside sides, too."""
    is_tie = np.arange(len(U)) % 2 == 0
    for lapse in (0.0, 0.1):
        verdict = np.where(is_tie, TIE, A)
        found = turned(U, verdict, Noise(0.0, lapse))
        limit = turned(U, verdict, Noise(1e-7, 0.0))
        np.testing.assert_allclose(found.score[is_tie], limit.score[is_tie], atol=1e-6)
        np.testing.assert_allclose(found.curvature[is_tie], limit.curvature[is_tie], atol=1e-6)
        np.testing.assert_array_equal(
            found.score[~is_tie], turned(U[~is_tie], verdict[~is_tie], Noise(0.0, lapse)).score
        )


@pytest.mark.parametrize("lapse", [0.1, 0.3])
def test_random_answers_are_found_again_in_a_forced_choice(lapse: float) -> None:
    """With the utilities known, the likeliest share of random answers is the true one, without ties and with them."""
    rng, u = np.random.default_rng(0), np.random.default_rng(1).normal(size=20_000) * 2
    for tie in (0.0, 0.5):
        prob = probabilities(u, Noise(tie, lapse))
        said = (rng.random(len(u)) > np.cumsum(prob, axis=0)).sum(axis=0).clip(max=2)
        shares = np.linspace(0.01, 0.5, 50)
        heights = [log_likelihood(u, said, Noise(tie, share))[0].sum() for share in shares]
        assert shares[int(np.argmax(heights))] == pytest.approx(lapse, abs=0.03)


# ---------------------------------------------------------------- grades

GRADED = [*NOISES, Noise(0.5, 0.1, 0.2, 0.01), Noise(0.5, 0.1, 0.2, 6.0)]
each_graded_noise = pytest.mark.parametrize("noise", GRADED)
FIVE = [CHOICES.index(choice) for choice in ("a++", "a+", "tie", "b+", "b++")]


def by_hand_graded(u: float, noise: Noise) -> list[float]:
    """P of the five answers in ``FIVE``'s order, from the ordinal model, in Python's own numbers."""
    cuts = [noise.tie + noise.much, noise.tie, -noise.tie, -noise.tie - noise.much]
    beyond = [0.0, *(1 / (1 + np.exp(cut - u)) for cut in cuts), 1.0]
    floor = noise.lapse / (3 if noise.tie else 2)
    floors = [floor / 2, floor / 2, floor if noise.tie else 0.0, floor / 2, floor / 2]
    return [(1 - noise.lapse) * p + f for p, f in zip(np.diff(beyond), floors, strict=True)]


@each_graded_noise
def test_five_answers_are_a_distribution_that_refines_three(noise: Noise) -> None:
    """The five add up to 1 and are the ordinal model's; the grades of a side add up to that side."""
    hand = np.array([by_hand_graded(u, noise) for u in U]).T
    found = np.array([np.exp(log_likelihood(U, np.full(U.shape, outcome), noise)[0]) for outcome in FIVE])
    offered_rows = [0, 1, 2, 3, 4] if noise.tie else [0, 1, 3, 4]
    np.testing.assert_allclose(found[offered_rows], hand[offered_rows], rtol=1e-7, atol=1e-15)
    np.testing.assert_allclose(hand.sum(axis=0), 1, rtol=1e-12)
    three = probabilities(U, noise)
    np.testing.assert_allclose(found[0] + found[1], three[A], rtol=1e-12)
    np.testing.assert_allclose(found[3] + found[4], three[B], rtol=1e-12)
    assert (found[[0, 1]] < three[A]).all()  # the control: each grade is less than the side


@each_graded_noise
def test_grades_have_the_logarithms_slope(noise: Noise) -> None:
    """Their scores agree with central differences, on both sides; the other grade's don't."""
    for outcome in FIVE[:2] + FIVE[3:]:
        verdict = np.full(U.shape, outcome)
        slope = (log_likelihood(U + STEP, verdict, noise)[0] - log_likelihood(U - STEP, verdict, noise)[0]) / (2 * STEP)
        np.testing.assert_allclose(log_likelihood(U, verdict, noise)[1], slope, atol=1e-7)
    assert np.abs(log_likelihood(U, np.full(U.shape, FIVE[0]), noise)[1] - slope).max() > 0.1


@each_graded_noise
def test_information_of_five_answers_is_fishers_and_more_than_of_three(noise: Noise) -> None:
    """It is Σ p′²/p over the five, by hand and central differences; grades never take information away."""
    prob = np.array([by_hand_graded(u, noise) for u in U]).T
    slope = np.array([np.subtract(by_hand_graded(u + STEP, noise), by_hand_graded(u - STEP, noise)) for u in U]).T
    fisher = ((slope / (2 * STEP)) ** 2 / np.maximum(prob, 1e-300)).sum(axis=0)
    found = information(U, noise, np.ones(U.shape, dtype=bool))
    np.testing.assert_allclose(found, fisher, atol=1e-6)
    assert (found >= information(U, noise) * (1 - 1e-9)).all()
    mixed = information(U, noise, np.arange(len(U)) % 2 == 0)
    np.testing.assert_array_equal(mixed[::2], found[::2])
    np.testing.assert_array_equal(mixed[1::2], information(U, noise)[1::2])


@each_graded_noise
def test_plain_answers_keep_their_bytes_beside_graded_ones(noise: Noise) -> None:
    """A person who was offered three answers is fitted as before, whoever is beside them."""
    verdict = np.resize([A, TIE, LITTLE, MUCH], len(U))
    is_plain = verdict <= TIE
    for among, alone in zip(turned(U, verdict, noise), turned(U[is_plain], verdict[is_plain], noise), strict=True):
        assert among[is_plain].tobytes() == alone.tobytes()
    among, alone = (log_likelihood(U[rows], verdict[rows], noise) for rows in (slice(None), is_plain))
    assert among[0][is_plain].tobytes() == alone[0].tobytes()


def test_by_default_a_third_of_sided_answers_are_much() -> None:
    """So it is for people of the prior that a basis without human data has, over its reference pairs."""
    rng, noise = np.random.default_rng(0), Noise()
    reference = rng.normal(size=(2000, 8))
    weights = rng.normal(size=(500, 8)) * prior_scale(reference, noise)
    u = (reference @ weights.T).ravel()
    five = [np.exp(log_likelihood(u, np.full(u.shape, outcome), noise)[0]).mean() for outcome in FIVE]
    assert (five[0] + five[4]) / (1 - five[2]) == pytest.approx(1 / 3, abs=0.02)
