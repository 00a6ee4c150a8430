"""The steering correlation: what it says of heads that know everything, something and nothing."""

from __future__ import annotations

import numpy as np
import pytest

from lab.quality.steering import PROMPTS, Plan, correlations, run_steering


def test_noise_of_the_continuations_is_corrected_for() -> None:
    """A head that is right correlates by 1 however few continuations there are, one that guesses by 0."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(300, 8, 2))
    measured = truth[:, :, None] + 3 * rng.normal(size=(300, 8, 8, 2))
    place = rng.normal(size=(300, 1, 2)) * 5  # what a place has in common says nothing of its tokens
    right, wrong = (
        correlations(truth + place, measured + place[:, :, None]),
        correlations(rng.normal(size=truth.shape), measured),
    )
    assert right == pytest.approx(1.0, abs=0.1)
    assert wrong == pytest.approx(0.0, abs=0.1)
    means = measured.mean(2) - measured.mean((1, 2))[:, None]
    naive = np.corrcoef((truth - truth.mean(1, keepdims=True)).ravel(), means.ravel())[0, 1]
    assert naive < 0.8  # the control: without the correction a right head looks wrong


def test_an_axis_on_which_tokens_make_no_difference_has_no_correlation() -> None:
    """NaN instead of a ratio of noise; the others keep theirs."""
    truth = np.zeros((2, 2, 2))
    truth[:, 0, 1] = 1
    values = correlations(truth, np.repeat(truth[:, :, None], 4, axis=2))
    assert np.isnan(values[0])
    assert values[1:] == pytest.approx(1.0)


@pytest.mark.slow
def test_the_bundled_head_knows_where_tokens_lead() -> None:
    """On held-out prompts a few places suffice to tell it from chance; the same plan gives the same figures."""
    plan = Plan(num_places=16, num_tokens=4, num_continuations=8, max_tokens=24, latest=8)
    figures = run_steering("tiny", None, PROMPTS["tiny"], "cpu", plan)["figures"]
    assert 0.3 < figures["steering.overall"] <= 1.2
    assert run_steering("tiny", None, PROMPTS["tiny"], "cpu", plan)["figures"] == figures
