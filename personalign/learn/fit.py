"""Answers to a profile: the posterior over one person's reward weights, by Laplace's approximation.

The mode of (w, b) is found by Fisher scoring with a line search, in the dual form whose systems are n × n
(Rasmussen and Williams 2006, algorithm 3.1, with Fisher's information in place of the Hessian: the mixture
with lapses isn't log-concave). ``fit`` is the block kernel on one user, so bulk and single fits give the same
bytes on one machine. Rows are made canonical first (``rows``); who chooses the questions is ``ask``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.errors import InputError
from personalign.learn.likelihood import information, log_likelihood, win_probability
from personalign.learn.rows import Rows, canonical, check_answers
from personalign.types import Array, Gaussian, Noise

MAX_STEPS = 100
MAX_HALVINGS = 30
TOLERANCE = 1e-9  # of a utility difference: a smaller step changes nothing a person could see

_DEFAULT_NOISE = Noise()


@dataclass(frozen=True, eq=False)
class Fitted:
    """A person's weights and the side bias b that was marginalised out of them."""

    weights: Gaussian
    bias: float


@dataclass(frozen=True, eq=False)
class Record:
    """One person's answers: v (n, d) left minus right, n choices, and weights (n,) or None for 1 each."""

    v: Array
    choice: Sequence[str]
    weight: Array | None = None


def fit(
    v: Float[NDArray[np.float64], "n d"],
    choice: Sequence[str],
    prior: Gaussian,
    noise: Noise = _DEFAULT_NOISE,
    weight: Float[NDArray[np.float64], "n"] | None = None,
) -> Gaussian:
    """Fit one person's weights to their answers; without an informative one return ``prior`` itself.

    ``v`` is φ(left) − φ(right); ``weight`` discounts answers (by age, or because they were implicit).

    Raises:
        InputError: wrong shapes, NaN or Inf, more than 100 answers or 64 axes, a prior that isn't a distribution.
        QuestionError: an unknown choice.
    """
    return fit_with_bias(v, choice, prior, noise, weight).weights


def fit_with_bias(
    v: Float[NDArray[np.float64], "n d"],
    choice: Sequence[str],
    prior: Gaussian,
    noise: Noise = _DEFAULT_NOISE,
    weight: Float[NDArray[np.float64], "n"] | None = None,
) -> Fitted:
    """Fit as ``fit`` does, and tell the mode of the bias towards the left as well."""
    return fit_block([Record(v, choice, weight)], prior, noise)[0]


def fit_block(records: Sequence[Record], prior: Gaussian, noise: Noise = _DEFAULT_NOISE) -> list[Fitted]:
    """Fit many people at once; each gets the bytes that a fit of their own would give."""
    check_prior(prior)
    for record in records:
        check_answers(record.v, record.choice, record.weight, len(prior.mean))
    rows = [canonical(record.v, record.choice, record.weight, noise.side) for record in records]
    fitted = [Fitted(prior, 0.0)] * len(rows)
    by_size = sorted((i for i in range(len(rows)) if len(rows[i])), key=lambda i: _padded(len(rows[i])))
    for size, members in groupby(by_size, key=lambda i: _padded(len(rows[i]))):
        users = list(members)
        for i, result in zip(users, _fit_padded([rows[i] for i in users], size, prior, noise), strict=True):
            fitted[i] = result
    return fitted


def predict(
    v: Float[NDArray[np.float64], "m d"], post: Gaussian, noise: Noise = _DEFAULT_NOISE
) -> Float[NDArray[np.float64], "m"]:
    """P(left preferred | not a tie) for an unbiased person, (m,).

    The weights' uncertainty draws it towards ½ by MacKay's (1992) factor 1/√(1 + πs²/8), s² = vᵀΣv.
    """
    mean, variance = utility(v, post)
    return win_probability(mean / np.sqrt(1 + np.pi * variance / 8), noise)


def utility(
    v: Float[NDArray[np.float64], "m d"], post: Gaussian
) -> tuple[Float[NDArray[np.float64], "m"], Float[NDArray[np.float64], "m"]]:
    """Mean and variance of ⟨w, v⟩ for every row of ``v``.

    Raises:
        InputError: another number of axes than the posterior's, NaN or Inf.
    """
    if v.ndim != 2 or v.shape[1] != len(post.mean):
        raise InputError(f"v has shape {v.shape}, expected (m, {len(post.mean)}): a column for each of the axes")
    if not np.isfinite(v).all():
        raise InputError("v holds NaN or Inf, expected finite features; measure the replies again")
    return v @ post.mean, np.maximum(((v @ post.covariance) * v).sum(axis=1), 0.0)


def check_prior(prior: Gaussian) -> None:
    """Refuse what isn't a proper normal distribution over the weights."""
    d = prior.mean.size
    if d == 0:
        raise InputError("the prior has no axes, expected at least one; make the basis from replies that differ")
    if prior.mean.shape != (d,) or prior.covariance.shape != (d, d):
        raise InputError(
            f"the prior has shapes {prior.mean.shape} and {prior.covariance.shape}, expected (d,) and (d, d)"
        )
    if not (np.isfinite(prior.mean).all() and np.isfinite(prior.covariance).all()):
        raise InputError("the prior holds NaN or Inf, expected finite numbers")
    if not np.allclose(prior.covariance, prior.covariance.T) or np.linalg.eigvalsh(prior.covariance)[0] <= 0:
        raise InputError(
            "the prior's covariance isn't symmetric and positive definite; use for example σ² times identity"
        )


def _padded(n: int) -> int:
    """The size a record is padded to: its own affair, not that of the block it is fitted in."""
    return max(8, 1 << (n - 1).bit_length())


@dataclass(frozen=True, eq=False)
class _Block:
    """N users padded to n rows; a padding row has weight 0 and v = 0."""

    v: NDArray[np.float64]  # (N, n, d)
    outcome: NDArray[np.int64]  # (N, n)
    side: NDArray[np.float64]  # (N, n)
    weight: NDArray[np.float64]  # (N, n)


def _stack(rows: Sequence[Rows], size: int, d: int) -> _Block:
    block = _Block(
        np.zeros((len(rows), size, d)),
        np.zeros((len(rows), size), dtype=np.int64),
        np.zeros((len(rows), size)),
        np.zeros((len(rows), size)),
    )
    for i, of in enumerate(rows):
        block.v[i, : len(of)], block.outcome[i, : len(of)] = of.v, of.outcome
        block.side[i, : len(of)], block.weight[i, : len(of)] = of.side, of.weight
    return block


def _fit_padded(rows: Sequence[Rows], size: int, prior: Gaussian, noise: Noise) -> list[Fitted]:
    block = _stack(rows, size, len(prior.mean))
    spread = block.v @ prior.covariance  # (N, n, d): VΣ
    kernel = spread @ block.v.transpose(0, 2, 1) + noise.side**2 * block.side[:, :, None] * block.side[:, None, :]
    dual = _mode(block, (block.v * prior.mean).sum(axis=2), kernel, noise)
    mean = prior.mean + (dual[:, :, None] * spread).sum(axis=1)
    bias = noise.side**2 * (dual * block.side).sum(axis=1)
    covariance = _covariance(block, mean, bias, kernel, spread, prior, noise)
    return [Fitted(Gaussian(mean[i], covariance[i]), float(of.turn * bias[i]) + 0.0) for i, of in enumerate(rows)]


def _mode(block: _Block, start: NDArray[np.float64], kernel: NDArray[np.float64], noise: Noise) -> NDArray[np.float64]:
    """Climb to the mode; return a (N, n) with u = Vμ + Ka, that is w = μ + ΣVᵀa."""
    dual = np.zeros_like(start)
    moving = np.ones(len(start), dtype=bool)
    for _ in range(MAX_STEPS):
        u = start + _apply(kernel, dual)
        _, score = log_likelihood(u, block.outcome, noise)
        curvature = block.weight * information(u, noise)
        target = _scoring_target(kernel, curvature, block.weight * score + curvature * (u - start))
        step = _line_search(block, start, kernel, dual, target - dual, noise) * moving
        moved = step[:, None] * (target - dual)
        dual = dual + moved
        moving = moving & (np.abs(_apply(kernel, moved)).max(axis=1) > TOLERANCE)
        if not moving.any():
            break
    return dual


def _scoring_target(
    kernel: NDArray[np.float64], curvature: NDArray[np.float64], pull: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Solve (I + WK) a = pull, symmetrically."""
    root = np.sqrt(curvature)
    inner = np.linalg.solve(_preconditioned(kernel, root), (root * _apply(kernel, pull))[:, :, None])[:, :, 0]
    return np.asarray(pull - root * inner)


def _preconditioned(kernel: NDArray[np.float64], root: NDArray[np.float64]) -> NDArray[np.float64]:
    """I + W^½ K W^½."""
    return np.eye(kernel.shape[1]) + root[:, :, None] * kernel * root[:, None, :]


def _line_search(
    block: _Block,
    start: NDArray[np.float64],
    kernel: NDArray[np.float64],
    dual: NDArray[np.float64],
    direction: NDArray[np.float64],
    noise: Noise,
) -> NDArray[np.float64]:
    """The largest step 1, ½, ¼, … that lowers no one's log-posterior; 0 where none does."""

    def log_posterior(at: NDArray[np.float64]) -> NDArray[np.float64]:
        shift = _apply(kernel, at)
        log_prob, _ = log_likelihood(start + shift, block.outcome, noise)
        return np.asarray((block.weight * log_prob).sum(axis=1) - (at * shift).sum(axis=1) / 2)

    here = log_posterior(dual)
    step, found = np.ones(len(dual)), np.zeros(len(dual), dtype=bool)
    for _ in range(MAX_HALVINGS):
        found = found | (log_posterior(dual + step[:, None] * direction) >= here)
        if found.all():
            break
        step = np.where(found, step, step / 2)
    return np.where(found, step, 0.0)


def _apply(kernel: NDArray[np.float64], dual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ka for every user; multiply and sum, because ``matmul``'s bits may depend on the block."""
    return np.asarray((kernel * dual[:, None, :]).sum(axis=2))


def _covariance(
    block: _Block,
    mean: NDArray[np.float64],
    bias: NDArray[np.float64],
    kernel: NDArray[np.float64],
    spread: NDArray[np.float64],
    prior: Gaussian,
    noise: Noise,
) -> NDArray[np.float64]:
    """The weights' block of (prior precision + [V s]ᵀ W [V s])⁻¹, in which b is marginalised; (N, d, d)."""
    u = (block.v * mean[:, None, :]).sum(axis=2) + block.side * bias[:, None]
    root = np.sqrt(block.weight * information(u, noise))
    factor = np.linalg.cholesky(_preconditioned(kernel, root))
    explained = np.linalg.solve(factor, root[:, :, None] * spread)
    return np.asarray(prior.covariance - explained.transpose(0, 2, 1) @ explained)
