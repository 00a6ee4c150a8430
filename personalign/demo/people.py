"""Simulated people, whom the service onboards and their hidden utility judges.

A person answers at most ten questions, 15 % of them against their taste. Two things are measured: on how many of 200
held-out pairs the profile agrees with the hidden utility; and how much better the person likes steered replies to 20
prompts, written greedily, than the model's own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np

from personalign.demo.simulate import SimulatedPerson, opposite_pair
from personalign.messages import Conversation
from personalign.options import OptionsDict
from personalign.service import Personalign
from personalign.types import Choice, Message, Profile, Question

NAMES = ("ada", "ben")
NUM_HELD_OUT_PAIRS = 200


@dataclass(frozen=True)
class Met:
    """A simulated person who has been onboarded under a name, and how the questions went."""

    seed: int
    name: str
    person: SimulatedPerson
    profiles: tuple[Profile, ...]  # before any answer, after one, after two …
    stopped_because: str
    last_answer_s: float  # from the last answer to its stored profile
    answers: tuple[tuple[Question, Choice], ...]

    @property
    def profile(self) -> Profile:
        """What is known in the end."""
        return self.profiles[-1]

    @property
    def asked(self) -> frozenset[str]:
        """The replies that were shown, which are left out of the held-out pairs."""
        return frozenset(reply for question, _ in self.answers for reply in (question.a, question.b))


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


@contextmanager
def fresh_service(device: str, model: str = "tiny") -> Iterator[Personalign]:
    """A bundled model over an empty database, which is removed afterwards."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Personalign.open(f"sqlite:///{Path(folder) / 'people.db'}", model, device=device) as p,
    ):
        yield p


def make_pair(p: Personalign, seed: int) -> tuple[SimulatedPerson, SimulatedPerson]:
    """Two people of opposite hidden tastes, standardised over the replies of the question bank."""
    return opposite_pair(seed, *bank_texts(p))


def bank_texts(p: Personalign) -> tuple[list[Conversation], list[str]]:
    """Both replies of every question, and the prompt of each."""
    bank = p.basis.bank
    return [q.prompt for q in bank for _ in range(2)], [text for q in bank for text in (q.first, q.second)]


def meet_pair(p: Personalign, seed: int) -> list[Met]:
    """Make two people and onboard them."""
    return onboard_pair(p, make_pair(p, seed), seed)


def onboard_pair(p: Personalign, pair: tuple[SimulatedPerson, SimulatedPerson], seed: int) -> list[Met]:
    """Onboard two people, under the names that they have everywhere."""
    return [onboard(p, name, person, seed) for name, person in zip(NAMES, pair, strict=True)]


def onboard(p: Personalign, user: str, person: SimulatedPerson, seed: int) -> Met:
    """Ask until the service has enough."""
    rng = np.random.default_rng([seed, *user.encode()])
    profiles = [p.profile(user)]
    answers: list[tuple[Question, Choice]] = []
    seconds = 0.0
    while question := p.ask(user):
        choice = person.choose(question.prompt, question.a, question.b, rng)
        answers.append((question, choice))
        started = time.perf_counter()
        profiles.append(p.answer(user, question.id, choice))
        seconds = time.perf_counter() - started
    return Met(seed, user, person, tuple(profiles), p.why_stopped(user) or "", seconds, tuple(answers))


def agreement(p: Personalign, met: Met) -> float:
    """Share of 200 pairs, none of them asked, on which the profile and the hidden utility prefer the same reply.

    Pairs of equal utility have no right answer and are left out.
    """
    utility, mean, asked = met.person.utility, met.profile.mean, met.asked
    fresh = [q for q in p.basis.bank if asked.isdisjoint((q.first, q.second))]
    gaps = [utility(q.prompt, q.first) - utility(q.prompt, q.second) for q in fresh]
    predicted = [(q.first_features - q.second_features) @ mean > 0 for q in fresh]
    agrees = [guess == (gap > 0) for guess, gap in zip(predicted, gaps, strict=True) if gap]
    order = np.random.default_rng(met.seed).permutation(len(agrees))[:NUM_HELD_OUT_PAIRS]
    return float(np.mean([agrees[i] for i in order]))


def judge(
    p: Personalign, people: Sequence[Met], prompts: Sequence[Sequence[Message]], **options: Unpack[OptionsDict]
) -> list[PersonResult]:
    """Write replies for a stranger and each person in one batch, and judge them by the hidden utilities."""
    users = ["nobody", *(met.name for met in people)]
    replies = p.chat_many([user for user in users for _ in prompts], [*prompts] * len(users), **options)
    base, *personal = (replies[i : i + len(prompts)] for i in range(0, len(replies), len(prompts)))
    return [
        PersonResult(
            id=met.name,
            questions=met.profile.answers,
            stopped_because=met.stopped_because,
            agreement=agreement(p, met),
            utility_base=0.0,  # by definition
            utility_personal=gain(met.person, prompts, [r.text for r in base], [r.text for r in written]),
            kl=float(np.mean([r.kl for r in written])),
        )
        for met, written in zip(people, personal, strict=True)
    ]


def gain(
    person: SimulatedPerson, prompts: Sequence[Sequence[Message]], base: Sequence[str], personal: Sequence[str]
) -> float:
    """How much better the person likes their own replies than base's, in standard deviations of base's."""
    before, after = (
        np.array([person.utility(prompt, text) for prompt, text in zip(prompts, texts, strict=True)])
        for texts in (base, personal)
    )
    return float((after.mean() - before.mean()) / before.std())
