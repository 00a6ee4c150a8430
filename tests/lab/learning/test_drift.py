"""Lives of simulated people, and what is told of them: errors and changes are as the scene says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lab.learning.drift import BARS, CHANGING, WITHIN, Plan, run_drift
from lab.learning.lives import Scene, World

NUM = 6


@pytest.fixture(scope="module")
def world() -> World:
    return World("tiny")


def share_right(world: World, scene: Scene) -> float:
    """How often answers go with the sign of the newest taste's utility."""
    lives = world.live(scene, NUM, 0)
    u = (lives.v * lives.after[:, np.newaxis]).sum(axis=2)
    return float(((u > 0) == (lives.outcome == 0)).mean())


def test_people_err_as_often_as_the_scene_says(world: World) -> None:
    """Nearly three in four answers are right where a quarter is wrong, and thumbs are right less often."""
    assert share_right(world, Scene(at=40, wrong=0.25)) == pytest.approx(0.75, abs=0.08)
    assert share_right(world, Scene(at=40, wrong=0.25, is_used=True)) == pytest.approx(0.675, abs=0.08)
    assert (world.live(Scene(at=8, is_left=True), NUM, 0).outcome == 0).all()


def test_tastes_change_as_the_scene_says(world: World) -> None:
    """A reversal turns the taste round, another is drawn anew, none stays; nobody is asked a question twice."""
    change = {name: world.live(Scene(name, 3, 3), NUM, 0) for name in ("none", "reversal", "another")}
    for name, sign in (("none", 1), ("reversal", -1)):
        np.testing.assert_allclose(change[name].after, sign * change[name].before)
    assert not np.isclose(change["another"].after, change["another"].before).any()
    for rows in np.abs(change["none"].v):
        assert len(np.unique(rows, axis=0)) == 6


def test_the_same_seed_gives_the_same_lives(world: World) -> None:
    """Answer by answer; another seed gives others (the control)."""
    first, again, other = (world.live(Scene(at=5), NUM, seed).v for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.slow
def test_every_scene_is_told() -> None:
    """Each figure is a share, with its bar where it has one; what an oracle knows is worth most."""
    found = run_drift(Plan(num_lasting=3, num_changing=4), first=1)
    assert found["figures"].keys() >= BARS.keys()
    assert all(0 <= value <= 1 and math.isfinite(value) for value in found["figures"].values())
    worth = [row for row in found["rows"] if row["figure"].endswith(".within_20")]
    assert len(worth) == 2 * len(CHANGING)
    means = [np.mean([row[arm] for row in worth]) for arm in ("unwatched", "watched", "forgetting")]
    assert means == sorted(means)
    assert len(found["figures"]) == len(BARS) + 2 * len(CHANGING) * len(WITHIN)
