"""A log's informative answers, with people and replies numbered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from personalign.train.log import AnswerLog
from personalign.types import INFORMATIVE, Message


@dataclass(frozen=True, eq=False)
class Answers:
    """Informative answers, and the different replies that they are about."""

    person: Int[NDArray[np.int64], "N"]  # counted from 0
    a: Int[NDArray[np.int64], "N"]  # the reply on the left
    b: Int[NDArray[np.int64], "N"]
    choice: NDArray[np.object_]
    prompts: Sequence[Sequence[Message]]  # of every reply
    texts: Sequence[str]
    where: Sequence[str]  # a reply stands first

    @property
    def num_people(self) -> int:
        """How many people answered."""
        return int(self.person.max(initial=-1)) + 1


def number_answers(log: AnswerLog) -> Answers:
    """Number people and different replies in the order of names and of appearance."""
    kept = [i for i, choice in enumerate(log.choice) if choice in INFORMATIVE]
    places: dict[str, int] = {}
    prompts: list[Sequence[Message]] = []
    texts: list[str] = []
    where: list[str] = []
    sides: dict[str, list[int]] = {"a": [], "b": []}
    for i in kept:
        for side, reply in (("a", log.a[i]), ("b", log.b[i])):
            key = json.dumps([list(log.prompt[i]), reply])
            if key not in places:
                places[key] = len(texts)
                prompts.append(log.prompt[i])
                texts.append(reply)
                where.append(f"{side} of answer {i + 1}")
            sides[side].append(places[key])
    person = np.unique([log.user[i] for i in kept], return_inverse=True)[1].astype(np.int64).ravel()
    choice = np.array([log.choice[i] for i in kept], dtype=object)
    return Answers(person, np.array(sides["a"]), np.array(sides["b"]), choice, prompts, texts, where)
