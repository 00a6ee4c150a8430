"""``personalign bench quality --model smollm2``: what people with tastes of their own gain on a real model.

People, prompts and scorers were fixed before any result was seen. A gain is counted in standard deviations of the
model's own replies to the same prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from lab.bootstrap import Interval, quantile
from lab.harness import Bar, Report, Row
from lab.prose.arms import ARMS, STREAMING, Arm, Served, choose_arms
from lab.prose.people import Person, Scale, draw, main_trait, onboard, opened
from lab.prose.traits import score, varying
from lab.prose.writing import Desk, Written, bits_per_character, repeated
from personalign.learn.axes import features
from personalign.messages import MAX_REPLIES
from personalign.service import Personalign
from personalign.train.work import track
from personalign.types import Guidance, Profile

PROMPTS = Path(__file__).parents[1] / "zoo" / "smollm2" / "held_out.jsonl"
NUM_SCORED = 80  # replies whose surprise is measured, of each arm
RIDGE = 1.0
BARS = {
    "smollm2.gain.tilt": Bar("≥", 0.4),
    "smollm2.gain.blocks.4.16": Bar("≥", 0.6),
    "smollm2.person_over_words.blocks.4.16": Bar("≥", 0.0),
    "smollm2.gain.tilt.picks": Bar("≥", 0.4),
    "smollm2.gain.blocks.4.16.picks": Bar("≥", 0.6),
    **{f"smollm2.person_over_length.{arm}": Bar("≥", 0.0) for arm in STREAMING},
    **{f"smollm2.person_over_stranger.{arm}": Bar("≥", 0.4) for arm in STREAMING},
    "smollm2.fluency.blocks.4.16": Bar("≤", 1.10),
    "smollm2.fluency.tilt": Bar("≤", 1.25),
}
Gains = Float[NDArray[np.float64], "people"]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    num_people: int = 40
    num_prompts: int = 100
    prompts_each: int = 8  # of them, for each person; other people have others
    num_draws: int = 8  # of the model's own replies to each prompt
    first_person: int = 0


def run_prose(
    plan: Plan, device: str, work: Path, only: str = "", out: Path | None = None, model: str = "smollm2"
) -> dict[str, Any]:
    """Measure the arms that ``only`` chooses; what an earlier run wrote in ``work`` is taken from there."""
    arms = choose_arms(ARMS, only)
    with opened(model, device) as p:
        usual = Plan()
        options = {"people": "num_people", "first": "first_person", "prompts": "num_prompts"}
        chosen = {
            name: getattr(plan, key) for name, key in options.items() if getattr(plan, key) != getattr(usual, key)
        }
        changed = "".join(f" --{name} {value}" for name, value in chosen.items())
        command = f"personalign bench quality --model smollm2{changed} --json"
        report = Report(command, str(p.models.base.device), bars=BARS, out=out)
        report.facts = {"basis": p.basis.id, "plan": vars(plan)}
        report.extend(_rows(p, plan, arms, work))
    return report.to_json()


@dataclass(frozen=True, eq=False)
class Trial:
    """Who judges, and the replies that gains are counted from."""

    desk: Desk
    base: Sequence[Written]  # draw by draw, a reply to each prompt

    def utilities(self, written: Written) -> Float[NDArray[np.float64], "people prompts"]:
        """How much each person likes the replies written for them."""
        desk = self.desk
        traits = desk.scale.measure(written.texts).reshape(*desk.turns.shape, -1)
        return np.array([person.utility(row) for person, row in zip(desk.people, traits, strict=True)])

    def gains(self, written: Written) -> Gains:
        """Each person's mean gain, in standard deviations of the model's own replies to the same prompts."""
        spread = np.sqrt(self._own.var(0, ddof=1).mean(-1))
        return np.asarray((self.utilities(written) - self._own.mean(0)).mean(-1) / spread)

    @cached_property
    def _own(self) -> Float[NDArray[np.float64], "draws people prompts"]:
        """How much each person likes the model's own replies to their prompts."""
        turns = self.desk.turns.ravel().tolist()
        return np.array([self.utilities(draws.take(turns)) for draws in self.base])


def _rows(p: Personalign, plan: Plan, arms: Sequence[Arm], work: Path) -> Iterator[Row]:
    trial = begin(p, plan, work)
    surprise = _surprise(trial, trial.base[0].take(trial.desk.turns.ravel().tolist()))
    plain = trial.base[0]
    yield Row("smollm2.base.bits_per_character", surprise)
    yield Row("smollm2.base.repetition", repeated(plain), facts={"truncated": float(np.mean(plain.cut))})
    gains: dict[str, Gains] = {}
    for arm in arms:
        written = trial.desk.reply(arm, trial.base)
        gains[arm.name] = trial.gains(written)
        yield from _arm_rows(trial, arm, written, gains[arm.name], surprise)
    yield from _differences(gains)


def begin(p: Personalign, plan: Plan, work: Path) -> Trial:
    """Write the model's own replies, scale the traits by them, draw the people, and let the service ask them."""
    rows = [json.loads(line)["prompt"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    prompts = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[: plan.num_prompts]]
    turns = np.arange(plan.num_people * plan.prompts_each).reshape(plan.num_people, -1) % len(prompts)
    nobody = Served(p.basis, [], [], [])
    blank = Scale([], np.zeros(0), np.ones(0))
    base = Desk(p.models, nobody, nobody, [], prompts, turns, blank, work).plain(plan.num_draws)
    texts = [text for draws in base for text in draws.texts]
    scores = score(texts)
    traits = varying(scores)
    scale = Scale(traits, scores[:, traits].mean(0), scores[:, traits].std(0))
    people = [draw(plan.first_person + number, len(traits)) for number in range(plan.num_people)]
    served, picked = (_asked(p, people, scale, texts, replies) for replies in (2, MAX_REPLIES))
    return Trial(Desk(p.models, served, picked, people, prompts, turns, scale, work), base)


def _asked(p: Personalign, people: Sequence[Person], scale: Scale, texts: list[str], replies: int) -> Served:
    """Let the service ask everyone, by pairs or by picks."""
    users = [person.name if replies == 2 else f"{person.name}, picks" for person in people]
    for person, user in track(list(zip(people, users, strict=True)), "asking"):
        onboard(p, person, scale, user, replies)
    profiles = [p.profile(user) for user in users]
    guidances = [_served(p, profile) for profile in profiles]
    return Served(p.basis, profiles, guidances, _oracles(p, people, scale, texts, guidances))


def _served(p: Personalign, profile: Profile) -> Guidance:
    guidance = p.serving.guidance(profile)
    assert guidance is not None, "everyone has answered"
    return guidance


def _oracles(
    p: Personalign, people: Sequence[Person], scale: Scale, texts: list[str], guidances: Sequence[Guidance]
) -> list[NDArray[np.float64]]:
    """The best that the axes can say of each hidden taste, by ridge regression; as large as the median profile."""
    phi = features(p.basis, [()] * len(texts), texts)
    phi, traits = phi - phi.mean(0), scale.measure(texts)
    size = float(np.median([np.linalg.norm(guidance.weights) for guidance in guidances]))
    solve = np.linalg.solve(phi.T @ phi + RIDGE * np.eye(phi.shape[1]), phi.T)
    weights = [solve @ (liking - liking.mean()) for liking in (person.utility(traits) for person in people)]
    return [size * w / np.linalg.norm(w) for w in weights]


def _surprise(trial: Trial, written: Written) -> float:
    desk = trial.desk
    rows = np.random.default_rng(1).permutation(desk.turns.size)[:NUM_SCORED].tolist()
    prompts = [desk.conversation(int(desk.turns.flat[row])) for row in rows]
    return bits_per_character(desk.models.base, prompts, written.take(rows))


def _arm_rows(trial: Trial, arm: Arm, written: Written, gains: Gains, surprise: float) -> Iterator[Row]:
    desk = trial.desk
    names = [main_trait(person, desk.scale) for person in desk.people]
    by_trait = {name: float(np.median([g for g, n in zip(gains, names, strict=True) if n == name])) for name in names}
    facts = {
        "kl": float(np.mean(written.kl)),
        "nats_per_reply": float(np.mean(np.multiply(written.kl, written.tokens))),
        "tokens": float(np.mean(written.tokens)),
        "passes": arm.passes,
        "liked_better": float((gains > 0).mean()),
        "mean": float(gains.mean()),
        "repetition": repeated(written),
        "truncated": float(np.mean(written.cut)),
        "worst_trait": min(by_trait.values()),
        "by_trait": {name: round(value, 3) for name, value in sorted(by_trait.items())},
    }
    yield _estimated(f"smollm2.gain.{arm.name}", gains, facts)
    yield Row(f"smollm2.fluency.{arm.name}", _surprise(trial, written) / surprise)


def _differences(gains: dict[str, Gains]) -> Iterator[Row]:
    """Paired differences: each streaming rule over the same rule under other weights, and over words."""
    for arm, rule in STREAMING.items():
        words = "words.picks" if arm.endswith("picks") else "words"
        others = {"length": f"length{rule}", "stranger": f"stranger{rule}", "words": words}
        for name, other in others.items():
            if {arm, other} <= gains.keys():
                yield _estimated(f"smollm2.person_over_{name}.{arm}", gains[arm] - gains[other])


def _estimated(figure: str, values: Gains, facts: dict[str, Any] | None = None) -> Row:
    interval: Interval = quantile(values.tolist())
    return Row.estimated(figure, interval, facts)
