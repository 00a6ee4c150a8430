"""What sets of named axes share: words, counts that end, and a reply read once for all axes.

In a reading Markdown is taken off and sorted, the rest becomes sentences and words. Everything is kept as different
things, so what a reply repeats is there once. Patterns take time that grows with the text and no faster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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

MARKER = re.compile(
    r"(?P<heading>#{1,6}\s+)|(?P<bullet>[-*+•‣▪◦–]\s+)|(?P<step>(?:step\s+)?\d{1,3}[.):]\s+)|(?P<row>\|)", re.IGNORECASE
)
BOLD_LINE = re.compile(r"\*\*[^*]+\*\*:?$")
TITLE_WORDS = 4  # a line of at most so many words that ends in a colon is a heading, too
RULE = re.compile(r"[|\s:+-]*$")  # under a table's first row
FENCES = ("```", "~~~")
INLINE_CODE = re.compile(r"`([^`\n]+)`")
EMPHASIS = re.compile(r"\*{1,3}([^\s*][^*\n]*)\*{1,3}|\b__([^_\n]+)__\b")
BRACKETS = re.compile(r"(?<!\])\(([^()\n]{2,200})\)")  # not a link's
DASH = re.compile(r"(?:\s[–—-]{1,2}\s|—)\s?(\w+)")
# a stop, marks that close a quotation or bold words, and a space before anything but a small letter
SENTENCE_BREAK = re.compile(r"(?<=[.!?])[\"”’')*_]*\s+(?![a-z])|(?<=[。！？])")
CLOSING = "\"”’')*_ "
EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf\u2b50\u2b55\u231a\u231b\u23e9-\u23fa\U0001f1e6-\U0001f1ff]")


@dataclass(frozen=True)
class Sentence:
    """A sentence, with its words as they are written and in lower case."""

    mark: str  # the last character
    tokens: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Prose:
    """What a reply is made of; sets hold different things, in the order in which they come first."""

    request_words: frozenset[str]  # content words of the user's messages
    sentences: tuple[Sentence, ...]
    words: tuple[str, ...]  # of everything but code
    text: str  # the same words with blanks between and around them, to look up phrases
    markers: dict[str, set[str]] = field(repr=False)  # lines by their marker: heading, bullet, step, row
    blocks: set[str] = field(repr=False)  # what blank lines part
    code: set[str] = field(repr=False)  # lines and spans
    emphasis: set[str] = field(repr=False)
    asides: set[str] = field(repr=False)  # what brackets hold and dashes begin
    emoji: set[str] = field(repr=False)

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """The different words."""
        return frozenset(self.words)


def read(request: str, reply: str) -> Prose:
    """Read a reply to what the user wrote."""
    markers: dict[str, set[str]] = {"heading": set(), "bullet": set(), "step": set(), "row": set()}
    blocks, code, block, titles, lines = set[str](), set[str](), list[str](), list[str](), list[str]()
    is_code = False
    for bare in map(str.strip, [*reply.replace("’", "'").splitlines(), ""]):
        if bare.startswith(FENCES):
            is_code = not is_code
        elif is_code and bare:
            code.add(bare)
        elif not bare:
            blocks.add("\n".join(block))
            block = []
        else:
            block.append(bare)
            kind, content = _sort(bare)
            if kind in markers and not RULE.match(content):
                markers[kind].add(content.lower())
            (titles if kind in {"heading", "row"} else lines).append(content)
    prose = "\n".join(lines)
    code.update(INLINE_CODE.findall(prose))
    sentences = tuple(_sentences(lines))
    words = (*(word for sentence in sentences for word in sentence.words), *words_of(" ".join(titles)))
    return Prose(
        request_words=frozenset(words_of(request)) - FUNCTION,
        sentences=tuple({sentence.words: sentence for sentence in sentences}.values()),
        words=words,
        text=f" {' '.join(words)} ",
        markers=markers,
        blocks={text for text in blocks if WORD.search(text)},
        code=code,
        emphasis={bold or underlined for bold, underlined in EMPHASIS.findall(prose)},
        asides={*BRACKETS.findall(prose), *DASH.findall(prose)},
        emoji=set() if reply.isascii() else set(EMOJI.findall(reply)),
    )


def _sort(line: str) -> tuple[str, str]:
    """What a line is, and what it says."""
    if BOLD_LINE.match(line):
        return "heading", line.strip("*:")
    marker = MARKER.match(line)
    if marker is not None:
        return str(marker.lastgroup), line[marker.end() :]
    if line.endswith(":") and len(line) <= 15 * TITLE_WORDS and len(line.split()) <= TITLE_WORDS:
        return "heading", line[:-1]
    return "line", line


def _sentences(lines: list[str]) -> Iterator[Sentence]:
    for line in lines:
        for text in SENTENCE_BREAK.split(line):
            tokens = tuple(WORD.findall(text))
            if tokens:
                yield Sentence(text.rstrip(CLOSING)[-1], tokens, tuple(word.lower() for word in tokens))
