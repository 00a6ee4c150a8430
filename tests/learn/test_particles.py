"""Made-up people as a kind in the prior: exact where it can be told, with stated tastes beside them, and in files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from personalign.basis import Basis, Shares
from personalign.bundled import TINY
from personalign.errors import BasisError
from personalign.learn import mixture
from personalign.learn.fit import Fitted, Record, fit_block, fit_many
from personalign.learn.likelihood import probabilities
from personalign.learn.mixture import NEAR, Mixture
from personalign.learn.rows import encode
from personalign.types import CHOICES, Gaussian, Noise, Statement
from personalign.words import Axis
from tests.learn.people import NOISE, UNBIASED, Array, answers, bytes_of, prior_of, record_of, reorder, swap

FLAT = Gaussian(np.zeros(3), np.eye(3))
KINDS = np.concatenate([2 * np.eye(3), -2 * np.eye(3)])
FEW, ANY, EACH = Shares(0.0, 1.0), Shares(0.0, 0.0), Shares(0.0, 0.8)
MIXED = Mixture(FLAT, EACH, KINDS)
AXES = tuple(Axis(name, name, "less", "more") for name in ("length", "warmth", "detail"))


@pytest.fixture
def basis_with_particles() -> Basis:
    tiny = Basis.load(TINY / "basis")
    return replace(tiny, particles=np.random.default_rng(0).normal(size=(8, tiny.num_axes)))


def told(by: Array, n: int, noise: Noise = UNBIASED, seed: int = 0) -> Record:
    """What a person of these weights says of random pairs."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=(n, len(by)))
    return Record(v, answers(v @ by, noise, rng))


def fitted(record: Record, prior: Gaussian | Mixture, noise: Noise = UNBIASED) -> Fitted:
    return fit_block([record], prior, noise)[0]


def likelihoods(record: Record, weights: Array, noise: Noise, bias: Array | float = 0.0) -> Array:
    """Of all answers of a record, under each row of weights and its bias."""
    said = np.array([CHOICES.index(choice) for choice in record.choice])
    prob = np.take_along_axis(probabilities(weights @ record.v.T + bias, noise), said[None, None], 0)[0]
    weight = np.ones(len(said)) if record.weight is None else record.weight
    return np.asarray((prob**weight).prod(axis=1))


def test_a_share_of_none_changes_no_byte() -> None:
    """Where all people are of another kind, particles lie about; a share of them changes the fit (the control)."""
    prior, record = prior_of(4), record_of(12, 4, weighted=True)
    particles = np.random.default_rng(0).normal(size=(5, 4))
    plain = bytes_of(fitted(record, prior, NOISE).weights)
    assert bytes_of(fitted(record, Mixture(prior, ANY, particles), NOISE).weights) == plain
    assert bytes_of(fitted(record, Mixture(prior, EACH, particles), NOISE).weights) != plain


def test_a_particles_chance_is_bayes_rule() -> None:
    """Mean and covariance are those of the particles weighed by their likelihoods; orders and sides don't matter."""
    record = replace(told(KINDS[1], 6), weight=np.array([1, 1, 0.5, 2, 1, 0.0]))
    chance = likelihoods(record, KINDS, UNBIASED)
    chance = chance / chance.sum()
    alone = Mixture(FLAT, FEW, KINDS)
    post = fitted(record, alone).weights
    np.testing.assert_allclose(post.mean, chance @ KINDS, atol=1e-12)
    spread = ((KINDS - post.mean) * chance[:, None]).T @ (KINDS - post.mean)
    np.testing.assert_allclose(post.covariance, spread + NEAR * np.eye(3), atol=1e-12)
    for other in (reorder(record, np.arange(6)[::-1]), swap(record)):
        assert bytes_of(fitted(other, alone).weights) == bytes_of(post)


@pytest.mark.parametrize("noise", [UNBIASED, NOISE])
def test_kinds_are_weighed_by_evidence(noise: Noise) -> None:
    """Against brute force over weights and side bias: how much of the belief stays on particles."""
    record = told(np.array([1.0, 0.5, 0.0]), 4, noise, seed=3)
    rng = np.random.default_rng(1)
    bias = noise.side * rng.standard_normal((200_000, 1))
    few = likelihoods(record, KINDS[rng.integers(6, size=len(bias))], noise, bias).mean()
    whichever = likelihoods(record, rng.normal(size=(len(bias), 3)), noise, bias).mean()
    truth = 0.8 * few / (0.8 * few + 0.2 * whichever)
    assert fitted(record, MIXED, noise).chance[1] == pytest.approx(truth, abs=0.03)
    assert abs(truth - 0.8) > 0.05  # the control: the answers did say something about it
    assert fitted(record, MIXED, noise).evidence == pytest.approx(np.log(0.8 * few + 0.2 * whichever), abs=0.03)


def test_a_person_unlike_all_particles_is_fitted_all_the_same() -> None:
    """Answers that no particle explains move the belief to the Gaussian; those of a particle's own person don't."""
    stranger, friend = fitted(told(np.array([3.0, 3.0, -3.0]), 60), MIXED), fitted(told(KINDS[4], 60), MIXED)
    assert stranger.chance[1] < 0.01
    assert friend.chance[1] > 0.9
    np.testing.assert_allclose(friend.weights.mean, KINDS[4], atol=0.1)


def test_knowing_the_kinds_pays() -> None:
    """People of these kinds are closer to their fit than under a Gaussian of the same mean and spread."""
    spread = Gaussian(np.zeros(3), 4 / 3 * np.eye(3))
    near, far = [], []
    for seed in range(30):
        kind = KINDS[seed % 6]
        record = told(kind, 8, seed=seed)
        near.append(np.linalg.norm(fitted(record, Mixture(spread, EACH, KINDS)).weights.mean - kind))
        far.append(np.linalg.norm(fitted(record, spread).weights.mean - kind))
    assert np.mean(near) < 0.8 * np.mean(far)


def test_bulk_gives_everybodys_own_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many people are weighed at once."""
    records = [told(KINDS[i % 6], 5, NOISE, seed=i) for i in range(7)]
    v, outcome = np.array([r.v for r in records]), np.array([encode(r.choice) for r in records])
    alone = [bytes_of(fitted(record, MIXED, NOISE).weights) for record in records]
    for at_once in (mixture.AT_ONCE, 2 * 5 * len(KINDS), 1):
        monkeypatch.setattr(mixture, "AT_ONCE", at_once)
        many = fit_many(v, outcome, MIXED, NOISE, covariance=True)
        both = zip(many.mean, many.covariance, strict=True)
        assert [bytes_of(Gaussian(*one)) for one in both] == alone


def test_the_side_bias_is_told_apart_from_taste() -> None:
    """Who takes the left side always gets a bias to it, turned with the sides, and no taste."""
    noise = replace(UNBIASED, side=1.0)
    v = np.random.default_rng(0).normal(size=(30, 3))
    left = fitted(Record(v, ["a"] * 30), MIXED, noise)
    assert left.bias > 0.5
    assert fitted(Record(v, ["b"] * 30), MIXED, noise).bias == -left.bias


def test_chances_sum_to_1_however_unlikely_the_answers() -> None:
    """Where all kinds are equally far off, and where one is nearer."""
    record = Record(np.full((3, 1), 1e20), ["a", "b", "b"])
    prior = Mixture(Gaussian(np.full(1, 0.3), np.eye(1)), Shares(0.2, 0.5), np.array([[0.3], [0.4]]))
    post = fitted(record, prior, Noise(0.0, 0.0, 0.0))
    assert post.chance.sum() == pytest.approx(1)
    assert np.isfinite(post.weights.mean).all()


def test_a_wish_may_be_outweighed_by_answers() -> None:
    """What was said of an axis is weak: answers against it move the weight on; what was set hardly moves."""
    particles = np.random.default_rng(0).normal(size=(500, 3))
    v = np.zeros((15, 3))
    v[:, 1] = 1
    shifts = {}
    for kind in ("said", "set"):
        stated: Statement = Statement("warmth", 1.0, kind)  # type: ignore[arg-type]
        prior = Mixture(FLAT, FEW, particles).conditioned([stated], AXES)
        shifts[kind] = fitted(Record(v, ["b"] * 15), prior).weights.mean[1] - prior.normal.mean[1]
    assert shifts["said"] < -0.5
    assert -0.2 < shifts["set"] < 0


def test_what_is_stated_holds_for_particles_too() -> None:
    """The stated axis has the Gaussian's mean whatever is answered about the others, and is no surer than it."""
    prior = Mixture(FLAT, FEW, KINDS).conditioned([Statement("warmth", -1.0)], AXES)
    assert prior.normal.mean[1] < -1
    v = np.zeros((5, 3))
    v[:, 0] = 1
    post = fitted(Record(v, ["a"] * 5), prior).weights
    np.testing.assert_allclose(post.mean[1], prior.normal.mean[1])
    assert prior.normal.covariance[1, 1] <= post.covariance[1, 1] < 1.5 * prior.normal.covariance[1, 1]
    assert post.mean[0] > 0.5


def test_a_basis_keeps_its_particles(tmp_path: Path, basis_with_particles: Basis) -> None:
    """They come back, and another basis has another id."""
    basis_with_particles.save(tmp_path)
    back = Basis.load(tmp_path)
    assert back.particles is not None
    np.testing.assert_array_equal(back.particles, basis_with_particles.particles)
    assert replace(back, particles=None).id != back.id == basis_with_particles.id


@pytest.mark.parametrize(
    ("particles", "message"),
    [
        (np.zeros((3, 2)), "particles has the shape"),
        (np.full((3, 16), np.nan), "particles holds"),
        (np.zeros((0, 16)), "has 0 particles, expected from 1 to 16384"),
        (np.zeros((16385, 16)), "has 16385 particles"),
    ],
)
def test_odd_particles_are_refused(tmp_path: Path, basis_with_particles: Basis, particles: Array, message: str) -> None:
    """A file that holds them in another shape, with NaN, none or too many."""
    basis_with_particles.save(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | {"particles": particles}, path)
    with pytest.raises(BasisError, match=message):
        Basis.load(tmp_path)
