"""Sentences with what they say: ``sentences.tsv`` holds made-up ones, the data folder real ones.

The made-up ones were written before the matcher, and half of them, by a hash, were looked at when it was made. A label
names an axis of an assistant's prose, or of a dialogue where only that has it, and its direction.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from personalign.learn.axes import SETS
from personalign.learn.wishes import understand

Part = Literal["dev", "held_out"]
SENTENCES = Path(__file__).with_name("sentences.tsv")
# axes of dialogues that mean what an axis of prose means, and which count the other way round
SAME: Mapping[str, str] = MappingProxyType(
    {
        "length": "reply_length",
        "questions": "asking_back",
        "warmth": "empathy",
        "enthusiasm": "excitement",
        "figures": "numbers",
        "names": "proper_names",
        "echo": "restating",
        "first_person": "saying_i",
        "second_person": "addressing",
        "contractions": "-formality",
        "hedging": "tentativeness",
        "sentence_length": "sentence_words",
        "opening": "preamble",
    }
)
AXES = tuple(axis for axis_set in SETS.values() for axis in axis_set.axes)
LABEL = re.compile(r"(\w+)([+-])([~!]?)")


@dataclass(frozen=True)
class Labelled:
    """A sentence, and which axes it wants more or less of."""

    text: str
    wishes: frozenset[str]  # such as "reply_length-"


def part_of(text: str) -> Part:
    """Which half a sentence is in."""
    return "dev" if hashlib.sha256(text.encode()).digest()[0] % 2 == 0 else "held_out"


def made_up(part: Part) -> Iterator[Labelled]:
    """The sentences of one half."""
    for line in SENTENCES.read_text("utf-8").splitlines():
        labels, text = line.split("\t")
        if part_of(text) == part:
            yield Labelled(text, frozenset(axis + sign for axis, sign, _ in LABEL.findall(labels)))


def heard(text: str) -> frozenset[str]:
    """What is understood of a sentence, under one name for each axis."""
    found = set()
    for wish in understand(text, AXES).wishes:
        name = SAME.get(wish.axis, wish.axis)
        is_more = (wish.position > 0) != name.startswith("-")
        found.add(name.removeprefix("-") + ("+" if is_more else "-"))
    return frozenset(found)
