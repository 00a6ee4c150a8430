"""Make a reward model from a log of answers: what ``personalign basis fit --backbone`` does.

By itself it has one reward, everyone's: Bradley and Terry's model of all answers. With a basis it learns to predict
the basis's axes in every prefix, so that ARGS weighs them by each person's own weights. Either way it is measured on
the answers of a fifth of the people, who have no part in the training. ``train.py`` does the work.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from personalign.basis import Basis
from personalign.bundled import model_place
from personalign.decode.embed import HIDDEN, load_embedder
from personalign.decode.load import CausalModel, load_causal
from personalign.errors import InputError, MessageError
from personalign.learn.axes import features
from personalign.train.card import cell, mean_known, public_name, rounded_mean
from personalign.train.log import Answer, AnswerLog, LogCounts
from personalign.train.loop import lora_rate
from personalign.train.reward.pairs import Pair, comparison, hold_out, soft_choices
from personalign.train.reward.train import RewardRecipe, TrainedReward, save_reward, train_reward
from personalign.train.work import made_in, track
from personalign.types import INFORMATIVE, SIDES

HELD_OUT = 0.2  # of the people
COIN = math.log(2)
PREFERRED = {"tie": 0.5} | {choice: float(side == "a") for choice, side in SIDES.items()}
FIGURES = "figures.json"


@dataclass(frozen=True, eq=False)
class MadeBackbone:
    """A reward model in its folder, and how well it predicts the answers of people it wasn't trained on."""

    folder: Path
    trained: TrainedReward
    counts: LogCounts  # of the log
    num_people: int  # whose pairs were trained on
    num_held_out: int  # people whose pairs were measured
    num_unreadable: int  # informative answers left out: too long for the model, or with a token that marks turns

    @property
    def helps(self) -> bool:
        """Whether it predicts the held-out people's pairs better than a coin, the mean of all axes."""
        return bool(np.nanmean(self.trained.report.after.log_loss) < COIN)

    def row(self) -> dict[str, Any]:
        """What was made, as JSON values; means over the axes, None where there was nothing to measure."""
        report, counts = self.trained.report, self.counts
        stages = {"before": report.before, "after": report.after, "new_prompts": report.new}
        return {
            "reward": str(self.folder),
            "model": public_name(self.trained.base.name),
            "axes": list(self.trained.model.axes),
            "pairs": {
                "train": report.num_train,
                "held_out": report.num_dev,
                "new_prompts": report.num_new,
                "uninformative": counts.uninformative,
                "unreadable": self.num_unreadable,
                "duplicates": counts.duplicates,
                "bad": sum(bad.rows for bad in counts.bad.values()),
            },
            "people": {"train": self.num_people, "held_out": self.num_held_out},
            "accuracy": {stage: measured and rounded_mean(measured.replies) for stage, measured in stages.items()},
            "log_loss": {stage: measured and rounded_mean(measured.log_loss) for stage, measured in stages.items()},
            "helps": self.helps,
        }


def make_backbone(
    model: str,
    log: AnswerLog,
    folder: Path,
    device: str = "auto",
    basis: Path | None = None,
    epochs: int = 3,
    learning_rate: float | None = None,
    seed: int = 0,
) -> MadeBackbone:
    """Train a reward model on a base model and write the folder that ``load_reward`` and ``rule="args"`` take.

    A killed run goes on when called again with the same folder, and ends in the same weights. It gives one reward for
    each axis of ``basis``, or everyone's without one.

    Raises:
        InputError: too few people, answers that say nothing or can't be read, a diverged training, or a folder that
            holds something else.
        BasisError: the basis can't be read, or its learnt axes are measured by another model.
        ModelError: a model that can't be used.
    """
    with made_in(folder) as work:
        shared = None if basis is None else Basis.load(basis)
        causal = load_causal(model_place(model), device)
        answers, num_unreadable = _readable(causal, log)
        pairs = _pairs(answers, causal, shared)
        people = [answer.user for answer in answers]
        rate = learning_rate or lora_rate(causal.model)
        recipe = RewardRecipe(epochs=epochs, learning_rate=rate, dev_share=HELD_OUT, seed=seed)
        axes = ("reward",) if shared is None else tuple(axis.name for axis in shared.axes)
        trained = train_reward(causal, pairs, recipe, axes, people, work)
        num_held_out = len(hold_out(people, HELD_OUT, seed))
        num_people = len(set(people)) - num_held_out
        made = MadeBackbone(folder, trained, log.counts, num_people, num_held_out, num_unreadable)
        save_reward(trained, folder, _data(made, log.name, shared), _licence(log.name, causal), _note(made), shared)
        (folder / FIGURES).write_text(json.dumps(made.row(), indent=2) + "\n", encoding="utf-8")
    return made


def _readable(causal: CausalModel, log: AnswerLog) -> tuple[list[Answer], int]:
    """The informative answers that the model can read, and the number of those that it can't."""
    informative = [answer for answer in log.answers if answer.choice in INFORMATIVE]
    answers = [answer for answer in track(informative, "pairs") if _can_read(causal, answer)]
    if len(people := {answer.user for answer in answers}) < 2:
        raise InputError(
            f"{causal.name} can read the pairs of {len(answers)} of the log's {len(informative)} answers a, b or tie, "
            f"by {len(people)} people; expected those of at least 2; the others are too long for it, or hold a token "
            "that marks turns"
        )
    return answers, len(informative) - len(answers)


def _can_read(causal: CausalModel, answer: Answer) -> bool:
    try:
        comparison(causal, Pair(answer.prompt, answer.a, answer.b))
    except MessageError:
        return False
    return True


def _pairs(answers: Sequence[Answer], causal: CausalModel, basis: Basis | None) -> list[Pair]:
    """The pairs as the people chose, or compared by the basis's axes."""
    if basis is None:
        return [Pair(answer.prompt, answer.a, answer.b, (PREFERRED[answer.choice],)) for answer in answers]
    embed = None
    if basis.learnt is not None and not basis.learnt.items:
        if basis.learnt.embedder == HIDDEN:
            basis.check_model(causal.fingerprints)
        embed = load_embedder(basis.learnt.embedder, causal)
    prompts = [answer.prompt for answer in answers]
    a, b = (features(basis, prompts, texts, embed) for texts in zip(*((x.a, x.b) for x in answers), strict=True))
    targets = soft_choices(a, b).tolist()
    return [Pair(x.prompt, x.a, x.b, tuple(target)) for x, target in zip(answers, targets, strict=True)]


def _data(made: MadeBackbone, source: str, basis: Basis | None) -> str:
    counts, report = made.counts, made.trained.report
    target = (
        "The target is what each person chose."
        if basis is None
        else f"The targets are the axes of the basis `{basis.id[:12]}`, measured in both replies, not the choices."
    )
    used = report.num_train + report.num_dev
    return f"""\
{counts.rows:,} answers of {counts.people:,} people in `{source}`, {used:,} of them used; of the others
{counts.duplicates:,} were there before, {counts.uninformative:,} say neither or skip, and {made.num_unreadable:,}
are too long for the model or hold a token that marks turns. Kept are {counts.repeats:,} repeated answers,
{counts.contradictions:,} pairs that one person answered in several ways, and {counts.constant_people:,} people who
always chose one side. {made.num_held_out:,} people were held out. {target}"""


def _note(made: MadeBackbone) -> str:
    report = made.trained.report
    if report.new is None:
        about = "All of their prompts were trained on, with other people's answers."
    else:
        accuracy, log_loss = (cell(mean_known(values)) for values in (report.new.replies, report.new.log_loss))
        about = (
            f"Of these, {report.num_new:,} are about prompts that weren't trained on either: {accuracy} of them "
            f"ordered\nright, log-loss {log_loss} (means over the axes)."
        )
    return f"\n{about}\n" + ("" if made.helps else "\n**It doesn't help**: a coin predicts these people as well.\n")


def _licence(source: str, causal: CausalModel) -> str:
    base = public_name(causal.name)
    return f"It was made from `{source}` and fits `{base}` alone: mind the terms of both when you pass it on."
