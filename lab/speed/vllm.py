"""``personalign bench vllm``: what people's rewards cost in vLLM, our engine beside it, and how soon a profile acts.

It runs where vLLM is installed. Both engines write as many tokens in turns: SmolLM2 in float32, 64 greedy tokens after
prompts of 64. vLLM compiles the model, and keeps no prefixes. Both run in this process, with a thread each: ratios are
of processor time, which on a quiet machine is the time that passes, and on a busy one isn't disturbed as much.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lab.bootstrap import quantile
from lab.harness import Bar, Group, Report, Row, choose, turns
from lab.speed.batch import Batch, EngineSide
from lab.speed.freshness import elsewhere
from lab.speed.interleave import Side, interleave, ratios
from lab.speed.models import Specimens
from personalign.decode.load import render
from personalign.integrations.vllm.people import STRENGTH, USER
from personalign.integrations.vllm.server import Offline, Place
from personalign.service import Personalign
from personalign.settings import set_environment

BARS: Mapping[str, Bar] = {
    "vllm_heads_over_plain.16": Bar("≥", 0.95),
    **{f"engine_over_vllm_cpu.{num}": Bar("≥", 0.8) for num in (1, 16)},
    "vllm_reload_p99_ms": Bar("≤", 1000),
}
MODEL = "smollm2"
AXES = ("length", "reply_length")  # on which the people differ
PACKAGES = ("torch", "transformers", "personalign", "vllm-cpu")
TIMEOUT_S = 60.0  # after which the other process counts as dead


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    num_users: int = 16
    num_tokens: int = 64
    num_rounds: int = 5
    num_reloads: int = 100
    reload_tokens: int = 2
    reload_strength: float = 4.0  # so that two tokens tell which profile it is


class Subject:
    """Both engines on one store, made when they are first asked for."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.place = plan, Place(MODEL, f"sqlite:///{folder / 'people.db'}")
        self.specimens = Specimens("cpu")
        with Personalign.open(self.place.store, MODEL) as p:
            self.axis = next(axis.name for axis in p.basis.axes if axis.name in AXES)
            for i in range(plan.num_users):
                p.set(f"user {i}", **{self.axis: 2 * i / (plan.num_users - 1) - 1})

    @cached_property
    def vllm(self) -> Offline:
        """VLLM's engine with our processor."""
        sizes = {"max_model_len": 512, "max_num_seqs": self.plan.num_users, "kv_cache_memory_bytes": 1 << 30}
        return Offline(self.place, dtype="float32", enable_prefix_caching=False, **sizes)

    def batch(self, num: int, num_prompt_tokens: int = 64) -> Batch:
        """So many requests."""
        return Batch.random(self.specimens.smollm2.base, [self.plan.num_tokens] * num, num_prompt_tokens)

    def prompts(self, num: int, num_prompt_tokens: int = 64) -> list[list[int]]:
        """The same as tokens."""
        words = self.specimens.smollm2.base.tokenizer
        return [render(words, request.messages) for request in self.batch(num, num_prompt_tokens).requests(1)]

    def inside(self, people: Sequence[Mapping[str, Any] | None]) -> Side:
        """VLLM's turn: seconds for a batch of these people."""
        prompts = self.prompts(len(people))

        def run(most: int) -> float:
            started = time.perf_counter()
            tokens = self.vllm.write(prompts, people, max_tokens=most, ignore_eos=True)
            seconds = time.perf_counter() - started
            assert all(len(reply) == most for reply in tokens), "nothing ends a reply before its time"
            return seconds

        return run


def run_vllm(plan: Plan, only: str = "", out: Path | None = None) -> dict[str, Any]:
    """Measure the figures whose names begin with ``only``; ``out`` is renewed with each row."""
    set_environment({"VLLM_CPU_OMP_THREADS_BIND": "nobind"})  # no core of its own: other work may be on it
    report = Report("personalign bench vllm", "cpu", PACKAGES, dict(BARS), out)
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(plan, Path(folder))
        for group in choose(GROUPS, only):
            report.extend(group.measure(subject))
    return report.to_json()


def _heads(subject: Subject) -> Iterator[Row]:
    """Tokens a second with a person each over those without."""
    plan = subject.plan
    people = [{USER: f"user {i}"} for i in range(plan.num_users)]
    sides = {"plain": subject.inside([None] * plan.num_users), "heads": subject.inside(people)}
    yield _over("vllm_heads_over_plain", plan, plan.num_users, sides, "people in vLLM")


def _engines(subject: Subject, num: int) -> Iterator[Row]:
    """Tokens a second of our engine over vLLM's, for nobody."""
    plan = subject.plan
    engine = EngineSide(subject.specimens.bare(MODEL), subject.batch(num))
    sides = {"vllm": subject.inside([None] * num), "engine": engine.side()}
    yield _over("engine_over_vllm_cpu", plan, num, sides, f"our engine and vLLM's, {num} requests")


def _over(figure: str, plan: Plan, num: int, sides: Mapping[str, Side], name: str) -> Row:
    """How much faster the second of two sides is, by the processor and by the clock, and how busy the machine was."""
    load, clock = os.getloadavg()[0], {side: Clock(run) for side, run in sides.items()}
    seconds = interleave({side: one.processor_s for side, one in clock.items()}, plan.num_rounds, plan.num_tokens, name)
    below, above = sides
    tokens = num * plan.num_tokens
    facts: dict[str, Any] = {
        f"tokens_per_s.{side}": tokens / quantile(seconds[side]).value
        for side in sides  # of a processor
    }
    passed = [
        one / other for one, other in zip(clock[below].passed[1:], clock[above].passed[1:], strict=True)
    ]  # the first warms up
    facts |= {"by_the_clock": quantile(passed).value, "rounds": plan.num_rounds, "load_before": load}
    return Row.estimated(f"{figure}.{num}", quantile(ratios(seconds[below], seconds[above])), facts)


class Clock:
    """A side whose turns are measured by the processor, and what passes meanwhile."""

    def __init__(self, run: Side) -> None:
        self._run = run
        self.passed: list[float] = []

    def processor_s(self, num_tokens: int) -> float:
        """Processor seconds of a turn."""
        started = time.process_time()
        self.passed.append(self._run(num_tokens))
        return time.process_time() - started


def _reload(subject: Subject) -> Iterator[Row]:
    """Milliseconds from another process's commit of a profile to the end of the first short reply that it steers."""
    plan, prompts = subject.plan, subject.prompts(subject.plan.num_users, 8)
    person = {USER: "user 0", STRENGTH: plan.reload_strength}

    def written(some: Sequence[list[int]]) -> list[list[int]]:
        return subject.vllm.write(some, [person] * len(some), max_tokens=plan.reload_tokens, ignore_eos=True)

    milliseconds = []
    with elsewhere(_move_when_told, subject.place.store, subject.axis) as other:
        replies = []
        for _ in (-1, 1):  # the other process moves the person to and fro
            _moved(other)
            replies.append(written(prompts))
        place = next(i for i, (one, two) in enumerate(zip(*replies, strict=True)) if one != two)
        for i in turns(plan.num_reloads, "profiles that change"):
            committed = _moved(other)
            while written([prompts[place]])[0] != replies[i % 2][place]:
                assert time.monotonic() < committed + TIMEOUT_S, "the profile never acts"
            milliseconds.append(1e3 * (time.monotonic() - committed))
    facts = {"p50_ms": quantile(milliseconds).value, "tokens": plan.reload_tokens, "rounds": len(milliseconds)}
    yield Row.estimated("vllm_reload_p99_ms", quantile(milliseconds, 0.99), facts | {"load_before": os.getloadavg()[0]})


def _move_when_told(store: str, axis: str, signal: Connection) -> None:
    """Let a person change their mind, to and fro."""
    position = -1.0
    with Personalign.open(store, MODEL) as p:
        while True:
            signal.recv()
            p.set("user 0", **{axis: position})
            signal.send(time.monotonic())
            position = -position


def _moved(other: Connection) -> float:
    """Let the other process change the profile; when that was committed, on the clock that all processes share."""
    other.send(None)
    assert other.poll(TIMEOUT_S), "the other process is dead"
    return float(other.recv())


GROUPS: Sequence[Group[Subject]] = (
    Group(("vllm_heads_over_plain.16",), _heads),
    Group(("engine_over_vllm_cpu.16",), lambda subject: _engines(subject, 16)),
    Group(("engine_over_vllm_cpu.1",), lambda subject: _engines(subject, 1)),
    Group(("vllm_reload_p99_ms",), _reload),
)
