"""Quality of steering: what people whose hidden tastes are known gain by it, and how far it moves the model.

Every method answers the same held-out prompts for the same people under the profiles that ten answers gave. A hidden
taste, which guided nothing, judges. A figure is what the median person gets over the prompts, gains in standard
deviations of how they like base's own replies; a few strong feelings would make any mean over people. Intervals are
from one set of resamples of people and prompts, so that differences are paired.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from personalign.basis import Steering
from personalign.bench.alphas import EXPERT, bits_rows, gain_rows
from personalign.bench.arms import JUDGES, Arm, Decoding, Method, Outcome, Trial
from personalign.bench.machine import machine, versions
from personalign.bench.panel import Bootstrap, meet
from personalign.bench.rewards import Training, reward_model
from personalign.bench.rows import Row
from personalign.decode import Decoder, RewardModel
from personalign.decode.args import NUM_CANDIDATES, WEIGHT
from personalign.errors import InputError
from personalign.service import Personalign
from personalign.train.dialogues import load_corpus
from personalign.train.reward import Over
from personalign.types import Message

PROMPTS = Path(__file__).with_name("prompts.jsonl")
TOLD = ("gain", "wins")  # of every arm
AT_KL = (0.05, 0.1, 0.2, 0.4)  # nats a token, where curves are compared
DECODINGS: tuple[Decoding, ...] = ("greedy", "sampled")
NUM_EQUAL = 1 + NUM_CANDIDATES  # of best-of-n, for the compute of ARGS
COMPARED: tuple[tuple[Method, Method], ...] = (
    ("successor", "args_replies"),
    ("successor", "args_prefixes"),
    ("args_prefixes", "args_replies"),
    ("successor", "in_context"),
)


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    num_people: int = 8
    num_prompts: int = 100  # of those that aren't about hotels
    num_hotel_prompts: int = 40
    multiples: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the calibrated β
    candidates: tuple[int, ...] = (5, 10, 20)
    args_multiples: tuple[float, ...] = (0.25, 0.5, 1.0)  # of β too, beside w as published
    num_chosen: tuple[int, ...] = (1, 2, 4, 8, NUM_EQUAL, 16, 32)
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 1.5)
    training: Training = field(default_factory=Training)


def run_quality(
    plan: Plan, device: str, data: Path, work: Path, only: str = "", out: Path | None = None
) -> dict[str, Any]:
    """Measure everything; ``out`` is a file that is renewed with each row.

    Args:
        plan: how much.
        device: of the models.
        data: holds corpora/, for the expert's held-out dialogues; without them those figures are skipped.
        work: where reward models are kept.
        only: measure the figures whose names begin so.
        out: the result so far.

    Raises:
        InputError: there is nobody to ask, nothing to ask about, or no figure's name begins so.
    """
    if plan.num_people < 1 or plan.num_prompts < 1:
        raise InputError(
            f"found {plan.num_people} people and {plan.num_prompts} prompts; expected one of each at least"
        )
    with (
        tempfile.TemporaryDirectory() as folder,
        Personalign.open(f"sqlite:///{Path(folder) / 'people.db'}", device=device) as p,
    ):
        found: dict[str, Any] = {
            "command": "personalign bench quality",
            "machine": machine(p.decoder.base.device),
            "versions": versions(),
            "figures": {},
            "skipped": [],
            "rows": [],
        }
        for row in _rows(p, plan, data, work, only, found["skipped"]):
            if not row.figure.startswith(only):
                continue
            found["figures"][row.figure] = round(row.value, 4)
            found["rows"].append(row.to_json())
            if out is not None:
                out.write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")
    if not found["rows"] and not found["skipped"]:
        raise InputError(
            f"no figure begins with {only!r}; expected gain., wins., alpha. or the beginning of a row's name"
        )
    return found


def _rows(p: Personalign, plan: Plan, data: Path, work: Path, only: str, skipped: list[str]) -> Iterator[Row]:
    members, decoder = meet(p, plan.num_people), p.decoder
    if _may_begin("alpha.gain", only):
        hotels = load_prompts(EXPERT)[: plan.num_hotel_prompts]
        yield from gain_rows(decoder, members, hotels, plan.alphas)
    if _may_begin("alpha.bits", only):
        yield from _bits(decoder, plan, data, skipped)
    arms = [arm for arm in _arms(plan, decoder.steering) if any(_may_begin(f"{x}.{arm.name}", only) for x in TOLD)]
    if not arms:
        return

    @cache
    def rewards(over: Over) -> RewardModel:
        return reward_model(p.basis, decoder, over, plan.training, work)

    prompts = load_prompts("others")[: plan.num_prompts]
    trial = Trial.begin(p.basis, decoder, rewards, members, prompts, max(plan.num_chosen))
    bootstrap = Bootstrap.draw(len(members), len(prompts))
    outcomes: dict[str, Outcome] = {}
    for arm in track(arms, "arms", console=Console(stderr=True)):
        outcomes[arm.name] = outcome = trial.run(arm)
        yield from _told(outcome, bootstrap)
    yield from _differences(outcomes, decoder.steering, bootstrap)
    yield from _at_equal_kl(outcomes, bootstrap)


def _may_begin(figures: str, only: str) -> bool:
    """Whether any figure whose name begins with ``figures`` may begin with ``only``."""
    return figures.startswith(only) or only.startswith(figures)


def _bits(decoder: Decoder, plan: Plan, data: Path, skipped: list[str]) -> Iterator[Row]:
    try:
        dialogues = load_corpus(data).hotel_held_out
    except InputError as error:
        skipped.append(f"alpha.bits: {error}")
    else:
        yield from bits_rows(decoder.base, plan.alphas, dialogues)


def load_prompts(domain: str) -> list[tuple[Message, ...]]:
    """The held-out user turns of a domain: "hotels" or "others"."""
    rows = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    return [tuple(row["messages"]) for row in rows if row["domain"] == domain]


def _arms(plan: Plan, steering: Steering) -> list[Arm]:
    """What costs little comes first, what is served before the grids."""
    successor = [_arm("successor", decoding, steering, m) for decoding in DECODINGS for m in plan.multiples]
    grid = [replace(arm, num_candidates=k) for arm in successor for k in plan.candidates if arm.decoding == "sampled"]
    weights = (WEIGHT / steering.beta, *plan.args_multiples)  # the first as published
    arms = [
        *(Arm("best_of", num_draws=n) for n in plan.num_chosen),
        *(_arm("in_context", decoding, steering) for decoding in DECODINGS),
        *(Arm("short_list", num_candidates=k) for k in plan.candidates),
        *successor,
        *grid,
        *(_served(method, steering) for method in JUDGES),
        *(_arm(method, "sampled", steering, m) for m in weights for method in JUDGES),
    ]
    return list(dict.fromkeys(arms))


def _arm(method: Method, decoding: Decoding, steering: Steering, multiple: float = 1.0) -> Arm:
    """A method as it is calibrated, its reward weighed ``multiple`` times as much; ARGS has the same weights."""
    if method == "in_context":
        return Arm(method, decoding)
    num_candidates = NUM_CANDIDATES if method in JUDGES else steering.num_candidates
    return Arm(method, decoding, steering.beta * multiple, num_candidates)


def _served(method: Method, steering: Steering) -> Arm:
    """A method as it comes, greedy: ARGS has the w of its paper's release."""
    return _arm(method, "greedy", steering, WEIGHT / steering.beta if method in JUDGES else 1.0)


def _told(outcome: Outcome, bootstrap: Bootstrap) -> Iterator[Row]:
    """What is told of an arm: gain and wins."""
    arm = outcome.arm
    facts = {
        "method": arm.method,
        "decoding": arm.decoding,
        "weight": arm.weight,
        "k": arm.num_candidates,
        "n": arm.num_draws,
        "kl": outcome.kl,
        "kl_reported": outcome.kl_reported,
        "tokens": outcome.tokens,
        "repetition": outcome.repetition,
        "truncated": outcome.truncated,
        "passes": outcome.passes,
    }
    yield Row.of(f"gain.{arm.name}", bootstrap.interval(outcome.gain), facts)
    yield Row.of(f"wins.{arm.name}", bootstrap.interval(outcome.wins), facts)


def _differences(outcomes: Mapping[str, Outcome], steering: Steering, bootstrap: Bootstrap) -> Iterator[Row]:
    """Paired differences: sampled, all rewards with the weight that the head was calibrated to; greedy, as served."""
    pairs = [(_arm(ours, "sampled", steering), _arm(theirs, "sampled", steering)) for ours, theirs in COMPARED]
    pairs += [(_served(ours, steering), _served(theirs, steering)) for ours, theirs in COMPARED]
    pairs += [
        (_arm(method, "sampled", steering), Arm("best_of", num_draws=n))
        for method in ("successor", *JUDGES)
        for n in (2, NUM_EQUAL)
    ]
    for pair in pairs:
        if all(arm.name in outcomes for arm in pair):
            ours, theirs = (outcomes[arm.name] for arm in pair)
            name = f"{ours.arm.name}_over_{theirs.arm.name.partition('.')[2]}"
            yield Row.of(f"gain_difference.{name}", bootstrap.interval(ours.gain - theirs.gain), {})
            yield Row.of(f"wins_difference.{name}", bootstrap.interval(ours.wins - theirs.wins), {})


def _at_equal_kl(outcomes: Mapping[str, Outcome], bootstrap: Bootstrap) -> Iterator[Row]:
    """Gains at the same divergence, straight between the two settings of a method that lie around it."""
    for method in ("successor", *JUDGES, "best_of"):
        curve = [o for o in outcomes.values() if o.arm.method == method and o.arm.decoding == "sampled"]
        curve = sorted((o for o in curve if o.arm.num_candidates in (None, NUM_CANDIDATES)), key=lambda o: o.kl)
        for kl in AT_KL:
            for below, above in pairwise(curve):
                if below.kl <= kl < above.kl:
                    share = (kl - below.kl) / (above.kl - below.kl)
                    gain, wins = (
                        np.asarray((1 - share) * a + share * b)
                        for a, b in ((below.gain, above.gain), (below.wins, above.wins))
                    )
                    facts = {"method": method, "kl": kl}
                    yield Row.of(f"gain_at_kl.{method}.{kl:g}", bootstrap.interval(gain), facts)
                    yield Row.of(f"wins_at_kl.{method}.{kl:g}", bootstrap.interval(wins), facts)
