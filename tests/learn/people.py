"""Priors, records and answers of made-up people, all from seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from personalign.learn.fit import Fitted, Record, fit_block
from personalign.learn.likelihood import log_likelihood, probabilities
from personalign.types import CHOICES, Gaussian, Noise

Array = NDArray[np.float64]
NOISE = Noise(tie=0.3, lapse=0.05, side=0.4)
UNBIASED = replace(NOISE, side=0.0)
GRADES = ("a+", "b+", "a++", "b++")
SWAPPED = {c: c.translate(str.maketrans("ab", "ba")) for c in ("a", "b", *GRADES)}  # the others mirror themselves


def prior_of(d: int, seed: int = 0) -> Gaussian:
    """A prior with a mean and correlations; its covariance's eigenvalues are between 0.3 and 3."""
    rng = np.random.default_rng([seed, d])
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    covariance = (basis * rng.uniform(0.3, 3, d)) @ basis.T
    return Gaussian(rng.normal(size=d) / 2, (covariance + covariance.T) / 2)


def record_of(n: int, d: int, seed: int = 0, choices: Sequence[str] = CHOICES, weighted: bool = False) -> Record:
    rng = np.random.default_rng([seed, n, d])
    weight = rng.uniform(0.2, 2, n) if weighted else None
    return Record(rng.normal(size=(n, d)), [str(c) for c in rng.choice(choices, n)], weight)


def swap(record: Record, which: Sequence[bool] | None = None) -> Record:
    """Show the pairs of ``which`` (all where None) the other way round to somebody whose mind stays the same."""
    turned = np.ones(len(record.choice), dtype=bool) if which is None else np.array(which, dtype=bool)
    choice = [SWAPPED.get(c, c) if t else c for c, t in zip(record.choice, turned, strict=True)]
    return replace(record, v=np.where(turned[:, None], -record.v, record.v), choice=choice)


def reorder(record: Record, order: Sequence[int]) -> Record:
    weight = None if record.weight is None else record.weight[list(order)]
    return Record(record.v[list(order)], [record.choice[i] for i in order], weight)


def answers(u: Array, noise: Noise, rng: np.random.Generator) -> list[str]:
    """What a person says for utility differences u, by the likelihood's own probabilities."""
    return [str(rng.choice(CHOICES[:3], p=p / p.sum())) for p in probabilities(u, noise).T]


def graded_answers(u: Array, noise: Noise, rng: np.random.Generator) -> list[str]:
    """What a person says for utility differences u where "much better" is offered."""
    offered = ["tie", *GRADES]
    each = [log_likelihood(u, np.full(u.shape, CHOICES.index(choice)), noise)[0] for choice in offered]
    return [str(rng.choice(offered, p=p / p.sum())) for p in np.exp(each).T]


def fit_alone(v: Array, choice: Sequence[str], prior: Gaussian, noise: Noise, weight: Array | None = None) -> Fitted:
    """One person's weights and side bias."""
    return fit_block([Record(v, choice, weight)], prior, noise)[0]


def cosine(left: Array, right: Array) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def bytes_of(gaussian: Gaussian) -> bytes:
    return gaussian.mean.tobytes() + gaussian.covariance.tobytes()


def sketches(max_answers: int = 20, max_axes: int = 6) -> st.SearchStrategy[tuple[int, int, int, bool, bool]]:
    """What ``sketched`` makes a record of; strategies themselves may not, because beartype looks at random items."""
    n, d = st.integers(1, max_answers), st.integers(1, max_axes)
    return st.tuples(n, d, st.integers(0, 2**16), st.booleans(), st.booleans())


def sketched(sketch: tuple[int, int, int, bool, bool]) -> Record:
    """A record, perhaps with weights, and perhaps with whole features, so that many are equal or zero."""
    n, d, seed, weighted, whole = sketch
    record = record_of(n, d, seed, weighted=weighted)
    return replace(record, v=np.round(record.v)) if whole else record
