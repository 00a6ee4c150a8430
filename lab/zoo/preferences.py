"""The stage that makes the bundled basis: axes, successor head, prior, question bank, calibration."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lab.zoo.cards import ATTRIBUTION
from lab.zoo.dialogues import Dialogue, load_corpus
from lab.zoo.workshop import Workshop
from personalign.bundled import TINY
from personalign.decode import Models, load_causal, load_expert
from personalign.train.basis.build import Making, write_basis
from personalign.train.card import Origin
from personalign.train.plans import BANK_TEMPERATURE, UNCALIBRATED, Calibration, Plan, Plans
from personalign.train.prompts import Prompts
from personalign.types import Message

MAX_PROMPT_CHARACTERS = 500
NUM_PROMPTS = 1260
NUM_BANK_PROMPTS = 420
HOTEL_SHARE = 0.15
PLAN = Plan(replies_per_prompt=9, max_tokens=64, num_candidates=20, expert="hotels", alphas=(0.0, 0.5, 1.0))
BANK_PLAN = Plan(
    replies_per_prompt=8,
    max_tokens=64,
    num_candidates=20,
    forced_share=0.0,
    temperature=BANK_TEMPERATURE,
    seed=1,
    num_prompts=NUM_BANK_PROMPTS,
)
# who likes long replies gets some that are cut off
PLANS = Plans(PLAN, BANK_PLAN, calibration=Calibration(tolerance=0.04), axes="dialogue")
ORIGIN = Origin(
    title="tiny/basis",
    model="tiny",
    command="python -m lab.zoo.train --data DIR --stage basis",
    prompts="real user turns of Schema-Guided Dialogue",
    opened='model="tiny"',
    licence=ATTRIBUTION,
)


def make_basis(workshop: Workshop, plans: Plans = PLANS) -> None:
    """Bootstrap the basis of ``tiny/base`` and write its card."""
    folder = TINY / "basis"
    if (folder / "config.json").exists():
        return
    causal, small = load_causal(str(TINY / "base")), load_causal(str(TINY / "small"))
    hotels = load_expert(TINY / "experts" / "hotels", small)
    models = Models(causal, head=None, steering=UNCALIBRATED, experts={"hotels": hotels})
    prompts = basis_prompts(workshop.data)
    _ship(prompts.held_out)
    basis = write_basis(folder, Making(models, prompts, plans, workshop.work / "rollouts"), ORIGIN).basis
    pairs = tuple(replace(question, others=(), other_features=()) for question in basis.bank)
    replace(basis, bank=pairs).save(folder)  # with what picks show, all of tiny would take more than 16 MB


def _ship(prompts: Sequence[Sequence[Message]]) -> None:
    """Put held-out user turns beside the model, for the demo and the benchmarks."""
    lines = [json.dumps(list(prompt), ensure_ascii=False) for prompt in prompts]
    (TINY / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def basis_prompts(data: Path) -> Prompts:
    """User turns of training dialogues to learn from, of held-out ones to test and calibrate on."""
    corpus = load_corpus(data)
    held_out = user_turns(corpus.task_held_out, 120) + user_turns(corpus.hotel_dev, 20)
    random.Random(0).shuffle(held_out)
    num_hotels = round(NUM_PROMPTS * HOTEL_SHARE)
    train = user_turns(corpus.task, NUM_PROMPTS - num_hotels) + user_turns(corpus.hotel, num_hotels)
    random.Random(1).shuffle(train)  # the bank's share has hotels in it too
    return Prompts(train=train, held_out=held_out[:60], dev=held_out[60:92])


def user_turns(dialogues: Sequence[Dialogue], count: int) -> list[tuple[Message, ...]]:
    """The first one, three or five turns of ``count`` dialogues, each ending with the user."""
    rng = random.Random(count)
    prompts = []
    for dialogue in rng.sample(dialogues, len(dialogues)):
        prompt = tuple(dialogue.messages(rng.choice((1, 3, 5))))
        if prompt[-1]["role"] == "user" and sum(len(m["content"]) for m in prompt) <= MAX_PROMPT_CHARACTERS:
            prompts.append(prompt)
        if len(prompts) == count:
            break
    return prompts
