"""The alarm on a change of taste: how often it errs, what it catches, and what forgetting does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from personalign.learn.drift import COIN, STALE, THRESHOLD, Drift, fade, log_loss, watch
from personalign.learn.fit import Record, fit_block, predict
from personalign.types import Gaussian
from tests.learn.people import NOISE, Array, answers, prior_of

PRIOR = prior_of(6)
NUM_PEOPLE, NUM_ANSWERS, CHANGE = 80, 50, 15
Change = Callable[[Array, np.random.Generator], Array]


@dataclass(frozen=True, eq=False)
class Life:
    """What became of simulated people: their last finding, and how well their newest taste is foreseen at the end."""

    drifts: list[Drift]
    losses: Array  # (people,) expected log-loss on fresh pairs


def same(w: Array, _: np.random.Generator) -> Array:
    return w


def opposite(w: Array, _: np.random.Generator) -> Array:
    return 2 * PRIOR.mean - w


def another(_: Array, rng: np.random.Generator) -> Array:
    return rng.multivariate_normal(PRIOR.mean, PRIOR.covariance)


def live(change: Change, heeds: bool = True, seed: int = 0) -> Life:
    """Let people answer one by one, as the service takes it: foresee, store the loss, fit anew."""
    rng = np.random.default_rng(seed)
    before = rng.multivariate_normal(PRIOR.mean, PRIOR.covariance, NUM_PEOPLE)
    after = np.array([change(w, rng) for w in before])
    v = rng.normal(size=(NUM_PEOPLE, NUM_ANSWERS, len(PRIOR.mean)))
    side = NOISE.side * rng.normal(size=NUM_PEOPLE)
    given: list[list[str]] = [[] for _ in range(NUM_PEOPLE)]
    losses: list[list[float | None]] = [[] for _ in range(NUM_PEOPLE)]
    posts = [PRIOR] * NUM_PEOPLE
    for t in range(NUM_ANSWERS):
        w = before if t < CHANGE else after
        for i in range(NUM_PEOPLE):
            (choice,) = answers(v[i, t : t + 1] @ w[i] + side[i], NOISE, rng)
            losses[i].append(log_loss(v[i, t], choice, posts[i], NOISE))
            given[i].append(choice)
        changed = [watch(of, [True] * len(of)).changed_at if heeds else 0 for of in losses]
        records = [
            Record(v[i, : t + 1], given[i], fade(np.arange(t + 1.0), np.ones(t + 1), None, changed[i]))
            for i in range(NUM_PEOPLE)
        ]
        posts = [fitted.weights for fitted in fit_block(records, PRIOR, NOISE)]
    drifts = [watch(of, [True] * len(of)) for of in losses]
    return Life(drifts, np.array([_loss(post, w, rng) for post, w in zip(posts, after, strict=True)]))


def _loss(post: Gaussian, w: Array, rng: np.random.Generator) -> float:
    pairs = rng.normal(size=(200, len(w)))
    prob, truth = predict(pairs, post, NOISE), predict(pairs, Gaussian(w, np.zeros_like(post.covariance)), NOISE)
    return float(-(truth * np.log(prob) + (1 - truth) * np.log(1 - prob)).mean())


def alarmed(life: Life) -> float:
    return float(np.mean([drift.alarms > 0 for drift in life.drifts]))


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Of people whose taste stays, at most one in twenty has an alarm within 50 answers."""
    assert alarmed(live(same)) <= 0.05


def test_a_change_is_found_and_heeded() -> None:
    """The control: most of those whose taste turns round are found, where it turned, and then foreseen better."""
    heeded, unheeded = live(opposite), live(opposite, heeds=False)
    assert alarmed(heeded) >= 0.65
    found = [drift.changed_at for drift in heeded.drifts if drift.alarms]
    assert abs(np.median(found) - CHANGE) <= 3
    assert heeded.losses.mean() < unheeded.losses.mean() - 0.02


def test_another_taste_is_found_more_often_than_none() -> None:
    """A taste drawn anew, which may be much like the old one, is found for some."""
    assert alarmed(live(another)) > 0.15


def test_the_alarm_sums_what_was_worse_than_a_coin() -> None:
    """It starts again at each low and after each alarm; what wasn't foreseen is passed over."""
    one = THRESHOLD / 2 + COIN + 1e-9
    drift = watch([0.1, None, one, None, one, 0.1], [True, True, False, True, True, True])
    assert drift == Drift(excess=0.0, alarms=1, changed_at=1, restart=5, asked=1)
    assert "changed" in drift.explain()
    calm = watch([COIN, one, 0.0], [True, False, True])
    assert (calm.alarms, calm.changed_at, calm.restart, calm.asked) == (0, 0, 0, 2)
    assert calm.excess == pytest.approx(THRESHOLD / 2 - COIN)
    assert watch([], []).explain().startswith("The answers are as")


def test_a_loss_is_what_was_foreseen() -> None:
    """An answer's own log-loss; none for a tie; feedback is foreseen less surely."""
    v = np.ones(6)
    right = float(predict(v[np.newaxis], PRIOR, NOISE)[0])
    assert log_loss(v, "a", PRIOR, NOISE) == pytest.approx(-np.log(right))
    assert log_loss(v, "b", PRIOR, NOISE) == pytest.approx(-np.log(1 - right))
    assert log_loss(v, "tie", PRIOR, NOISE) is None
    assert log_loss(v, "a", PRIOR, NOISE, "thumbs") == pytest.approx(-np.log(0.5 + 0.6 * (right - 0.5)))


def test_weights_halve_with_age() -> None:
    """Every half-life before the newest halves a weight; without one nothing fades but what came before a change."""
    days, once = np.array([0.0, 10.0, 20.0]), np.ones(3)
    assert fade(days, once, 10.0).tolist() == [0.25, 0.5, 1.0]
    assert fade(days + 1000, once, 10.0).tolist() == [0.25, 0.5, 1.0]
    assert fade(days, once, None).tolist() == [1.0, 1.0, 1.0]
    assert fade(days, once, None, changed_at=2).tolist() == [STALE, STALE, 1.0]
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
