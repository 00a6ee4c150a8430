"""Long work says how far it is: a line now and then where nobody draws bars, on stderr alone."""

from __future__ import annotations

import pytest

from personalign.train.progress import track


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
