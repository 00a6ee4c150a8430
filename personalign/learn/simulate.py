"""Simulated people: hidden tastes that are nonlinear functions of a reply's text.

They stand in for people in the demo and in measurements, so nothing here looks at the axes that profiles are
written in: a person likes a few traits of their own, and the fit has to make do with what the axes show of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.errors import InputError
from personalign.types import Choice, Message

FLIPPED = 0.15  # share of answers that contradict the person's own taste

Trait = Callable[[str], float]

_WORD = re.compile(r"\w+(?:['’:.,-]\w+)*")
_SENTENCE = re.compile(r"[^.?!]+(?:[.?!]+|$)")
_FRIENDLY = re.compile(r"\b(?:thank|glad|happy|great|enjoy|nice|wonderful|pleas|welcom|love|perfect|good|sure)\w*", re.I)
_GREETING = re.compile(r"(?:sure|ok|okay|alright|great|yes|of course|certainly|hello|hi|absolutely|perfect)\b", re.I)


@dataclass(frozen=True, eq=False)
class SimulatedPerson:
    """Someone with a hidden taste: a sparse mix of traits, in standard deviations of the replies they know."""

    name: str
    weights: Mapping[str, float]  # by trait
    center: Mapping[str, float]
    scale: Mapping[str, float]
    mean: float = 0.0  # of the mix before it is felt, and of the utility after; set by `standardise`
    spread: float = 1.0
