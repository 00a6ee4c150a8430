"""What is held out is drawn as it always was, so that published figures can be made again."""

from __future__ import annotations

import numpy as np
import pytest

from personalign.train.prompts import cut
from personalign.train.reward.pairs import hold_out


@pytest.mark.parametrize("number", [2, 3, 10, 57])
def test_names_are_drawn_by_numpys_permutation(number: int) -> None:
    """The first of the shuffled sorted names; repeated ones count once."""
    names = [f"u{i}" for i in range(number)]
    first = np.random.default_rng(7).permutation(sorted(names))[: max(round(0.2 * number), 1)]
    assert hold_out(names * 3, 0.2, 7) == set(first.tolist()) != set(names)


def test_parts_have_their_sizes_and_share_nothing() -> None:
    """The rest is the last part; another seed cuts otherwise (the control)."""
    parts = cut(list(range(20)), [3, 5], 0)
    assert [len(part) for part in parts] == [3, 5, 12]
    assert sorted(i for part in parts for i in part) == list(range(20))
    assert parts == cut(list(range(20)), [3, 5], 0) != cut(list(range(20)), [3, 5], 1)
