"""φ: replies on a basis's axes. The named ones are measured in the text, the learnt ones projected from embeddings.

A measure saturates: it counts different things, not occurrences, and grows like log1p up to a cap. So no axis can be
pumped without end: "Sure! Sure!!!!!!!!" is one warm word and one exclamation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from personalign.basis import Basis
from personalign.errors import BasisError
from personalign.types import Array, Message
from personalign.words import Axis

# prompts and replies to embeddings (n, F)
Embed = Callable[[Sequence[Sequence[Message]], Sequence[str]], Array]
AXES: tuple[Axis, ...] = (
    Axis("length", "how long the reply is", "shorter replies", "longer replies"),
    Axis("questions", "questions back", "statements without questions", "being asked back"),
    Axis("warmth", "warm and polite words", "plain, matter-of-fact words", "warm and polite words"),
    Axis("enthusiasm", "exclamation marks and words such as “great”", "a calm tone", "an enthusiastic tone"),
    Axis("figures", "numbers, times and prices", "replies without figures", "concrete figures"),
    Axis("names", "names of places, people and things", "replies without names", "replies that name things"),
    Axis("choices", "alternatives to choose from", "one suggestion at a time", "several options"),
    Axis(
        "confirmation",
        "checking details before going on",
        "going ahead without checks",
        "details checked and confirmed",
    ),
    Axis("echo", "taking up one's own words", "new words", "one's own request taken up in the reply"),
    Axis("first_person", "the assistant speaking of itself", "replies without “I”", "an assistant that says “I”"),
    Axis("second_person", "being addressed as “you”", "impersonal replies", "being addressed as “you”"),
    Axis("contractions", "contractions such as “it's”", "words written in full", "contractions such as “it's”"),
    Axis("hedging", "words such as “would”, “may”, “perhaps”", "direct wording", "careful, tentative wording"),
    Axis("sentence_length", "how long the sentences are", "short sentences", "long sentences"),
    Axis("lists", "enumerations with commas and “and”", "one thing at a time", "enumerations of several things"),
    Axis(
        "opening",
        "openings such as “sure” or “okay”",
        "coming straight to the point",
        "an opening such as “sure” or “okay”",
    ),
)

WORD = re.compile(r"[^\W_]+(?:['’.:][^\W_]+)*")
SENTENCE_BREAK = re.compile(r"(?<=[.!?])\s+")
LISTED = re.compile(r"(?:, | and |\n- )(\w+)")  # words that follow a comma, “and” or a bullet


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


OPENINGS = _words_of("sure ok okay alright certainly absolutely yes yeah great perfect got no sorry so well oh")
WARM = _words_of(
    "thank thanks please sure happy glad nice enjoy welcome pleasure good certainly absolutely sorry kindly delighted "
    "hope fun hello hi hey bye goodbye day help assist"
)
EAGER = _words_of(
    "great wonderful perfect excellent awesome amazing love lovely super cool best beautiful fantastic superb "
    "brilliant popular delicious"
)
CHOICE = _words_of(
    "or another other others else either options option several different any alternatively instead found"
)
CONFIRM = _words_of("confirm confirming correct right details following information")
FIRST = _words_of("i i'm i've i'll i'd me my we we've we'll our us let's")
SECOND = _words_of("you your you'd you're you'll you've yours")
HEDGE = _words_of(
    "would may might could perhaps maybe possibly probably seem seems think guess if about around like sounds "
    "should appears likely"
)
FUNCTION = _words_of(
    "the a an and or of to in on at for with is are was be it its that this there i you your my me we do does did "
    "have has had can will would what which where when how any some not no yes"
)


@dataclass(frozen=True)
class Text:
    """A reply taken apart once, for all measures."""

    reply: str
    words: tuple[str, ...]  # lower case, apostrophes straight
    sentences: tuple[str, ...]
    asked: frozenset[str]  # content words of the user's messages


def features(
    basis: Basis, prompts: Sequence[Sequence[Message]], replies: Sequence[str], embed: Embed | None = None
) -> Float[Array, "n d"]:
    """Measure replies to their prompts on all axes, standardised; one row each.

    Raises:
        BasisError: this version can't measure an axis, or the learnt axes lack embeddings of their width.
    """
    raw = measure_many(prompts, replies, basis.named)
    if basis.learnt is None:
        return basis.standardise(raw)
    projection = basis.learnt.projection
    if embed is None:
        raise BasisError(
            f"the basis has {projection.shape[1]} learnt axes, which are measured in embeddings; pass what embeds"
        )
    embedded = embed(prompts, replies)
    if embedded.shape[1] != len(projection):
        raise BasisError(
            f"the embeddings have {embedded.shape[1]} dimensions, the basis projects {len(projection)}; embed "
            f"with what the basis was made with ({basis.learnt.embedder})"
        )
    return basis.standardise(np.hstack([raw, embedded @ projection]))


def measure(prompt: Sequence[Message], reply: str, axes: Sequence[Axis] = AXES) -> Float[Array, "d"]:
    """Measure a reply on named axes, raw.

    Raises:
        BasisError: an axis has no measure of its name.
    """
    text = _take_apart(prompt, reply)
    return np.array([_measure_of(axis)(text) for axis in axes], dtype=np.float64)


def measure_many(
    prompts: Sequence[Sequence[Message]], replies: Sequence[str], axes: Sequence[Axis] = AXES
) -> Float[Array, "n d"]:
    """Measure replies to their prompts, one row each."""
    rows = [measure(prompt, reply, axes) for prompt, reply in zip(prompts, replies, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(axes))


def _measure_of(axis: Axis) -> Callable[[Text], float]:
    if axis.name not in MEASURES:
        raise BasisError(
            f"the basis names the axis {axis.name!r}, which this version can't measure; known are "
            f"{', '.join(MEASURES)}; install the version that made the basis, or make it again"
        )
    return MEASURES[axis.name]


def _take_apart(prompt: Sequence[Message], reply: str) -> Text:
    request = " ".join(m["content"] for m in prompt if m["role"] == "user")
    sentences = tuple(s for s in SENTENCE_BREAK.split(reply.strip()) if WORD.search(s))
    return Text(reply, _words(reply), sentences, frozenset(_words(request)) - FUNCTION)


def _words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text.lower().replace("’", "'")))


def _saturate(count: float, cap: int) -> float:
    return float(np.log1p(min(count, cap)))


def _num_words(text: Text) -> int:
    """Words, but a repeated pair of words counts once, so that stuttering adds nothing."""
    return len(set(zip(text.words, text.words[1:], strict=False))) + bool(text.words)


def _ending_in(text: Text, mark: str) -> set[str]:
    return {s.rstrip(".!?").lower() for s in text.sentences if s.endswith(mark)}


def _names(text: Text) -> set[str]:
    """Capitalised words that don't begin a sentence and aren't “I”."""
    capitals = (w for s in text.sentences for w in WORD.findall(s)[1:] if w[0].isupper() and w.lower() not in FIRST)
    return set(capitals)


def _vocabulary(words: frozenset[str], cap: int) -> Callable[[Text], float]:
    """Different words of a list."""
    return lambda text: _saturate(len(words.intersection(text.words)), cap)


MEASURES: Mapping[str, Callable[[Text], float]] = MappingProxyType(
    {
        "length": lambda text: _saturate(_num_words(text), 80),
        "questions": lambda text: _saturate(len(_ending_in(text, "?")), 2),
        "warmth": _vocabulary(WARM, 4),
        "enthusiasm": lambda text: _saturate(len(_ending_in(text, "!")) + len(EAGER.intersection(text.words)), 3),
        "figures": lambda text: _saturate(len({w for w in text.words if w[0].isdigit()}), 6),
        "names": lambda text: _saturate(len(_names(text)), 8),
        "choices": _vocabulary(CHOICE, 3),
        "confirmation": _vocabulary(CONFIRM, 3),
        "echo": lambda text: _saturate(len(text.asked.intersection(text.words)), 6),
        "first_person": _vocabulary(FIRST, 2),
        "second_person": _vocabulary(SECOND, 3),
        "contractions": lambda text: _saturate(len({w for w in text.words if "'" in w}), 3),
        "hedging": _vocabulary(HEDGE, 3),
        "sentence_length": lambda text: _saturate(_num_words(text) / max(len(set(text.sentences)), 1), 40),
        "lists": lambda text: _saturate(len(set(LISTED.findall(text.reply.lower()))), 5),
        "opening": lambda text: float(bool(text.words) and text.words[0] in OPENINGS),
    }
)
