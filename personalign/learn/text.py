"""What sets of named axes share: the words of a text, counts that end, and axes measured in one reading of a reply."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np

from personalign.words import Axis

WORD = re.compile(r"[^\W_]+(?:['’.:][^\W_]+)*")
Reading = TypeVar("Reading")


@dataclass(frozen=True)
class AxisSet(Generic[Reading]):
    """Axes, each with its measure in a reply that is read once for all of them.

    An axis's name stands for its measure wherever a basis is stored, so no two sets share a name.
    """

    axes: tuple[Axis, ...]
    read: Callable[[str, str], Reading]  # what the user wrote, and the reply
    measures: Mapping[str, Callable[[Reading], float]]

    def measure(self, request: str, reply: str, names: Sequence[str]) -> list[float]:
        """Measure a reply on the axes of these names, raw."""
        reading = self.read(request, reply)
        return [self.measures[name](reading) for name in names]


def words_of(text: str) -> tuple[str, ...]:
    """The words in lower case, with straight apostrophes."""
    return tuple(WORD.findall(text.lower().replace("’", "'")))


def word_set(text: str) -> frozenset[str]:
    """A list of words, written with blanks between them."""
    return frozenset(text.split())


def saturate(count: float, cap: int) -> float:
    """A count on an axis: it grows more and more slowly, and not beyond the cap."""
    return float(np.log1p(min(count, cap)))


def num_words(words: Sequence[str]) -> int:
    """Words, but a repeated pair of words counts once, so that stuttering adds nothing."""
    return len(set(pairwise(words))) + bool(words)


FUNCTION = word_set(
    "the a an and or of to in on at for with is are was be it its that this there i you your my me we do does did "
    "have has had can will would what which where when how any some not no yes"
)
