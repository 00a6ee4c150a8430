"""Wishes in everyday English: what a sentence says about how replies should be, and what of it isn't understood.

A clause is read only if all of its words are known here, so "make the sauce thicker" says nothing, while "shorter
please" does. Precision comes before recall. ``wishes.toml`` holds the phrases; ``lab/wishes`` measures both.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from itertools import chain, pairwise

from personalign.learn.prose import WORD, words_of
from personalign.types import Statement
from personalign.words import Axis

PLAIN, MILD, STRONG = 0.5, 0.25, 0.75  # positions: one standard deviation of the prior, a half, and one and a half
MAX_WORDS = 40  # of a clause that is read
MAX_PHRASE = 10  # words
END = "$"  # in a phrase: here the clause ends


@dataclass(frozen=True)
class Understood:
    """What a text says of a person's taste, and the parts of it that aren't understood."""

    wishes: tuple[Statement, ...]
    remainder: tuple[str, ...]


ReadWishes = Callable[[str, Sequence[Axis]], Understood]


@dataclass(frozen=True)
class Topic:
    """Phrases about some axes; ``wishes.toml`` says what each field means."""

    axes: str
    more: str = ""
    less: str = ""
    things: str = ""
    acts: str = ""
    means_more: str = ""
    means_less: str = ""
    is_vague: bool = False


SENTENCE_END = re.compile(r"([.!?;\n]+)")
TOKEN = re.compile(rf"{WORD.pattern}|,")
COMMA = re.compile(r",\s+")
BREAKS = (",", "but")  # where a sentence that isn't understood as a whole is taken apart
STARTS = {"use", "be", "no", "act", "means"}  # what begins such a part, unless it says "please"


@dataclass(frozen=True)
class _Phrase:
    """A phrase that is known: what it does, and of a topic which, and towards which end."""

    kind: str
    sign: int = 0
    topic: Topic | None = None


@dataclass
class _Mention:
    """A topic that a clause speaks of."""

    phrase: _Phrase
    sign: int
    degree: float
    is_comparative: bool
    is_negated: bool


@dataclass
class _Clause:
    """What was read of a clause so far."""

    is_asked: bool
    is_negated: bool = False
    is_told: bool = False  # something is said of the replies as they are, and so only a complaint is a wish
    scale: str = ""  # "less", "too", "so" or "more", of what comes next
    degree: float = PLAIN
    is_fresh: bool = True  # no topic since the last frame
    keeps: bool = False  # "or" lets a negation go on
    is_sound: bool = True
    start: str = ""  # the kind of its first phrase
    frames: set[str] = field(default_factory=set)
    mentions: list[_Mention] = field(default_factory=list)

    def take(self, phrase: _Phrase, text: str) -> None:
        """Read the next phrase."""
        kind = phrase.kind
        self.start = self.start or kind.replace("fill", "")
        self.frames.add(kind)
        if phrase.topic is not None:
            self._find(phrase, text)
        elif kind in {"use", "have", "be", "is", "no", "not"}:
            self._frame(kind)
        elif kind in {"less", "too", "so", "more"}:
            self.scale = kind
        elif kind in {"mild", "strong"}:
            self.degree = MILD if kind == "mild" else STRONG
        elif kind == "enough":
            self._suffice()
        self.keeps = kind == "or" or (self.keeps and kind == "fill")

    def _frame(self, kind: str) -> None:
        """Begin anew after a topic; otherwise go on, as in "don't use"."""
        if not self.is_fresh:
            self.is_negated, self.is_told, self.scale = self.is_negated and self.keeps, False, ""
            self.is_fresh = True
        if kind in {"no", "not"}:
            self.is_sound &= not self.is_negated
            self.is_negated = True
        self.is_told |= kind == "is"

    def _find(self, phrase: _Phrase, text: str) -> None:
        is_comparative = phrase.kind == "quality" and text.endswith("er")
        scale = "" if is_comparative or phrase.kind == "means" else self.scale
        self.is_sound &= not (self.is_negated and scale == "less")
        self.is_sound &= not self.is_told or scale in {"too", "less"} or self.is_negated or phrase.kind == "means"
        is_down = self.is_negated or scale in {"less", "too"}
        self.mentions.append(
            _Mention(phrase, -phrase.sign if is_down else phrase.sign, self.degree, is_comparative, self.is_negated)
        )
        self.degree, self.is_fresh = PLAIN, False

    def _suffice(self) -> None:
        """Read "not detailed enough" as a wish for more of what was denied."""
        last = self.mentions[-1] if self.mentions else None
        self.is_sound &= last is not None and last.is_negated
        if last is not None:
            last.sign = -last.sign

    def wishes(self, is_part: bool) -> tuple[_Mention, ...] | None:
        """The topics mentioned; None where one of them may be about anything but replies."""
        if is_part and self.mentions and not (self.is_asked or self.start in STARTS):
            return None
        if self.mentions and self.degree != PLAIN:
            self.mentions[-1].degree = self.degree  # said behind it
        is_good = self.is_sound and all(map(self._is_about_replies, self.mentions))
        return tuple(self.mentions) if is_good else None

    def _is_about_replies(self, mention: _Mention) -> bool:
        kind, topic = mention.phrase.kind, mention.phrase.topic
        assert topic is not None, "only topics are mentioned"
        if kind in {"means", "act"} or not self.frames.isdisjoint({"reply", "is"}):
            return True
        if topic.is_vague:
            return self._is_close(kind)
        near = {"use", "be", "less", "more"} | (
            {"thing"} if kind == "quality" else {"have", "no", "not", "too", "quality"}
        )
        return self.is_asked or mention.is_comparative or self._has_manner() or not near.isdisjoint(self.frames)

    def _is_close(self, kind: str) -> bool:
        """Whether a vague topic is surely meant of replies."""
        if kind == "quality":
            return "be" in self.frames or self._has_manner()
        return not self.frames.isdisjoint({"use", "less", "too"}) or ("no" in self.frames and self.is_asked)

    def _has_manner(self) -> bool:
        return "manner" in self.frames and (self.is_asked or not self.frames.isdisjoint({"use", "have", "be", "more"}))


@dataclass(frozen=True)
class _Part:
    """A sentence, or a part of one that is read by itself."""

    source: str
    words: tuple[str, ...]
    mentions: tuple[_Mention, ...] | None  # None: not understood
    is_question: bool

    @property
    def is_task(self) -> bool:
        """Whether it asks for something else, such as an essay."""
        known = _vocabulary()
        meant = [word for word in self.words if (word,) not in known.phrases or known.phrases[(word,)].kind != "fill"]
        return self.mentions is None and (self.is_question or not known.tasks.isdisjoint(meant[:3]))


def understand(text: str, axes: Sequence[Axis]) -> Understood:
    """Read the wishes about some axes in a text; of a wish and its opposite neither is taken.

    Beside a task, such as an essay to write, only what is to last is a wish: all else says how the essay should be.
    """
    parts = [part for sentence in _sentences(text) for part in sentence]
    heard = f" {' '.join(words_of(text))} "
    if any(part.is_task for part in parts) and not any(f" {phrase} " in heard for phrase in _vocabulary().lasting):
        parts = [replace(part, mentions=None) for part in parts]
    signs = {axis.name: set[bool]() for axis in axes}
    stated = [[s for m in part.mentions or () for s in _statements(m, part.source, signs)] for part in parts]
    for statement in chain.from_iterable(stated):
        signs[statement.axis].add(statement.position > 0)
    clear = [[s for s in some if len(signs[s.axis]) == 1] for some in stated]
    strongest = sorted(chain.from_iterable(clear), key=lambda statement: abs(statement.position))
    remainder = [part.source for part, some in zip(parts, clear, strict=True) if not some and part.mentions != ()]
    return Understood(tuple({statement.axis: statement for statement in strongest}.values()), tuple(remainder))


def _statements(mention: _Mention, source: str, names: Container[str]) -> Iterator[Statement]:
    assert mention.phrase.topic is not None, "only topics are mentioned"
    for name in mention.phrase.topic.axes.split():
        sign = -mention.sign if name.startswith("-") else mention.sign
        if name.lstrip("-") in names:
            yield Statement(name.lstrip("-"), sign * mention.degree, "said", source)


def _sentences(text: str) -> Iterator[list[_Part]]:
    """Each sentence in as few parts as can be understood."""
    pieces = SENTENCE_END.split(text)
    for piece, end in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        if WORD.search(piece):
            tokens = list(TOKEN.finditer(piece))
            yield _parts(piece, tokens, "?" in end, BREAKS)


def _parts(piece: str, tokens: Sequence[re.Match[str]], is_question: bool, breaks: Sequence[str]) -> list[_Part]:
    spelt = [token.group().lower().replace("’", "'") for token in tokens]
    words = tuple(_vocabulary().forms.get(word, word) for word in spelt)
    mentions = _read(words, is_part=breaks != BREAKS)
    if mentions is not None or not breaks:
        source = piece[tokens[0].start() : tokens[-1].end()]
        return [_Part(source, words, mentions, is_question)]
    ends = [i for i, word in enumerate(words) if word == breaks[0]]
    runs = [tokens[i + 1 : j] for i, j in pairwise([-1, *ends, len(words)])]
    return [part for run in runs if run for part in _parts(piece, run, is_question, breaks[1:])]


def _read(words: tuple[str, ...], is_part: bool) -> tuple[_Mention, ...] | None:
    """Read a clause; None where a word isn't known, or it may be about anything but replies."""
    known = _vocabulary()
    plain = [word for word in words if word not in known.polite]
    if len(words) > MAX_WORDS:
        return None
    clause, start, ended = _Clause(is_asked=len(plain) < len(words)), 0, (*plain, END)
    while start < len(ended):
        sizes = range(min(MAX_PHRASE, len(ended) - start), 0, -1)
        phrase = next((p for size in sizes if (p := ended[start : start + size]) in known.phrases), None)
        if phrase is None:
            return None
        clause.take(known.phrases[phrase], phrase[0])
        start += len(phrase)
    return clause.wishes(is_part)


@dataclass(frozen=True)
class _Vocabulary:
    """What ``wishes.toml`` holds, by the words of each phrase."""

    phrases: Mapping[tuple[str, ...], _Phrase]
    forms: Mapping[str, str]
    polite: frozenset[str]
    tasks: frozenset[str]
    lasting: frozenset[str]


@cache
def _vocabulary() -> _Vocabulary:
    held = tomllib.loads(files("personalign.learn").joinpath("wishes.toml").read_text("utf-8"))
    phrases = {phrase: _Phrase(kind) for kind, text in held["frames"].items() for phrase in _phrases(text)}
    for topic in (Topic(**row) for row in held["topics"]):
        kinds = {"quality": (topic.more, topic.less), "means": (topic.means_more, topic.means_less)}
        for kind, ends in (kinds | {"thing": (topic.things, ""), "act": (topic.acts, "")}).items():
            for sign, text in zip((1, -1), ends, strict=True):
                phrases |= {phrase: _Phrase(kind, sign, topic) for phrase in _phrases(text)}
    sets = {name: frozenset(COMMA.split(text.strip())) for name, text in held["words"].items()}
    return _Vocabulary(phrases, held["forms"], **sets)


def _phrases(text: str) -> Iterator[tuple[str, ...]]:
    yield from (tuple(phrase.split()) for phrase in COMMA.split(text.strip()) if phrase)
