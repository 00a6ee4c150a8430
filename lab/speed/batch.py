"""Requests that are sent at once, and the sides that write their replies: our engine, and what it is held against."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel

from lab.speed.baselines import args
from lab.speed.interleave import Side
from lab.speed.models import untouched
from personalign.decode.engine import Engine
from personalign.decode.load import CausalModel
from personalign.decode.models import Models
from personalign.decode.request import Piece, Request
from personalign.decode.seq import Seq
from personalign.options import Options, Rule
from personalign.types import Guidance, Reply


@dataclass(frozen=True)
class Batch:
    """Prompts of random tokens, and how many tokens are written after each."""

    prompts: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]

    @classmethod
    def random(cls, base: CausalModel, lengths: Sequence[int], num_prompt_tokens: int) -> Batch:
        """A prompt for every length."""
        ids = np.random.default_rng(0).integers(1, base.num_tokens, size=(len(lengths), num_prompt_tokens))
        return cls(tuple(map(tuple, ids.tolist())), tuple(lengths))

    @property
    def longest(self) -> int:
        """The most tokens that a prompt and its reply come to."""
        return max(len(prompt) + length for prompt, length in zip(self.prompts, self.lengths, strict=True))

    def requests(
        self,
        most: int,
        guidance: Sequence[Guidance] | None = None,
        rule: Rule = "successor",
        expert: str | None = None,
        temperature: float = 0.0,
    ) -> list[Request]:
        """A request for every prompt, of at most so many tokens, for these people or for nobody."""
        return [
            Request(
                ({"role": "user", "content": " ".join(map(str, prompt))},),
                Options(min(length, most), temperature, expert=expert, rule=rule, seed=i),
                guidance[i] if guidance else None,
            )
            for i, (prompt, length) in enumerate(zip(self.prompts, self.lengths, strict=True))
        ]


def people(num: int, num_axes: int, strength: float = 1.0) -> list[Guidance]:
    """Distinct people of random tastes, about whom all is known."""
    weights = np.random.default_rng(1).normal(size=(num, num_axes))
    return [Guidance(w, strength, revision=1, user=f"user {i}") for i, w in enumerate(weights)]


class EngineSide:
    """An engine that is kept between its turns, as a server keeps it; prompts are rendered before the clock starts."""

    def __init__(self, models: Models, batch: Batch, siblings: int = 1) -> None:
        self._models, self._batch = models, batch
        num = len(batch.prompts)
        self._engine = Engine(models, num * siblings, batch.longest, max_waiting=num)

    def side(
        self, guidance: Sequence[Guidance] | None = None, rule: Rule = "successor", temperature: float = 0.0
    ) -> Side:
        """Write the batch for these people, or for nobody: seconds from the first request to the last token."""
        return lambda most: self._write(self._batch.requests(most, guidance, rule, temperature=temperature))[-1]

    def step_side(self, expert: str | None = None) -> Side:
        """Write the batch: seconds a step, once all prompts are read."""

        def run(most: int) -> float:
            times = self._write(self._batch.requests(most, expert=expert))
            return (times[-1] - times[0]) / max(1, len(times) - 1)

        return run

    def _write(self, requests: Sequence[Request]) -> list[float]:
        """Seconds from the first request to the end of each step."""
        outcomes: dict[int, Reply | Exception | Piece] = {}
        replies = [Seq(self._models, r, i, partial(outcomes.__setitem__, i)) for i, r in enumerate(requests)]
        times: list[float] = []
        started = time.perf_counter()
        self._engine.submit(replies)
        while not self._engine.is_idle:
            self._engine.step()
            times.append(time.perf_counter() - started)
        for i, request in enumerate(requests):
            _check(outcomes[i], request)
        return times


def _check(outcome: object, request: Request) -> None:
    """A measurement of something else than what was asked for is no measurement."""
    if isinstance(outcome, Exception):
        raise outcome
    assert isinstance(outcome, Reply), "every request has its reply"
    assert len(outcome.ids) == request.options.max_tokens, "nothing ends a reply before its time"
    is_guided = request.options.rule == "args" or (request.guidance is not None and request.guidance.strength > 0)
    assert outcome.guided == is_guided, f"guided is {outcome.guided}, because of {outcome.reason}"
    is_tilted = is_guided and request.options.rule != "blocks"
    assert (outcome.tilt_kl > 0) == is_tilted, f"KL is {outcome.tilt_kl}"


def generate_side(model: PreTrainedModel, batch: Batch) -> Side:
    """Transformers' own ``generate`` on the whole batch, greedy: it runs until the longest reply is written."""
    longest = max(map(len, batch.prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in batch.prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch.prompts])
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}

    def run(most: int) -> float:
        started = time.perf_counter()
        num = min(most, max(batch.lengths))
        out = model.generate(**inputs, max_new_tokens=num, do_sample=False, pad_token_id=0)  # type: ignore[operator]
        written = out[:, longest:].tolist()
        seconds = time.perf_counter() - started
        assert all(len(row) == num for row in written), "nothing ends a reply before its time"
        return seconds

    return run


def naive_args_side(models: Models, batch: Batch) -> Side:
    """ARGS with its caches copied for every candidate, one reply after the other."""
    assert models.reward_model is not None, "ARGS asks a reward model"
    base = replace(models.base, model=untouched(models.base.model))
    reward = replace(models.reward_model, backbone=untouched(models.reward_model.backbone))

    def run(most: int) -> float:
        started = time.perf_counter()
        for prompt, length in zip(batch.prompts, batch.lengths, strict=True):
            ids = args.generate(base, reward, prompt, min(most, length))
            assert len(ids) == min(most, length), "nothing ends a reply before its time"
        return time.perf_counter() - started

    return run
