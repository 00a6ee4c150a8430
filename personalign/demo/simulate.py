"""Simulated people: hidden tastes that are nonlinear functions of a reply's text.

They replace people in the demo and in measurements. A person likes a few traits, and profiles can learn only what the
axes show of them, because nothing here looks at the axes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from personalign.errors import InputError
from personalign.types import Array, Choice, Message

FLIPPED = 0.15  # share of answers that contradict the person's own taste
MAIN_TRAITS = ("brevity", "fullness")  # people differ most in how long they like replies to be
MINOR = 0.4  # weight of the one other trait that a person has
POWER = 4  # of drawn people: strong feelings grow faster than their cause, so a third of a taste is outside the axes

Trait = Callable[[str], float]
_words = re.compile(r"\w+(?:['’:.,-]\w+)*").findall
_SENTENCE = re.compile(r"[^.?!]+(?:[.?!]+|$)")
_FRIENDLY = re.compile(
    r"\b(?:thank|glad|happy|great|enjoy|nice|wonderful|pleas|welcom|love|perfect|good)\w*", re.IGNORECASE
)
_GREETING = re.compile(
    r"(?:sure|ok|okay|alright|great|yes|of course|certainly|hello|hi|absolutely|perfect)\b", re.IGNORECASE
)


def _sentences(text: str) -> list[str]:
    return [s for s in _SENTENCE.findall(text) if s.strip()] or [text]


def _curiosity(text: str) -> float:
    """Ends with a question; a short one counts more."""
    return text.rstrip().endswith("?") * (1 + 2 / (1 + len(_words(_sentences(text)[-1]))))


def _precision(text: str) -> float:
    """The share of words with a digit."""
    words = _words(text)
    return math.tanh(6 * sum(any(c.isdigit() for c in w) for w in words) / max(len(words), 1))


def _naming(text: str) -> float:
    """The share of capitalised words inside sentences."""
    inner = [w for sentence in _sentences(text) for w in _words(sentence)[1:]]
    return math.tanh(5 * sum(w[0].isupper() and w != "I" for w in inner) / max(len(inner), 1))


def _cheer(text: str) -> float:
    """A greeting or an exclamation; both count more than their sum."""
    greets, exclaims = _GREETING.match(text) is not None, "!" in text
    return greets + exclaims + float(greets and exclaims)


def _plain_words(text: str) -> float:
    """Short words, evenly."""
    lengths = [len(w) for w in _words(text)] or [0]
    return -float(np.mean(lengths)) - 0.3 * float(np.std(lengths))


TRAITS: Mapping[str, Trait] = MappingProxyType(
    {
        "brevity": lambda text: -abs(math.log((len(_words(text)) + 1) / 7)),  # best at six words
        "fullness": lambda text: float(min(len(_words(text)), 30) ** 0.7),
        "friendliness": lambda text: 1 - math.exp(-1.5 * len(_FRIENDLY.findall(text)) / len(_sentences(text))),
        "curiosity": _curiosity,
        "precision": _precision,
        "naming": _naming,
        "cheer": _cheer,
        "plain words": _plain_words,
    }
)


_WARM = re.compile(
    r"\b(?:glad|happy|happi|hope|enjoy|wonderful|welcom|love|care|caring|feel|heart|kind|friend|share|special|fun"
    r"|delight|thank|excit|great|sorry|support|joy|comfort|cherish|beautiful|warm)\w*",
    re.IGNORECASE,
)
_PERSONAL = re.compile(
    r"\b(?:you|your|yours|yourself|I|me|my|we|us|our|let['’]s)\b|['’](?:re|ll|ve|m)\b", re.IGNORECASE
)


def _warmth(text: str) -> float:
    """Kind words and exclamations; the first ones count most."""
    return 1 - math.exp(-(len(_WARM.findall(text)) + text.count("!")) / 2)


def _chattiness(text: str) -> float:
    """The share of sentences that speak of "you", "I" or "us"; a question to the reader counts, too."""
    sentences = _sentences(text)
    personal = sum(_PERSONAL.search(sentence) is not None for sentence in sentences)
    return (personal + 2 * text.count("?")) / (len(sentences) + 1)


PROSE_TRAITS: Mapping[str, Trait] = MappingProxyType(
    {
        "brevity": lambda text: -math.log(len(_words(text)) + 5),
        "warmth": _warmth,
        "chattiness": _chattiness,
        "plain words": _plain_words,
    }
)


@dataclass(frozen=True, eq=False)
class SimulatedPerson:
    """Someone with a hidden taste for some traits; drawn ones have a main trait and a minor one.

    Utilities are in standard deviations of the replies the person was made with; their mean is 0.
    """

    weights: Float[Array, "traits"]
    center: Float[Array, "traits"]
    scale: Float[Array, "traits"]
    mix_mean: float
    mean: float
    spread: float
    traits: Mapping[str, Trait]
    power: int  # strong feelings grow by it, and keep their sign

    def utility(self, prompt: Sequence[Message], reply: str) -> float:  # noqa: ARG002 - a taste may look at both
        """How much the person likes a reply."""
        mix = float(self.weights @ ((_measure(self.traits, reply) - self.center) / self.scale)) - self.mix_mean
        return (_feeling(mix, self.power) - self.mean) / self.spread

    def choose(self, prompt: Sequence[Message], left: str, right: str, rng: np.random.Generator) -> Choice:
        """Prefer the reply of higher utility, but name the other in 15 % of cases."""
        prefers_left = self.utility(prompt, left) > self.utility(prompt, right)
        return "a" if prefers_left != (rng.random() < FLIPPED) else "b"

    def describe(self) -> str:
        """The taste in words, the strongest part first."""
        names, order = list(self.traits), np.argsort(-np.abs(self.weights), kind="stable")
        verbs = {1.0: "likes", -1.0: "dislikes"}
        return " and ".join(f"{verbs[np.sign(self.weights[i])]} {names[i]}" for i in order if self.weights[i])

    def opposite(self) -> SimulatedPerson:
        """The person whose utilities are the negatives of these."""
        return replace(self, weights=-self.weights, mix_mean=-self.mix_mean, mean=-self.mean)


def opposite_pair(
    seed: int, prompts: Sequence[Sequence[Message]], replies: Sequence[str]
) -> tuple[SimulatedPerson, SimulatedPerson]:
    """Draw a person and their opposite, standardised over replies."""
    if len(replies) < 2 or len(prompts) != len(replies):
        raise InputError(f"found {len(prompts)} prompts and {len(replies)} replies, expected as many, and two at least")
    rng = np.random.default_rng([seed, 2026])
    names = list(TRAITS)
    main = names.index(rng.choice(MAIN_TRAITS))
    minor = rng.choice([i for i in range(len(names)) if i != main])
    signs = rng.choice((-1.0, 1.0), 2)
    taste = {names[main]: float(signs[0]), names[minor]: float(signs[1]) * MINOR}
    return pair_who_like(taste, TRAITS, replies, POWER)


def pair_who_like(
    taste: Mapping[str, float], traits: Mapping[str, Trait], replies: Sequence[str], power: int = 1
) -> tuple[SimulatedPerson, SimulatedPerson]:
    """A person with a taste, a weight for some of the traits, and their opposite, standardised over replies."""
    weights = np.array([taste.get(name, 0.0) for name in traits])
    values = np.array([_measure(traits, reply) for reply in replies])
    center, scale = values.mean(0), np.maximum(values.std(0), 1e-6)
    mixes = (values - center) / scale @ weights
    feelings = np.array([_feeling(mix, power) for mix in mixes - mixes.mean()])
    person = SimulatedPerson(
        weights, center, scale, float(mixes.mean()), float(feelings.mean()), float(feelings.std()), traits, power
    )
    return person, person.opposite()


def _measure(traits: Mapping[str, Trait], text: str) -> Float[Array, "traits"]:
    return np.array([trait(text) for trait in traits.values()], dtype=np.float64)


def _feeling(mix: float, power: int) -> float:
    return math.copysign(abs(mix) ** power, mix)
