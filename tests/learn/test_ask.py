"""Which question comes next, and when enough has been asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalign.errors import InputError
from personalign.learn import ask
from personalign.learn.ask import (
    AHEAD,
    QUESTION_RULES,
    SCORES,
    StopRule,
    accuracy_after,
    acquire,
    clip_pairs,
    draw,
    expected_information,
    latent_accuracy,
    why_stop,
)
from personalign.learn.fit import Record, fit, fit_block, utility
from personalign.learn.likelihood import information, probabilities, win_probability
from personalign.types import Gaussian, Noise
from tests.learn.people import NOISE, Array, answers, cosine, prior_of

POOL = np.random.default_rng(2).normal(size=(12, 3)) / 2
POST = prior_of(3)
each_rule = pytest.mark.parametrize("rule", QUESTION_RULES)


def acquired(post: Gaussian, pool: Array, rule: str, *rest: Any, **more: Any) -> int:
    """By any rule: both replies of a pair are worth 0 on average."""
    return acquire(post, pool, rule, *rest, sums=np.zeros(pool.shape), **more)


def flat(d: int, variance: float = 1.0) -> Gaussian:
    return Gaussian(np.zeros(d), variance * np.eye(d))


# ---------------------------------------------------------------- which


@each_rule
@settings(max_examples=40)
@given(st.lists(st.booleans(), min_size=12, max_size=12).filter(any), st.integers(0, 2**32 - 1))
def test_only_allowed_pairs_are_asked(rule: str, allowed: list[bool], seed: int) -> None:
    """Whatever the rule likes best, it asks about a pair that is allowed."""
    assert allowed[acquired(POST, POOL, rule, NOISE, np.array(allowed), seed)]


@each_rule
def test_the_favourite_is_passed_over_where_it_is_forbidden(rule: str) -> None:
    """The control: every rule has a favourite among all, and forbidding it makes it ask about another."""
    favourite = acquired(POST, POOL, rule, NOISE)
    allowed = np.arange(len(POOL)) != favourite
    assert acquired(POST, POOL, rule, NOISE, allowed) != favourite


@each_rule
def test_a_pool_without_differences_still_has_a_question(rule: str) -> None:
    """Pairs of equal replies tell nothing, but an index comes back, and a certain posterior divides by no zero."""
    certain = Gaussian(np.ones(3), np.zeros((3, 3)))
    assert 0 <= acquired(POST, np.zeros((4, 3)), rule, NOISE) < 4
    assert acquired(certain, POOL, rule, NOISE, np.arange(12) == 7) == 7


def test_random_is_repeatable_and_fair() -> None:
    """The same seed asks the same question; over seeds every pair has its turn."""
    asked = [acquire(POST, POOL, "random", seed=seed) for seed in range(300)]
    assert asked == [acquire(POST, POOL, "random", seed=seed) for seed in range(300)]
    assert set(asked) == set(range(len(POOL)))


@pytest.mark.parametrize("rule", [rule for rule in QUESTION_RULES if rule != "random"])
def test_only_random_looks_at_the_seed(rule: str) -> None:
    """All other rules ask the same question whatever the seed."""
    assert len({acquired(POST, POOL, rule, NOISE, seed=seed) for seed in range(20)}) == 1


@pytest.mark.parametrize("rule", ["d_optimal", "bald", "eubo", "gap", "pref"])
def test_the_least_known_direction_is_asked_about(rule: str) -> None:
    """Of pairs of one length each, along the axes, the axis of the greatest variance wins, wherever it stands."""
    for widest in range(3):
        variance = np.array([0.5, 0.5, 0.5])
        variance[widest] = 2.0
        assert acquired(Gaussian(np.zeros(3), np.diag(variance)), np.eye(3), rule, NOISE) == widest


def test_an_answered_direction_is_left_alone() -> None:
    """After an answer along the widest axis the next question is about another one, and that one taught less before."""
    prior = Gaussian(np.zeros(3), np.diag([2.0, 1.5, 1.0]))
    first = acquire(prior, np.eye(3), noise=NOISE)
    post = fit(np.eye(3)[[first]], ["a"], prior, NOISE)
    second = acquire(post, np.eye(3), noise=NOISE)
    assert (first, second) == (0, 1)
    assert acquire(prior, np.eye(3), noise=NOISE) == first  # the control: without the answer it is asked again
    assert expected_information(post, np.eye(3), NOISE)[0] < expected_information(prior, np.eye(3), NOISE)[0]


def test_a_pair_whose_answer_is_known_teaches_less() -> None:
    """D-optimality looks at the mean too: of equal variances the pair that is still open wins; PReF can't tell."""
    post = Gaussian(np.array([6.0, 0.0]), np.eye(2))
    assert acquire(post, np.eye(2), "d_optimal", NOISE) == 1
    assert acquire(post, np.eye(2), "pref", NOISE) == 0


# ---------------------------------------------------------------- the scores are what they are called


def drawn_utilities(seed: int = 9, size: int = 40_000) -> Array:
    w = np.random.default_rng(seed).multivariate_normal(POST.mean, POST.covariance, size=size)
    return w @ POOL.T  # (size, m)


def score(rule: str, noise: Noise = NOISE) -> Array:
    return SCORES[rule](*utility(POOL, POST), noise, 0)


def entropy(p: Array) -> Array:
    return -(p * np.log(p)).sum(axis=0)


@pytest.mark.parametrize("noise", [NOISE, Noise(0.5, 0.2)])
def test_bald_is_mutual_information(noise: Noise) -> None:
    """Against brute force: entropy of the mean answer minus the mean entropy of an answer."""
    prob = probabilities(drawn_utilities(), noise)
    truth = entropy(prob.mean(axis=1)) - entropy(prob).mean(axis=0)
    np.testing.assert_allclose(score("bald", noise), truth, atol=0.01)
    assert np.abs(entropy(prob.mean(axis=1)) - truth).max() > 0.1  # the control: both halves are needed


def test_the_gap_is_what_the_better_has_over_the_mean() -> None:
    """The closed form is the mean of max(left, right), over the pair's own mean: E|u|/2."""
    u = drawn_utilities()
    truth = np.maximum(u, 0).mean(axis=0) - u.mean(axis=0) / 2
    np.testing.assert_allclose(score("gap"), truth, atol=0.02)
    assert np.abs(np.maximum(u, 0).mean(axis=0) - truth).max() > 0.1


def test_eubo_shows_the_reply_that_pleases_most() -> None:
    """It asks about the pair whose better reply is worth most over draws; the gap, the control, asks otherwise."""
    differs = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        first, second = rng.normal(size=(2, 30, 3))
        w = rng.multivariate_normal(POST.mean, POST.covariance, size=20_000)
        truth = np.maximum(first @ w.T, second @ w.T).mean(axis=1)
        asked = acquire(POST, first - second, "eubo", NOISE, sums=first + second)
        assert truth[asked] > truth.max() - 0.05
        differs += acquire(POST, first - second, "gap", NOISE) != asked
    assert differs > 10


@pytest.mark.parametrize("sums", [None, np.zeros((12, 2)), np.zeros((3, 3))])
def test_eubo_needs_both_replies(sums: Array | None) -> None:
    """With differences alone it is refused, and the rule that they allow is named."""
    with pytest.raises(InputError, match=r'"eubo" has.*rule="gap"'):
        acquire(POST, POOL, "eubo", NOISE, sums=sums)


def test_d_optimality_is_the_expected_shrinkage() -> None:
    """½ log(1 + s·vᵀΣv) with s the mean Fisher information, by Monte Carlo; public under its own name."""
    s = information(drawn_utilities(), NOISE).mean(axis=0)
    variance = utility(POOL, POST)[1]
    np.testing.assert_allclose(score("d_optimal"), np.log1p(s * variance) / 2, atol=0.01)
    np.testing.assert_array_equal(expected_information(POST, POOL, NOISE), score("d_optimal"))
    at_mean = np.log1p(information(POOL @ POST.mean, NOISE) * variance) / 2
    assert np.abs(score("d_optimal") - at_mean).max() > 0.03  # the control: the mean's own information isn't it


def test_pref_is_the_variance() -> None:
    """PReF's rule is vᵀΣv, dense."""
    np.testing.assert_allclose(score("pref"), np.diag(POOL @ POST.covariance @ POOL.T))


# ---------------------------------------------------------------- looking ahead


@pytest.mark.parametrize("noise", [NOISE, Noise(0.0, 0.2, 0.0)])
def test_looking_ahead_is_expected_accuracy(noise: Noise) -> None:
    """Against enumeration: ask, weigh the hypotheses by each answer, forecast by their vote, count what is right."""
    rng = np.random.default_rng(0)
    known, chance = rng.normal(size=(5, 3)), np.full(5, 0.2)
    wins = win_probability(known @ POOL.T, noise)  # (5, 12)
    truth = []
    for v in POOL[:4]:
        offered = 3 if noise.tie else 2
        joint = probabilities(known @ v, noise)[:offered] * chance  # (3, 5)
        votes = joint @ wins / joint.sum(axis=1, keepdims=True)
        truth.append(float((joint.sum(axis=1)[:, None] * np.maximum(votes, 1 - votes)).sum(axis=0).mean()))
    np.testing.assert_allclose(accuracy_after(known, POOL[:4], POOL, noise), truth)
    unasked = np.maximum(chance @ wins, 1 - chance @ wins).mean()
    assert min(truth) >= unasked - 1e-12
    assert max(truth) > unasked + 1e-3  # the control: an answer does help


def test_what_is_compared_later_is_asked_about() -> None:
    """D-optimality asks about the widest axis; looking ahead asks about the one that decides the pool's other pairs."""
    post = Gaussian(np.zeros(2), np.diag([3.0, 1.0]))
    pool = np.vstack([[[1.0, 0.0]], np.tile([0.0, 1.0], (30, 1))])
    assert acquire(post, pool, "d_optimal", NOISE) == 0
    assert acquire(post, pool, AHEAD, NOISE) != 0


def test_draws_stand_for_a_posterior() -> None:
    """The same ones each time, with the posterior's mean exactly and nearly its covariance."""
    post = Gaussian(np.array([1.0, -2.0]), np.array([[2.0, 0.5], [0.5, 1.0]]))
    draws = draw(post, 4000)
    np.testing.assert_array_equal(draws, draw(post, 4000))
    np.testing.assert_allclose(draws.mean(axis=0), post.mean, atol=1e-12)
    np.testing.assert_allclose(np.cov(draws.T), post.covariance, atol=0.1)


# ---------------------------------------------------------------- clipping


def test_clipping_keeps_directions_and_bounds_lengths() -> None:
    """No pair is longer than the quantile in the prior's metric, none turns, and short ones stay as they are."""
    prior = prior_of(3)
    lengths = np.sqrt(utility(POOL, prior)[1])
    clipped = clip_pairs(POOL, prior, 0.5)
    after = np.sqrt(utility(clipped, prior)[1])
    limit = np.quantile(lengths, 0.5)
    np.testing.assert_allclose(after, np.minimum(lengths, limit))
    np.testing.assert_array_equal(clipped[lengths < limit], POOL[lengths < limit])
    assert min(cosine(before, now) for before, now in zip(POOL, clipped, strict=True)) > 1 - 1e-12
    assert lengths.max() > 1.5 * limit  # the control: there was something to shorten


def test_an_extreme_pair_stops_winning() -> None:
    """An outlier would be asked first for its length alone; clipped, it wins by direction or not at all."""
    prior = Gaussian(np.zeros(2), np.diag([1.0, 4.0]))
    pool = np.vstack([np.tile([0.0, 1.0], (20, 1)), [[30.0, 0.0]]])
    assert acquire(prior, pool, "pref") == 20
    assert acquire(prior, clip_pairs(pool, prior, 0.9), "pref") != 20


def test_clipping_nothing() -> None:
    """An empty pool and equal replies pass through."""
    assert clip_pairs(np.zeros((0, 3)), flat(3)).shape == (0, 3)
    np.testing.assert_array_equal(clip_pairs(np.zeros((2, 3)), flat(3)), np.zeros((2, 3)))


# ---------------------------------------------------------------- when to stop

LENIENT = StopRule(accuracy=0.99, information=1e-6, max_questions=10)


@pytest.mark.parametrize(
    ("rule", "asked", "reason"),
    [
        (LENIENT, 9, None),
        (LENIENT, 10, "reached 10 questions"),
        (replace(LENIENT, max_questions=3), 3, "reached 3 questions"),
        (replace(LENIENT, accuracy=0.55), 2, "sure enough"),
        (replace(LENIENT, information=0.9), 2, "no question left"),
    ],
)
def test_asking_stops_for_each_reason(rule: StopRule, asked: int, reason: str | None) -> None:
    """Each of three reasons stops it alone and is told in words; without any it goes on."""
    found = why_stop(POST, POOL, POOL, asked, rule, NOISE)
    assert found is None if reason is None else reason in str(found)


def test_an_empty_pool_stops_it() -> None:
    """When every pair has been asked, nothing is left to teach."""
    assert "no question left" in str(why_stop(POST, POOL, np.zeros((0, 3)), 1, LENIENT, NOISE))


def test_latent_accuracy_is_how_often_the_mean_is_right() -> None:
    """Monte Carlo over the posterior: the share of pairs where a drawn person's sign is the mean's."""
    right = np.sign(drawn_utilities()) == np.sign(POOL @ POST.mean)
    assert latent_accuracy(POST, POOL) == pytest.approx(right.mean(), abs=0.01)
    assert latent_accuracy(flat(3), POOL) == pytest.approx(0.5)
    assert latent_accuracy(replace(POST, covariance=POST.covariance / 1e4), POOL) > 0.97


def test_no_reference_pairs_are_no_accuracy() -> None:
    """Where nothing stands for what people will compare, nobody can say how sure is sure enough; one pair is enough."""
    for call in (
        lambda pairs: latent_accuracy(POST, pairs),
        lambda pairs: why_stop(POST, pairs, POOL, 1, StopRule(), NOISE),
    ):
        with pytest.raises(InputError, match="no reference pairs"):
            call(POOL[:0])
        call(POOL[:1])


# ---------------------------------------------------------------- that it pays


def learnt(people: Array, prior: Gaussian, pool: Array, rule: str) -> list[float]:
    """Cosine between each one's weights and their profile after eight questions chosen by a rule."""
    rng = np.random.default_rng(8)
    posts = [prior] * len(people)
    chosen: list[list[int]] = [[] for _ in people]
    said: list[list[str]] = [[] for _ in people]
    for step in range(8):
        for i, w in enumerate(people):
            allowed = ~np.isin(np.arange(len(pool)), chosen[i])
            chosen[i].append(acquire(posts[i], pool, rule, NOISE, allowed, seed=100 * i + step))
            said[i] += answers(pool[chosen[i][-1:]] @ w, NOISE, rng)
        records = [Record(pool[c], s) for c, s in zip(chosen, said, strict=True)]
        posts = [found.weights for found in fit_block(records, prior, NOISE)]
    return [cosine(w, post.mean) for w, post in zip(people, posts, strict=True)]


def test_active_questions_beat_random_ones() -> None:
    """Where most pairs differ in one trait alone, eight chosen questions show more of a person.

    The median over twenty people drawn from the prior; the control is random choice from the same pool.
    """
    rng = np.random.default_rng(4)
    prior = flat(5, 2.0)
    differ = np.where(rng.random((60, 5)) < 0.2, 2.0, 0.3)
    pool = clip_pairs(rng.normal(size=(60, 5)) * differ + [1.0, 0, 0, 0, 0], prior)
    people = rng.multivariate_normal(prior.mean, prior.covariance, size=20)
    active, chance = (learnt(people, prior, pool, rule) for rule in ("d_optimal", "random"))
    assert np.median(active) > np.median(chance) + 0.05


# ---------------------------------------------------------------- what is refused


def test_bad_input_is_named() -> None:
    """Unknown rules, pools of other axes, flags of another number, and nothing to ask are refused."""
    with pytest.raises(InputError, match=r"'magic'.*d_optimal"):
        acquire(POST, POOL, "magic")
    with pytest.raises(InputError, match=r"expected \(m, 3\)"):
        acquire(POST, np.ones((2, 4)))
    with pytest.raises(InputError, match="NaN"):
        acquire(POST, np.full((2, 3), np.nan))
    with pytest.raises(InputError, match="allowed"):
        acquire(POST, POOL, allowed=np.zeros(len(POOL), dtype=bool))
    with pytest.raises(InputError, match="allowed"):
        acquire(POST, np.zeros((0, 3)))


def test_curves_of_different_noise_are_kept_apart() -> None:
    """The information curve is remembered for each noise, not for all."""
    assert not np.array_equal(score("d_optimal", Noise(lapse=0.3)), score("d_optimal", Noise(lapse=0.0)))
    assert ask._information_curve(Noise(lapse=0.3)) is ask._information_curve(Noise(lapse=0.3))


def test_draws_do_not_depend_on_how_eigenvectors_are_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine's eigenvectors, of other signs and turned where values are equal, give the same draws."""
    post = Gaussian(np.arange(4.0), np.diag([1.0, 2.0, 2.0, 3.0]))
    draws, eigh = draw(post, 9), np.linalg.eigh
    turn = np.array([[1.0, 0, 0, 0], [0, 0.6, 0.8, 0], [0, 0.8, -0.6, 0], [0, 0, 0, -1]])
    monkeypatch.setattr(np.linalg, "eigh", lambda a: (eigh(a)[0], eigh(a)[1] @ turn))
    assert np.abs(draw(post, 9) - draws).max() < 1e-12
    assert np.abs(eigh(post.covariance)[1] - np.linalg.eigh(post.covariance)[1]).max() > 0.5  # the control
