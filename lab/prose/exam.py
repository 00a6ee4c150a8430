"""Closed-book questions put to a model in several ways: how likely it makes the answers, and whether it gives them.

Every way is the engine's own path. What an earlier run has measured is taken from its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from lab.prose.dictation import Dictation, Marks
from lab.prose.questions import ClosedBook
from personalign.decode import Models, Request, generate
from personalign.options import Options
from personalign.train.work import identity, keep, track
from personalign.types import Guidance

MAX_TOKENS = 24  # of a reply that is looked through for an answer
SHARD = 64  # questions that are asked and kept together
Table = Float[NDArray[np.float64], "n columns"]


@dataclass(frozen=True, eq=False)
class Way:
    """How questions are asked: by which models, and to whom they are answered."""

    name: str
    models: Models
    origin: str  # what the models follow from, as an identity
    people: Sequence[Guidance] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    in_turns: bool = False  # whether one person hears each answer, and not all do

    def listeners(self, question: int) -> Sequence[Guidance | None]:
        """Under whose weights a question is answered; None is no one's."""
        if not self.people:
            return [None]
        return [self.people[question % len(self.people)]] if self.in_turns else self.people

    @property
    def identity(self) -> str:
        """A name for all that the answers follow from, beside the questions."""
        weights = [[*person.weights.tolist(), person.strength] for person in self.people]
        return identity(self.origin, weights, dict(self.options), asdict(self.models.steering), self.in_turns)


@dataclass(frozen=True, eq=False)
class Exam:
    """The questions, and the folder of what is measured."""

    questions: Sequence[ClosedBook]
    work: Path

    def dictate(self, way: Way) -> Marks:
        """How likely every token of the first answers is, question by question and there listener by listener."""
        return Marks.read(self._asked(way, "dictated", self._dictated))

    def write(self, way: Way) -> Bool[NDArray[np.bool_], "n"]:
        """Which replies hold an answer, question by question."""
        return np.asarray(self._asked(way, "written", self._written)[:, 0] > 0)

    def _asked(self, way: Way, kind: str, measure: Callable[[Way, range], Table]) -> Table:
        starts = range(0, len(self.questions), SHARD)
        shards = [range(start, min(start + SHARD, len(self.questions))) for start in starts]
        return np.concatenate([self._kept(way, kind, measure, shard) for shard in track(shards, f"{way.name} {kind}")])

    def _kept(self, way: Way, kind: str, measure: Callable[[Way, range], Table], shard: range) -> Table:
        name = identity(way.identity, [asdict(self.questions[i]) for i in shard], MAX_TOKENS)
        path = self.work / kind / way.name / f"{shard.start}-{name}.safetensors"
        return keep(path, lambda: {"table": measure(way, shard)})["table"]

    def _dictated(self, way: Way, shard: range) -> Table:
        base = way.models.base
        answers, requests = [], []
        for i in shard:
            ids: list[int] = base.tokenizer(self.questions[i].answers[0], add_special_tokens=False)["input_ids"]
            for listener in way.listeners(i):
                answers.append(ids)
                requests.append(self._request(way, i, listener, len(ids)))
        dictation = Dictation(answers, way.models.steering.num_candidates, base.ends)
        generate(way.models, requests, steers=[dictation])
        offset = shard.start * len(way.listeners(0))
        table: Table = dictation.noted + np.array([offset, 0, 0, 0])
        return table

    def _written(self, way: Way, shard: range) -> Table:
        requests = [self._request(way, i, listener, MAX_TOKENS) for i in shard for listener in way.listeners(i)]
        replies = generate(way.models, requests)
        right = [self.questions[i].is_answered(reply.text) for i, reply in zip(shard, replies, strict=True)]
        return np.array(right, dtype=np.float64)[:, None]

    def _request(self, way: Way, question: int, listener: Guidance | None, max_tokens: int) -> Request:
        options = Options.from_keywords({"max_tokens": max_tokens, "seed": question} | dict(way.options))
        return Request(self.questions[question].messages, options, listener)
