"""Speed of decoding: what a reward, an expert and many people at once cost, each against the same work without.

A figure is a ratio of sides that take turns (``interleave.py``), the median over the rounds with its bootstrap interval
beside it; sides that several ratios need share their rounds. ``plain`` is the engine with a head attached and strength
0, ``bare`` the engine with nothing attached. Prompts have 64 tokens and replies 64, and nothing ends a reply early, in
the bundled model neither. ``models.py`` says what is run.

What it costs on two cores, in about so many seconds: ragged lengths 710 (5 pairs of 26 and 116), 110m at 1, 8 and 32 at
once 90, 210 and 300 (20 rounds of 3, 4 and 3 sides), ARGS 110, the bundled model 10, the expert 40, heads 30.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lab.bootstrap import quantile
from lab.harness import Bar, Group, Report, Row, choose
from lab.speed import freshness
from lab.speed.baselines import args
from lab.speed.batch import Batch, EngineSide, generate_side, naive_args_side, people
from lab.speed.interleave import Seconds, Side, interleave, ratios
from lab.speed.models import EXPERT, Specimens, untouched
from personalign.decode import reference

BARS: Mapping[str, Bar] = {
    **{f"personal_over_plain.tiny.{n}": Bar("≥", 0.80) for n in (1, 8, 32)},
    **{f"personal_over_plain.110m.{n}": Bar("≥", 0.95) for n in (1, 8, 32)},
    **{f"personal_over_plain.smollm2.{n}": Bar("≥", 0.95) for n in (1, 8, 32)},
    "blocks4_time_over_plain.smollm2.1": Bar("≤", 2),
    "distinct_over_same.110m.32": Bar("≥", 0.98),
    **{f"plain_over_generate.110m.{n}": Bar("≥", 1.0) for n in (1, 8)},
    "ragged_over_generate.110m.32": Bar("≥", 1.5),
    "args_over_naive.110m.512": Bar("≥", 4),
    "expert_time_over_sum.110m": Bar("≤", 1.15),
    "attached_over_plain.110m.8": Bar("≥", 0.99),
    "head_write_us": Bar("≤", 50),
    "commit_to_steer_ms": Bar("≤", 10),
    "commit_to_steer_other_process_p99_ms": Bar("≤", 100),
    "bytes_10000_heads": Bar("≤", 10_000_000),
}
# a ratio of speeds: one side's ÷ another's
SPEEDS = {
    "personal_over_plain": ("personal", "plain"),
    "distinct_over_same": ("personal", "same"),
    "plain_over_generate": ("plain", "generate"),
    "plain_over_generate_by_onednn": ("plain", "generate_by_onednn"),  # what is left where both multiply alike
    "attached_over_plain": ("plain", "bare"),
}
MODELS, CONCURRENCIES = ("tiny", "smollm2", "110m"), (1, 8, 32)
DRAWN = 0.6  # the temperature of what isn't greedy
NUM_WRITES = 1000  # of heads that are timed one by one


@dataclass(frozen=True)
class Plan:
    """How much is measured: many pairs where the bar is close to 1, few where it is far away."""

    num_pairs: int = 20
    num_few: int = 5
    num_answers: int = 100
    num_heads: int = 10_000
    prompt_tokens: int = 64
    new_tokens: int = 64
    ragged_tokens: tuple[int, int] = (32, 512)
    args_prompt_tokens: int = 512
    is_full: bool = False  # every ratio of every model at every concurrency


class Subject(NamedTuple):
    """What is measured, and how much of it."""

    specimens: Specimens
    plan: Plan


def run_decode(
    device: str,
    plan: Plan,
    only: str = "",
    out: Path | None = None,
    make_specimens: Callable[[str], Specimens] = Specimens,
) -> dict[str, Any]:
    """Measure the figures whose names begin with ``only``; ``out`` is a file that is renewed with each of them.

    Raises:
        InputError: no figure's name begins so.
    """
    groups = choose(_groups(plan), only)
    subject = Subject(make_specimens(device), plan)
    report = Report(
        "personalign bench decode" + " --full" * plan.is_full, str(subject.specimens.device), bars=BARS, out=out
    )
    for group in groups:
        report.extend(group.measure(subject))
    return report.to_json()


def timed(figure: str, samples: Sequence[float], seconds: Seconds | None = None, share: float = 0.5) -> Row:
    """The median of samples, or another quantile, beside them and the seconds of each side that was compared."""
    medians = {side: quantile(measured).value for side, measured in (seconds or {}).items()}
    facts = {"samples": [round(float(x), 4) for x in samples], "medians": medians}
    return Row.estimated(figure, quantile(samples, share), facts)


def _groups(plan: Plan) -> list[Group[Subject]]:
    """What is quick comes first."""
    return [
        Group(("head_write_us", "bytes_10000_heads"), _heads),
        Group(("commit_to_steer_ms",), _commit_to_steer),
        Group(("commit_to_steer_other_process_p99_ms",), _commit_to_steer_other_process),
        *(_serving(name, num, plan) for name in MODELS for num in CONCURRENCIES),
        Group(("blocks4_time_over_plain.smollm2.1",), _blocks),
        Group(("expert_time_over_sum.110m",), _expert),
        Group(("args_over_naive.110m.512",), _args),
        Group(("ragged_over_generate.110m.32",), _ragged),
    ]


# Requests at once


def _serving(name: str, num: int, plan: Plan) -> Group[Subject]:
    """The ratios of one model at one concurrency that have a bar, or all of them."""
    named = {f"{ratio}.{name}.{num}": sides for ratio, sides in SPEEDS.items()}
    wanted = {figure: sides for figure, sides in named.items() if plan.is_full or figure in BARS}
    return Group(tuple(wanted), partial(_speeds, name=name, num=num, wanted=wanted))


def _speeds(subject: Subject, name: str, num: int, wanted: dict[str, tuple[str, str]]) -> Iterator[Row]:
    specimens, plan = subject
    needed = {side for sides in wanted.values() for side in sides}
    sides = {side: run for side, run in _sides(specimens, plan, name, num).items() if side in needed}
    num_rounds = plan.num_few if name != "110m" and not plan.is_full else plan.num_pairs
    seconds = interleave(sides, num_rounds, plan.new_tokens, f"{name}, {num} at once")
    for figure, (side, other) in wanted.items():
        yield timed(figure, ratios(seconds[other], seconds[side]), seconds)


def _sides(specimens: Specimens, plan: Plan, name: str, num: int) -> dict[str, Side]:
    models, bare = specimens.personal(name), specimens.bare(name)
    batch = Batch.random(models.base, [plan.new_tokens] * num, plan.prompt_tokens)
    attached, axes = EngineSide(models, batch), specimens.num_axes(name)
    return {
        "bare": EngineSide(bare, batch).side(),
        "plain": attached.side(people(num, axes, strength=0.0)),
        "personal": attached.side(people(num, axes)),
        "same": attached.side(people(1, axes) * num),
        "generate": generate_side(untouched(models.base.model), batch),
        "generate_by_onednn": generate_side(models.base.model, batch),
    }


def _blocks(subject: Subject) -> Iterator[Row]:
    """One request written in blocks, the best of four, ÷ the same request plain, both drawn."""
    specimens, plan = subject
    models = specimens.personal("smollm2")
    batch = Batch.random(models.base, [plan.new_tokens], plan.prompt_tokens)
    one, axes = EngineSide(models, batch, siblings=4), specimens.num_axes("smollm2")
    sides = {
        "blocks": one.side(people(1, axes), "blocks", DRAWN),
        "plain": one.side(people(1, axes, strength=0.0), temperature=DRAWN),
    }
    seconds = interleave(sides, plan.num_few, plan.new_tokens, "blocks")
    yield timed("blocks4_time_over_plain.smollm2.1", ratios(seconds["blocks"], seconds["plain"]), seconds)


def _ragged(subject: Subject) -> Iterator[Row]:
    """Replies of all lengths from short to long: ``generate`` goes on until the longest is done, the engine lets go.

    Both multiply with oneDNN here: it saves ``generate`` a few of its minutes, and leaves the difference in scheduling.
    """
    specimens, plan = subject
    models = specimens.personal("110m")
    lengths = np.linspace(*plan.ragged_tokens, num=32).round().astype(int).tolist()
    batch = Batch.random(models.base, lengths, plan.prompt_tokens)
    sides = {
        "plain": EngineSide(models, batch).side(),
        "generate_by_onednn": generate_side(models.base.model, batch),
    }
    seconds = interleave(sides, plan.num_few, max(lengths), "110m, 32 at once, ragged")
    yield timed("ragged_over_generate.110m.32", ratios(seconds["generate_by_onednn"], seconds["plain"]), seconds)


# Rewards and experts with models of their own


def _args(subject: Subject) -> Iterator[Row]:
    """ARGS proper on one request with a long prompt; it also runs on eight at once, for a few tokens."""
    specimens, plan = subject
    _check_naive_args(specimens)
    judged = specimens.judged
    batch = Batch.random(judged.base, [plan.new_tokens], plan.args_prompt_tokens)
    many = Batch.random(judged.base, [plan.new_tokens] * 8, plan.args_prompt_tokens)
    sides = {"args": EngineSide(judged, batch).side(rule="args"), "naive": naive_args_side(judged, batch)}
    seconds = interleave(sides, plan.num_few, plan.new_tokens, "ARGS")
    seconds["args, 8 at once"] = [EngineSide(judged, many).side(rule="args")(max(1, plan.new_tokens // 8))]
    yield timed("args_over_naive.110m.512", ratios(seconds["naive"], seconds["args"]), seconds)


def _check_naive_args(specimens: Specimens) -> None:
    """What ours is measured against has to write what the reference writes."""
    judged = specimens.small_judged
    batch = Batch.random(judged.base, [12] * 2, 16)
    for prompt, request in zip(batch.prompts, batch.requests(12, rule="args"), strict=True):
        assert judged.reward_model is not None, "it is what judges"
        naive_ids = args.generate(judged.base, judged.reward_model, prompt, 12)
        reference_ids = reference.generate(judged, request).ids
        assert tuple(naive_ids) == reference_ids, f"the naive ARGS writes {naive_ids}, the reference {reference_ids}"


def _expert(subject: Subject) -> Iterator[Row]:
    """A step of base, expert and anti-expert ÷ the sum of their own plain steps.

    The expert's own step is counted as the anti-expert's, which is what it takes with its LoRA merged.
    """
    specimens, plan = subject
    batch = Batch.random(specimens.base, [plan.new_tokens] * 8, plan.prompt_tokens)
    sides = {
        "stack": EngineSide(specimens.stacked, batch).step_side(expert=EXPERT),
        "base": EngineSide(specimens.bare("110m"), batch).step_side(),
        "small": EngineSide(specimens.small, batch).step_side(),
    }
    seconds = interleave(sides, plan.num_few, plan.new_tokens, "expert")
    separate = [base + 2 * small for base, small in zip(seconds["base"], seconds["small"], strict=True)]
    yield timed("expert_time_over_sum.110m", ratios(seconds["stack"], separate), seconds)


# Heads


def _heads(subject: Subject) -> Iterator[Row]:
    specimens, plan = subject
    axes, device = specimens.num_axes("110m"), specimens.device
    yield timed("head_write_us", freshness.head_write_us(axes, device, min(NUM_WRITES, plan.num_heads)))
    yield timed("bytes_10000_heads", [freshness.bytes_of_heads(axes, device, plan.num_heads)])


def _commit_to_steer(subject: Subject) -> Iterator[Row]:
    specimens, plan = subject
    seconds = freshness.first_tokens(str(specimens.device), plan.num_answers)
    added = [(fresh - known) * 1e3 for fresh, known in zip(seconds["fresh"], seconds["known"], strict=True)]
    yield timed("commit_to_steer_ms", added, seconds)


def _commit_to_steer_other_process(subject: Subject) -> Iterator[Row]:
    specimens, plan = subject
    taken = freshness.steered_from_elsewhere_ms(str(specimens.device), plan.num_answers)
    yield timed("commit_to_steer_other_process_p99_ms", taken, share=0.99)
