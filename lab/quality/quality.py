"""Quality of steering: what people whose hidden tastes are known gain by it, and how far it moves the model.

Every method answers the same held-out prompts for the same people under the profiles that ten answers gave. A hidden
taste, which guided nothing, judges. A figure is what the median person gets over the prompts, gains in standard
deviations of how they like base's own replies; a few strong feelings would make any mean over people. Intervals are
from one set of resamples of people and prompts, so that differences are paired: a gain is one over base, and every
method is compared with the successor head, as it stands and at the same divergence.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from lab.harness import Report, Row, versions
from lab.kept import Kept
from lab.quality.alphas import EXPERT, bits_rows, gain_rows
from lab.quality.arms import JUDGES, Arm, Decoding, Method, Outcome, Trial
from lab.quality.curves import Curve, Nats, divergence
from lab.quality.panel import Bootstrap, interval_of, meet
from lab.quality.rewards import Training, reward_model
from lab.zoo.dialogues import load_corpus
from personalign.decode import Models, RewardModel
from personalign.errors import InputError
from personalign.service import Personalign
from personalign.train.reward.pairs import Units
from personalign.types import ArgsSteering, Message, Steering

PROMPTS = Path(__file__).with_name("prompts.jsonl")
TOLD = ("gain", "wins")  # of every arm
COMPARED = ("over_successor", "over_best_of", "at_kl", "over_successor_at_kl")  # what is told of two arms and more
AT_KL = (0.1, 0.2, 0.4)  # nats a token, where curves are compared, beside the head's own as it was calibrated
DECODINGS: tuple[Decoding, ...] = ("greedy", "sampled")


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    num_people: int = 8
    num_prompts: int = 100  # of those that aren't about hotels
    num_hotel_prompts: int = 40
    multiples: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the calibrated β
    candidates: tuple[int, ...] = (5, 10, 20)
    args_multiples: Mapping[Method, tuple[float, ...]] = field(  # of β too, beside w as published
        default_factory=lambda: {"args_prefixes": (0.25, 0.5, 1.0), "args_replies": (0.125, 0.25, 0.5)}
    )
    grid: Mapping[Method, float] = field(  # the multiple with which all candidates are tried: where a method does well
        default_factory=lambda: {"successor": 1.0, "args_prefixes": 1.0, "args_replies": 0.25}
    )
    num_chosen: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # beside those that take the compute of ARGS
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
    training: Training = field(default_factory=Training)

    @property
    def draws(self) -> list[int]:
        """The n of best-of-n; n = k + 1 takes as many passes a token as ARGS."""
        return sorted({*self.num_chosen, *(k + 1 for k in self.candidates)})


def run_quality(
    plan: Plan, device: str, data: Path, work: Path, only: str = "", out: Path | None = None
) -> dict[str, Any]:
    """Measure everything; ``out`` is a file that is renewed with each row.

    Args:
        plan: how much.
        device: of the models.
        data: holds corpora/, for the expert's held-out dialogues; without them those figures are skipped.
        work: where reward models are kept, and outcomes until the run has ended: the same run goes on after them.
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
        report = Report("personalign bench quality", str(p.models.base.device), out=out)
        rows = _rows(p, plan, data, work, only, report)
        report.extend(row for row in rows if row.figure.startswith(only))
    if not report.rows and not report.skipped:
        raise InputError(
            f"no figure begins with {only!r}; expected gain., wins., alpha. or the beginning of a row's name"
        )
    return report.to_json()


def _rows(p: Personalign, plan: Plan, data: Path, work: Path, only: str, report: Report) -> Iterator[Row]:
    members, models = meet(p, plan.num_people), p.models
    if _may_begin("alpha.gain", only):
        hotels = load_prompts(EXPERT)[: plan.num_hotel_prompts]
        yield from gain_rows(models, members, hotels, plan.alphas)
    if _may_begin("alpha.bits", only):
        yield from _bits(models, plan, data, report)
    arms = _arms(plan, models.steering)
    if not any(_may_begin(f"{measure}_{way}", only) for measure in TOLD for way in COMPARED):
        arms = [arm for arm in arms if any(_may_begin(f"{measure}.{arm.name}", only) for measure in TOLD)]
    if not arms:
        return

    @cache
    def rewards(span: Units) -> RewardModel:
        return reward_model(p.basis, models, span, plan.training, work)

    prompts = load_prompts("others")[: plan.num_prompts]
    trial = Trial.begin(p.basis, models, rewards, members, prompts, max(plan.draws))
    kept_outcomes = Kept.in_folder(work, _content(p, plan))
    bootstrap = Bootstrap.draw(len(members), len(prompts))
    outcomes: dict[Arm, Outcome] = {}
    for arm in track(arms, "arms", console=Console(stderr=True)):
        outcomes[arm] = kept_outcomes.outcome(arm, trial.run)
        yield from _arm_rows(outcomes[arm], bootstrap)
    yield from _differences(outcomes, models.steering, bootstrap)
    yield from _at_equal_kl(outcomes, models.steering, bootstrap)
    kept_outcomes.clear()


def _content(p: Personalign, plan: Plan) -> dict[str, Any]:
    """What outcomes follow from, beside the code."""
    base = p.models.base
    models = {"basis": p.basis.id, "base": asdict(base.fingerprints), "device": str(base.device)}
    return models | {"plan": asdict(plan), "versions": versions(("torch", "transformers", "personalign"))}


def _may_begin(figures: str, only: str) -> bool:
    """Whether any figure whose name begins with ``figures`` may begin with ``only``."""
    return figures.startswith(only) or only.startswith(figures)


def _bits(models: Models, plan: Plan, data: Path, report: Report) -> Iterator[Row]:
    try:
        dialogues = load_corpus(data).hotel_held_out
    except InputError as error:
        report.skip(f"alpha.bits: {error}")
    else:
        yield from bits_rows(models.base, plan.alphas, dialogues)


def load_prompts(domain: str) -> list[tuple[Message, ...]]:
    """The held-out user turns of a domain: "hotels" or "others"."""
    rows = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    return [tuple(row["messages"]) for row in rows if row["domain"] == domain]


def _arms(plan: Plan, steering: Steering) -> list[Arm]:
    """What costs little comes first, the grid of candidates last."""
    published = ArgsSteering().weight / steering.beta
    arms = [
        *(Arm("best_of", num_draws=n) for n in plan.draws),
        *(_arm("in_context", decoding, steering) for decoding in DECODINGS),
        *(Arm("short_list", num_candidates=k) for k in plan.candidates),
        _arm("successor", "greedy", steering),
        *(_arm("successor", "sampled", steering, m) for m in plan.multiples),
        *(_arm(method, "sampled", steering, m) for method in JUDGES for m in (published, *plan.args_multiples[method])),
        *(_arm(method, "sampled", steering, m, k) for method, m in plan.grid.items() for k in plan.candidates),
    ]
    return list(dict.fromkeys(arms))


def _arm(
    method: Method, decoding: Decoding, steering: Steering, multiple: float = 1.0, num_candidates: int | None = None
) -> Arm:
    """A method as it is calibrated, its reward weighed ``multiple`` times as much; ARGS has the same weights."""
    if method == "in_context":
        return Arm(method, decoding)
    served = ArgsSteering().num_candidates if method in JUDGES else steering.num_candidates
    return Arm(method, decoding, steering.beta * multiple, num_candidates or served)


def _arm_rows(outcome: Outcome, bootstrap: Bootstrap) -> Iterator[Row]:
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
    yield Row.estimated(f"gain.{arm.name}", bootstrap.interval(outcome.gain), facts)
    yield Row.estimated(f"wins.{arm.name}", bootstrap.interval(outcome.wins), facts)


def _differences(outcomes: Mapping[Arm, Outcome], steering: Steering, bootstrap: Bootstrap) -> Iterator[Row]:
    """Paired differences: all arms over the head as it is calibrated, and ARGS over best-of-n at equal compute."""
    for arm, outcome in outcomes.items():
        head = outcomes.get(_arm("successor", arm.decoding, steering))
        if head is not None and head.arm != arm:
            yield from _difference("over_successor", outcome, head, bootstrap)
        if arm.method in JUDGES and arm.decoding == "sampled" and arm.num_candidates is not None:
            chosen = outcomes.get(Arm("best_of", num_draws=arm.num_candidates + 1))
            if chosen is not None:
                yield from _difference("over_best_of", outcome, chosen, bootstrap)


def _difference(way: str, outcome: Outcome, other: Outcome, bootstrap: Bootstrap) -> Iterator[Row]:
    facts = {"method": outcome.arm.method, "over": other.arm.name}
    for measure, difference in (("gain", outcome.gain - other.gain), ("wins", outcome.wins - other.wins)):
        yield Row.estimated(f"{measure}_{way}.{outcome.arm.name}", bootstrap.interval(difference), facts)


def _at_equal_kl(outcomes: Mapping[Arm, Outcome], steering: Steering, bootstrap: Bootstrap) -> Iterator[Row]:
    """What methods give at the same divergence, and how much more than the head; only where both get that far."""
    head = outcomes.get(_arm("successor", "sampled", steering))
    settings = {method: _settings(method, outcomes, steering) for method in ("successor", *JUDGES, "best_of")}
    if head is None or any(len(outcomes_of) < 2 for outcomes_of in settings.values()):
        return
    places = {f"{kl:g}": np.full(len(bootstrap.people), kl) for kl in AT_KL} | {"head": divergence(bootstrap, head)}
    for measure in TOLD:
        curves = {
            method: Curve.interpolated(bootstrap, outcomes_of, [getattr(outcome, measure) for outcome in outcomes_of])
            for method, outcomes_of in settings.items()
        }
        for place, kl in places.items():
            yield from _at_divergence(curves, measure, place, kl)


def _at_divergence(curves: Mapping[Method, Curve], measure: str, place: str, kl: Nats) -> Iterator[Row]:
    """One divergence; ``reached`` is the share of resamples in which the curves get that far, too."""
    head = curves["successor"]
    for method, curve in curves.items():
        for name, reaches, means in (
            ("at_kl", curve.reaches(kl), curve.means_at(kl)),
            ("over_successor_at_kl", curve.reaches(kl) & head.reaches(kl), curve.means_at(kl) - head.means_at(kl)),
        ):
            if reaches[0] and (name == "at_kl" or curve is not head):
                facts = {"method": method, "kl": float(kl[0]), "reached": float(reaches[1:].mean())}
                yield Row.estimated(f"{measure}_{name}.{method}.{place}", interval_of(means), facts)


def _settings(method: Method, outcomes: Mapping[Arm, Outcome], steering: Steering) -> list[Outcome]:
    """The sampled arms of a method that differ in its weight, or n; rewards begin with the short list, w = 0."""
    k = ArgsSteering().num_candidates if method in JUDGES else steering.num_candidates
    arms = [arm for arm in outcomes if arm.method == method and arm.num_candidates in {None, k}]
    beginning = [] if method == "best_of" else [Arm("short_list", num_candidates=k)]
    return [outcomes[arm] for arm in (*beginning, *arms) if arm.decoding == "sampled" and arm in outcomes]
