"""What a killed run leaves: whole files, each under the name of all that it follows from; and how far work is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from personalign.train.work import identity, keep, track


def test_what_is_kept_is_not_made_again(tmp_path: Path) -> None:
    """Arrays come back to the byte, scalars and transposed views too."""
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.asarray(0.1), "c": np.zeros((0, 3), dtype=np.float16)}
    made = []
    for _ in range(2):
        kept = keep(tmp_path / "deep" / "x.safetensors", lambda: made.append(1) or arrays)
        assert all(
            np.array_equal(kept[name], array) and kept[name].dtype == array.dtype for name, array in arrays.items()
        )
        assert kept["b"].shape == ()
    assert made == [1]


def test_a_killed_run_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    """What was killed while it was made is made again."""
    path = tmp_path / "x.safetensors"
    with pytest.raises(KeyboardInterrupt):
        keep(path, interrupted)
    assert not path.exists()
    assert keep(path, lambda: {"a": np.ones(1)})["a"] == 1


def interrupted() -> dict:
    raise KeyboardInterrupt


def test_names_tell_everything_apart() -> None:
    """Values, dtypes, shapes, and where one part ends and the next begins."""
    parts = [
        (np.zeros(4),), (np.zeros((2, 2)),), (np.zeros(4, dtype=np.float32),), (np.ones(4),), (np.zeros(2),) * 2,
        ("a", "b"), ("ab",), (["a", "b"],), ({"a": 1},), ({"a": 2},), (None,), ([],), (),
    ]  # fmt: skip
    assert len({identity(*part) for part in parts}) == len(parts)
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})


def test_a_line_comes_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    """By a clock that ticks ten seconds a look: every third piece says a line, and nothing is on stdout."""
    now = iter(range(0, 1000, 10))
    assert list(track(range(7), "roll-outs", lambda: float(next(now)))) == list(range(7))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "roll-outs: 3 of 7 after 0.5 minutes",
        "roll-outs: 6 of 7 after 1.0 minutes",
    ]


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The control: where no time passes, no line comes."""
    assert list(track(range(100), "roll-outs", lambda: 0.0)) == list(range(100))
    assert capsys.readouterr() == ("", "")
