"""The simulated fleet agrees with what can be said without one."""

from __future__ import annotations

import pytest

from lab.speed.fleet import Fleet, simulate


def test_any_commit_makes_each_request_read() -> None:
    """With many commits nothing at hand is fresh; with none and a home for each person, nothing is read."""
    busy = simulate(Fleet(commits_per_s=200, has_homes=True, read_us=100), seconds=2)
    assert busy.reads_per_s == pytest.approx(10_000, rel=0.05)
    assert busy.used == pytest.approx(10_000 * 100e-6 / 8, rel=0.05)
    quiet = simulate(Fleet(commits_per_s=0, has_homes=True, read_us=100), seconds=2)
    assert quiet.reads_per_s == 0


def test_profiles_at_hand_are_few_without_homes() -> None:
    """Where people go to any server, nearly everybody's profile was dropped meanwhile."""
    assert simulate(Fleet(commits_per_s=0, read_us=100), seconds=2).reads_per_s > 9_500


def test_too_few_cores_make_a_queue() -> None:
    """Where the database takes longer than requests come, waits grow; with cores to spare there is none."""
    assert simulate(Fleet(database_cores=1, read_us=200), seconds=2).wait_p99_ms > 500
    assert simulate(Fleet(database_cores=8, read_us=200), seconds=2).wait_p99_ms < 1
