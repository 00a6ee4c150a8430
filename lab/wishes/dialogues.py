"""Sentences that people wrote in real dialogues and to assistants. No text of them is kept, only hashes and labels."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.learning.populations.votes import MissingData
from personalign.learn.prose import word_set

SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
MOST_WORDS = 40
# words that wishes have, too: half of the sentences that are judged hold one
STYLE = word_set(
    "short shorter long longer brief detail details bullet list lists emoji question questions example examples "
    "formal casual simple simpler words sentence sentences number numbers names step steps warm friendly calm "
    "tone answer answers reply explain stop less fewer more too don't please no avoid without prefer concise "
    "direct point options confirm language repeat introduction warning risks bold table heading paragraph code"
)
NUM_STYLED, NUM_PLAIN = 150, 100


def sentences(data: Path) -> Iterator[str]:
    """Every different sentence of the users' turns, in an order that the files give.

    Raises:
        MissingData: the folder doesn't hold the sets.
    """
    seen: set[str] = set()
    for turn in _turns(data):
        for match in SENTENCE.finditer(turn):
            text = match.group().strip()
            if text not in seen and len(text.split()) <= MOST_WORDS:
                seen.add(text)
                yield text


def _turns(data: Path) -> Iterator[str]:
    corpora = data / "corpora"
    for row in _lines(corpora / "sgd_dialogues.jsonl"):
        yield from row["turns"][::2]  # the assistant has the others
    for name in ("self_dialogue", "topical_chat_validtest"):
        yield from (turn for row in _lines(corpora / f"{name}.jsonl") for turn in row["turns"])
    for row in _lines(corpora / "synthetic_persona_chat_validtest.jsonl"):
        yield from (line.partition(": ")[2] for line in str(row["conversation"]).splitlines())
    for row in json.loads(_file(corpora / "gpteacher_roleplay.json").read_text("utf-8")):
        yield f"{row['instruction']}\n{row['input']}"
    yield from (row["prompt"] for row in _lines(data / "prism_partial" / "interactions.jsonl"))
    yield from (row["instruction"] for row in _lines(data / "alpaca_eval" / "outputs.jsonl"))


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    return map(json.loads, _file(path).read_text("utf-8").splitlines())


def _file(path: Path) -> Path:
    if not path.is_file():
        raise MissingData(f"found no {path}, expected real dialogues; pass the data folder with --data")
    return path


def drawn(held_out: Sequence[str], seed: int = 0) -> list[str]:
    """The sentences that are judged by eye: some with a word of style, some without, drawn by chance."""
    styled = [text for text in held_out if STYLE.intersection(text.lower().split())]
    plain = [text for text in held_out if not STYLE.intersection(text.lower().split())]
    rng = random.Random(seed)
    return rng.sample(styled, NUM_STYLED) + rng.sample(plain, NUM_PLAIN)
