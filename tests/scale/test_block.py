"""The block function gives everybody what a fit of their own gives."""

from __future__ import annotations

import numpy as np
import pytest

from personalign.learn.evidence import watch
from personalign.learn.fit import fit
from personalign.learn.mixture import Mixture
from personalign.scale.block import fit_block, profile_schema
from tests.scale.logs import BASIS, D, alone, answers, drawn, means, shuffled


def test_means_are_a_single_fits() -> None:
    """People whose rows are mixed get the mean of a fit of their own, to the byte."""
    users, choices, v, _ = shuffled(*drawn(30, 7))
    table = fit_block(answers(users, choices, v), BASIS)
    assert table.schema == profile_schema(D)
    assert table["user"].to_pylist() == list(dict.fromkeys(users)), "in the order of the first answers"
    for user, mean in means(table).items():
        rows = [i for i, name in enumerate(users) if name == user]
        assert mean == alone([choices[i] for i in rows], v[rows])


def test_variances_are_a_single_fits() -> None:
    """Variances are the diagonal of a single fit's covariance, up to rounding."""
    users, choices, v = drawn(5, 6)
    table = fit_block(answers(users, choices, v), BASIS)
    for i, variance in enumerate(table["variance"].to_pylist()):
        one = fit(v[6 * i : 6 * i + 6], choices[6 * i : 6 * i + 6], Mixture.of_people(BASIS), BASIS.noise)
        np.testing.assert_allclose(variance, np.diag(one.covariance), rtol=1e-9)


def test_answers_are_counted() -> None:
    """Skipped questions are answers that say nothing; who said nothing else has the prior."""
    table = fit_block(answers(["ada", "ada", "ben"], ["a", "skip", "neither"], np.ones((3, D))), BASIS)
    assert [(row["answers"], row["informative"]) for row in table.to_pylist()] == [(2, 1), (1, 0)]
    assert means(table)["ben"] == BASIS.prior.mean.tobytes()
    np.testing.assert_array_equal(table["variance"].to_pylist()[1], np.diag(BASIS.prior.covariance))


@pytest.mark.parametrize("num", [40, 300])
def test_many_answers_are_fitted_as_served(num: int) -> None:
    """Later answers are weighed by the chance that the taste still holds, and of many the newest hundred are taken."""
    _, choices, v = drawn(1, num)
    table = fit_block(answers(["ada"] * num, choices, v), BASIS)
    holds = watch(v, choices, ["question"] * num, BASIS.prior).holds
    assert (holds < 1).any(), "else the test says nothing"
    newest = [i for i, choice in enumerate(choices) if choice != "skip"][-100:]
    assert means(table)["ada"] == alone([choices[i] for i in newest], v[newest], holds[newest])
    assert table["answers"].to_pylist() == [num]


def test_nobody() -> None:
    """A block without a row gives none."""
    assert fit_block(answers([], [], np.zeros((0, D))), BASIS).num_rows == 0
