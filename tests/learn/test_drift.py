"""The alarm on a change of taste: how often it errs, what it catches, and what forgetting does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from personalign.learn.evidence import EVERY, SETTLED, Drift, fade, watch
from personalign.learn.fit import Record, fit_block, predict
from personalign.types import Gaussian
from tests.learn.people import NOISE, SWAPPED, Array, answers, prior_of

PRIOR = prior_of(6)
NUM_PEOPLE, NUM_ANSWERS, CHANGE = 80, 50, 15
Change = Callable[[Array, np.random.Generator], Array]
Answer = Callable[[Array, np.random.Generator], list[str]]


@dataclass(frozen=True, eq=False)
class Life:
    """What became of simulated people: the last finding, and how well their newest taste is predicted at the end."""

    drifts: list[Drift]
    watched: Array  # (people,) expected log-loss on fresh pairs
    unwatched: Array


def same(w: Array, _: np.random.Generator) -> Array:
    return w


def opposite(w: Array, _: np.random.Generator) -> Array:
    return 2 * PRIOR.mean - w


def another(_: Array, rng: np.random.Generator) -> Array:
    return rng.multivariate_normal(PRIOR.mean, PRIOR.covariance)


def likely(u: Array, rng: np.random.Generator) -> list[str]:
    return answers(u, NOISE, rng)


def wrong(u: Array, rng: np.random.Generator) -> list[str]:
    return ["a" if is_left else "b" for is_left in (u > 0) ^ (rng.random(len(u)) < 0.25)]


def left(u: Array, _: np.random.Generator) -> list[str]:
    return ["a"] * len(u)


def live(change: Change, answer: Answer = likely, seed: int = 0) -> Life:
    """Let people answer, and fit all they said with what each answer counts, and without."""
    rng = np.random.default_rng(seed)
    before = rng.multivariate_normal(PRIOR.mean, PRIOR.covariance, NUM_PEOPLE)
    after = np.array([change(w, rng) for w in before])
    v = rng.normal(size=(NUM_PEOPLE, NUM_ANSWERS, len(PRIOR.mean)))
    u = np.concatenate([v[:, :CHANGE] @ before[:, :, None], v[:, CHANGE:] @ after[:, :, None]], axis=1)[:, :, 0]
    given = [answer(row, rng) for row in u]
    drifts = [asked(pairs, said) for pairs, said in zip(v, given, strict=True)]
    losses = []
    for weights in ([drift.holds for drift in drifts], [None] * NUM_PEOPLE):
        records = [Record(*record) for record in zip(v, given, weights, strict=True)]
        posts = [fitted.weights for fitted in fit_block(records, PRIOR, NOISE)]
        losses.append(np.array([_loss(post, w) for post, w in zip(posts, after, strict=True)]))
    return Life(drifts, *losses)


def asked(v: Array, choices: list[str], kind: str = "question") -> Drift:
    return watch(v, choices, [kind] * len(choices), PRIOR)


def _loss(post: Gaussian, w: Array) -> float:
    pairs = np.random.default_rng(0).normal(size=(200, len(w)))
    prob, truth = predict(pairs, post, NOISE), predict(pairs, Gaussian(w, np.zeros_like(post.covariance)), NOISE)
    return float(-(truth * np.log(prob) + (1 - truth) * np.log(1 - prob)).mean())


def alarmed(life: Life) -> float:
    return float(np.mean([drift.alarms > 0 for drift in life.drifts]))


@pytest.mark.parametrize("answer", [likely, wrong, left])
def test_false_alarms_are_as_rare_as_promised(answer: Answer) -> None:
    """Of people whose taste stays, at most one in twenty has an alarm within 50 answers, and little is lost.

    That holds for those who err in a quarter of cases, and for those who always take the left side.
    """
    life = live(same, answer)
    assert alarmed(life) <= 0.05
    assert life.watched.mean() < life.unwatched.mean() + 0.025


def test_a_change_is_noticed_and_heeded() -> None:
    """The control: most of those whose taste turns round are noticed, where it turned, and then predicted better."""
    life = live(opposite)
    assert alarmed(life) >= 0.75
    found = [drift.changed_at for drift in life.drifts if drift.alarms]
    assert abs(np.median(found) - CHANGE) <= EVERY
    assert life.watched.mean() < life.unwatched.mean() - 0.05


def test_another_taste_is_noticed_more_often_than_none() -> None:
    """A taste drawn anew, which may be much like the old one, is noticed for many."""
    life = live(another)
    assert alarmed(life) > 0.2
    assert life.watched.mean() < life.unwatched.mean() - 0.02


def test_it_is_told_when_the_taste_changed_and_what_was_asked_since() -> None:
    """Before the alarm nothing is told; then the answer it began with, and the questions since the alarm."""
    v = np.random.default_rng(0).normal(size=(40, 6))
    choices = ["a" if u > 0 else "b" for u in v @ np.array([3.0, 0, 0, 0, 0, 0]) * np.repeat([1, -1], 20)]
    early = asked(v[:20], choices[:20])
    assert (early.alarms, early.changed_at, early.restart, early.asked) == (0, 0, 0, 20)
    assert early.explain().startswith("The answers are as")
    late = asked(v, [*choices[:38], "skip", "tie"])
    assert late.alarms == 1
    assert abs(late.changed_at - 20) <= EVERY
    assert late.asked == 40 - late.restart - 1
    assert f"changed, at about answer {late.changed_at + 1}" in late.explain()
    assert late.holds[:15].max() < 0.2
    assert (np.diff(late.holds) >= 0).all()
    assert late.holds[-1] == pytest.approx(1)


def test_what_says_nothing_changes_nothing() -> None:
    """Skips, ties, neither and checks leave all chances as they are; feedback is slower to raise an alarm."""
    v = np.random.default_rng(0).normal(size=(30, 6))
    choices = ["a" if u > 0 else "b" for u in v[:, 0] * np.repeat([1, -1], 15)]
    full = asked(v, choices)
    silent = watch(
        np.concatenate([v, v[:4]]),
        [*choices, "skip", "tie", "neither", "a"],
        ["question"] * 33 + ["check"],
        PRIOR,
    )
    assert silent.chance == full.chance
    assert silent.holds[:30].tolist() == full.holds.tolist()
    assert asked(v, choices, "thumbs").alarms < full.alarms
    assert asked(v[:0], []).holds.tolist() == []


def test_the_first_answers_count_whole() -> None:
    """However they contradict each other, nobody changes within the first questions; with one more they may have."""
    v = np.repeat(np.eye(6)[:1], SETTLED + 1, axis=0)
    choices = ["a"] * 5 + ["b"] * (SETTLED - 4)
    assert asked(v[:SETTLED], choices[:SETTLED]).holds.tolist() == [1.0] * SETTLED
    assert asked(v, choices).holds[0] < 1


def test_a_mirrored_record_is_watched_alike() -> None:
    """Who sees all sides changed and keeps their mind has the same chances."""
    v = np.random.default_rng(0).normal(size=(30, 6))
    choices = ["a" if u > 0 else "b" for u in v[:, 0]]
    np.testing.assert_allclose(asked(-v, [SWAPPED[c] for c in choices]).holds, asked(v, choices).holds)


def test_extreme_answers_stay_finite() -> None:
    """The largest features that are taken give chances all the same."""
    v = np.random.default_rng(0).normal(size=(30, 6)) * np.array([1e100] * 6)
    drift = asked(v, ["a", "b"] * 15)
    assert np.isfinite([*drift.holds, drift.chance]).all()


def test_weights_halve_with_age() -> None:
    """Every half-life before the newest halves a weight; without one an answer counts by the chance that it holds."""
    days, once = np.array([0.0, 10.0, 20.0]), np.ones(3)
    assert fade(days, once, 10.0).tolist() == [0.25, 0.5, 1.0]
    assert fade(days + 1000, once, 10.0).tolist() == [0.25, 0.5, 1.0]
    assert fade(days, once, None).tolist() == [1.0, 1.0, 1.0]
    assert fade(days, 2 * once, 10.0, np.array([0.2, 0.4, 1.0])).tolist() == [0.1, 0.4, 2.0]
    assert fade(np.zeros(0), np.zeros(0), 10.0).tolist() == []


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(0.0, 1.0), (0.16, 0.5**1.6), (0.36, 0.5**3.6), (1.0, 0.5**10)],
)
def test_age_is_counted_by_what_is_fitted(weight: float, expected: float) -> None:
    """A skip or a check ten half-lives later fades nothing, weak feedback a little, and an answer all there was."""
    faded = fade(np.array([0.0, 0.0, 100.0]), np.array([1.0, 0.5, weight]), 10.0)
    np.testing.assert_allclose(faded, [expected, expected / 2, weight])


def test_nothing_but_skips_fades_nothing() -> None:
    """Without an answer there is no clock."""
    assert fade(np.array([0.0, 50.0]), np.zeros(2), 10.0).tolist() == [0.0, 0.0]
