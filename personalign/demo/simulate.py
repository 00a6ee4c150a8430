"""Simulated people: hidden tastes that are nonlinear functions of a reply's text.

They stand in for people in the demo and in measurements, so nothing here looks at the axes that profiles are
written in: a person likes a few traits of their own, and the fit has to make do with what the axes show of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from personalign.errors import InputError
from personalign.types import Array, Choice, Message

FLIPPED = 0.15  # share of answers that contradict the person's own taste
MAIN_TRAITS = ("brevity", "fullness")  # people differ first of all in how much they want to be told
MINOR = 0.4  # weight of the one other trait that a person has
POWER = 4  # strong feelings grow faster than their cause

Trait = Callable[[str], float]

_WORD = re.compile(r"\w+(?:['’:.,-]\w+)*")
_SENTENCE = re.compile(r"[^.?!]+(?:[.?!]+|$)")
_FRIENDLY = re.compile(
    r"\b(?:thank|glad|happy|great|enjoy|nice|wonderful|pleas|welcom|love|perfect|good)\w*", re.IGNORECASE
)
_GREETING = re.compile(
    r"(?:sure|ok|okay|alright|great|yes|of course|certainly|hello|hi|absolutely|perfect)\b", re.IGNORECASE
)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _sentences(text: str) -> list[str]:
    return [s for s in _SENTENCE.findall(text) if s.strip()] or [text]


def _brevity(text: str) -> float:
    """Best at six words, falling off on either side."""
    return -abs(math.log((len(_words(text)) + 1) / 7))


def _fullness(text: str) -> float:
    """Words up to thirty, then nothing more."""
    return float(min(len(_words(text)), 30) ** 0.7)


def _friendliness(text: str) -> float:
    return 1 - math.exp(-1.5 * len(_FRIENDLY.findall(text)) / len(_sentences(text)))


def _curiosity(text: str) -> float:
    """Ends with a question; a short one counts more."""
    return text.rstrip().endswith("?") * (1 + 2 / (1 + len(_words(_sentences(text)[-1]))))


def _precision(text: str) -> float:
    """Share of words with a digit, saturating."""
    words = _words(text)
    return math.tanh(6 * sum(any(c.isdigit() for c in w) for w in words) / max(len(words), 1))


def _naming(text: str) -> float:
    """Capitals inside sentences, saturating."""
    inner = [w for sentence in _sentences(text) for w in _words(sentence)[1:]]
    return math.tanh(5 * sum(w[0].isupper() and w != "I" for w in inner) / max(len(inner), 1))


def _cheer(text: str) -> float:
    """A greeting or an exclamation, and more than both apart."""
    greets, exclaims = _GREETING.match(text) is not None, "!" in text
    return greets + exclaims + float(greets and exclaims)


def _plain_words(text: str) -> float:
    """Short words, evenly."""
    lengths = [len(w) for w in _words(text)] or [0]
    return -float(np.mean(lengths)) - 0.3 * float(np.std(lengths))


TRAITS: Mapping[str, Trait] = MappingProxyType(
    {
        "brevity": _brevity,
        "fullness": _fullness,
        "friendliness": _friendliness,
        "curiosity": _curiosity,
        "precision": _precision,
        "naming": _naming,
        "cheer": _cheer,
        "plain words": _plain_words,
    }
)


@dataclass(frozen=True, eq=False)
class SimulatedPerson:
    """Someone with a hidden taste: a main trait and a minor one, felt the more strongly the further they go.

    Utilities are in standard deviations of the replies the person was made with; their mean is 0.
    """

    weights: Float[Array, "traits"]
    center: Float[Array, "traits"]
    scale: Float[Array, "traits"]
    mix_mean: float
    mean: float
    spread: float

    def utility(self, prompt: Sequence[Message], reply: str) -> float:  # noqa: ARG002 - a taste may look at both
        """How much the person likes a reply."""
        mix = float(self.weights @ ((_traits(reply) - self.center) / self.scale)) - self.mix_mean
        return (_feeling(mix) - self.mean) / self.spread

    def choose(self, prompt: Sequence[Message], left: str, right: str, rng: np.random.Generator) -> Choice:
        """Prefer the reply of higher utility, but in 15 % of cases say the other."""
        prefers_left = self.utility(prompt, left) > self.utility(prompt, right)
        return "a" if prefers_left != (rng.random() < FLIPPED) else "b"

    def opposite(self) -> SimulatedPerson:
        """Someone whose every utility is the negative of this one's."""
        return SimulatedPerson(-self.weights, self.center, self.scale, -self.mix_mean, -self.mean, self.spread)


def opposite_pair(
    seed: int, prompts: Sequence[Sequence[Message]], replies: Sequence[str]
) -> tuple[SimulatedPerson, SimulatedPerson]:
    """Draw a person and their opposite, standardised over replies.

    Raises:
        InputError: fewer than two replies, or not one prompt for each.
    """
    if len(replies) < 2 or len(prompts) != len(replies):
        raise InputError(f"found {len(prompts)} prompts and {len(replies)} replies, expected as many, and two at least")
    rng = np.random.default_rng([seed, 2026])
    values = np.array([_traits(reply) for reply in replies])
    center, scale = values.mean(0), np.maximum(values.std(0), 1e-6)
    names = list(TRAITS)
    main = names.index(rng.choice(MAIN_TRAITS))
    minor = rng.choice([i for i in range(len(names)) if i != main])
    weights = np.zeros(len(names))
    weights[[main, minor]] = rng.choice((-1.0, 1.0), 2) * (1.0, MINOR)
    mixes = (values - center) / scale @ weights
    feelings = np.array([_feeling(mix) for mix in mixes - mixes.mean()])
    person = SimulatedPerson(weights, center, scale, float(mixes.mean()), float(feelings.mean()), float(feelings.std()))
    return person, person.opposite()


def _traits(text: str) -> Float[Array, "traits"]:
    return np.array([trait(text) for trait in TRAITS.values()], dtype=np.float64)


def _feeling(mix: float) -> float:
    """Feelings keep their sign and grow with ``POWER``, which keeps a third of a taste outside the axes."""
    return math.copysign(abs(mix) ** POWER, mix)
