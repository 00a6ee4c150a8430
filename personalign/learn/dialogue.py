"""Axes for short replies in a dialogue about bookings, which the bundled model ``tiny`` writes.

A measure saturates: it counts different things, not occurrences, and grows like log1p up to a cap. So no axis can be
pumped without end: "Sure! Sure!!!!!!!!" is one warm word and one exclamation. ``axes.py`` says how it is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from personalign.learn.prose import FUNCTION, WORD, AxisSet, num_words, saturate, word_set, words_of
from personalign.words import Axis

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

SENTENCE_BREAK = re.compile(r"(?<=[.!?])\s+")
LISTED = re.compile(r"(?:, | and |\n- )(\w+)")  # words that follow a comma, “and” or a bullet

OPENINGS = word_set("sure ok okay alright certainly absolutely yes yeah great perfect got no sorry so well oh")
WARM = word_set(
    "thank thanks please sure happy glad nice enjoy welcome pleasure good certainly absolutely sorry kindly delighted "
    "hope fun hello hi hey bye goodbye day help assist"
)
EAGER = word_set(
    "great wonderful perfect excellent awesome amazing love lovely super cool best beautiful fantastic superb "
    "brilliant popular delicious"
)
CHOICE = word_set(
    "or another other others else either options option several different any alternatively instead found"
)
CONFIRM = word_set("confirm confirming correct right details following information")
FIRST = word_set("i i'm i've i'll i'd me my we we've we'll our us let's")
SECOND = word_set("you your you'd you're you'll you've yours")
HEDGE = word_set(
    "would may might could perhaps maybe possibly probably seem seems think guess if about around like sounds "
    "should appears likely"
)


@dataclass(frozen=True)
class Text:
    """A reply taken apart once, for all measures."""

    reply: str
    words: tuple[str, ...]  # lower case, apostrophes straight
    sentences: tuple[str, ...]
    asked: frozenset[str]  # content words of the user's messages


def _read(request: str, reply: str) -> Text:
    sentences = tuple(s for s in SENTENCE_BREAK.split(reply.strip()) if WORD.search(s))
    return Text(reply, words_of(reply), sentences, frozenset(words_of(request)) - FUNCTION)


def _ending_in(text: Text, mark: str) -> set[str]:
    return {s.rstrip(".!?").lower() for s in text.sentences if s.endswith(mark)}


def _names(text: Text) -> set[str]:
    """Capitalised words that don't begin a sentence and aren't “I”."""
    capitals = (w for s in text.sentences for w in WORD.findall(s)[1:] if w[0].isupper() and w.lower() not in FIRST)
    return set(capitals)


def _vocabulary(words: frozenset[str], cap: int) -> Callable[[Text], float]:
    """Different words of a list."""
    return lambda text: saturate(len(words.intersection(text.words)), cap)


MEASURES: Mapping[str, Callable[[Text], float]] = MappingProxyType(
    {
        "length": lambda text: saturate(num_words(text.words), 80),
        "questions": lambda text: saturate(len(_ending_in(text, "?")), 2),
        "warmth": _vocabulary(WARM, 4),
        "enthusiasm": lambda text: saturate(len(_ending_in(text, "!")) + len(EAGER.intersection(text.words)), 3),
        "figures": lambda text: saturate(len({w for w in text.words if w[0].isdigit()}), 6),
        "names": lambda text: saturate(len(_names(text)), 8),
        "choices": _vocabulary(CHOICE, 3),
        "confirmation": _vocabulary(CONFIRM, 3),
        "echo": lambda text: saturate(len(text.asked.intersection(text.words)), 6),
        "first_person": _vocabulary(FIRST, 2),
        "second_person": _vocabulary(SECOND, 3),
        "contractions": lambda text: saturate(len({w for w in text.words if "'" in w}), 3),
        "hedging": _vocabulary(HEDGE, 3),
        "sentence_length": lambda text: saturate(num_words(text.words) / max(len(set(text.sentences)), 1), 40),
        "lists": lambda text: saturate(len(set(LISTED.findall(text.reply.lower()))), 5),
        "opening": lambda text: float(bool(text.words) and text.words[0] in OPENINGS),
    }
)

DIALOGUE = AxisSet(AXES, _read, MEASURES)
