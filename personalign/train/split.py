"""Who and what has no part in the learning: people and prompts held out by a seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def cut(items: Sequence[Item], sizes: Sequence[int], seed: int) -> list[list[Item]]:
    """Shuffle the items and cut off parts of these sizes; the rest is the last part."""
    shuffled = [items[i] for i in np.random.default_rng(seed).permutation(len(items))]
    borders = [0, *np.cumsum(sizes).tolist(), len(items)]
    return [shuffled[begin:end] for begin, end in pairwise(borders)]


def hold_out(names: Iterable[str], share: float, seed: int) -> set[str]:
    """Draw a share of the different names: at least one of them, and not all."""
    distinct = sorted(set(names))
    num = min(max(round(share * len(distinct)), 1), len(distinct) - 1)
    return set(cut(distinct, [num], seed)[0])
