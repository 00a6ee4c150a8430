"""ρ against one constant: the arms differ in nothing else, and people are compared with themselves."""

from __future__ import annotations

import numpy as np
import pytest
from lab.quality.confidence import NUM_ANSWERS, Row, run_confidence

from lab.quality import confidence

# a loaded model's libraries warn of things to come
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.slow
def test_both_arms_differ_in_confidence_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The constant is the mean ρ in the end; where less is known it pushes harder than ρ does."""
    monkeypatch.setattr(confidence, "NUM_PROMPTS", 3)
    found = run_confidence(1, "cpu")
    rows = [Row(**row) for row in found["rows"]]
    assert [(row.id, row.answers) for row in rows] == [("ada", 3), ("ben", 3), ("ada", 10), ("ben", 10)]
    ends = [row.rho for row in rows if row.answers == max(NUM_ANSWERS)]
    assert found["figures"]["constant"] == pytest.approx(np.mean(ends), abs=1e-4)
    assert all(row.rho < min(ends) for row in rows if row.answers == min(NUM_ANSWERS))
    assert all(row.kl_constant > row.kl_rho > 0 for row in rows if row.answers == min(NUM_ANSWERS))


def test_differences_are_taken_person_by_person() -> None:
    """The median of the differences, not the difference of the medians, for each number of answers apart."""
    utilities = [(0.0, 5.0), (1.0, 0.0), (2.0, 1.0)]
    rows = [
        Row(seed, "ada", num, 0.5, rho * num, constant * num, 0.1, 0.2)
        for num in NUM_ANSWERS
        for seed, (rho, constant) in enumerate(utilities)
    ]
    figures = confidence.figures(rows)
    assert figures["utility.rho.3"] - figures["utility.constant.3"] == 0
    assert figures["utility.rho_minus_constant.3"] == 3
    assert figures["utility.rho_minus_constant.10"] == 10
    assert figures["kl.rho_minus_constant.3"] == pytest.approx(-0.1)
    assert figures["utility.rho_minus_constant.3.low"] < 3 <= figures["utility.rho_minus_constant.3.high"]
