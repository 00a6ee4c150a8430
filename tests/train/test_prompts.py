"""Prompts are read within bounds, and held out as they always were: published figures can be made again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from personalign.errors import InputError
from personalign.train import rows
from personalign.train.prompts import cut, read_prompts
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


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device or a file of one huge line is read no further than a line may go; a line of that length is read."""
    monkeypatch.setattr(rows, "LONGEST_LINE", 2**16)
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"a" * 2**16)
    assert len(read_prompts(path)) == 1
    for endless in (Path("/dev/zero"), path):
        path.write_bytes(b"a" * (2**16 + 1))
        with pytest.raises(InputError, match="line 1 has more than 65,536 bytes; expected a text file"):
            read_prompts(endless)
