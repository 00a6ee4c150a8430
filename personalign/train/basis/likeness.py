"""How alike the replies of a log are to the model's own: a first look, before hours are spent.

What people prefer among replies that the model never writes says little about those that it does. A few of its own
are written, and compared with the log's axis by axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from personalign.decode.models import Models
from personalign.learn.axes import AXES, measure_many
from personalign.train.basis.bank import is_distinct, is_readable
from personalign.train.basis.rollouts import Plan, Rollouts, roll_out
from personalign.train.log import AnswerLog
from personalign.train.prompts import Prompts

PROMPTS, REPLIES = 16, 4  # prompts that are answered, and replies to each
MAX_LOG = 2_000  # answers of the log that are compared
STILL = 1e-3  # a standard deviation below it: the axis doesn't vary
FAR = 2.0  # standard deviations: less than a third of two such normal distributions overlaps


@dataclass(frozen=True)
class Likeness:
    """How far the means of the two are apart, in their common standard deviation, and what own replies are like."""

    distances: Mapping[str, float]  # by named axis, where replies of either vary on it
    num_axes: int  # on which the model's own replies vary
    num_askable: int  # prompts with two readable own replies that differ
    num_prompts: int

    @property
    def distance(self) -> float:
        """The root mean square over the axes: a few axes that are far apart count."""
        return float(np.sqrt(np.mean(np.square([*self.distances.values()] or [0.0]))))

    def describe(self) -> str:
        """A line for whoever waits."""
        widest = sorted(self.distances.items(), key=lambda item: -item[1])[:3]
        return (
            f"the log's replies and the model's own differ by {self.distance:.1f} standard deviations, the root mean "
            f"square over the axes (most on {', '.join(f'{axis}: {distance:.1f}' for axis, distance in widest)})"
        )

    def obstacle(self) -> str | None:
        """Why no head that is trained on the model's replies could serve these people; None where one may."""
        if not self.num_axes:
            return "the model's own replies differ on none of the axes"
        if not self.num_askable:
            return f"none of {self.num_prompts} prompts got two readable replies of the model's that differ"
        if self.distance > FAR:
            return f"the log's replies are {self.distance:.1f} standard deviations from the model's own"
        return None


def compare(log: AnswerLog, models: Models, prompts: Prompts, max_tokens: int, seed: int, work: Path) -> Likeness:
    """Let the model write a few replies and compare the log's with them."""
    plan = Plan(REPLIES, max_tokens, 20, forced_share=0.0, temperature=1.0, seed=seed + 2, num_prompts=PROMPTS)
    replies = roll_out(models, prompts.train, plan, work)
    rows = np.random.default_rng(seed).permutation(len(log.user))[:MAX_LOG].tolist()
    asked = [log.prompt[i] for i in rows] * 2
    theirs = measure_many(asked, [log.a[i] for i in rows] + [log.b[i] for i in rows], AXES)
    own = measure_many([prompts.train[i] for i in replies.prompt], list(replies.text), AXES)
    spread = np.sqrt((theirs.var(axis=0) + own.var(axis=0)) / 2)
    apart = np.abs(theirs.mean(axis=0) - own.mean(axis=0))
    return Likeness(
        {axis.name: float(apart[j] / spread[j]) for j, axis in enumerate(AXES) if spread[j] >= STILL},
        int((own.std(axis=0) >= STILL).sum()),
        _num_askable(replies),
        len(np.unique(replies.prompt)),
    )


def _num_askable(replies: Rollouts) -> int:
    """Prompts about which a question could be asked."""
    texts: dict[int, list[str]] = {}
    for prompt, text, complete in zip(replies.prompt.tolist(), replies.text, replies.complete, strict=True):
        if complete and is_readable(text):
            texts.setdefault(prompt, []).append(text)
    return sum(any(is_distinct(*pair) for pair in combinations(found, 2)) for found in texts.values())
