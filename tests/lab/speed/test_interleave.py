"""Turns and ratios: what a machine that slows down, or somebody else who uses it, does to a comparison."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lab.bootstrap import quantile
from lab.speed.interleave import WARM_UP, interleave, ratios


def test_sides_take_turns() -> None:
    """A short turn each to warm up, then A B A B; only the full turns count."""
    log: list[tuple[str, int]] = []

    def side(name: str) -> Callable[[int], float]:
        def run(most: int) -> float:
            log.append((name, most))
            return float(len(log))

        return run

    seconds = interleave({"a": side("a"), "b": side("b")}, 3, 64, "turns")
    assert log == [("a", WARM_UP), ("b", WARM_UP), *[("a", 64), ("b", 64)] * 3]
    assert seconds == {"a": [3.0, 5.0, 7.0], "b": [4.0, 6.0, 8.0]}


def test_a_machine_that_slows_down_is_no_difference() -> None:
    """Ratios of pairs find 0.9 while everything gets five times slower; one side after the other wouldn't."""
    slowness = np.linspace(1, 5, 80)
    a, b = 0.9 * slowness[0::2], slowness[1::2]
    assert quantile(ratios(list(a), list(b))).value == pytest.approx(0.9, abs=0.03)
    assert np.median(0.9 * slowness[:40]) / np.median(slowness[40:]) < 0.6


def test_a_few_disturbed_rounds_are_left_out() -> None:
    """The median stays where it is when one round in five is disturbed; the mean doesn't."""
    rng = np.random.default_rng(0)
    values = 0.97 + 0.005 * rng.normal(size=20)
    values[::5] *= 3
    found = quantile(list(values))
    assert found.value == pytest.approx(0.97, abs=0.01)
    assert found.low <= found.value <= found.high
    assert values.mean() > 1.2


def test_the_interval_holds_what_it_says() -> None:
    """Of 200 samples of 20, about 95 % have the true median within the interval."""
    rng = np.random.default_rng(1)
    inside = [(e := quantile(list(rng.normal(size=20)))).low <= 0 <= e.high for _ in range(200)]
    assert 0.90 <= np.mean(inside) <= 0.99


def test_a_high_quantile() -> None:
    """p99 is near the largest of a hundred, not near the middle."""
    found = quantile(list(range(1, 101)), share=0.99)
    assert found.value == pytest.approx(99.01)
    assert 95 < found.low <= found.value <= found.high <= 100
