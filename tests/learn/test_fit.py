"""Answers to a profile: what never changes it, how far one answer can, and that it is the posterior it claims to be."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalign.errors import InputError, PersonalignError, QuestionError
from personalign.learn.fit import Record, fit, fit_block, predict, utility
from personalign.learn.likelihood import information, log_likelihood, win_probability
from personalign.types import CHOICES, Gaussian, Noise
from tests.learn.people import (
    GRADES,
    NOISE,
    UNBIASED,
    Array,
    answers,
    bytes_of,
    cosine,
    fit_alone,
    prior_of,
    record_of,
    reorder,
    sketched,
    sketches,
    swap,
)

OUTCOME = {choice: number for number, choice in enumerate(CHOICES)}
Sketch = tuple[int, int, int, bool, bool]
FEW = settings(max_examples=30)


def fitted(record: Record, prior: Gaussian, noise: Noise = NOISE) -> Gaussian:
    return fit(record.v, record.choice, prior, noise, record.weight)


def joint(prior: Gaussian, side: float) -> Gaussian:
    """The prior of (w, b)."""
    d = len(prior.mean)
    covariance = np.zeros((d + 1, d + 1))
    covariance[:d, :d], covariance[d, d] = prior.covariance, side**2
    return Gaussian(np.append(prior.mean, 0.0), covariance)


# ---------------------------------------------------------------- what changes nothing


@pytest.mark.parametrize("choice", [[], ["skip"], ["neither"], ["skip", "neither", "skip"]])
def test_without_an_informative_answer_the_prior_itself(choice: list[str]) -> None:
    """No answers, or none that says anything, return the very prior object; one real answer doesn't."""
    prior = prior_of(3)
    v = np.ones((len(choice), 3))
    assert fit(v, choice, prior, NOISE) is prior
    told = fit(np.ones((len(choice) + 1, 3)), [*choice, "a"], prior, NOISE)
    assert told is not prior
    assert bytes_of(told) != bytes_of(prior)


def test_an_answer_of_weight_zero_says_nothing() -> None:
    """Weight 0 is as if it hadn't been given, and alone it leaves the prior; weight 1 is as if none were named."""
    prior, record = prior_of(3), record_of(4, 3, choices=("a", "b"))
    assert fit(record.v, record.choice, prior, NOISE, np.zeros(4)) is prior
    first = fit(record.v, record.choice, prior, NOISE, np.array([1.0, 0, 0, 0]))
    assert bytes_of(first) == bytes_of(fit(record.v[:1], record.choice[:1], prior, NOISE))
    assert bytes_of(first) != bytes_of(fitted(record, prior))
    assert bytes_of(fitted(replace(record, weight=np.ones(4)), prior)) == bytes_of(fitted(record, prior))


@FEW
@given(sketches())
def test_swapping_every_side_negates_the_bias_alone(sketch: Sketch) -> None:
    """All pairs shown the other way round: the same profile to the byte, and the opposite bias."""
    record = sketched(sketch)
    prior = prior_of(record.v.shape[1])
    there = fit_alone(record.v, record.choice, prior, NOISE, record.weight)
    mirrored = swap(record)
    back = fit_alone(mirrored.v, mirrored.choice, prior, NOISE, mirrored.weight)
    assert bytes_of(back.weights) == bytes_of(there.weights)
    assert back.bias == -there.bias


def test_swapping_some_sides_is_felt_where_people_have_a_side() -> None:
    """The control of the law above and below: with σ_b > 0 a lone swap, or swapped sides without choices, is felt."""
    prior, record = prior_of(3), record_of(6, 3, choices=("a", "b"))
    plain = fitted(record, prior)
    assert bytes_of(fitted(swap(record, [True] + [False] * 5), prior)) != bytes_of(plain)
    assert bytes_of(fitted(replace(record, v=-record.v), prior)) != bytes_of(plain)
    everything_left = fit_alone(record.v, ["a"] * 6, prior, NOISE)
    assert everything_left.bias > 0


@FEW
@given(sketches(), st.data())
def test_without_a_side_bias_any_swap_changes_nothing(sketch: Sketch, data: st.DataObject) -> None:
    """With σ_b = 0 any of the pairs may have been shown the other way round."""
    record = sketched(sketch)
    prior = prior_of(record.v.shape[1])
    n = len(record.choice)
    some = swap(record, data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    assert bytes_of(fitted(some, prior, UNBIASED)) == bytes_of(fitted(record, prior, UNBIASED))


@FEW
@given(sketches(), st.randoms(use_true_random=False))
def test_order_changes_nothing(sketch: Sketch, random: Random) -> None:
    """Answers in any order give the same bytes."""
    record = sketched(sketch)
    order = list(range(len(record.choice)))
    random.shuffle(order)
    prior = prior_of(record.v.shape[1])
    assert bytes_of(fitted(reorder(record, order), prior)) == bytes_of(fitted(record, prior))


def test_order_matters_to_plain_sums() -> None:
    """The control: the same rows summed in another order differ in their last bits, so sorting is what does it."""
    record = record_of(20, 4)
    order = np.random.default_rng(0).permutation(20)
    assert record.v.T.copy().sum(axis=1).tobytes() != record.v[order].T.copy().sum(axis=1).tobytes()


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 99), st.booleans()), min_size=2, max_size=5), st.data())
def test_bulk_is_single(people: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    """People fitted together get the bytes of a fit of their own, whoever else is in the block."""
    d = data.draw(st.integers(1, 8))
    prior = prior_of(d)
    block = [record_of(n, d, seed, weighted=weighted) for n, seed, weighted in people]
    for record, together in zip(block, fit_block(block, prior, NOISE), strict=True):
        alone = fit_alone(record.v, record.choice, prior, NOISE, record.weight)
        assert bytes_of(together.weights) == bytes_of(alone.weights)
        assert together.bias == alone.bias


def test_people_in_a_block_differ() -> None:
    """The control: the block doesn't give everyone the same bytes."""
    found = fit_block([record_of(5, 3, seed, choices=("a", "b")) for seed in range(8)], prior_of(3), NOISE)
    assert len({bytes_of(f.weights) for f in found}) == 8


def test_fitting_leaves_its_arguments_alone() -> None:
    """Neither the answers nor the prior are written to."""
    prior, record = prior_of(3), record_of(6, 3, weighted=True)
    before = bytes_of(prior), record.v.tobytes(), list(record.choice)
    fitted(record, prior)
    assert (bytes_of(prior), record.v.tobytes(), record.choice) == before


# ---------------------------------------------------------------- how far one answer goes


@settings(max_examples=60)
@given(
    st.integers(1, 30),
    st.integers(1, 6),
    st.integers(0, 2**16),
    st.floats(0.0, 3.0),
    st.floats(0.05, 2.0),
    st.floats(0.1, 5.0),
)
def test_one_flipped_answer_moves_little(n: int, d: int, seed: int, tie: float, side: float, length: float) -> None:
    """Without lapses a flipped answer moves (w, b) by at most (1 + tanh(δ/2))·‖(v, 1)‖ / λ_min(prior precision)."""
    noise, prior = Noise(tie, 0.0, side), prior_of(d, seed)
    record = record_of(n, d, seed, choices=("a", "b", "tie"))
    v, choice = record.v * length, ["a", *record.choice[1:]]
    moved = joint_mode(v, ["b", *choice[1:]], prior, noise) - joint_mode(v, choice, prior, noise)
    assert np.linalg.norm(moved) <= flip_bound(v[0], prior, noise) * (1 + 1e-6) + 1e-6


def test_the_flip_bound_is_nearly_reached() -> None:
    """The control: alone against a tight prior a flip goes nearly as far, so a smaller bound would fail."""
    noise = Noise(0.3, 0.0, 0.05)
    prior = Gaussian(np.zeros(1), np.full((1, 1), 0.05**2))
    v = np.ones((1, 1))
    moved = joint_mode(v, ["b"], prior, noise) - joint_mode(v, ["a"], prior, noise)
    assert np.linalg.norm(moved) > 0.95 * flip_bound(v[0], prior, noise)


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 2**16), st.floats(0.1, 3.0), st.floats(0.1, 5.0))
def test_one_graded_answer_that_is_flipped_moves_little(n: int, d: int, seed: int, much: float, length: float) -> None:
    """Without lapses "much better" turned round moves no further than a flip under a tie as wide as both cuts."""
    noise, prior = Noise(0.3, 0.0, 0.4, much), prior_of(d, seed)
    record = record_of(n, d, seed, choices=("a", "b", "tie", *GRADES))
    v, choice = record.v * length, ["a++", *record.choice[1:]]
    moved = joint_mode(v, ["b++", *choice[1:]], prior, noise) - joint_mode(v, choice, prior, noise)
    bound = flip_bound(v[0], prior, replace(noise, tie=noise.tie + much))
    assert np.linalg.norm(moved) <= bound * (1 + 1e-6) + 1e-6


def test_much_better_says_more_than_better_and_a_little_less() -> None:
    """Along its own pair a person's weight grows with the grade, and a plain answer is between the two."""
    prior, v = Gaussian(np.zeros(2), 4 * np.eye(2)), np.array([[1.0, 0.0]])
    little, plain, much = (float(fit(v, [choice], prior, UNBIASED).mean[0]) for choice in ("a+", "a", "a++"))
    assert 0 < little < plain < much


def joint_mode(v: Array, choice: list[str], prior: Gaussian, noise: Noise) -> Array:
    found = fit_alone(v, choice, prior, noise)
    return np.append(found.weights.mean, found.bias)


def flip_bound(v: Array, prior: Gaussian, noise: Noise) -> float:
    smallest_precision = 1 / np.linalg.eigvalsh(joint(prior, noise.side).covariance)[-1]
    return float((1 + np.tanh(noise.tie / 2)) * np.linalg.norm(np.append(v, 1.0)) / smallest_precision)


# ---------------------------------------------------------------- that it is the posterior


def possible(noise: Noise) -> tuple[str, ...]:
    return ("a", "b", "tie", *GRADES) if noise.tie or noise.lapse else ("a", "b", *GRADES)


@pytest.mark.parametrize("noise", [NOISE, UNBIASED, Noise(0.0, 0.0, 0.3), Noise(1.0, 0.3, 1.0)])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 5), (10, 16), (60, 4)])
def test_the_mode_is_stationary(n: int, d: int, noise: Noise) -> None:
    """No direction of (w, b) climbs from the mode, by finite differences; from the prior's mean one does."""
    prior = prior_of(d)
    record = record_of(n, d, weighted=True, choices=possible(noise))
    found = fit_alone(record.v, record.choice, prior, noise, record.weight)
    at_mode = slopes(record, prior, noise, np.append(found.weights.mean, found.bias))
    at_prior = slopes(record, prior, noise, np.append(prior.mean, 0.0))
    assert np.abs(at_mode).max() < 1e-5
    assert np.abs(at_prior).max() > 1e-2


def slopes(record: Record, prior: Gaussian, noise: Noise, at: Array, step: float = 1e-4) -> Array:
    """Central differences of the log posterior of (w, b); of w alone where there is no bias."""
    num_free = len(at) if noise.side else len(at) - 1
    moves = step * np.eye(len(at))[:num_free]
    return np.array(
        [(log_posterior(record, prior, noise, at + m) - log_posterior(record, prior, noise, at - m)) for m in moves]
    ) / (2 * step)


def log_posterior(record: Record, prior: Gaussian, noise: Noise, at: Array) -> float:
    assert record.weight is not None
    off, bias = at[:-1] - prior.mean, at[-1]
    outcome = np.array([OUTCOME[c] for c in record.choice])
    said, _ = log_likelihood(record.v @ at[:-1] + bias, outcome, noise)
    of_bias = bias**2 / noise.side**2 if noise.side else 0.0
    return float(record.weight @ said - (off @ np.linalg.solve(prior.covariance, off) + of_bias) / 2)


@pytest.mark.parametrize("seed", range(10))
def test_a_tie_that_cant_be_is_the_limit_of_one_that_nearly_cant(seed: int) -> None:
    """With δ = ε = 0 a tie has probability 0, and still says what it says as δ → 0; the line search sees the rest."""
    prior, record = prior_of(5), record_of(12, 5, seed, choices=("a", "b", "tie"))
    never, hardly = (fitted(record, prior, Noise(tie, 0.0, 0.3)) for tie in (0.0, 1e-9))
    np.testing.assert_allclose(never.mean, hardly.mean, atol=1e-4)
    np.testing.assert_allclose(never.covariance, hardly.covariance, atol=1e-4)


@pytest.mark.parametrize("noise", [NOISE, UNBIASED, Noise(0.0, 0.0, 0.3)])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 5), (12, 4), (40, 16)])
def test_the_covariance_is_the_dense_inverse(n: int, d: int, noise: Noise) -> None:
    """The dual form's covariance is the weights' block of (prior precision + [V 1]ᵀ diag(I) [V 1])⁻¹."""
    prior = prior_of(d)
    record = record_of(n, d, weighted=True, choices=possible(noise))
    found = fit_alone(record.v, record.choice, prior, noise, record.weight)
    np.testing.assert_allclose(
        found.weights.covariance, dense_covariance(record, prior, noise, found.weights.mean, found.bias), atol=1e-9
    )
    elsewhere = dense_covariance(record, prior, noise, prior.mean + 1, 0.0)
    assert np.abs(found.weights.covariance - elsewhere).max() > 1e-6  # the control


def dense_covariance(record: Record, prior: Gaussian, noise: Noise, mean: Array, bias: float) -> Array:
    d = len(mean)
    is_graded = np.array([choice in GRADES for choice in record.choice])
    weight = record.weight * information(record.v @ mean + bias, noise, is_graded)
    if not noise.side:
        return np.linalg.inv(np.linalg.inv(prior.covariance) + (record.v.T * weight) @ record.v)
    wide = np.column_stack([record.v, np.ones(len(record.v))])
    precision = np.linalg.inv(joint(prior, noise.side).covariance) + (wide.T * weight) @ wide
    return np.linalg.inv(precision)[:d, :d]


@FEW
@given(sketches(max_answers=40))
def test_a_profile_is_a_distribution_and_never_wider_than_the_prior(sketch: Sketch) -> None:
    """The covariance stays symmetric and positive definite, and no direction becomes less certain by answers."""
    record = sketched(sketch)
    prior = prior_of(record.v.shape[1])
    post = fitted(record, prior)
    np.testing.assert_allclose(post.covariance, post.covariance.T, atol=1e-12)
    assert np.linalg.eigvalsh(post.covariance)[0] > 0
    assert np.linalg.eigvalsh(prior.covariance - post.covariance)[0] > -1e-9


def test_many_answers_recover_the_person() -> None:
    """A hundred answers of known weights point the same way; shuffled answers, the control, don't."""
    d, rng = 5, np.random.default_rng(7)
    prior = Gaussian(np.zeros(d), 4 * np.eye(d))
    right, shuffled = [], []
    for _ in range(10):
        w, v = rng.normal(size=d) * 2, rng.normal(size=(100, d))
        said = answers(v @ w, NOISE, rng)
        right.append(cosine(fit(v, said, prior, NOISE).mean, w))
        shuffled.append(abs(cosine(fit(v, [str(c) for c in rng.permutation(said)], prior, NOISE).mean, w)))
    assert np.median(right) > 0.95
    assert np.median(shuffled) < 0.8


def test_a_bias_is_found_and_kept_out_of_the_weights() -> None:
    """Someone who leans to the left gets a positive bias; without σ_b the weights would have to explain it."""
    d, rng = 3, np.random.default_rng(1)
    prior, noise = Gaussian(np.zeros(d), np.eye(d)), Noise(0.2, 0.05, 1.0)
    v = np.abs(rng.normal(size=(80, d)))  # the left side always has more of everything
    w = np.array([1.0, -1.0, 0.0])
    said = answers(v @ w + 1.5, noise, rng)
    with_bias = fit_alone(v, said, prior, noise)
    without = fit(v, said, prior, replace(noise, side=0.0))
    assert with_bias.bias > 0.7
    assert np.linalg.norm(with_bias.weights.mean - w) < np.linalg.norm(without.mean - w)


# ---------------------------------------------------------------- predict


@pytest.mark.parametrize("noise", [Noise(), Noise(0.0, 0.0, 0.0), Noise(0.5, 0.1, 0.3)])
def test_predict_is_the_mean_over_the_posterior(noise: Noise) -> None:
    """MacKay's factor is within .04 of a Monte Carlo mean; without it, the control, it is further off."""
    rng = np.random.default_rng(3)
    post = Gaussian(rng.normal(size=4), prior_of(4).covariance)
    v = rng.normal(size=(50, 4))
    drawn = rng.multivariate_normal(post.mean, post.covariance, size=20_000)
    truth = win_probability(drawn @ v.T, noise).mean(axis=0)
    off = np.abs(predict(v, post, noise) - truth).max()
    assert off < 0.04
    assert np.abs(win_probability(v @ post.mean, noise) - truth).max() > 2 * off


def test_predict_is_even_where_nothing_differs() -> None:
    """Equal replies, and anything under a prior without a mean, are a toss-up; swapped sides add up to 1."""
    post, v = prior_of(3), np.random.default_rng(0).normal(size=(9, 3))
    assert predict(np.zeros((1, 3)), post, NOISE)[0] == pytest.approx(0.5)
    assert predict(v, Gaussian(np.zeros(3), np.eye(3)), NOISE) == pytest.approx(0.5)
    np.testing.assert_allclose(predict(v, post, NOISE) + predict(-v, post, NOISE), 1)
    assert np.abs(predict(v, post, NOISE) - 0.5).max() > 0.1


def test_utility_is_mean_and_variance() -> None:
    """The utility of a pair has mean ⟨w, v⟩ and variance vᵀΣv, for no pairs too."""
    post, v = prior_of(3), np.random.default_rng(0).normal(size=(5, 3))
    mean, variance = utility(v, post)
    np.testing.assert_allclose(mean, v @ post.mean)
    np.testing.assert_allclose(variance, np.diag(v @ post.covariance @ v.T))
    assert utility(np.zeros((0, 3)), post)[0].shape == (0,)


# ---------------------------------------------------------------- what is refused

V = np.ones((2, 3))
AB = ["a", "b"]
REFUSED: dict[str, tuple[Array, list[str], Gaussian, Array | None, type[PersonalignError], str]] = {
    "too few rows": (V[:1], AB, prior_of(3), None, InputError, "shape"),
    "other axes": (np.ones((2, 4)), AB, prior_of(3), None, InputError, "shape"),
    "NaN": (np.full((2, 3), np.nan), AB, prior_of(3), None, InputError, "NaN"),
    "Inf": (np.full((2, 3), np.inf), AB, prior_of(3), None, InputError, "Inf"),
    "too many answers": (np.ones((101, 3)), ["a"] * 101, prior_of(3), None, InputError, "at most 100"),
    "too many axes": (np.ones((2, 65)), AB, prior_of(65), None, InputError, "64"),
    "an unknown choice": (V, ["a", "left"], prior_of(3), None, QuestionError, "'left'"),
    "a negative weight": (V, AB, prior_of(3), np.array([1.0, -1.0]), InputError, "weights"),
    "a weight that isn't a number": (V, AB, prior_of(3), np.array([1.0, np.nan]), InputError, "weights"),
    "too few weights": (V, AB, prior_of(3), np.ones(1), InputError, "weights"),
    "a flat prior": (V, AB, Gaussian(np.zeros(3), np.zeros((3, 3))), None, InputError, "positive definite"),
    "a lopsided prior": (V, AB, Gaussian(np.zeros(3), np.triu(np.ones((3, 3)))), None, InputError, "symmetric"),
    "a prior of no shape": (V, AB, Gaussian(np.zeros(3), np.eye(2)), None, InputError, "shapes"),
    "a prior without axes": (np.ones((2, 0)), AB, Gaussian(np.zeros(0), np.eye(0)), None, InputError, "no axes"),
    "a prior that isn't finite": (V, AB, Gaussian(np.full(3, np.nan), np.eye(3)), None, InputError, "NaN"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_named(case: str) -> None:
    """What can't be fitted is refused with the error of its kind, in words."""
    v, choice, prior, weight, error, words = REFUSED[case]
    if words == "weights" and weight is not None and len(weight) != len(v):
        record = Record(v, choice, weight)  # the shapes of fit's own arguments are checked by the tests themselves
        with pytest.raises(error, match=words):
            fit_block([record], prior, NOISE)
        return
    with pytest.raises(error, match=words):
        fit(v, choice, prior, NOISE, weight)


def test_the_limits_themselves_are_allowed() -> None:
    """A hundred answers on 64 axes are fitted; the control of the refusals above."""
    record = record_of(100, 64, choices=("a", "b"))
    assert np.isfinite(fitted(record, prior_of(64)).mean).all()


def test_a_posterior_and_pairs_of_other_axes_are_refused() -> None:
    """Predict wants pairs of the posterior's axes, and finite ones."""
    with pytest.raises(InputError):
        predict(np.ones((2, 4)), prior_of(3))
    with pytest.raises(InputError):
        predict(np.full((2, 3), np.nan), prior_of(3))
