"""``personalign bench stick``: whether what people gain lasts for twenty turns of a conversation with SmolLM2.

The people and their scale are those of ``bench.py``. What they say is fixed and was written before anything was
measured, so arms can be compared turn by turn. A person's gain is counted from the model's own replies to the same
turns, in standard deviations of these. Read ``talks.py`` for how a conversation is held.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from lab.bootstrap import mean, ratio
from lab.harness import Bar, Report, Row
from lab.prose import bench
from lab.prose.arms import ARMS, Arm, choose_arms
from lab.prose.people import Person, opened
from lab.prose.talks import Talks
from lab.prose.writing import SERVED, Desk, Written, opening
from personalign.integrations.hf import SteeredModel
from personalign.train.basis.calibrate import repetition
from personalign.train.work import identity, track, write_whole

CONVERSATIONS = Path(__file__).with_name("conversations.json")
PLAIN = Arm("plain", "none", {})
NAMES = ("tilt", "words", "words_and_tilt", "tilt.picks", "words_and_tilt.picks")
STEERED = ("tilt", "words_and_tilt", "tilt.picks", "words_and_tilt.picks")
TALKED = tuple({arm.name: arm for arm in ARMS}[name] for name in NAMES)
WINDOWS = {"1": slice(0, 4), "5": slice(4, 8), "10": slice(8, 12), "20": slice(16, 20)}  # each holds the turn it names
STEP = 2  # requests; as many as a window holds
SENTENCE = re.compile(r"[^.!?\n]{20,}")
BARS = {"smollm2.stick_20": Bar("≥", 0.9)}
Turns = Float[NDArray[np.float64], "people turns"]
Measured = Float[NDArray[np.float64], "people turns t"]  # traits


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    people: bench.Plan  # as many to each script, two at least
    max_tokens: int = 40  # of a reply


def run_stick(
    plan: Plan, device: str, work: Path, only: str = "", out: Path | None = None, model: str = "smollm2"
) -> dict[str, Any]:
    """Hold everybody's conversation under the arms that ``only`` chooses; what an earlier run has kept is read."""
    arms = choose_arms(TALKED, only)
    with opened(model, device) as p:
        report = Report("personalign bench stick --json", str(p.models.base.device), bars=BARS, out=out)
        report.facts = {"basis": p.basis.id, "plan": asdict(plan)}
        _measure(bench.begin(p, plan.people, work).desk, plan, arms, report)
    return report.to_json()


def scripts() -> list[list[str]]:
    """What a person says, turn by turn: each topic five times, begun at another of its requests.

    After every request comes a question that goes on with it. Over the five scripts of a topic each window holds every
    request once, so windows differ in nothing but what went before them.
    """
    content = json.loads(CONVERSATIONS.read_text(encoding="utf-8"))
    follow_ups = content["follow_ups"]
    made = []
    for topic, requests in enumerate(content["requests"].values()):
        pairs = [[request, follow_ups[(i + 3 * topic) % len(follow_ups)]] for i, request in enumerate(requests)]
        starts = range(0, len(pairs), STEP)
        made += [[text for pair in pairs[start:] + pairs[:start] for text in pair] for start in starts]
    return made


@dataclass(frozen=True, eq=False)
class Jury:
    """The people, and the traits of the model's own replies that their gains are counted from."""

    people: Sequence[Person]
    own: Measured
    num_scripts: int

    def gains(self, traits: Measured) -> Turns:
        """How much better each person likes their replies, turn by turn."""
        return np.array([self._gains(i, row) for i, row in enumerate(traits)])

    def _gains(self, number: int, traits: Float[NDArray[np.float64], "turns t"]) -> Float[NDArray[np.float64], "turns"]:
        """Those of one person, from the mean over all who hold the same conversation with the plain model."""
        person = self.people[number]
        own = person.utility(self.own).reshape(-1, self.num_scripts, len(traits))
        spread = np.sqrt(own.var(0, ddof=1).mean())
        return np.asarray((person.utility(traits) - own[:, number % self.num_scripts].mean(0)) / spread)


def _measure(desk: Desk, plan: Plan, arms: Sequence[Arm], report: Report) -> None:
    own = _kept(desk, PLAIN, plan)
    jury = Jury(desk.people, _traits(desk, own), len(scripts()))
    report.extend(_arm_rows(PLAIN, own, jury.gains(jury.own)))
    gains: dict[str, Turns] = {}
    for arm in arms:
        written = _kept(desk, arm, plan)
        gains[arm.name] = jury.gains(_traits(desk, written))
        report.extend(_arm_rows(arm, written, gains[arm.name]))
        tell(report, f"smollm2.stick_20.{arm.name}", gains[arm.name])
    if steered := [name for name in STEERED if name in gains]:
        best = max(steered, key=lambda name: float(gains[name].mean()))
        tell(report, "smollm2.stick_20", gains[best], {"arm": best})


def _traits(desk: Desk, written: Sequence[Written]) -> Measured:
    return np.stack([desk.scale.measure(turn.texts) for turn in written], axis=1)


def _kept(desk: Desk, arm: Arm, plan: Plan) -> list[Written]:
    """Hold everybody's conversation under an arm, or read what an earlier run has kept of it."""
    served, base = desk.served_in(arm), desk.models.base
    weights = [profile.mean.tolist() for profile in served.profiles]
    name = identity(scripts(), plan.max_tokens, asdict(SERVED), weights, served.basis.id, asdict(base.fingerprints))
    path = desk.work / f"stick.{arm.name}" / f"{name}.json"
    if not path.exists():
        rows = [asdict(turn) for turn in hold(desk, arm, plan)]
        write_whole(path, lambda partial: partial.write_text(json.dumps(rows), encoding="utf-8"))
    return [Written(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def hold(desk: Desk, arm: Arm, plan: Plan) -> list[Written]:
    """Everybody's conversation under an arm: a reply to each person, turn by turn."""
    lines, base, served = scripts(), desk.models.base, desk.served_in(arm)
    profiles = served.profiles
    steered = SteeredModel(base.model, base.tokenizer, served.basis)
    talks = Talks(steered, [opening(profile.as_system_prompt() if arm.in_words else "") for profile in profiles])
    people = profiles if arm.weights == "own" else [None] * len(profiles)
    mine = [lines[i % len(lines)] for i in range(len(profiles))]
    heard = track(list(zip(*mine, strict=True)), arm.name)
    return [talks.reply(said, people, plan.max_tokens, seed) for seed, said in enumerate(heard)]


def _arm_rows(arm: Arm, written: Sequence[Written], gains: Turns) -> Iterator[Row]:
    """What the replies are like turn by turn, and what people gain in each window: about 0 where nothing steers."""
    shape = {
        "repetition": [[repetition(text) for text in turn.texts] for turn in written],
        "copied": copied([turn.texts for turn in written]),
        "kl": [turn.kl for turn in written],
        "tokens": [turn.tokens for turn in written],
        "truncated": [turn.cut for turn in written],
    }
    by_turn = {name: np.array(values, dtype=np.float64).mean(1) for name, values in shape.items()}
    turns = by_turn | {"gain": gains.mean(0)}
    facts = {name: [round(float(x), 4) for x in values] for name, values in turns.items()}
    yield Row(f"smollm2.stick_repetition.{arm.name}", float(by_turn["repetition"].mean()), facts={"by_turn": facts})
    for window, span in WINDOWS.items():
        about = {name: float(values[span].mean()) for name, values in by_turn.items()}
        yield Row.estimated(f"smollm2.stick_gain.{arm.name}.{window}", mean(gains[:, span].mean(1)), about)


def copied(turns: Sequence[Sequence[str]]) -> list[list[float]]:
    """The share of each reply's sentences that an earlier reply to the same person holds word for word."""
    shares = []
    for number, texts in enumerate(turns):
        earlier = ["\n".join(replies) for replies in zip(*turns[:number], strict=True)] or [""] * len(texts)
        shares.append([_copied(text, before) for text, before in zip(texts, earlier, strict=True)])
    return shares


def _copied(text: str, before: str) -> float:
    sentences = SENTENCE.findall(text)
    return sum(sentence in before for sentence in sentences) / max(len(sentences), 1)


def tell(report: Report, figure: str, gains: Turns, facts: dict[str, Any] | None = None) -> None:
    """What is left of the mean gain at the end, and what is lost; a ratio to a gain that may be 0 has no interval."""
    first, last = (gains[:, WINDOWS[window]].mean(1) for window in ("1", "20"))
    report.extend([Row.estimated(f"{figure}.lost", mean(first - last), facts)])
    share = ratio(last, first)
    if mean(first).low > 0:
        report.extend([Row.estimated(figure, share, facts)])
    else:
        report.extend([Row(figure, share.value, facts=facts or {})])
        report.skip(f"the interval of {figure}: the gain in the first turns can't be told from 0")
