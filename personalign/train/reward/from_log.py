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
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.basis import Basis
from personalign.bundled import model_place
from personalign.decode.embed import HIDDEN, load_embedder
from personalign.decode.load import CausalModel, load_causal
from personalign.errors import InputError, MessageError
from personalign.learn.axes import Embed, features
from personalign.train.card import public_name
from personalign.train.log import AnswerLog, LogCounts
from personalign.train.loop import lora_rate
from personalign.train.reward.pairs import Measured, Pair, comparison, hold_out, soft_choices
from personalign.train.reward.train import Dev, RewardRecipe, TrainedReward, measure_reward, save_reward, train_reward
from personalign.train.work import made_in, track
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

    ``basis`` gives one reward for each of its axes; ``embed`` measures its learnt ones.

    Raises:
        InputError: too few people, answers that say nothing or can't be read, a diverged training, or a folder that
            holds something else.
        BasisError: the basis can't be measured, as ``features`` says.
        ModelError: a model that can't be used.
    """
    with made_in(folder) as work:
        causal = load_causal(model_place(model), device)
        rows, num_unreadable = _readable(causal, log)
        pairs = _pairs(log, rows, basis, embed)
        people = [log.user[i] for i in rows]
        judges = hold_out(people, HELD_OUT, seed)
        dev = Dev(tuple(i for i, user in enumerate(people) if user in judges), unseen="people")
        recipe = RewardRecipe(epochs=epochs, learning_rate=learning_rate or lora_rate(causal.model), seed=seed)
        axes = ("reward",) if basis is None else tuple(axis.name for axis in basis.axes)
        trained = train_reward(causal, pairs, recipe, axes, dev, work)
        about_new = _about_new_prompts(pairs, dev)
        new = measure_reward(trained.model, causal, about_new) if about_new else None
        made = MadeBackbone(
            folder,
            trained,
            log.counts,
            num_people=len(set(people)) - len(judges),
            num_held_out=len(judges),
            num_unreadable=num_unreadable,
            num_new=len(about_new),
            new=new,
        )
        save_reward(trained, folder, _data(made, log.name, basis), _licence(log.name, causal), _note(made), basis)
        (folder / FIGURES).write_text(json.dumps(made.row(), indent=2) + "\n", encoding="utf-8")
    return made


def backbone_from_log(
    log: AnswerLog, model: str, out: Path, basis: Path | None = None, device: str = "auto", seed: int = 0
) -> MadeBackbone:
    """Train a reward model on people's answers: one reward for each axis of a basis, or everyone's without one.

    Raises:
        InputError: as ``make_backbone``.
        BasisError: the basis can't be read, or its learnt axes are measured by another model.
    """
    if basis is None:
        return make_backbone(model, log, out, device, seed=seed)
    axes = Basis.load(basis)
    embed = None
    if axes.learnt is not None:
        causal = load_causal(model_place(model), device)
        if axes.learnt.embedder == HIDDEN:
            axes.check_model(causal.fingerprints)
        embed = load_embedder(axes.learnt.embedder, causal)
    return make_backbone(model, log, out, device, axes, embed, seed=seed)


def _readable(causal: CausalModel, log: AnswerLog) -> tuple[list[int], int]:
    """The informative answers that the model can read, and the number of those that it can't."""
    informative = [i for i, choice in enumerate(log.choice) if choice in INFORMATIVE]
    asked = track(informative, "pairs")
    rows = [i for i in asked if _can_read(causal, Pair(log.prompt[i], log.a[i], log.b[i]))]
    if len(people := {log.user[i] for i in rows}) < 2:
        raise InputError(
            f"{causal.name} can read the pairs of {len(rows)} of the log's {len(informative)} answers a, b or tie, by "
            f"{len(people)} people; expected those of at least 2; the others are too long for it, or hold a token that "
            "marks turns"
        )
    return rows, len(informative) - len(rows)


def _can_read(causal: CausalModel, pair: Pair) -> bool:
    try:
        comparison(causal, pair)
    except MessageError:
        return False
    return True


def _pairs(log: AnswerLog, rows: Sequence[int], basis: Basis | None, embed: Embed | None) -> list[Pair]:
    """The pairs as the people chose, or compared by the basis's axes."""
    if basis is None:
        targets = [[PREFERRED[log.choice[i]]] for i in rows]
    else:
        prompts = [log.prompt[i] for i in rows]
        a, b = (features(basis, prompts, [replies[i] for i in rows], embed) for replies in (log.a, log.b))
        targets = soft_choices(a, b).tolist()
    return [Pair(log.prompt[i], log.a[i], log.b[i], tuple(t)) for i, t in zip(rows, targets, strict=True)]


def _about_new_prompts(pairs: Sequence[Pair], dev: Dev) -> list[Pair]:
    """The dev pairs about prompts that aren't trained on."""
    rows = set(dev.rows)
    known = {json.dumps(pair.prompt) for i, pair in enumerate(pairs) if i not in rows}
    return [pairs[i] for i in dev.rows if json.dumps(pairs[i].prompt) not in known]


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
    return f"It was made from `{source}` and fits `{base}` alone: mind the terms of both when you pass it on."
