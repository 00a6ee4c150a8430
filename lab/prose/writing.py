"""Replies under each arm, and how fluent they are. Each shard is kept, so a killed run goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from lab.prose.arms import Arm, Served
from lab.prose.people import Person, Scale
from personalign.bundled import SMOLLM2_GENERATION
from personalign.decode import Request, generate
from personalign.decode.load import CausalModel, render
from personalign.decode.models import Models
from personalign.learn.axes import features
from personalign.options import Options
from personalign.train.basis.calibrate import repetition
from personalign.train.work import identity, track, write_whole
from personalign.types import Array, Message

SERVED = SMOLLM2_GENERATION
MAX_TOKENS = 128
SHARD = 108  # requests that are written and kept together: a third of an arm


@dataclass(frozen=True)
class Written:
    """Replies in order, and what the engine said of each."""

    texts: list[str] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)  # nats a token
    tokens: list[int] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)  # ended by the limit

    def __add__(self, other: Written) -> Written:
        """Both, one after the other."""
        return Written(self.texts + other.texts, self.kl + other.kl, self.tokens + other.tokens, self.cut + other.cut)

    def take(self, rows: Sequence[int]) -> Written:
        """Some of them."""
        return Written(
            [self.texts[i] for i in rows],
            [self.kl[i] for i in rows],
            [self.tokens[i] for i in rows],
            [self.cut[i] for i in rows],
        )


@dataclass(frozen=True, eq=False)
class Desk:
    """Everything that replies are written with."""

    models: Models
    served: Served
    picked: Served  # the same people, who were asked by picks
    people: Sequence[Person]
    prompts: Sequence[str]
    turns: Int[NDArray[np.int64], "people prompts"]  # which prompts each person writes
    scale: Scale
    work: Path

    def plain(self, num_draws: int) -> list[Written]:
        """The model's own replies to every prompt, draw by draw."""
        return [
            self._write(
                f"base.{draw}",
                [Request(self.conversation(i), self._options({}, i, draw)) for i in range(len(self.prompts))],
            )
            for draw in range(num_draws)
        ]

    def reply(self, arm: Arm, base: Sequence[Written]) -> Written:
        """Everyone's replies to their prompts, row by row; what needs no steering is chosen from ``base``."""
        if arm.rule is None:
            drafts = [draws.take(self.turns.ravel().tolist()) for draws in base[: arm.drafts]]
        else:
            drafts = [self._write(f"{arm.name}.{draw}", self._requests(arm, draw)) for draw in range(arm.drafts)]
        return drafts[0] if arm.drafts == 1 else self._best(arm, drafts)

    def served_in(self, arm: Arm) -> Served:
        """What is known of the people as the arm asked them."""
        return self.picked if arm.asked == "picks" else self.served

    def _requests(self, arm: Arm, draw: int) -> list[Request]:
        return [
            Request(
                self.conversation(prompt, self.served_in(arm).profiles[i].as_system_prompt() if arm.in_words else ""),
                self._options(arm.rule or {}, prompt, draw),
                self.served_in(arm).guidance(i, arm.weights),
            )
            for i, row in enumerate(self.turns.tolist())
            for prompt in row
        ]

    def conversation(self, prompt: int, words: str = "") -> tuple[Message, ...]:
        """A prompt behind the operator's system message, with what else it says."""
        return opening(words), {"role": "user", "content": self.prompts[prompt]}

    def _options(self, rule: dict[str, object], prompt: int, draw: int) -> Options:
        drawn = {"temperature": SERVED.temperature, "top_p": SERVED.top_p, "seed": 1000 * draw + prompt}
        return Options.from_keywords({"max_tokens": MAX_TOKENS} | drawn | rule)

    def _best(self, arm: Arm, drafts: Sequence[Written]) -> Written:
        """Each row's best draft."""
        num_prompts = self.turns.shape[1]
        chosen = []
        for row in range(self.turns.size):
            person = row // num_prompts
            texts = [draft.texts[row] for draft in drafts]
            chosen.append(int(self._liking(arm, person, int(self.turns.flat[row]), texts).argmax()))
        rows = [drafts[best].take([row]) for row, best in enumerate(chosen)]
        return sum(rows[1:], rows[0])

    def _liking(self, arm: Arm, person: int, prompt: int, texts: list[str]) -> Float[Array, "n"]:
        if arm.chooser == "taste":
            return self.people[person].utility(self.scale.measure(texts))
        guidance = self.served_in(arm).guidance(person, arm.weights)
        assert guidance is not None, "drafts are chosen by somebody's weights"
        conversation = self.conversation(prompt)
        return np.asarray(features(self.served.basis, [conversation] * len(texts), texts) @ guidance.weights)

    @cached_property
    def _head(self) -> str:
        return identity(*(self.served.basis.head or {}).values())

    def _write(self, name: str, requests: Sequence[Request]) -> Written:
        shards = [requests[i : i + SHARD] for i in range(0, len(requests), SHARD)]
        return sum((self._shard(name, shard) for shard in track(shards, name)), Written())

    def _shard(self, name: str, requests: Sequence[Request]) -> Written:
        """Write some replies, or read those that an earlier run has kept."""
        weights = [[] if r.guidance is None else r.guidance.weights.tolist() for r in requests]
        content = [[list(r.messages), _chosen(r.options)] for r in requests]
        steering = [asdict(self.models.steering), self._head] if any(weights) else []
        path = self.work / name / f"{identity(content, weights, steering, asdict(self.models.base.fingerprints))}.json"
        if not path.exists():
            replies = generate(self.models, requests)
            columns = [
                [r.text for r in replies],
                [r.kl for r in replies],
                [len(r.ids) for r in replies],
                [r.finish_reason == "length" for r in replies],
            ]
            write_whole(path, lambda partial: partial.write_text(json.dumps(columns), encoding="utf-8"))
        return Written(*json.loads(path.read_text(encoding="utf-8")))


def opening(words: str = "") -> Message:
    """The operator's system message, with what else it says."""
    return {"role": "system", "content": f"{SERVED.system}\n{words}".strip()}


def _chosen(options: Options) -> dict[str, object]:
    """What isn't as it is by default: an option that is new to the product leaves what was kept as it is."""
    usual = Options()
    values = {option.name: getattr(options, option.name) for option in fields(options)}
    return {name: value for name, value in values.items() if value != getattr(usual, name)}


def repeated(written: Written) -> float:
    """Share of word trigrams that occurred before in their reply, the mean over replies."""
    return float(np.mean([repetition(text) for text in written.texts]))


@torch.inference_mode()
def bits_per_character(causal: CausalModel, prompts: Sequence[Sequence[Message]], written: Written) -> float:
    """How surprising replies are to the unsteered model, prompted as it was: bits over all, by their characters."""
    bits, characters = 0.0, 0
    for prompt, text in zip(prompts, written.texts, strict=True):
        before = render(causal.tokenizer, prompt)
        ids: list[int] = causal.tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids:
            logits = causal.model(input_ids=torch.tensor([before + ids])).logits[0, len(before) - 1 : -1]
            log_p = logits.float().log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])
            bits, characters = bits - float(log_p.sum()) / math.log(2), characters + len(text)
    return bits / max(characters, 1)
