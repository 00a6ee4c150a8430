"""Make the bundled basis of SmolLM2: ``python -m lab.zoo.smollm2.train``; a killed run goes on where it was.

The roll-outs take two hours on one core, the rest a quarter of an hour. ``--only`` rolls one kind of replies out, so
that two processes may share the work; the last call, without it, finds both. ``--head`` learns the head of the basis
that is there anew: its axes, questions and prior stay, and half of the roll-outs will do. ``--picks`` gives its
questions the other replies that picks show, from the other half.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from personalign.basis import Basis
from personalign.bundled import SMOLLM2_GENERATION, ZOO
from personalign.learn.axes import features
from personalign.train.basis.bank import until_last_sentence, with_others
from personalign.train.basis.build import Making, Replies, open_models, write_basis
from personalign.train.basis.rollouts import Rollouts, roll_out
from personalign.train.card import Origin, write_basis_card
from personalign.train.plans import Calibration, HeadRecipe, Plan, Plans
from personalign.train.prompts import Prompts, split_prompts
from personalign.types import Message, Steering

PROMPTS = Path(__file__).parent / "prompts.jsonl"
SYSTEM, TEMPERATURE, TOP_P = SMOLLM2_GENERATION.system, SMOLLM2_GENERATION.temperature, SMOLLM2_GENERATION.top_p
MAX_TOKENS = 160
LEARN = Plan(
    replies_per_prompt=4,
    max_tokens=MAX_TOKENS,
    num_candidates=20,
    temperature=TEMPERATURE,
    top_p=TOP_P,
    latest_forced=MAX_TOKENS // 4,
)
ASK = Plan(
    replies_per_prompt=5,
    max_tokens=MAX_TOKENS,
    num_candidates=20,
    forced_share=0.0,
    temperature=TEMPERATURE,
    top_p=TOP_P,
    seed=1,
    num_prompts=420,
)
GRID = tuple(Steering(beta, 3.0, 20) for beta in (4.0, 6.0, 8.0, 11.0, 16.0))
# plain, two of three replies are cut off and every seventh word repeats: people who like more get more of both
PLANS = Plans(LEARN, ASK, HeadRecipe(), Calibration(GRID, num_people=4, tolerance=0.16))
ORIGIN = Origin(
    title="smollm2/basis",
    model="smollm2",
    command="python -m lab.zoo.smollm2.train",
    prompts="434 everyday requests of the project's own and 200 of GPTeacher's role-plays (MIT)",
    opened='model="smollm2"',
    licence=(
        "## Licence\n\nApache-2.0, as the model is. The questions are replies of SmolLM2-135M-Instruct (Apache-2.0) to "
        "the project's own prompts and to role-plays of GPTeacher (MIT, teknium1).\n"
    ),
)


class Kind(StrEnum):
    """Which replies are rolled out alone."""

    LEARN = "learn"
    ASK = "ask"


def smollm2_prompts() -> Prompts:
    """The prompts, two of three behind a system message that asks for short answers, as many an operator's does."""
    texts = [json.loads(line)["prompt"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    return split_prompts([_conversation(text, is_short=i % 3 < 2) for i, text in enumerate(texts)], seed=0)


def _conversation(text: str, *, is_short: bool) -> tuple[Message, ...]:
    user: Message = {"role": "user", "content": text}
    return ({"role": "system", "content": SYSTEM}, user) if is_short else (user,)


def learn_head(folder: Path, making: Making) -> None:
    """Learn the head of a basis anew, and how strongly it steers."""
    basis, plan, prompts = Basis.load(folder), making.plans.learn, making.prompts
    learnt = roll_out(making.models, prompts.train, plan, making.work / "train")
    tested = roll_out(making.models, prompts.held_out, plan, making.work / "held_out")
    phi = features(basis, [prompts.train[i] for i in learnt.prompt], list(learnt.text))
    none_asked = Rollouts(**{part.name: getattr(learnt, part.name)[:0] for part in fields(Rollouts)})
    basis, report = making.calibrate(making.train(basis, learnt, phi), Replies(learnt, none_asked, tested))
    write_basis_card(folder, basis, report, ORIGIN, making.plans)
    basis.save(folder)


def add_picks(folder: Path, making: Making) -> None:
    """Give the questions of a basis the other replies to their prompts."""
    basis, prompts = Basis.load(folder), making.prompts.train
    asked = until_last_sentence(roll_out(making.models, prompts, making.plans.ask, making.work / "bank"))
    phi = features(basis, [prompts[i] for i in asked.prompt], list(asked.text))
    replace(basis, bank=with_others(basis.bank, prompts, asked, phi)).save(folder)


def main(
    work: Annotated[Path, typer.Option(help="roll-outs and checkpoints")] = Path(".zoo/smollm2"),
    only: Annotated[Kind | None, typer.Option(help="roll out these replies, and stop")] = None,
    picks: Annotated[bool, typer.Option("--picks", help="add replies to pick from to the basis that is there")] = False,
    head: Annotated[bool, typer.Option("--head", help="learn the head of the basis that is there anew")] = False,
) -> None:
    """Roll out, train the head, calibrate, and write the basis where ``model="smollm2"`` finds it."""
    folder = ZOO / "smollm2" / "basis"
    models, prompts = open_models("smollm2", "cpu"), smollm2_prompts()
    if only is not None:
        plan, name = (LEARN, "train") if only is Kind.LEARN else (ASK, "bank")
        roll_out(models, prompts.train, plan, work / name)
        return
    making = Making(models, prompts, PLANS, work)
    if picks:
        add_picks(folder, making)
    elif head:
        learn_head(folder, making)
    else:
        write_basis(folder, making, ORIGIN)


if __name__ == "__main__":
    typer.run(main)
