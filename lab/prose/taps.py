"""What ten taps teach: ``python -m lab.prose.taps``, pairs against graded pairs and picks of four, as they are asked.

The people are those of ``people.py`` with other numbers. They answer a service on SmolLM2's basis, 15 % against their
taste, and no model is loaded. A profile is judged on the other questions: how well it tells apart replies
to one prompt, as a correlation with the taste over replies whose prompt's mean is taken off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from jaxtyping import Float, Int

from lab import bootstrap
from lab.harness import Report, Row, turns
from lab.prose.people import STREAM, Person, Scale, draw, opened, tap
from lab.prose.traits import score, varying
from lab.quality.steering import print_figures
from personalign.learn.ask import StopRule
from personalign.learn.rank import READING, seconds
from personalign.service import Personalign
from personalign.types import Array, Choice, Ints, Pick

FIRST = 9_000  # number of the first person
COUNTS = (5, 10, 20)  # taps after which profiles are judged
MUCH = 2 / 3  # a third of a person's own differences is "much better"
Kind = Literal["pairs", "graded", "picks"]
KINDS: tuple[Kind, ...] = ("pairs", "graded", "picks")


@dataclass(frozen=True, eq=False)
class Bank:
    """All replies of a bank's questions: their features and traits, and which question each belongs to."""

    question: Int[Ints, "n"]
    features: Float[Array, "n d"]
    traits: Float[Array, "n t"]
    place: dict[str, int]  # of a reply's text

    @classmethod
    def measure(cls, p: Personalign) -> tuple[Bank, int]:
        """Measure the replies of questions that have several; also the number of traits."""
        bank = p.basis.bank
        texts = [reply for question in bank for reply in question.replies]
        scores = score(texts)
        chosen = varying(scores)
        scale = Scale(chosen, scores[:, chosen].mean(axis=0), scores[:, chosen].std(axis=0))
        traits = (scores[:, chosen] - scale.center) / scale.spread
        numbers = np.repeat(np.arange(len(bank)), [len(question.replies) for question in bank])
        features = np.concatenate([question.features for question in bank])
        return cls(numbers, features, traits, {text: i for i, text in enumerate(texts)}), len(chosen)

    def likes(self, person: Person, replies: Sequence[str]) -> Float[Array, "k"]:
        """How much a person likes some of the replies."""
        return person.utility(self.traits[[self.place[reply] for reply in replies]])

    def agreement(self, person: Person, weights: Float[Array, "d"], shown: set[int]) -> float:
        """How well weights tell apart replies to prompts that the person wasn't asked about."""
        is_new = ~np.isin(self.question, sorted(shown))
        predicted = _centred(self.features[is_new] @ weights, self.question[is_new])
        liked = _centred(person.utility(self.traits[is_new]), self.question[is_new])
        return float(np.corrcoef(predicted, liked)[0, 1]) if predicted.std() > 0 else 0.0


def _centred(values: Float[Array, "n"], group: Int[Ints, "n"]) -> Float[Array, "n"]:
    means = np.bincount(group, values) / np.maximum(np.bincount(group), 1)
    return np.asarray(values - means[group])


def _tap(likes: Float[Array, "k"], kind: Kind, much: float, rng: np.random.Generator) -> Choice | Pick:
    """What a person says; where they err, it is a side against their taste, or any of several replies."""
    choice = tap(likes, rng)
    if kind == "graded" and abs(likes[0] - likes[1]) > much:
        return "a++" if choice == "a" else "b++"
    return choice


@dataclass(frozen=True)
class Onboarded:
    """How well a profile knows a person after each of ``COUNTS``, and how long reading took at the usual pace."""

    agreement: dict[int, float]
    seconds: dict[int, float]


def onboard(p: Personalign, bank: Bank, person: Person, kind: Kind) -> Onboarded:
    """Let a person tap as often as is judged."""
    user, rng = f"{person.name}, {kind}", np.random.default_rng([STREAM, *f"{person.name} {kind}".encode()])
    pairs = np.array([bank.likes(person, question.replies[:2]) for question in p.basis.bank])
    much, shown = float(np.quantile(np.abs(np.diff(pairs)), MUCH)), set[int]()
    taken, result = 0.0, Onboarded({}, {})
    for count in range(1, max(COUNTS) + 1):
        question = p.ask(user, graded=kind == "graded", replies=4 if kind == "picks" else 2)
        assert question is not None, "the bank is larger than what is asked"
        shown.add(int(bank.question[bank.place[question.a]]))
        taken += seconds(sum(len(reply.split()) for reply in question.replies), READING)
        profile = p.answer(user, question.id, _tap(bank.likes(person, question.replies), kind, much, rng))
        if count in COUNTS:
            result.agreement[count] = bank.agreement(person, p.serving.weights(profile), shown)
            result.seconds[count] = taken
    return result


def rows(people: Sequence[dict[Kind, Onboarded]]) -> Iterator[Row]:
    """Medians, how many are turned round, and what picks and grades add to as many pairs, person by person."""
    for count in COUNTS:
        agreement = {kind: np.array([known[kind].agreement[count] for known in people]) for kind in KINDS}
        for kind, values in agreement.items():
            reading = float(np.mean([known[kind].seconds[count] for known in people]))
            facts = {"turned_round": float((values < 0).mean()), "mean": float(values.mean()), "seconds": reading}
            yield Row.estimated(f"taps.{kind}.{count}", bootstrap.quantile(values.tolist()), facts)
            if kind != "pairs":
                yield Row.estimated(f"taps.{kind}_over_pairs.{count}", bootstrap.mean(values - agreement["pairs"]))
    halves = [known["picks"].agreement[5] - known["pairs"].agreement[10] for known in people]
    yield Row.estimated("taps.five_picks_over_ten_pairs", bootstrap.mean(np.array(halves)))


def run_taps(num_people: int, results: Path | None = None) -> dict[str, Any]:
    """Onboard as many people, each by every kind of question."""
    report = Report(f"python -m lab.prose.taps --people {num_people}", "cpu", out=results)
    with opened("smollm2", "cpu") as p:
        p.stop_rule = StopRule(accuracy=1.0, information=0.0, max_questions=1000)
        bank, num_traits = Bank.measure(p)
        report.facts = {"basis": p.basis.id, "first_person": FIRST, "people": num_people}
        people = [draw(FIRST + i, num_traits) for i in range(num_people)]
        known = [{kind: onboard(p, bank, people[i], kind) for kind in KINDS} for i in turns(num_people, "people")]
        report.extend(rows(known))
    return report.to_json()


def main(
    people: Annotated[int, typer.Option(min=2, help="number of people")] = 100,
    results: Annotated[Path | None, typer.Option("--out", help="file of the result")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Print how well profiles know people after so many taps, by the kind of question."""
    print_figures(lambda: run_taps(people, results), as_json)


if __name__ == "__main__":
    typer.run(main)
