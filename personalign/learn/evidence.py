"""What a person said and showed, as evidence: which of it a fit takes, and how much each piece counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import NDArray

from personalign.learn.rows import MAX_ANSWERS
from personalign.types import FEEDBACK, INFORMATIVE, WEIGHTS


def select(choices: Sequence[str], kinds: Sequence[str], most: int = MAX_ANSWERS) -> Integer[NDArray[np.int64], "kept"]:
    """Choose what is fitted, as indices in order: the newest, and answers to questions before feedback.

    What says nothing, or only checks an answer, takes no place. ``choices`` and ``kinds`` are the oldest first.
    """
    telling = [i for i, choice in enumerate(choices) if choice in INFORMATIVE and WEIGHTS[kinds[i]] > 0]
    ranked = sorted(telling, key=lambda i: (kinds[i] in FEEDBACK, -i))
    return np.array(sorted(ranked[:most]), dtype=np.int64)


def weigh(kinds: Sequence[str], choices: Sequence[str]) -> Float[NDArray[np.float64], "n"]:
    """How much each counts in a fit, by what it came from; 0 for what says nothing."""
    pairs = zip(kinds, choices, strict=True)
    return np.array([WEIGHTS[kind] if choice in INFORMATIVE else 0.0 for kind, choice in pairs], dtype=np.float64)
