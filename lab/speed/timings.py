"""How long learning takes on one core: a fit, a choice of question, everybody's fit, a basis."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Integer
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from personalign.learn.ask import acquire
from personalign.learn.evidence import watch
from personalign.learn.factors import factorise
from personalign.learn.fit import fit, fit_many
from personalign.learn.likelihood import probabilities
from personalign.learn.mixture import Mixture
from personalign.types import Array, Gaussian, Noise

NUM_AXES, NUM_ANSWERS, MANY = 32, 10, 20
BASIS_RANK = 8
NOISE = Noise()
CHOICES = np.array(["a", "b", "tie"])  # numbered as ``fit_many`` does


def seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Take the time of a piece of work, on one core, after a turn to warm up."""
    taken = []
    with threadpool_limits(1):
        for _ in range(repeats + 1):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return taken[1:]


def prior(d: int = NUM_AXES) -> Mixture:
    """As a person is served: nothing sets them apart, or few of all the axes do."""
    return Mixture(Gaussian(np.full(d, 0.1), np.eye(d) * 2 / d))


def people(num: int, num_answers: int = NUM_ANSWERS) -> tuple[Array, Integer[NDArray[np.int64], "num n"]]:
    """Pairs, (num, n, d), and what people drawn from the prior's Gaussian say of them."""
    rng = np.random.default_rng(0)
    v = rng.normal(size=(num, num_answers, NUM_AXES))
    weights = rng.normal(size=(num, NUM_AXES)) * np.sqrt(2 / NUM_AXES) + 0.1
    return v, _say((v @ weights[:, :, None])[:, :, 0], rng)


def fit_seconds(repeats: int) -> list[float]:
    """A fit of twenty answers."""
    v, outcome = people(1, MANY)
    choice, prior_ = _words(outcome[0]), prior()
    return seconds(lambda: fit(v[0], choice, prior_, NOISE), repeats)


def acquire_seconds(num_pairs: int, rule: str, repeats: int) -> list[float]:
    """A choice among many pairs, after three answers."""
    v, outcome = people(1)
    post = fit(v[0, :3], _words(outcome[0, :3]), prior(), NOISE)
    pool = np.random.default_rng(1).normal(size=(num_pairs, NUM_AXES))
    return seconds(lambda: acquire(post, pool, rule, NOISE), repeats)


def watch_seconds(num_answers: int, repeats: int) -> list[float]:
    """A look for a change of taste over so many answers, which comes with every answer."""
    v, prior_ = people(1, num_answers)[0][0], prior().normal
    choices, kinds = [*("a", "b") * (num_answers // 2)], ["question"] * num_answers
    return seconds(lambda: watch(v, choices, kinds, prior_), repeats)


def bulk_seconds(num: int, repeats: int, covariance: bool) -> list[float]:
    """Everybody's fit, from arrays in memory."""
    v, outcome = people(num)
    return seconds(lambda: fit_many(v, outcome, prior(), NOISE, covariance=covariance), repeats)


def num_equal(num: int) -> int:
    """How many of so many people get the same bytes from the bulk fit as from one of their own."""
    v, outcome = people(num)
    many = fit_many(v, outcome, prior(), NOISE, covariance=True)
    single = [fit(pair, _words(outcome_), prior(), NOISE) for pair, outcome_ in zip(v, outcome, strict=True)]
    bulk = zip(many.mean, many.covariance, strict=True)
    return sum(
        mean.tobytes() == one.mean.tobytes() and covariance.tobytes() == one.covariance.tobytes()
        for (mean, covariance), one in zip(bulk, single, strict=True)
    )


def basis_seconds(num_people: int, num_answers: int, num_features: int) -> float:
    """A basis of rank 8 from many people's answers on wide features, which fall off as embeddings' do."""
    rng = np.random.default_rng(2)
    v = rng.normal(size=(num_answers, num_features)) / np.sqrt(1 + np.arange(num_features))
    user = np.arange(num_answers) % num_people
    directions = rng.normal(size=(num_features, 4))
    tastes = rng.normal([1, 0, 0, 0], size=(num_people, 4))
    choices = CHOICES[_say(((v @ directions) * tastes[user]).sum(axis=1), rng)]
    start = time.perf_counter()
    with threadpool_limits(1):
        factorise(user, v, choices, BASIS_RANK)
    return time.perf_counter() - start


def _say(u: Array, rng: np.random.Generator) -> Integer[NDArray[np.int64], "*s"]:
    """The number of the choice for each utility difference, by the likelihood's own probabilities."""
    prob = probabilities(u, NOISE).cumsum(axis=0)
    return np.asarray((rng.random(u.shape) * prob[-1] > prob[:-1]).sum(axis=0), dtype=np.int64)


def _words(outcome: Integer[NDArray[np.int64], "n"]) -> list[str]:
    return [str(choice) for choice in CHOICES[outcome]]
