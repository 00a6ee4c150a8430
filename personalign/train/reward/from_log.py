"""Make a reward model from a log of answers: what ``personalign basis fit --backbone`` does.

By itself it has one reward, everyone's: Bradley and Terry's model of all answers, for ARGS on behalf of whoever asks.
With a basis it has the basis's axes: it learns to predict them in every prefix, so that ARGS weighs them by each
person's own weights. Either way a fifth of the people have no part in the training, and their answers are what it is
measured on. ``reward.py`` does the work.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.basis import Basis
from personalign.bundled import TINY
from personalign.decode.load import CausalModel, load_causal
from personalign.errors import InputError, MessageError
from personalign.learn.axes import Embed, features
from personalign.train.expert.train import lora_rate
from personalign.train.files import made_in, public_name
from personalign.train.log import AnswerLog, LogCounts
from personalign.train.progress import track
from personalign.train.reward.pairs import Pair, comparison, soft_choices
from personalign.train.reward.save import save_reward
from personalign.train.reward.train import Dev, Measured, RewardRecipe, TrainedReward, measure_reward, train_reward
from personalign.train.split import hold_out
from personalign.types import INFORMATIVE

HELD_OUT = 0.2  # of the people
COIN = math.log(2)
PREFERRED = {"a": 1.0, "tie": 0.5, "b": 0.0}
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
    num_new: int  # of the measured pairs, those about prompts that weren't trained on
    new: Measured | None  # on these alone; None where there are none

    @property
    def helps(self) -> bool:
        """Whether it predicts the held-out people's pairs better than a coin, the mean of all axes."""
        return bool(np.nanmean(self.trained.report.after.log_loss) < COIN)

    def row(self) -> dict[str, Any]:
        """What was made, as JSON values; means over the axes, None where there was nothing to measure."""
        report, counts = self.trained.report, self.counts
        return {
            "reward": str(self.folder),
            "model": public_name(self.trained.base.name),
            "axes": list(self.trained.model.axes),
            "pairs": {
                "train": report.num_train,
                "held_out": report.num_dev,
                "new_prompts": self.num_new,
                "uninformative": counts.uninformative,
                "unreadable": self.num_unreadable,
                "duplicates": counts.duplicates,
                "bad": sum(bad.rows for bad in counts.bad.values()),
            },
            "people": {"train": self.num_people, "held_out": self.num_held_out},
            "accuracy": {"before": _mean(report.before.replies), "after": _mean(report.after.replies)}
            | {"new_prompts": None if self.new is None else _mean(self.new.replies)},
            "log_loss": {"before": _mean(report.before.log_loss), "after": _mean(report.after.log_loss)}
            | {"new_prompts": None if self.new is None else _mean(self.new.log_loss)},
            "helps": self.helps,
        }


def make_backbone(
    model: str,
    log: AnswerLog,
    folder: Path,
    device: str = "auto",
    basis: Basis | None = None,
    embed: Embed | None = None,
    epochs: int = 3,
    learning_rate: float | None = None,
    seed: int = 0,
) -> MadeBackbone:
    """Train a reward model on a base model and write the folder that ``load_reward`` and ``rule="args"`` take.

    A killed run goes on when called again with the same folder, and ends in the same weights.

    Args:
        model: what the LoRA is trained on, best the model that will be served: "tiny", a path or a hub id.
        log: many people's answers.
        folder: of the reward model: a new or an empty one, or what a killed run has left.
        device: "auto", or a torch device.
        basis: gives one reward for each of its axes; without it there is one, everyone's.
        embed: what the basis's learnt axes are measured in; not needed where it has none.
        epochs: how often each pair is trained on.
        learning_rate: by default 2e-3 for ten million parameters and fewer, down to 2e-4 for a billion.
        seed: of who is held out, the weights and the order.

    Raises:
        InputError: too few people, answers that say nothing or can't be read, a diverged training, or a folder that
            holds something else.
        BasisError: the basis can't be measured, as ``features`` says.
        ModelError: a model that can't be used.
    """
    with made_in(folder) as work:
        causal = load_causal(TINY / "base" if model == "tiny" else model, device)
        asked = _readable(causal, log)
        pairs = _pairs(log, asked.rows) if basis is None else _measured_pairs(log, asked.rows, basis, embed)
        people = [log.user[i] for i in asked.rows]
        held = hold_out(people, HELD_OUT, seed)
        dev = Dev(tuple(i for i, user in enumerate(people) if user in held), unseen="people")
        recipe = RewardRecipe(epochs=epochs, learning_rate=learning_rate or lora_rate(causal), seed=seed)
        axes = ("reward",) if basis is None else tuple(axis.name for axis in basis.axes)
        trained = train_reward(causal, pairs, recipe, axes, dev, work)
        rows = _about_new_prompts(pairs, dev)
        new = measure_reward(trained.model, causal, [pairs[i] for i in rows]) if rows else None
        made = MadeBackbone(
            folder,
            trained,
            log.counts,
            num_people=len(set(people)) - len(held),
            num_held_out=len(held),
            num_unreadable=asked.num_unreadable,
            num_new=len(rows),
            new=new,
        )
        save_reward(trained, folder, _data(made, log.name, basis), _licence(log.name, causal), _note(made), basis)
        (folder / FIGURES).write_text(json.dumps(made.row(), indent=2) + "\n", encoding="utf-8")
    return made


@dataclass(frozen=True)
class _Readable:
    rows: list[int]  # of the log: informative, and the model can read them
    num_unreadable: int


def _readable(causal: CausalModel, log: AnswerLog) -> _Readable:
    informative = [i for i, choice in enumerate(log.choice) if choice in INFORMATIVE]
    asked = track(informative, "pairs")
    rows = [i for i in asked if _can_read(causal, Pair(log.prompt[i], log.a[i], log.b[i]))]
    if len(people := {log.user[i] for i in rows}) < 2:
        raise InputError(
            f"{causal.name} can read the pairs of {len(rows)} of the log's {len(informative)} answers a, b or tie, by "
            f"{len(people)} people; expected those of at least 2; the others are too long for it, or hold a token that "
            "marks turns"
        )
    return _Readable(rows, len(informative) - len(rows))


def _can_read(causal: CausalModel, pair: Pair) -> bool:
    try:
        comparison(causal, pair)
    except MessageError:
        return False
    return True


def _pairs(log: AnswerLog, rows: Sequence[int]) -> list[Pair]:
    return [Pair(log.prompt[i], log.a[i], log.b[i], (PREFERRED[log.choice[i]],)) for i in rows]


def _measured_pairs(log: AnswerLog, rows: Sequence[int], basis: Basis, embed: Embed | None) -> list[Pair]:
    """The same pairs, compared by the basis's axes and not by the people."""
    prompts = [log.prompt[i] for i in rows]

    def measured(replies: Sequence[str]) -> Float[NDArray[np.float64], "n d"]:
        return features(basis, prompts, [replies[i] for i in rows], embed)

    targets = soft_choices(measured(log.a), measured(log.b)).tolist()
    return [Pair(log.prompt[i], log.a[i], log.b[i], tuple(t)) for i, t in zip(rows, targets, strict=True)]


def _about_new_prompts(pairs: Sequence[Pair], dev: Dev) -> list[int]:
    held = set(dev.rows)
    known = {json.dumps(pair.prompt) for i, pair in enumerate(pairs) if i not in held}
    return [i for i in dev.rows if json.dumps(pairs[i].prompt) not in known]


def _mean(values: Float[NDArray[np.float64], "d"]) -> float | None:
    known = values[~np.isnan(values)]
    return round(float(known.mean()), 4) if len(known) else None


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
    if made.new is None:
        about = "All of their prompts were trained on, with other people's answers."
    else:
        accuracy, log_loss = (
            "–" if share is None else f"{share:.3f}" for share in (_mean(made.new.replies), _mean(made.new.log_loss))
        )
        about = (
            f"Of these, {made.num_new:,} are about prompts that weren't trained on either: {accuracy} of them ordered\n"
            f"right, log-loss {log_loss} (means over the axes)."
        )
    return f"\n{about}\n" + ("" if made.helps else "\n**It doesn't help**: a coin predicts these people as well.\n")


def _licence(source: str, causal: CausalModel) -> str:
    base = public_name(causal.name)
    return f"It was made from `{source}` and fits `{base}` alone: whoever passes it on has to mind the terms of both."
