"""A pick says as much as Plackett and Luce's model says it does, and is fitted as pairs that say no more."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from personalign.learn.fit import fit
from personalign.learn.rank import READING, as_pair, as_pairs, expected_pick_information, pace, seconds
from personalign.types import Array, Gaussian, Noise

NOISE = Noise(tie=0.0, lapse=0.0, side=0.0)


def luce(u: Array) -> Array:
    chance = np.exp(u - u.max())
    return np.asarray(chance / chance.sum())


def fisher_of_pick(features: Array) -> Array:
    """Information about the weights at indifference, by summing scores over all picks of a best and a worst."""
    k, total = len(features), np.zeros((features.shape[1],) * 2)
    for best, worst in permutations(range(k), 2):
        rest = [i for i in range(k) if i != best]
        score = features[best] - features.mean(axis=0) - (features[worst] - features[rest].mean(axis=0))
        total += np.outer(score, score) / (k * (k - 1))
    return total


@pytest.mark.parametrize("k", [3, 4])
def test_pairs_hold_as_much_information_as_the_pick(k: int) -> None:
    """Near indifference, on average over picks; at twice the weight they would hold twice as much (the control)."""
    features = np.random.default_rng(k).normal(size=(k, 3))
    of_pairs = np.zeros((3, 3))
    for best, worst in permutations(range(k), 2):
        v, weight = as_pairs(features, f"{'abcd'[best]}>{'abcd'[worst]}")
        of_pairs += (v * weight[:, None] / 4).T @ v / (k * (k - 1))
    np.testing.assert_allclose(of_pairs, fisher_of_pick(features))
    assert not np.allclose(2 * of_pairs, fisher_of_pick(features))


@pytest.mark.parametrize("k", [3, 4])
def test_expected_information_is_that_of_the_pick_at_indifference(k: int) -> None:
    """½ log det of the posterior's precision over the prior's, by the same sum."""
    features = np.random.default_rng(k).normal(size=(k, 3))
    prior = Gaussian(np.zeros(3), np.diag([0.5, 1.0, 2.0]))
    gained = np.linalg.slogdet(np.eye(3) + prior.covariance @ fisher_of_pick(features))[1] / 2
    assert expected_pick_information(prior, features) == pytest.approx(gained)


def test_what_is_decided_tells_less() -> None:
    """Where the best and the worst are as good as certain, naming them adds next to nothing."""
    features = np.array([[9.0], [3.0], [-3.0], [-9.0]])
    undecided, decided = (Gaussian(np.array([mean]), np.eye(1) / 4) for mean in (0.0, 5.0))
    assert expected_pick_information(decided, features) < 0.01 < expected_pick_information(undecided, features)


def test_the_best_is_above_all_and_the_worst_below() -> None:
    """Five pairs of four replies: the best over each other one, and the two between over the worst."""
    features = np.eye(4)
    v, weight = as_pairs(features, "c>a")
    assert sorted(map(tuple, v.tolist())) == sorted(
        map(tuple, [features[2] - features[i] for i in (0, 1, 3)] + [features[i] - features[0] for i in (1, 3)])
    )
    np.testing.assert_allclose(weight, [1 / 2] * 3 + [2 / 3] * 2)
    np.testing.assert_allclose(as_pairs(features, "c")[0], v[:3])
    np.testing.assert_allclose(as_pair(features, "c>a"), [-1 / 3, -1 / 3, 1, -1 / 3])


def test_tastes_are_found_as_by_the_exact_model() -> None:
    """Ten picks by Plackett and Luce: the fit points where a maximum of the exact posterior does."""
    rng, prior = np.random.default_rng(3), Gaussian(np.zeros(4), np.eye(4))
    cosines = []
    for _ in range(20):
        w, sets = rng.normal(size=4), rng.normal(size=(10, 4, 4))
        best = [int(rng.choice(4, p=luce(each @ w))) for each in sets]
        v, weight = (np.concatenate(part) for part in zip(*map(as_pairs, sets, ["abcd"[i] for i in best]), strict=True))
        fitted = fit(v, ["a"] * len(v), prior, NOISE, weight).mean
        exact = np.zeros(4)
        for _ in range(500):
            pull = sum(each[i] - luce(each @ exact) @ each for each, i in zip(sets, best, strict=True))
            exact = exact + 0.05 * (pull - exact)
        cosines.append(fitted @ exact / np.linalg.norm(fitted) / np.linalg.norm(exact))
    assert np.mean(cosines) > 0.97


def test_a_persons_pace_moves_from_the_usual_to_their_own() -> None:
    """Nobody's is the usual one; who reads two words a second is known for it after some answers."""
    assert pace(np.array([]), np.array([])) == READING
    few, many = (pace(np.full(n, 100.0), np.full(n, 52.0)) for n in (1, 50))
    assert READING > few > many > 2.0
    assert many == pytest.approx(2.0, abs=0.1)
    assert seconds(100, 2.0) > seconds(100, 4.0) > seconds(50, 4.0)
