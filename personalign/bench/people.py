"""Simulated people on the real path: onboarded by the service, judged by their hidden utility.

A person answers at most ten questions with 15 % of the answers flipped. Then two things are measured that
the profile never saw: on which of 200 held-out pairs it agrees with the hidden utility, and how much better
the person likes the steered replies to 20 greedy prompts than the model's own.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personalign.basis import BankQuestion
from personalign.bench.estimate import estimate
from personalign.bench.progress import turns
from personalign.bundled import TINY
from personalign.learn.simulate import SimulatedPerson, opposite_pair
from personalign.service import Personalign
from personalign.types import Message, Profile

NAMES = ("ada", "ben")
NUM_HELD_OUT_PAIRS = 200
NUM_PROMPTS = 20


@dataclass(frozen=True)
class Onboarding:
    """How the questions went."""

    questions: int
    stopped_because: str
    profile: Profile
    last_answer_s: float  # from the last answer to its fitted and stored profile
    asked: frozenset[str]  # the replies that were shown, to keep them out of the held-out pairs


@dataclass(frozen=True)
class PersonResult:
    """What a person got; utilities in standard deviations of the model's replies, the model's own mean = 0."""

    id: str
    questions: int
    stopped_because: str
    agreement: float
    utility_base: float
    utility_personal: float
    kl: float


def load_prompts() -> list[tuple[Message, ...]]:
    """The held-out user turns that are shipped with the bundled model."""
    lines = (TINY / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [tuple(json.loads(line)) for line in lines]


def make_pair(p: Personalign, seed: int) -> tuple[SimulatedPerson, SimulatedPerson]:
    """Two people of opposite hidden tastes, standardised over the replies of the question bank."""
    prompts = [q.prompt for q in p.basis.bank for _ in range(2)]
    replies = [text for q in p.basis.bank for text in (q.first, q.second)]
    return opposite_pair(seed, prompts, replies)


def onboard(p: Personalign, user: str, person: SimulatedPerson, seed: int) -> Onboarding:
    """Ask until the service has enough."""
    rng = np.random.default_rng([seed, *user.encode()])
    asked: set[str] = set()
    seconds = 0.0
    while question := p.ask(user):
        asked |= {question.a, question.b}
        choice = person.choose(question.prompt, question.a, question.b, rng)
        started = time.perf_counter()
        p.answer(user, question.id, choice)
        seconds = time.perf_counter() - started
    profile = p.profile(user)
    return Onboarding(profile.answers, p.why_stopped(user) or "", profile, seconds, frozenset(asked))


def agreement(p: Personalign, person: SimulatedPerson, onboarding: Onboarding, seed: int) -> float:
    """Share of 200 pairs, none of them asked, on which the profile and the hidden utility prefer the same reply.

    Pairs that the person can't tell apart have no right answer and are left out.
    """
    fresh = [
        q
        for q in p.basis.bank
        if q.first not in onboarding.asked and q.second not in onboarding.asked and _differ(person, q)
    ]
    order = np.random.default_rng(seed).permutation(len(fresh))[:NUM_HELD_OUT_PAIRS]
    pairs = [fresh[i] for i in order]
    predicted = [(q.first_features - q.second_features) @ onboarding.profile.mean > 0 for q in pairs]
    return float(np.mean([guess == _prefers_first(person, q) for guess, q in zip(predicted, pairs, strict=True)]))


def judge(
    p: Personalign,
    people: Sequence[tuple[str, SimulatedPerson, Onboarding]],
    prompts: Sequence[Sequence[Message]],
    seed: int,
) -> list[PersonResult]:
    """Write greedy replies for nobody and for each person in one batch, and ask the hidden utilities."""
    users = ["nobody", *(user for user, _, _ in people)]
    conversations = [*prompts] * len(users)
    replies = p.chat_many([user for user in users for _ in prompts], conversations)
    plain = [reply.text for reply in replies[: len(prompts)]]
    results = []
    for k, (user, person, onboarding) in enumerate(people, start=1):
        own = replies[k * len(prompts) : (k + 1) * len(prompts)]
        before, after = (_utilities(person, prompts, texts) for texts in (plain, [reply.text for reply in own]))
        results.append(
            PersonResult(
                id=user,
                questions=onboarding.questions,
                stopped_because=onboarding.stopped_because,
                agreement=agreement(p, person, onboarding, seed),
                utility_base=0.0,  # the origin of the scale, by definition
                utility_personal=float((after.mean() - before.mean()) / before.std()),
                kl=float(np.mean([reply.kl for reply in own])),
            )
        )
    return results


def _utilities(
    person: SimulatedPerson, prompts: Sequence[Sequence[Message]], replies: Sequence[str]
) -> NDArray[np.float64]:
    return np.array([person.utility(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)])


def _prefers_first(person: SimulatedPerson, question: BankQuestion) -> bool:
    return person.utility(question.prompt, question.first) > person.utility(question.prompt, question.second)


def _differ(person: SimulatedPerson, question: BankQuestion) -> bool:
    return person.utility(question.prompt, question.first) != person.utility(question.prompt, question.second)


def run_people(num_seeds: int, device: str = "auto") -> dict[str, Any]:
    """Onboard and judge ``num_seeds`` pairs; medians with 95 % bootstrap intervals over all people."""
    prompts = load_prompts()[:NUM_PROMPTS]
    people: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in turns(num_seeds, "pairs of people"):
            with Personalign.open(f"sqlite:///{Path(folder) / f'{seed}.db'}", device=device) as p:
                pair = make_pair(p, seed)
                met = [(name, person, onboard(p, name, person, seed)) for name, person in zip(NAMES, pair, strict=True)]
                people += [{"seed": seed} | asdict(result) for result in judge(p, met, prompts, seed)]
    figures = {
        key: list(estimate([person[key] for person in people]))
        for key in ("agreement", "utility_personal", "questions", "kl")
    }
    return {"command": "personalign bench people", "figures": figures, "people": people}
