"""Sides that are compared take turns, A B C A B C …, and a ratio is taken within each round.

Whatever else the machine does slows both sides of a pair alike; the median leaves out the pairs where it didn't.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lab.harness import turns

WARM_UP = 2  # tokens: buffers are allocated, and threads started

# writes at most so many tokens a reply; gives the seconds it took: a lower number is a faster side
Side = Callable[[int], float]
Seconds = dict[str, list[float]]  # of each side, round by round


def interleave(sides: Mapping[str, Side], num_rounds: int, num_tokens: int, name: str) -> Seconds:
    """Let every side have a short turn to warm up, then ``num_rounds`` turns each."""
    seconds: Seconds = {side: [] for side in sides}
    for run in sides.values():
        run(min(WARM_UP, num_tokens))
    for _ in turns(num_rounds, name):
        for side, run in sides.items():
            seconds[side].append(run(num_tokens))
    return seconds


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """What one side took ÷ what the other took, in each round."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]
