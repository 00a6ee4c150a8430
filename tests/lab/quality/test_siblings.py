"""What tells siblings apart: how the comparison counts, and what comes out on the bundled toy."""

from __future__ import annotations

import numpy as np
import pytest

from lab.quality.siblings import Compared, Plan, rows, run_siblings
from lab.quality.steering import PROMPTS


def figures(compared: Compared, plan: Plan) -> dict[str, float]:
    return {row.figure: row.value for row in rows(compared, plan)}


def test_what_a_prompt_decides_tells_no_siblings_apart() -> None:
    """Text that is right correlates by 1; a head that knows the prompts alone by 0, however well it knows them."""
    rng = np.random.default_rng(0)
    prompt, own = 5 * rng.normal(size=(60, 1, 3)), rng.normal(size=(60, 6, 3))
    final = prompt + own
    guess = prompt + 0.1 * rng.normal(size=own.shape)
    compared = Compared(final[None], guess[None], final, np.ones((1, 60, 6), dtype=bool))
    values = figures(compared, Plan(lengths=(4,)))
    assert values["siblings.so_far.4"] == pytest.approx(1.0)
    assert values["siblings.head.4"] == pytest.approx(0.0, abs=0.1)
    assert np.corrcoef(guess.ravel(), final.ravel())[0, 1] > 0.9  # the control: uncentred it looks right


def test_replies_that_have_ended_are_left_out() -> None:
    """What was never measured, because the reply was too short, changes no figure."""
    rng = np.random.default_rng(1)
    final = rng.normal(size=(40, 5, 2))
    noisy = final + rng.normal(size=final.shape)
    goes_on = rng.random((1, 40, 5)) < 0.7
    values = [
        figures(Compared(np.where(goes_on[..., None], noisy, junk), noisy[None], final, goes_on), Plan(lengths=(4,)))
        for junk in (0.0, 1e6)
    ]
    assert values[0] == values[1]


@pytest.mark.slow
def test_the_text_so_far_says_more_than_the_head() -> None:
    """On the toy, too; the same plan gives the same figures."""
    plan = Plan(num_prompts=30, num_replies=4, max_tokens=32, lengths=(8, 16))
    result = run_siblings("tiny", PROMPTS["tiny"], "cpu", plan)["figures"]
    assert all(result[f"siblings.so_far.{n}"] > result[f"siblings.head.{n}"] > 0 for n in plan.lengths)
    assert run_siblings("tiny", PROMPTS["tiny"], "cpu", plan)["figures"] == result
