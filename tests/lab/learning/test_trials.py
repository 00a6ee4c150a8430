"""The simulated trials of the laboratory: their figures, and that they can be told apart at all."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from lab.learning.trials import draw, false_alarms, fixed, main, until


@pytest.mark.slow
def test_the_figures_of_trials() -> None:
    """One line: alarms by both intervals, and the better arm found more often by more people."""
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, ["--trials", "25"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)["figures"]
    assert figures["trials.alarms"] < figures["trials.alarms_fixed"]
    assert figures["trials.found.2.4.30"] <= figures["trials.found.2.4.240"] == 1.0


def test_days_pass() -> None:
    """Up to the last day all is chosen, before the first nothing; the same seed gives the same alarms."""
    results, day = draw(np.random.default_rng(1))
    assert len(until(results, day, -1).score) == 0
    assert len(until(results, day, int(day.max())).score) == len(results.score)
    assert (np.diff(day) >= 0).all()
    assert false_alarms(fixed, 5, seed=2).tolist() == false_alarms(fixed, 5, seed=2).tolist()
