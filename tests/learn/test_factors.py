"""Many people's answers to axes: planted tastes are found, noise is not taken for taste, bad logs are refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from scipy.special import expit

from personalign.errors import InputError, QuestionError
from personalign.learn import Factors, factorise, fit, predict
from personalign.types import Noise
from tests.learn.people import SWAPPED, Array, answers, bytes_of, graded_answers

PLANTED = Noise(tie=0.4, lapse=0.02, side=0.5)
RANK, FEATURES = 3, 16


@dataclass(frozen=True, eq=False)
class World:
    """People whose weights are ``mean`` + ``loading`` @ a."""

    user: Array
    v: Array
    choice: list[str]
    mean: Array
    loading: Array


@cache
def world(seed: int = 0, people: int = 80, each: int = 60) -> World:
    """Features of very different sizes, three directions of taste, a common one, and side biases."""
    rng = np.random.default_rng(seed)
    sizes = np.geomspace(0.3, 3, FEATURES)
    directions = np.linalg.qr(rng.normal(size=(FEATURES, RANK + 1)))[0] / sizes[:, None]
    mean, loading = directions[:, 0], directions[:, 1:] * (1.5, 1.2, 0.9)
    user = np.repeat(np.arange(people), each)
    v = rng.normal(size=(len(user), FEATURES)) * sizes
    weights = mean + rng.normal(size=(people, RANK)) @ loading.T
    biases = PLANTED.side * rng.normal(size=people)
    choice = answers((v * weights[user]).sum(1) + biases[user], replace(PLANTED, side=0.0), rng)
    return World(user, v, choice, mean, loading)


@cache
def found(rank: int | str = RANK + 1) -> Factors:
    of = world()
    return factorise(of.user, of.v, of.choice, rank)


def overlap(projection: Array, direction: Array, v: Array) -> float:
    """Share of the utility along a direction that the axes can express, over the pairs."""
    utility = v @ direction
    axes = np.linalg.qr(v @ projection)[0]
    return float(((axes.T @ utility) ** 2).sum() / (utility @ utility))


# ---------------------------------------------------------------- what is found


def test_finds_the_planted_directions() -> None:
    """The axes hold nearly all of each planted direction of taste, and of everyone's; other directions they don't."""
    of = world()
    for direction in (of.mean, *of.loading.T):
        assert overlap(found().projection, direction, of.v) > 0.9
    other = np.random.default_rng(1).normal(size=FEATURES) / np.geomspace(0.3, 3, FEATURES)
    assert overlap(found().projection, other, of.v) < 0.7


def test_finds_how_strongly_people_differ() -> None:
    """The prior's spread of utilities over people is the planted one, within a third."""
    of = world()
    planted = ((of.v @ of.loading) ** 2).sum(1).mean()
    z = of.v @ found().projection
    assert ((z @ found().prior.covariance) * z).sum(1).mean() == pytest.approx(planted, rel=0.33)


def test_finds_how_people_answer() -> None:
    """Tie, lapse and side bias come out near the planted ones, the three not confused."""
    noise = found().noise
    assert noise.tie == pytest.approx(PLANTED.tie, abs=0.06)
    assert noise.side == pytest.approx(PLANTED.side, abs=0.15)
    assert noise.lapse < 0.08


def test_people_who_do_not_differ_have_a_narrow_prior() -> None:
    """With ids shuffled there are no persons, and the prior says so; the control is the same log in order."""
    of = world()
    shuffled = np.random.default_rng(0).permutation(of.user)
    nobody = factorise(shuffled, of.v, of.choice, RANK)
    z = of.v @ nobody.projection
    spread = ((z @ nobody.prior.covariance) * z).sum(1).mean()
    real = of.v @ found().projection
    assert spread < 0.15 * ((real @ found().prior.covariance) * real).sum(1).mean()
    assert nobody.held_out[-1].accuracy < found().held_out[-1].accuracy - 0.03


@pytest.mark.slow
def test_auto_finds_the_rank() -> None:
    """Three directions of taste beside everyone's take three to six axes, not one and not sixteen."""
    assert 3 <= found("auto").rank <= 6


def test_the_report_grows_with_answers() -> None:
    """Held-out people are predicted the better the more of their answers are known; 0 is the population's model."""
    told = found().held_out
    assert [held.answers for held in told] == [0, 5, 10, 20]
    assert told[0].accuracy < told[2].accuracy < told[3].accuracy + 0.02
    assert told[3].log_loss < told[0].log_loss - 0.03


def test_a_retest_is_no_test() -> None:
    """Coins that fell alike each time, also with the sides changed, can't be foretold by those that are known."""
    rng = np.random.default_rng(0)
    user, v = np.repeat(np.arange(60), 8), rng.normal(size=(480, 8))
    coins = rng.choice(["a", "b"], size=480).tolist()
    turned = [SWAPPED[choice] for choice in coins]
    repeated = factorise(np.tile(user, 8), np.concatenate([v, -v] * 4), [*coins, *turned] * 4, 8)
    assert max(held.accuracy for held in repeated.held_out) < 0.6


# ---------------------------------------------------------------- what the axes promise


def test_a_new_person_starts_at_the_population() -> None:
    """Without an answer the profile is the prior itself, and its mean prefers what everyone's weights prefer."""
    of = world()
    start = fit(np.zeros((0, found().rank)), [], found().prior, found().noise)
    assert start is found().prior
    fresh = np.random.default_rng(9).normal(size=(500, FEATURES)) * np.geomspace(0.3, 3, FEATURES)
    clear = np.abs(fresh @ of.mean) > 0.5
    chance = predict(fresh[clear] @ found().projection, start, found().noise)
    assert ((chance > 0.5) == (fresh[clear] @ of.mean > 0)).mean() > 0.9


def test_axes_are_standardised() -> None:
    """Replies vary by 1 on each axis, axes don't correlate, and the prior is diagonal, the widest axis first."""
    z = world().v @ found().projection
    np.testing.assert_allclose(z.T @ z / len(z), 2 * np.eye(found().rank), atol=1e-8)
    covariance = found().prior.covariance
    np.testing.assert_array_equal(covariance, np.diag(np.diag(covariance)))
    assert (np.diff(np.diag(covariance)) <= 0).all()
    assert np.diag(covariance).min() > 0


def test_units_of_features_do_not_matter_much() -> None:
    """All features in another unit give nearly the same axes."""
    of = world()
    other = factorise(of.user, 100 * of.v, of.choice, RANK + 1)
    for axis in found().projection.T[:RANK]:
        assert overlap(other.projection, axis, of.v) > 0.98


def test_same_log_same_bytes() -> None:
    """A second run gives the same bytes; another seed draws other people to judge, and finds nearly the same axes."""
    of = world()
    again = factorise(of.user, of.v, of.choice, RANK + 1)
    assert again.projection.tobytes() == found().projection.tobytes()
    assert bytes_of(again.prior) == bytes_of(found().prior)
    assert (again.noise, again.held_out) == (found().noise, found().held_out)
    other = factorise(of.user, of.v, of.choice, RANK + 1, seed=1)
    assert other.held_out != found().held_out
    for axis in found().projection.T[:RANK]:
        assert overlap(other.projection, axis, of.v) > 0.98


def test_swapped_sides_change_nothing() -> None:
    """Every pair shown the other way round, and answered likewise, gives the same bytes."""
    of = world()
    swapped = factorise(of.user, -of.v, [SWAPPED.get(c, c) for c in of.choice], RANK + 1)
    assert swapped.projection.tobytes() == found().projection.tobytes()
    assert bytes_of(swapped.prior) == bytes_of(found().prior)
    assert swapped.noise == found().noise


def test_opposite_choices_turn_the_population() -> None:
    """The same pairs answered the other way round: everyone's weights change their sign, the spread stays."""
    of = world()
    turned = factorise(of.user, of.v, [SWAPPED.get(c, c) for c in of.choice], RANK + 1)
    utility = of.v @ turned.projection @ turned.prior.mean
    np.testing.assert_allclose(utility, -of.v @ found().projection @ found().prior.mean, atol=0.02)


def test_answers_that_say_nothing_are_counted_and_left_out() -> None:
    """``skip`` and ``neither`` change no axis; they and people who only ever took one side are counted."""
    of = world(people=20, each=20)
    user = np.concatenate([of.user, [3, 3, 99], [77] * 5])
    v = np.concatenate([of.v, np.ones((8, FEATURES))])
    choice = [*of.choice, "skip", "neither", "skip", *["a"] * 5]
    plain = factorise(
        user[[*range(400), *range(403, 408)]], v[[*range(400), *range(403, 408)]], choice[:400] + ["a"] * 5, 2
    )
    full = factorise(user, v, choice, 2)
    assert full.projection.tobytes() == plain.projection.tobytes()
    assert (full.people, full.answers, full.uninformative) == (22, 408, 3)
    assert full.constant_people == plain.constant_people >= 1


def test_ids_may_be_words_and_features_may_repeat() -> None:
    """Users are named by any strings, and features that are copies of others don't break the fit."""
    of = world(people=20, each=20)
    names = [f"user {i}" for i in of.user]
    doubled = factorise(names, np.hstack([of.v, of.v]), of.choice, 2)
    assert doubled.projection.shape == (2 * FEATURES, 2)
    assert np.isfinite(doubled.projection).all()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("rank", [0, -1, 65, 17, True, "many"])
def test_refuses_a_rank_that_cannot_be(rank: int | str) -> None:
    """A rank is "auto" or a whole number, no more than the features' own dimensions."""
    of = world(people=20, each=20)
    with pytest.raises(InputError, match="found rank"):
        factorise(of.user, of.v, of.choice, rank)


def test_refuses_one_person() -> None:
    """Axes are what people differ in; one person, or one with informative answers, isn't enough."""
    of = world(people=20, each=20)
    with pytest.raises(InputError, match="1 of 1 people"):
        factorise(np.zeros(400, dtype=int), of.v, of.choice, 2)
    with pytest.raises(InputError, match="1 of 2 people"):
        factorise(np.repeat([0, 1], 200), of.v, of.choice[:200] + ["skip"] * 200, 2)
    with pytest.raises(InputError, match="0 of 0 people"):
        factorise([], np.zeros((0, 3)), [], 2)


def test_refuses_what_does_not_fit_together() -> None:
    """Lengths and dimensions that disagree, and features that are not numbers or never differ."""
    of = world(people=20, each=20)
    with pytest.raises(InputError, match="expected \\(N,\\), \\(N, F\\) and \\(N,\\)"):
        factorise(of.user[1:], of.v, of.choice, 2)
    with pytest.raises(InputError, match="expected \\(N,\\), \\(N, F\\) and \\(N,\\)"):
        factorise(of.user, of.v[1:], of.choice, 2)
    broken = of.v.copy()
    broken[7, 2] = np.nan
    with pytest.raises(InputError, match="the first is row 7"):
        factorise(of.user, broken, of.choice, 2)
    with pytest.raises(InputError, match="don't differ"):
        factorise(of.user, np.zeros_like(of.v), of.choice, 2)


def test_refuses_an_unknown_choice() -> None:
    """The row of the first unknown choice is named."""
    of = world(people=20, each=20)
    with pytest.raises(QuestionError, match="'left' in row 5"):
        factorise(of.user, of.v, [*of.choice[:5], "left", *of.choice[6:]], 2)


@pytest.mark.parametrize("flipped", [0.0, 0.1])
def test_a_forced_choice_has_its_own_likelihood(flipped: float) -> None:
    """Without ties in a log none is offered, and lapses are spread over two sides: δ = 0 and ε by Beta's prior."""
    rng = np.random.default_rng(3)
    v, weights = rng.normal(size=(1200, 3)), rng.normal(size=(40, 3)) * 1.5
    person = np.repeat(np.arange(40), 30)
    is_left = rng.random(1200) < expit((v * weights[person]).sum(axis=1))
    is_left ^= rng.random(1200) < flipped
    noise = factorise(person, v, np.where(is_left, "a", "b"), 3).noise
    assert noise.tie == 0
    assert 0.002 < noise.lapse < 2 * flipped + 0.08


@pytest.mark.parametrize("seed", [4, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("much", [0.8, 3.0])
def test_how_much_is_much_is_found_in_graded_answers(much: float, seed: int) -> None:
    """The second cut is estimated with the prior where a log has grades, and stays the default where it has none.

    Close cuts and lapses make likelihoods that aren't concave. Where beliefs swing to and fro in them, most answers
    are taken for lapses.
    """
    rng = np.random.default_rng(seed)
    v, weights = rng.normal(size=(2400, 3)), rng.normal(size=(60, 3)) * 1.5
    person, planted = np.repeat(np.arange(60), 40), Noise(0.4, 0.03, 0.0, much)
    u = (v * weights[person]).sum(axis=1)
    noise = factorise(person, v, graded_answers(u, planted, rng), 3).noise
    assert noise.much == pytest.approx(much, rel=0.25)
    assert noise.tie == pytest.approx(planted.tie, rel=0.4)
    assert noise.lapse < 0.1
    assert factorise(person, v, answers(u, planted, rng), 3).noise.much == Noise.much


def test_ties_of_held_out_people_alone_are_fitted() -> None:
    """Where only those who judge said "tie", the last fit, to all, has a width of ties again."""
    rng = np.random.default_rng(5)
    person, v = np.repeat(np.arange(10), 20), rng.normal(size=(200, 3))
    held = np.random.default_rng(0).permutation(10)[:2]  # as the seed draws them
    choice = np.where(v[:, 0] > 0, "a", "b").astype(object)
    choice[np.isin(person, held) & (np.abs(v[:, 0]) < 0.5)] = "tie"
    assert factorise(person, v, choice, 2).noise.tie > 0
