"""Closed-book questions: half from WebQuestions (CC BY 4.0), half from OpenTriviaQA (CC BY-SA 4.0).

OpenTriviaQA's were asked with four options beside them. Those that lean on these are left out by their words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.prose.writing import SERVED
from personalign.errors import InputError
from personalign.types import Message

INSTRUCTION = "Answer with a name or a few words only."
LONGEST, MOST_WORDS = 150, 4  # characters of a question, words of an answer
BY_OPTIONS = re.compile(r"\b(these|this|those|following|not|except|which one|odd)\b", re.IGNORECASE)
NO_ANSWER = re.compile(r"(true|false|yes|no|all|none|both|neither)\b", re.IGNORECASE)


@dataclass(frozen=True)
class ClosedBook:
    """A question and what counts as right; the first of the answers is the one whose bits are counted."""

    text: str
    answers: tuple[str, ...]

    @property
    def messages(self) -> tuple[Message, ...]:
        """How it is asked."""
        system: Message = {"role": "system", "content": SERVED.system}
        return system, {"role": "user", "content": f"{self.text}\n{INSTRUCTION}"}

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The same with the first answer."""
        return *self.messages, {"role": "assistant", "content": self.answers[0]}

    def is_answered(self, reply: str) -> bool:
        """Whether a reply holds one of the answers, as words of its own."""
        said = f" {_plain(reply)} "
        return any(f" {_plain(answer)} " in said for answer in self.answers)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def read_questions(data: Path, num: int) -> list[ClosedBook]:
    """Draw ``num`` questions, the same ones each time, the two sets in turns.

    Raises:
        InputError: the folder lacks a set, or the sets have too few.
    """
    sets = [[q for q in questions if _is_closed(q)] for questions in (_web(data), _trivia(data))]
    if num > 2 * min(map(len, sets)):
        raise InputError(f"{num} questions are asked for, and the sets have {2 * min(map(len, sets))} to draw from")
    drawn = [[few[i] for i in np.random.default_rng(0).permutation(len(few))[: -(-num // 2)]] for few in sets]
    return [question for pair in zip(*drawn, strict=True) for question in pair][:num]


def _is_closed(question: ClosedBook) -> bool:
    answer = question.answers[0]
    is_short = len(question.text) <= LONGEST and 1 <= len(answer.split()) <= MOST_WORDS
    return is_short and bool(_plain(answer)) and not BY_OPTIONS.search(question.text) and not NO_ANSWER.match(answer)


def _web(data: Path) -> Iterator[ClosedBook]:
    for row in json.loads(_read(data, "webquestions_train.json")):
        yield ClosedBook(row["qText"], tuple(row["answers"]))


def _trivia(data: Path) -> Iterator[ClosedBook]:
    rows: Iterator[dict[str, Any]] = map(json.loads, _read(data, "opentriviaqa.jsonl").splitlines())
    return (ClosedBook(r["question"], (r["answer"],)) for r in rows if r["question"].endswith("?"))


def _read(data: Path, name: str) -> str:
    path = data / "corpora" / name
    if not path.is_file():
        raise InputError(f"{path} isn't there; expected the folder that holds corpora/{name}; name it with --data DIR")
    return path.read_text("utf-8")
