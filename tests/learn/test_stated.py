"""A statement is an observation of one weight: a prior conditioned on it is the exact posterior."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalign.learn.fit import fit
from personalign.learn.mixture import conditioned
from personalign.types import SPREADS, Gaussian, Statement
from personalign.words import Axis
from tests.learn.people import prior_of, record_of

AXES = tuple(Axis(f"axis{j}", "", "", "") for j in range(6))
KINDS = tuple(SPREADS)
STATED = st.lists(
    st.builds(
        Statement, st.sampled_from([*(axis.name for axis in AXES), "other"]), st.floats(-1, 1), st.sampled_from(KINDS)
    ),
    max_size=8,
)


def by_precisions(prior: Gaussian, stated: list[Statement]) -> Gaussian:
    """The same by adding up precisions, one statement after another."""
    precision = np.linalg.inv(prior.covariance)
    shift, unit = precision @ prior.mean, np.sqrt(np.diag(prior.covariance))
    for statement in stated:
        j = int(statement.axis[-1])
        s = SPREADS[statement.kind] * unit[j]
        precision[j, j] += s**-2
        shift[j] += 2 * unit[j] * statement.position * s**-2
    return Gaussian(np.linalg.solve(precision, shift), np.linalg.inv(precision))


@given(STATED, st.integers(0, 5))
def test_it_is_the_exact_posterior(stated: list[Statement], seed: int) -> None:
    """In whatever order and however often an axis is stated; axes that the prior lacks say nothing."""
    prior = prior_of(6, seed)
    known = [statement for statement in stated if statement.axis != "other"]
    found, expected = conditioned(prior, stated, AXES), by_precisions(prior, known)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-8)
    np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-8)
    assert np.array_equal(found.covariance, found.covariance.T)
    assert (found is prior) == (not known)


def test_set_is_nearly_certain_and_said_is_half_believed() -> None:
    """Under a round prior ±1 ends within a tenth of two standard deviations, and words of one end at a half."""
    prior = Gaussian(np.zeros(6), 4 * np.eye(6))
    placed = conditioned(prior, [Statement("axis1", -1.0), Statement("axis2", 0.0)], AXES)
    assert placed.mean[1] == pytest.approx(-4, rel=0.1)
    assert (placed.mean[2], placed.covariance[2, 2] < 0.2) == (0, True)
    said = conditioned(prior, [Statement("axis1", 0.5, "said", "more")], AXES)
    assert said.mean[1] == pytest.approx(1.0)
    assert said.covariance[1, 1] == pytest.approx(2.0)


def test_answers_are_fitted_under_it() -> None:
    """Without answers the fit is the conditioned prior itself; against a slider twelve answers move its weight less."""
    prior, record = prior_of(6), record_of(12, 6)
    placed = conditioned(prior, [Statement("axis0", 1.0)], AXES)
    assert fit(record.v[:0], [], placed) is placed
    free, held = fit(record.v, record.choice, prior), fit(record.v, record.choice, placed)
    assert abs(held.mean[0] - placed.mean[0]) < abs(free.mean[0] - prior.mean[0])
