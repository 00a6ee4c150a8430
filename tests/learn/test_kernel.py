"""The block kernel: a person's bytes are their own whoever is beside them, and it arrives where others arrive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_expit

from personalign.errors import InputError, QuestionError
from personalign.learn import kernel
from personalign.learn.fit import fit_many
from personalign.learn.kernel import FittedMany
from personalign.types import CHOICES, Gaussian, Noise
from tests.learn.people import NOISE, UNBIASED, Array, fit_alone, prior_of

NOISES = [NOISE, UNBIASED, Noise(0.3, 0.0, 0.4), Noise(0.0, 0.0, 0.0), Noise(1.0, 0.3, 1.0)]


def crowd(num_people: int, n: int, d: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Answers of many people, some of whom say nothing, tie, repeat themselves or have weights."""
    rng = np.random.default_rng([seed, num_people, n, d])
    v = rng.normal(size=(num_people, n, d)) * rng.choice([0.1, 1.0, 10.0], size=(num_people, 1, 1))
    v[::5] = np.round(v[::5])
    v[::7, -1] = -v[::7, 0]
    outcome = rng.choice(len(CHOICES), p=[0.25, 0.25, 0.2, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05], size=(num_people, n))
    outcome[::11] = 4
    weight = np.where(rng.random((num_people, n)) < 0.5, 1.0, rng.uniform(0, 2, (num_people, n)))
    return v, outcome, weight


def bytes_of(found: FittedMany, i: int) -> bytes:
    return found.mean[i].tobytes() + found.covariance[i].tobytes() + found.bias[i].tobytes()


def in_blocks(of: tuple[Array, Array, Array], prior: Gaussian, size: int, noise: Noise = NOISE) -> list[bytes]:
    v, outcome, weight = of
    found = []
    for i in range(0, len(v), size):
        block = slice(i, i + size)
        fitted = fit_many(v[block], outcome[block], prior, noise, weight[block], covariance=True)
        found += [bytes_of(fitted, j) for j in range(len(fitted.mean))]
    return found


# ---------------------------------------------------------------- nobody's bytes depend on the others


@pytest.mark.parametrize(("n", "d"), [(10, 32), (3, 1), (17, 5)])
@pytest.mark.parametrize("noise", [NOISE, Noise(0.0, 0.0, 0.3)])
def test_the_block_changes_nobody(n: int, d: int, noise: Noise) -> None:
    """In blocks of 1, 2, 7 and 1000 everyone has the same bytes, and people differ."""
    people, prior = crowd(1000, n, d), prior_of(d)
    together = in_blocks(people, prior, 1000, noise)
    few = [part[:60] for part in people]
    for size in (1, 2, 7):
        assert in_blocks((few[0], few[1], few[2]), prior, size, noise) == together[:60]
    assert len(set(together)) > 800


def test_a_block_that_is_felt_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a change of the last bit by the number of neighbours is what the test above would find."""
    people, prior = crowd(30, 10, 32), prior_of(32)
    honest = in_blocks(people, prior, 30)
    plain = kernel.turned

    def felt(u: Array, verdict: Array, noise: Noise) -> object:
        return plain(u * (1 + len(u) * 2e-16), verdict, noise)

    monkeypatch.setattr(kernel, "turned", felt)
    assert in_blocks(people, prior, 30) != in_blocks(people, prior, 7)
    monkeypatch.undo()
    assert in_blocks(people, prior, 7) == honest


@pytest.mark.parametrize("d", [3, 32])
def test_bulk_is_single(d: int) -> None:
    """A fit of one's own and a bulk fit have the same bytes; variances alone are the covariances' diagonals."""
    v, outcome, weight = crowd(100, 10, d)
    prior = prior_of(d)
    bulk = fit_many(v, outcome, prior, NOISE, weight, covariance=True)
    lean = fit_many(v, outcome, prior, NOISE, weight)
    variance = np.diagonal(bulk.covariance, axis1=1, axis2=2)
    np.testing.assert_allclose(lean.covariance, variance, rtol=1e-9, atol=1e-12)
    assert lean.mean.tobytes() + lean.bias.tobytes() == bulk.mean.tobytes() + bulk.bias.tobytes()
    for i in range(len(v)):
        alone = fit_alone(v[i], [CHOICES[c] for c in outcome[i]], prior, NOISE, weight[i])
        weights = alone.weights
        assert (
            bytes_of(bulk, i)
            == weights.mean.tobytes() + weights.covariance.tobytes() + np.float64(alone.bias).tobytes()
        )


def test_filling_up_changes_nothing() -> None:
    """Answers that say nothing may stand anywhere, with anything in their features."""
    v, outcome, weight = crowd(40, 6, 3)
    wide = np.concatenate([np.full((40, 4, 3), 7.0), v], axis=1)
    filled = np.concatenate([np.full((40, 4), 3), outcome], axis=1)
    weights = np.concatenate([np.full((40, 4), 2.0), weight], axis=1)
    assert in_blocks((wide, filled, weights), prior_of(3), 40) == in_blocks((v, outcome, weight), prior_of(3), 40)
    filled[:, 0] = 0
    assert in_blocks((wide, filled, weights), prior_of(3), 40) != in_blocks((v, outcome, weight), prior_of(3), 40)


def test_who_says_nothing_has_the_prior() -> None:
    """Without an informative answer the prior's bytes and no bias; of nobody, empty arrays."""
    prior = prior_of(3)
    found = fit_many(np.ones((2, 2, 3)), np.array([[3, 4], [0, 0]]), prior, NOISE, covariance=True)
    assert found.mean[0].tobytes() == prior.mean.tobytes()
    assert found.covariance[0].tobytes() == prior.covariance.tobytes()
    assert found.bias[0] == 0
    assert found.mean[1].tobytes() != prior.mean.tobytes()
    assert fit_many(np.ones((0, 2, 3)), np.zeros((0, 2), dtype=np.int64), prior).mean.shape == (0, 3)
    assert (
        fit_many(np.ones((2, 0, 3)), np.zeros((2, 0), dtype=np.int64), prior).mean.tobytes()
        == np.tile(prior.mean, 2).tobytes()
    )


# ---------------------------------------------------------------- it arrives


def log_posterior(at: Array, v: Array, outcome: Array, weight: Array, prior: Gaussian, noise: Noise) -> float:
    """Of (w, b/σ_b), written from the formula; b counts for nothing where σ_b is 0."""
    off, bias = at[:-1] - prior.mean, at[-1]
    u = v @ at[:-1] + noise.side * bias
    a, b = log_expit(u - noise.tie), log_expit(-u - noise.tie)
    log_theta = np.log(-np.expm1(-2 * noise.tie)) if noise.tie else -1e3
    tie = log_theta + log_expit(noise.tie - u) + log_expit(noise.tie + u)
    much = [log_expit(turn * u - noise.tie - noise.much) for turn in (1, -1)]
    little = [side + np.log(-np.expm1(grade - side)) for side, grade in zip((a, b), much, strict=True)]
    said = np.choose(outcome, [a, b, tie, tie, tie, *little, *much])
    if noise.lapse:
        floor = noise.lapse / (3 if noise.tie else 2) / np.where(outcome > 4, 2, 1)
        lapsed = np.logaddexp(np.log1p(-noise.lapse) + said, np.log(floor))
        said = np.where((outcome == 2) & (noise.tie == 0), said, lapsed)
    return float(weight @ said - (off @ np.linalg.solve(prior.covariance, off) + bias**2) / 2)


def slopes(at: Array, v: Array, outcome: Array, weight: Array, prior: Gaussian, noise: Noise) -> Array:
    """Central differences of ``log_posterior``."""
    moves = 1e-5 * np.eye(len(at))
    sides = [[log_posterior(at + s * move, v, outcome, weight, prior, noise) for s in (1, -1)] for move in moves]
    return np.array([(up - down) / 2e-5 for up, down in sides])


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [1, 4, 10, 30, 100])
@pytest.mark.parametrize("graded", [False, True])
def test_it_arrives_where_others_arrive(n: int, seed: int, noise: Noise, graded: bool) -> None:
    """SciPy's climber finds nothing higher from our mode; without lapses, from the prior's mean it ends at ours."""
    d = [1, 3, 8][seed % 3]
    prior, rng = prior_of(d), np.random.default_rng([n, seed])
    v = rng.normal(size=(n, d)) * [0.3, 1.0, 5.0][seed % 3]
    offered = [0, 1, *([2] if noise.tie else []), *([5, 6, 7, 8] if graded else [])]
    outcome = np.array(offered)[rng.choice(len(offered), size=n)]
    weight = rng.uniform(0.1, 2, n) if seed % 2 else np.ones(n)
    found = fit_many(v[None], outcome[None], prior, noise, weight[None])
    ours = np.append(found.mean[0], found.bias[0] / noise.side if noise.side else 0.0)

    def fall(at: Array) -> float:
        return -log_posterior(at, v, outcome, weight, prior, noise)

    begin = ours if noise.lapse else np.append(prior.mean, 0.0)
    theirs = minimize(fall, begin, method="BFGS", options={"gtol": 1e-6})
    assert fall(ours) <= theirs.fun + 1e-8
    np.testing.assert_allclose(ours, theirs.x, atol=2e-4)
    assert fall(ours) < fall(np.append(prior.mean, 0.0))  # the control: there was something to climb


@pytest.mark.parametrize("scale", [1e-12, 1e4, 1e8, 1e98])
@pytest.mark.parametrize("noise", NOISES)
def test_extreme_features_arrive_too(scale: float, noise: Noise) -> None:
    """Pairs that hardly differ, or differ by more than a person can see, end in finite numbers."""
    v, outcome, weight = crowd(20, 10, 4)
    found = fit_many(v * scale, np.minimum(outcome, 1), prior_of(4), noise, weight, covariance=True)
    for part in (found.mean, found.covariance, found.bias):
        assert np.isfinite(part).all()


def test_a_curvature_that_cancels_the_priors_stops_only_its_own() -> None:
    """Where a negative curvature leaves nothing to solve, that person's step is 0, and the others' are their own."""
    covariances = np.array([[[2.0]], [[3.0]]])
    both = kernel._solve(covariances, np.array([[-0.5], [-0.5]]), np.ones((2, 1)))
    np.testing.assert_array_equal(both, [[0.0], [-2.0]])
    hill = kernel._Hill(np.zeros((2, 1)), covariances, np.zeros((2, 1), dtype=np.int64), np.ones((2, 1)), NOISE)
    point = hill.point(np.zeros((2, 1)), hill.start)._replace(curvature=np.array([[-0.5], [0.2]]))
    step, shift = kernel._direction(hill, point)
    assert ((step > 0) & (shift > 0)).all()  # by Fisher's information and by the curvature


def test_where_newton_would_fall_fisher_climbs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far and contradictory answers bend some log-posteriors upwards; everyone still ends where no direction climbs."""
    fallen: list[int] = []
    plain = kernel._Hill.information

    def counted(hill: kernel._Hill, u: Array) -> Array:
        fallen.append(len(u))
        return plain(hill, u)

    monkeypatch.setattr(kernel._Hill, "information", counted)
    prior, rng = prior_of(4), np.random.default_rng(0)
    v, outcome, weight = rng.normal(size=(60, 10, 4)) * 5, rng.choice(3, size=(60, 10)), np.ones((60, 10))
    found = fit_many(v, outcome, prior, NOISE)
    assert sum(fallen) > 5
    for i in range(60):
        ours = np.append(found.mean[i], found.bias[i] / NOISE.side)
        of = v[i], outcome[i], weight[i], prior, NOISE
        assert np.abs(slopes(ours, *of)).max() < 1e-4
        assert np.abs(slopes(np.append(prior.mean, 0.0), *of)).max() > 0.1  # the control


# ---------------------------------------------------------------- what is refused

PRIOR = prior_of(3)
V, OUTCOME = np.ones((2, 4, 3)), np.zeros((2, 4), dtype=np.int64)


def test_bad_arrays_are_named() -> None:
    """Wrong shapes, NaN, numbers that are no choice and negative weights are refused; the good ones pass."""
    fit_many(V, OUTCOME, PRIOR, NOISE, np.ones((2, 4)))
    with pytest.raises(InputError, match=r"expected \(2, 4, 3\)"):
        fit_many(np.ones((2, 4, 2)), OUTCOME, PRIOR)
    with pytest.raises(InputError, match="NaN"):
        fit_many(np.full((2, 4, 3), np.nan), OUTCOME, PRIOR)
    with pytest.raises(InputError, match="1e100"):
        fit_many(np.full((2, 4, 3), -1e101), OUTCOME, PRIOR)
    with pytest.raises(InputError, match="at most 100"):
        fit_many(np.ones((1, 101, 3)), np.zeros((1, 101), dtype=np.int64), PRIOR)
    with pytest.raises(InputError, match="weights"):
        fit_many(V, OUTCOME, PRIOR, NOISE, -np.ones((2, 4)))
    with pytest.raises(InputError, match="positive definite"):
        fit_many(V, OUTCOME, replace(PRIOR, covariance=-np.eye(3)))
    for wrong in (-1, 9):
        with pytest.raises(QuestionError, match="expected 0 to 8"):
            fit_many(V, np.full((2, 4), wrong), PRIOR)
