"""Three kinds of people: what never changes a profile, what draws it to everybody's taste, and how exact it is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import cauchy, multivariate_t

from personalign.basis import ASSUMED, Shares
from personalign.errors import InputError, QuestionError
from personalign.learn.fit import Fitted, Record, fit, fit_block, fit_many
from personalign.learn.kernel import TYPICAL
from personalign.learn.likelihood import log_likelihood
from personalign.learn.mixture import Mixture, conditioned
from personalign.learn.rows import encode
from personalign.types import Gaussian, Noise, Statement, is_covariance
from personalign.words import Axis
from tests.learn.people import (
    GRADES,
    NOISE,
    UNBIASED,
    Array,
    answers,
    bytes_of,
    graded_answers,
    prior_of,
    record_of,
    reorder,
    sketched,
    sketches,
    swap,
)

NOTHING, FEW, ANY = Shares(1.0, 0.0), Shares(0.0, 1.0), Shares(0.0, 0.0)  # one kind alone
EACH = Shares(0.3, 0.4)
MIXED = (ASSUMED, EACH)
AXES = tuple(Axis(name, name, "less", "more") for name in ("length", "warmth", "detail"))
SOME = settings(max_examples=20)
Sketch = tuple[int, int, int, bool, bool]


def fitted(record: Record, prior: Gaussian | Mixture, noise: Noise = NOISE) -> Fitted:
    return fit_block([record], prior, noise)[0]


def flat(d: int, mean: float = 0.0, spread: float = 1.0) -> Gaussian:
    return Gaussian(np.full(d, mean), spread**2 * np.eye(d))


def said(w: Array, n: int, seed: int, noise: Noise = NOISE) -> Record:
    """What a person of these weights answers to random pairs, half of the times on a scale of five."""
    rng = np.random.default_rng([seed, len(w)])
    v = rng.normal(size=(n, len(w)))
    u = v @ w + noise.side * rng.standard_normal()
    choice = answers(u[: n // 2], noise, rng) + graded_answers(u[n // 2 :], noise, rng)
    return Record(v, choice, rng.choice([1.0, 0.64, 0.36], n))


def somebody(kind: int, prior: Gaussian, rng: np.random.Generator) -> Array:
    """Weights of a person whom nothing sets apart, who feels about few axes, or about any."""
    draws = (np.zeros(len(prior.mean)), np.sqrt(TYPICAL) * rng.standard_cauchy(len(prior.mean)), None)[kind]
    deviations = rng.standard_normal(len(prior.mean)) if draws is None else draws
    return np.asarray(prior.mean + np.sqrt(np.diag(prior.covariance)) * deviations)


# ---------------------------------------------------------------- what changes nothing


@pytest.mark.parametrize("shares", [NOTHING, FEW, *MIXED])
def test_without_an_informative_answer_the_prior_itself(shares: Shares) -> None:
    """No answer, or none that says anything: the Gaussian and the shares as they were; one real answer is felt."""
    prior = Mixture(prior_of(3), shares)
    for choice in ([], ["skip"], ["neither", "skip"]):
        silent = fitted(Record(np.ones((len(choice), 3)), choice), prior)
        assert silent.weights is prior.normal
        np.testing.assert_array_equal(silent.chance, [shares.nothing, shares.few, shares.any])
        assert silent.evidence == 0
    if shares != NOTHING:
        assert bytes_of(fitted(record_of(1, 3, choices=("a",)), prior).weights) != bytes_of(prior.normal)


@pytest.mark.parametrize("n", [1, 12, 100])
def test_where_any_axes_matter_to_all_it_is_the_plain_fit(n: int) -> None:
    """With no share of the other kinds a mixture gives the bytes of its Gaussian; with one it doesn't."""
    normal, record = prior_of(4), record_of(n, 4, weighted=True)
    plain = bytes_of(fitted(record, normal).weights)
    assert bytes_of(fitted(record, Mixture(normal, ANY)).weights) == plain
    for shares in (FEW, *MIXED):
        assert bytes_of(fitted(record, Mixture(normal, shares)).weights) != plain


def test_where_nothing_is_personal_answers_change_nothing() -> None:
    """Whatever is answered, and whatever was stated before, stays; under the least other share it doesn't."""
    normal = prior_of(3)
    stated = conditioned(normal, [Statement("warmth", 1.0)], AXES)
    for start in (normal, stated):
        for record in (record_of(1, 3, choices=("a",)), record_of(60, 3, choices=("a", "b"))):
            post = fitted(record, Mixture(start, NOTHING))
            assert bytes_of(post.weights) == bytes_of(start)
            assert bytes_of(fitted(record, Mixture(start, Shares(0.99, 0.01))).weights) != bytes_of(start)
            np.testing.assert_array_equal(post.chance, [1, 0, 0])


@pytest.mark.parametrize("shares", MIXED)
@SOME
@given(sketch=sketches(), data=st.data())
def test_how_answers_were_shown_changes_nothing(shares: Shares, sketch: Sketch, data: st.DataObject) -> None:
    """All sides swapped, or any order: the same bytes; without a side bias any swaps, too."""
    record = sketched(sketch)
    n, prior = len(record.choice), Mixture(prior_of(record.v.shape[1]), shares)
    plain, mirrored = fitted(record, prior), fitted(swap(record), prior)
    assert bytes_of(mirrored.weights) == bytes_of(plain.weights)
    assert (mirrored.bias, mirrored.evidence) == (-plain.bias, plain.evidence)
    order = data.draw(st.permutations(range(n)))
    assert bytes_of(fitted(reorder(record, order), prior).weights) == bytes_of(plain.weights)
    some = swap(record, data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    of_some, of_all = (fitted(one, prior, UNBIASED).weights for one in (some, record))
    assert bytes_of(of_some) == bytes_of(of_all)


def test_a_lone_swap_is_felt_where_people_have_a_side() -> None:
    """The control of the law above: with a side bias one swapped pair, or swapped sides without choices, is felt."""
    record, prior = record_of(6, 3, choices=("a", "b")), Mixture(prior_of(3), EACH)
    plain = bytes_of(fitted(record, prior).weights)
    assert bytes_of(fitted(swap(record, [True] + [False] * 5), prior).weights) != plain
    assert bytes_of(fitted(Record(-record.v, record.choice), prior).weights) != plain


@pytest.mark.parametrize("shares", MIXED)
def test_bulk_is_single(shares: Shares) -> None:
    """People fitted together get the bytes of a fit of their own, their chances and evidence too, and they differ."""
    records = [record_of(n, 4, seed, weighted=True) for seed, n in enumerate([0, 1, 5, 5, 5, 12, 40])]
    prior = Mixture(prior_of(4), shares)
    together = fit_block(records, prior, NOISE)
    for record, one in zip(records, together, strict=True):
        alone = fitted(record, prior)
        assert bytes_of(one.weights) == bytes_of(alone.weights)
        assert (one.bias, one.evidence, one.chance.tobytes()) == (alone.bias, alone.evidence, alone.chance.tobytes())
    assert len({bytes_of(one.weights) for one in together}) == len(records)


# ---------------------------------------------------------------- that it stays a distribution


@pytest.mark.parametrize("d", [1, 3, 64])
@pytest.mark.parametrize("n", [1, 10, 100])
@pytest.mark.parametrize("shares", [FEW, *MIXED])
def test_the_covariance_stays_one(d: int, n: int, shares: Shares) -> None:
    """After answers that all say the same, that nothing explains, or that anything does, along all axes or one."""
    rng = np.random.default_rng([d, n])
    prior = Mixture(flat(d), shares)
    v = rng.normal(size=(n, d))
    for w in (3 * np.eye(d)[0], rng.normal(size=d), 10 * np.ones(d)):
        consistent = ["a" if u > 0 else "b" for u in v @ w]
        for choice in (consistent, ["tie"] * n, [str(c) for c in rng.permutation(consistent)]):
            for rows in (v, np.tile(v[:1], (n, 1))):
                post = fitted(Record(rows, choice), prior)
                assert is_covariance(post.weights.covariance)
                assert post.chance.sum() == pytest.approx(1)
                assert (np.diag(post.weights.covariance) > 0).all()


@pytest.mark.parametrize("scale", [1e-12, 1e4, 1e8])
def test_extreme_features_end_in_finite_numbers(scale: float) -> None:
    """Pairs that hardly differ, or differ by more than a person can see."""
    for seed in range(10):
        record = record_of(20, 4, seed)
        post = fitted(Record(record.v * scale, record.choice), Mixture(prior_of(4), EACH))
        for part in (post.weights.mean, post.weights.covariance, post.chance):
            assert np.isfinite(part).all()


# ---------------------------------------------------------------- who is drawn to everybody's taste, and who isn't


def steps(shares: Shares, counts: range, cut: float = 1.0) -> Array:
    """How far weights move with each answer of people who answer by their taste; ``cut`` is served from ten on."""
    rng = np.random.default_rng(0)
    w, v = 1.5 * rng.normal(size=(40, 6)), rng.normal(size=(40, counts.stop, 6))
    outcome = (np.einsum("und,ud->un", v, w) < 0).astype(np.int64)
    lengths = [
        np.linalg.norm(fit_many(v[:, :n], outcome[:, :n], Mixture(flat(6), shares), NOISE).mean, axis=1).mean()
        for n in counts
    ]
    return np.abs(np.diff(np.where(np.array(counts) < 10, 1.0, cut) * lengths))


@pytest.mark.parametrize("shares", MIXED)
def test_the_tenth_answer_is_like_the_others(shares: Shares) -> None:
    """Weights grow by about as much with the tenth answer as with those around it; the control is a gate that opens."""
    counts = range(5, 16)
    smooth, jump = steps(shares, counts), steps(shares, counts, cut=0.4)
    tenth = list(counts).index(10) - 1
    others = np.delete(np.arange(len(smooth)), tenth)
    assert smooth[tenth] < 2 * smooth[others].mean()
    assert jump[tenth] > 5 * jump[others].mean()


def test_answers_at_random_lead_back_to_everybodys_taste() -> None:
    """The more someone answers at random, the surer it is that nothing sets them apart, and the nearer they stay.

    A Gaussian alone, the control, goes further away.
    """
    normal = flat(8, mean=0.4)
    rng = np.random.default_rng(0)
    chances, ratios = [], []
    for n in (10, 30, 90):
        records = [Record(rng.normal(size=(n, 8)), rng.choice(["a", "b"], n).tolist()) for _ in range(60)]
        for record in records:
            record.choice[:] = answers(record.v @ normal.mean, NOISE, rng)
        mixed, plain = fit_block(records, Mixture(normal, EACH), NOISE), fit_block(records, normal, NOISE)
        chances.append(np.mean([post.chance[0] for post in mixed]))
        far, further = (np.mean([np.linalg.norm(p.weights.mean - normal.mean) for p in f]) for f in (mixed, plain))
        ratios.append(far / further)
    assert EACH.nothing < chances[0] < chances[1] < chances[2]
    assert ratios[0] < 0.9
    assert ratios[2] < 0.5


def test_who_clicks_at_random_is_served_little() -> None:
    """Around a mean of 0 their weights fall as answers come, and faster than a Gaussian's, the control."""
    rng = np.random.default_rng(1)
    lengths = []
    for n in (10, 40, 100):
        records = [Record(rng.normal(size=(n, 8)), rng.choice(["a", "b"], n).tolist()) for _ in range(60)]
        mixed, plain = fit_block(records, Mixture(flat(8), EACH), NOISE), fit_block(records, flat(8), NOISE)
        lengths.append([np.mean([np.linalg.norm(p.weights.mean) for p in posts]) for posts in (mixed, plain)])
    mixed_length, plain_length = np.array(lengths).T
    assert mixed_length[2] < 0.2 * mixed_length[0]
    assert plain_length[2] > 0.4 * plain_length[0]
    assert (mixed_length < [0.75, 0.5, 0.25] * plain_length).all()


def test_who_answers_against_everybodys_taste_leaves_it() -> None:
    """The more they do, the less of it they are served, until they are served the opposite."""
    normal = flat(4, mean=0.8)
    towards, chances = [], []
    for n in (0, 3, 10, 30):
        records = [said(-normal.mean, n, seed) for seed in range(40)]
        posts = fit_block(records, Mixture(normal, EACH), NOISE)
        towards.append(np.mean([post.weights.mean @ normal.mean for post in posts]))
        chances.append(np.mean([post.chance[0] for post in posts]))
    assert towards[0] > towards[1] > towards[2] > towards[3]
    assert towards[3] < 0
    assert chances[1] > chances[2] > chances[3]
    assert chances[3] < 0.02
    follower = np.mean([fitted(said(normal.mean, 30, seed), Mixture(normal, EACH)).chance[0] for seed in range(40)])
    assert follower > 0.4  # the control


@pytest.mark.parametrize(("n", "gain"), [(10, 0.97), (20, 0.93)])
def test_knowing_that_few_axes_matter_pays(n: int, gain: float) -> None:
    """People who feel strongly about one axis of twelve are closer to their fit than under a Gaussian alone."""
    off: list[list[float]] = []
    for seed in range(60):
        w = np.zeros(12)
        w[seed % 12] = 3.0 * (-1) ** seed
        record = said(w, n, seed)
        posts = [fitted(record, prior).weights.mean for prior in (Mixture(flat(12), ASSUMED), flat(12))]
        off.append([float(np.linalg.norm(mean - w)) for mean in posts])
    of_few, of_gaussian = np.mean(off, axis=0)
    assert of_few < gain * of_gaussian


# ---------------------------------------------------------------- what a person states


@pytest.mark.parametrize("shares", [NOTHING, FEW, *MIXED])
def test_a_statement_moves_its_own_axis(shares: Shares) -> None:
    """The stated axis goes where it was stated, the others stay; without a statement nothing is touched."""
    prior = Mixture(flat(3, mean=0.2), shares)
    moved = prior.conditioned([Statement("warmth", -1.0)], AXES)
    assert moved.shares == shares
    assert moved.normal.mean[1] < -1
    np.testing.assert_allclose(moved.normal.mean[[0, 2]], 0.2)
    assert moved.normal.covariance[1, 1] < 0.1 * prior.normal.covariance[1, 1]
    for nobody in ([], [Statement("colour", 1.0)]):
        assert prior.conditioned(nobody, AXES).normal is prior.normal


@pytest.mark.parametrize("shares", [FEW, *MIXED])
@pytest.mark.parametrize("answered", ["at random", "against"])
def test_a_statement_stays_as_sure_as_it_was_made(shares: Shares, answered: str) -> None:
    """Answers move a stated axis as far as under the Gaussian alone; forgotten that it was stated, they don't."""
    rng = np.random.default_rng(3)
    prior = Mixture(flat(3), shares)
    stated, v = prior.conditioned([Statement("warmth", 1.0)], AXES), rng.normal(size=(40, 3))
    against = np.where(v[:, 1] < 0, "a", "b").tolist()
    record = Record(v, rng.choice(["a", "b"], 40).tolist() if answered == "at random" else against)
    post, alone = fitted(record, stated).weights, fitted(record, stated.normal).weights
    assert abs(post.mean[1] - alone.mean[1]) < 0.1
    assert 0.7 < post.mean[1] < stated.normal.mean[1]
    forgotten = fitted(record, Mixture(stated.normal, shares)).weights
    assert abs(forgotten.mean[1] - alone.mean[1]) > 1


def test_where_nothing_else_is_personal_a_wish_is_still_weighed() -> None:
    """Somebody who feels about nothing else may turn out not to feel what they said; the wish is weak evidence."""
    prior = Mixture(flat(3), Shares(0.999, 0.0)).conditioned([Statement("warmth", 1.0, "said")], AXES)
    v = np.random.default_rng(4).normal(size=(20, 3))
    against = fitted(Record(v, np.where(v[:, 1] < 0, "a", "b").tolist()), prior)
    assert against.chance[0] > 0.5
    assert against.weights.mean[1] < 0
    towards = fitted(Record(v, np.where(v[:, 1] > 0, "a", "b").tolist()), prior)
    assert towards.weights.mean[1] > prior.normal.mean[1]


# ---------------------------------------------------------------- how exact it is


def log_answers(w: Array, bias: Array, record: Record, noise: Noise) -> Array:
    u = w @ record.v.T + bias[:, None]
    outcome = np.broadcast_to(encode(record.choice), u.shape).copy()
    weight = np.ones(len(record.v)) if record.weight is None else record.weight
    return np.asarray(log_likelihood(u, outcome, noise)[0] @ weight)


def by_brute_force(record: Record, prior: Gaussian, noise: Noise, num: int = 20_000) -> tuple[Array, float, float]:
    """By importance sampling the mean of a person drawn from a Gaussian and the evidence of that; and of nobody's."""
    rng, d = np.random.default_rng(0), len(prior.mean)
    guess = fit(record.v, record.choice, prior, noise, record.weight)
    wide = 1.5 * guess.covariance
    w = rng.multivariate_normal(guess.mean, wide, num)
    bias = noise.side * rng.standard_normal(num)
    odds = log_answers(w, bias, record, noise) + log_normal(w, prior) - log_normal(w, Gaussian(guess.mean, wide))
    of_nobody = log_answers(np.broadcast_to(prior.mean, (num, d)).copy(), bias, record, noise)
    mean = np.exp(odds - logsumexp(odds)) @ w
    return mean, float(logsumexp(odds) - np.log(num)), float(logsumexp(of_nobody) - np.log(num))


def log_normal(w: Array, normal: Gaussian) -> Array:
    """Up to a constant."""
    off = np.linalg.solve(np.linalg.cholesky(normal.covariance), (w - normal.mean).T)
    return -(off**2).sum(axis=0) / 2 - np.linalg.slogdet(normal.covariance)[1] / 2


@pytest.mark.slow
@pytest.mark.parametrize("noise", [NOISE, UNBIASED])
@pytest.mark.parametrize("n", [10, 20])
def test_the_mean_and_the_chances_are_those_of_brute_force(n: int, noise: Noise) -> None:
    """A few hundredths of a prior deviation off, chances by .03 on average, with ties, grades, weights and sides.

    The Gaussian alone, the control, is several times as far off.
    """
    shares, off, off_alone, off_chance = Shares(0.4, 0.0), [], [], []
    for seed in range(18):
        d, kind = (3, 4, 5)[seed % 3], (0, 2)[seed % 2]
        rng = np.random.default_rng(seed)
        prior = Gaussian(rng.normal(size=d) / 2, prior_of(d).covariance / 3)
        w = prior.mean if kind == 0 else rng.multivariate_normal(prior.mean, prior.covariance)
        record = said(w, n, seed, noise)
        mean, of_any, of_nobody = by_brute_force(record, prior, noise)
        odds = np.array([of_nobody + np.log(shares.nothing), of_any + np.log(shares.any)])
        nobody, anybody = np.exp(odds - logsumexp(odds))
        post, deviation = fitted(record, Mixture(prior, shares), noise), np.sqrt(np.diag(prior.covariance))
        truth = nobody * prior.mean + anybody * mean
        alone = fitted(record, prior, noise).weights.mean
        off.append(np.sqrt((((post.weights.mean - truth) / deviation) ** 2).mean()))
        off_alone.append(np.sqrt((((alone - truth) / deviation) ** 2).mean()))
        off_chance.append(abs(post.chance[0] - nobody))
    assert np.mean(off) < 0.04
    assert max(off) < 0.1
    assert np.mean(off_chance) < 0.03
    assert max(off_chance) < 0.1
    assert np.mean(off_alone) > 4 * np.mean(off)


def of_few_by_brute_force(record: Record, prior: Gaussian, num: int = 20_000) -> tuple[Array, float]:
    """By importance sampling the medians of Cauchy's weights, which have no mean, and the evidence.

    Half of the draws are of the prior, the others of long tails around the fit.
    """
    rng, d, deviation = np.random.default_rng(0), len(prior.mean), np.sqrt(np.diag(prior.covariance))
    scale, guess = np.sqrt(TYPICAL) * deviation, fitted(record, Mixture(prior, FEW)).weights
    wide = multivariate_t(guess.mean, 2 * guess.covariance, df=2)
    w = np.concatenate(
        [prior.mean + scale * rng.standard_cauchy((num // 2, d)), wide.rvs(num // 2, random_state=rng).reshape(-1, d)]
    )
    log_prior = cauchy.logpdf(w, prior.mean, scale).sum(axis=1)
    proposed = np.logaddexp(log_prior, wide.logpdf(w)) - np.log(2)
    odds = log_answers(w, NOISE.side * rng.standard_normal(num), record, NOISE) + log_prior - proposed
    chance, order = np.exp(odds - logsumexp(odds)), np.argsort(w, axis=0)
    middle = [np.searchsorted(np.cumsum(chance[order[:, j]]), 0.5) for j in range(d)]
    return np.array([w[order[middle[j], j], j] for j in range(d)]), float(logsumexp(odds) - np.log(num))


@pytest.mark.slow
def test_few_axes_are_fitted_about_as_cauchys_weights() -> None:
    """A sixth of a prior deviation from the medians, on average, and the evidence within a nat; a Gaussian is further.

    The evidence is a bound less its value without answers, which favours few axes where tastes are strong.
    """
    off, off_alone, too_much = [], [], []
    for seed in range(15):
        d, rng = (3, 4, 5)[seed % 3], np.random.default_rng(seed)
        prior = flat(d, mean=0.3, spread=0.8)
        w = prior.mean.copy()
        w[seed % d] += rng.choice([-1.6, 1.6])
        record = said(w, 20, seed)
        medians, evidence = of_few_by_brute_force(record, prior)
        post, alone = fitted(record, Mixture(prior, FEW)), fitted(record, prior)
        off.append(np.sqrt(((post.weights.mean - medians) ** 2).mean()) / 0.8)
        off_alone.append(np.sqrt(((alone.weights.mean - medians) ** 2).mean()) / 0.8)
        too_much.append(post.evidence - evidence)
    assert np.mean(off) < 1 / 6
    assert np.mean(off_alone) > 1.3 * np.mean(off)
    assert 0 < np.mean(too_much) < 1


@pytest.mark.parametrize("d", [1, 4, 16])
@pytest.mark.parametrize("shares", [FEW, ANY, ASSUMED, EACH])
def test_the_chances_of_all_answers_sum_to_about_one(d: int, shares: Shares) -> None:
    """Evidence is a probability: over all that can be answered to eight pairs it sums to 1, a fifth more or less.

    Likelihoods in hindsight, the control, sum to more than half as much again.
    """
    noise = Noise(tie=0.0, lapse=0.05, side=0.2)  # two outcomes
    outcome = np.array(list(product([0, 1], repeat=8)))
    v = np.broadcast_to(np.random.default_rng(d).normal(size=(8, d)), (len(outcome), 8, d)).copy()
    post = fit_many(v, outcome, Mixture(flat(d), shares), noise)
    total = np.exp(post.evidence).sum()
    assert 0.8 < total < 1.25
    u = (v @ post.mean[:, :, None])[..., 0] + post.bias[:, None]
    assert np.exp(log_likelihood(u, outcome, noise)[0].sum(axis=1)).sum() > 1.5


@pytest.mark.slow
@pytest.mark.parametrize(("d", "n"), [(4, 10), (16, 20)])
def test_chances_are_what_they_say(d: int, n: int) -> None:
    """Of people of three kinds, those of whom it is likeliest that nothing sets them apart are so, about as often."""
    rng = np.random.default_rng(d)
    kinds = rng.choice(3, 400, p=[EACH.nothing, EACH.few, EACH.any])
    records = [said(somebody(kind, flat(d), rng), n, seed) for seed, kind in enumerate(kinds.tolist())]
    chance = np.array([post.chance[0] for post in fit_block(records, Mixture(flat(d), EACH), NOISE)])
    for part in np.array_split(np.argsort(chance), 4):
        assert chance[part].mean() == pytest.approx((kinds[part] == 0).mean(), abs=0.15)
    likeliest = np.argsort(chance)[-80:]
    assert (kinds[likeliest] == 0).mean() > 1.5 * EACH.nothing  # the control: chances tell people apart


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("shares", [(-0.1, 0.5), (1.1, 0.0), (0.0, 1.1), (0.6, 0.5), (float("nan"), 0.5)])
def test_shares_that_cannot_be_are_refused(shares: tuple[float, float]) -> None:
    """Negative ones, those above 1 in all, and NaN."""
    with pytest.raises(InputError, match="sum to 1 at most"):
        Shares(*shares)


def test_bad_priors_and_answers_are_named() -> None:
    """As by a fit of the Gaussian alone; the good ones pass."""
    record, prior = record_of(4, 3, choices=("a", "b", "tie", *GRADES)), Mixture(prior_of(3), EACH)
    assert np.isfinite(fitted(record, prior).weights.mean).all()
    with pytest.raises(InputError, match="positive definite"):
        fitted(record, Mixture(Gaussian(np.zeros(3), -np.eye(3)), EACH))
    with pytest.raises(InputError, match="shape"):
        fitted(record, Mixture(prior_of(4), EACH))
    with pytest.raises(InputError, match="NaN"):
        fitted(Record(np.full((1, 3), np.nan), ["a"]), prior)
    with pytest.raises(QuestionError, match="'left'"):
        fitted(Record(np.ones((1, 3)), ["left"]), prior)
