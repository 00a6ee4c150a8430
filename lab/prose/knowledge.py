"""``personalign bench knowledge``: does steering keep what tuning forgets?

An expert is tuned on one domain. Then closed-book questions of no domain are put to the base, to people who are
steered, to the expert's stack at several weights, and to the directly tuned model.

A tilted reply is drawn from a short list, outside which no token has any bits. So steering is compared with the base
over the tokens inside it, and beside that stands what the list leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from lab.bootstrap import mean, ratio
from lab.harness import Bar, Report, Row
from lab.prose.arms import blocks
from lab.prose.dictation import Marks
from lab.prose.domain import NAME, Bits, Conversation, Pair, directly_tuned, expert_on, read_sums, weights_of
from lab.prose.exam import Exam, Way
from lab.prose.people import Scale, draw, onboard, opened
from lab.prose.questions import read_questions
from lab.prose.traits import score, varying
from lab.prose.writing import SERVED
from personalign.bundled import model_place
from personalign.decode import Models, load_causal, load_expert
from personalign.service import Personalign
from personalign.train.work import identity, track
from personalign.types import Guidance

BARS = {"smollm2.knowledge_kept": Bar("≤", 1.03)}
DRAWN = {"temperature": SERVED.temperature, "top_p": SERVED.top_p}
BLOCKS = "blocks.4.8"
Values = Float[NDArray[np.float64], "n"]
Right = Bool[NDArray[np.bool_], "n"]
Holds = Bool[NDArray[np.bool_], "tokens"]


@dataclass(frozen=True)
class Plan:
    """How much is taught, and how much is asked."""

    num_questions: int = 512
    num_people: int = 8
    num_taught: int = 120  # sums that the expert learns from
    num_steps: int = 10  # of its tuning, 4,096 tokens each
    num_sums: int = 60  # held out
    alphas: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.5)


def run_knowledge(
    plan: Plan, device: str, data: Path, work: Path, out: Path | None = None, model: str = "smollm2"
) -> dict[str, Any]:
    """Ask the questions, tune the expert, and ask again; what an earlier run left in ``work`` is taken from there.

    Raises:
        InputError: the data folder lacks a file.
    """
    exam, sums = Exam(read_questions(data, plan.num_questions), work), read_sums(data)
    with opened(model, device) as p:
        report = Report("personalign bench knowledge --json", str(p.models.base.device), bars=BARS, out=out)
        report.facts = {"basis": p.basis.id, "plan": asdict(plan)}
        trial = Trial(p.models, _origin(p), exam)
        place = model_place(model)
        expert = expert_on(place, sums[: plan.num_taught], plan.num_steps, work, device)
        report.extend(trial.tuned(place, expert, sums[plan.num_taught :][: plan.num_sums], plan.alphas))
        report.extend(trial.steered(_people(p, plan.num_people)))
    return report.to_json()


def _origin(p: Personalign) -> str:
    return identity(p.basis.id, asdict(p.models.base.fingerprints), *(p.basis.head or {}).values())


def _people(p: Personalign, num: int) -> list[Guidance]:
    """People whose tastes are on the scale of the replies that the service asks about, once they have answered."""
    scores = score([text for question in p.basis.bank for text in (question.first, question.second)])
    traits = varying(scores)
    scale = Scale(traits, scores[:, traits].mean(0), scores[:, traits].std(0))
    people = [draw(number, len(traits)) for number in range(num)]
    for person in track(people, "asking"):
        onboard(p, person, scale, person.name)
    guidances = [p.serving.guidance(p.profile(person.name)) for person in people]
    return [guidance for guidance in guidances if guidance is not None]  # everyone has answered


@dataclass(frozen=True, eq=False)
class Trial:
    """The models that are compared, what they follow from, and the questions."""

    models: Models
    origin: str
    exam: Exam

    @cached_property
    def base(self) -> Marks:
        """How likely the base makes the answers."""
        return self.exam.dictate(self._way("base"))

    @cached_property
    def right(self) -> Right:
        """What the base answers right."""
        return self.exam.write(self._way("base"))

    def steered(self, people: Sequence[Guidance]) -> Iterator[Row]:
        """What the tilt and the choice among siblings keep, by people's profiles."""
        tilt = self.exam.dictate(self._way("tilt", people=people))
        yield _kept_row(self.base, tilt, len(self.exam.questions))
        yield _share_row("listed", self.base, self.base.is_listed)
        yield _share_row("drawn.base", self.base, self.base.is_drawn)
        yield _share_row("drawn.tilt", tilt, tilt.is_drawn)
        yield self._uncut_row(people)
        yield _right_row("base", self.right)
        yield _right_row("tilt", self.exam.write(self._way("tilt", people=people, in_turns=True)), self.right)
        drawn = self.exam.write(self._way("drawn", options=DRAWN))
        yield _right_row("drawn", drawn, self.right)
        chosen = self._way(BLOCKS, people=people, options=blocks(4, 8) | DRAWN, in_turns=True)
        yield _right_row(BLOCKS, self.exam.write(chosen), drawn)

    def tuned(self, place: str, expert: Path, sums: Sequence[Conversation], alphas: Sequence[float]) -> Iterator[Row]:
        """What the expert's stack and direct tuning gain on the domain, and what they keep."""
        device, origin = str(self.models.base.device), identity(self.origin, weights_of(expert))
        direct = directly_tuned(place, expert, device)
        pair, grid = Pair(self.models.base, direct, origin), (0.0, *alphas)
        yield from _domain_rows(pair.bits(sums, grid, self.exam.work), grid)
        bits = pair.bits([question.conversation for question in self.exam.questions], grid, self.exam.work)
        for column, alpha in enumerate(alphas, start=2):
            yield _ratio_row(f"alpha.{alpha:g}", bits[:, column], bits[:, 1])
        tuned = Way("direct", Models(direct, None, self.models.steering), origin)
        yield _right_row("direct", self.exam.write(tuned), self.right)
        stack = replace(self.models, experts={NAME: load_expert(expert, load_causal(place, device))})
        half = Way("alpha.0.5", stack, origin, options={"expert": NAME, "alpha": 0.5})
        yield _right_row("alpha.0.5", self.exam.write(half), self.right)

    def _uncut_row(self, people: Sequence[Guidance]) -> Row:
        """The tilt of all tokens there are, which takes none away: it isn't served, and says what the cut costs."""
        steering = replace(self.models.steering, num_candidates=self.models.num_tokens)
        models = replace(self.models, steering=steering)
        uncut = self.exam.dictate(Way("uncut", models, self.origin, people, in_turns=True))
        return _ratio_row("uncut", uncut.by_answer(uncut.bits), self.base.by_answer(self.base.bits))

    def _way(self, name: str, **how: Any) -> Way:  # noqa: ANN401 - fields of a way
        return Way(name, self.models, self.origin, **how)


def _kept_row(base: Marks, tilt: Marks, num: int) -> Row:
    """Bits of the tokens in the short list, within it: over all people's answers, divided by the base's."""
    plain, steered = (
        m.by_answer(np.where(m.is_listed, m.listed_bits, 0)).reshape(num, -1).mean(1) for m in (base, tilt)
    )
    facts = {"bits": float(steered.mean()), "base": float(plain.mean()), "listed": float(base.is_listed.mean())}
    return Row.estimated("smollm2.knowledge_kept", ratio(steered, plain), facts)


def _share_row(name: str, marks: Marks, holds: Holds) -> Row:
    """The share of the answers' tokens that can be written, and of whole answers."""
    facts = {"answers": float(marks.whole(holds).mean())}
    return Row(f"smollm2.knowledge.{name}", float(holds.mean()), facts=facts)


def _ratio_row(name: str, bits: Values, base: Values) -> Row:
    """Bits of the answers over all tokens, divided by the base's."""
    facts = {"bits": float(bits.mean()), "base": float(base.mean())}
    return Row.estimated(f"smollm2.knowledge.ratio.{name}", ratio(bits, base), facts)


def _right_row(name: str, right: Right, base: Right | None = None) -> Row:
    """The share of replies that hold an answer; ``more`` is how many more than without."""
    facts: dict[str, float] = {}
    if base is not None:
        more = mean(np.subtract(right, base, dtype=np.float64))
        facts = {"more": more.value, "more_low": more.low, "more_high": more.high}
    return Row.estimated(f"smollm2.knowledge.right.{name}", mean(right.astype(np.float64)), facts)


def _domain_rows(bits: Bits, alphas: Sequence[float]) -> Iterator[Row]:
    """Bits a token of the held-out sums; the base is α = 0, the directly tuned model α = 1."""
    tokens, by_alpha = bits[:, 0], dict(zip(alphas, bits[:, 1:].T, strict=True))
    gap = (by_alpha[0.0] - by_alpha[1.0]).sum()
    for alpha, values in by_alpha.items():
        facts = {"alpha": alpha, "gap_closed": float((by_alpha[0.0] - values).sum() / gap)}
        yield Row.estimated(f"smollm2.domain.bits.{alpha:g}", ratio(values, tokens), facts)
