"""Whether a person's taste still is what their profile says: an alarm on how well answers were predicted.

Each answer is predicted by the profile before it (prequentially, Dawid 1984), and its log-loss compared with a coin's,
log 2: the excess is the log-likelihood ratio of "anything goes" over "as the profile says". Their CUSUM (Page 1954)
raises the alarm. While the profile is right, exp(sum of excesses) is a martingale from wherever the sum starts, so
by Ville's inequality an alarm within n answers has a chance of at most n·exp(−THRESHOLD); the true rate is far lower,
because losses are below a coin's on average: ``tests/learn/test_drift.py`` simulates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from personalign.learn.fit import predict
from personalign.types import WEIGHTS, Array, Gaussian, Noise

THRESHOLD = 4.0  # nats: 3 % of simulated people whose taste stays have an alarm within 50 answers (of 2,000)
STALE = 0.25  # what answers from before a change still count: the change may be of one taste among several
COIN = float(np.log(2))


@dataclass(frozen=True)
class Drift:
    """What the answers so far say about a change of taste.

    ``excess`` is the CUSUM, in nats, since the last alarm; ``alarms`` how many there were; ``changed_at`` and
    ``restart`` are the indices of the first answer of the newer taste, as it is estimated, and of the first one after
    the last alarm, both 0 while there was none; ``asked`` counts the questions answered from there on.
    """

    excess: float
    alarms: int
    changed_at: int
    restart: int
    asked: int

    def explain(self) -> str:
        """The finding in words."""
        if self.alarms:
            return (
                "The profile predicted some answers worse than a coin would: the taste seems to have changed. What was "
                f"said before counts a quarter; questions answered since: {self.asked}."
            )
        return "The answers are as the profile predicted, or there are too few to tell."


def log_loss(v: Float[Array, "d"], choice: str, post: Gaussian, noise: Noise, kind: str = "question") -> float | None:
    """−log of the probability that a profile gave to an answer before it came; None where it takes no side.

    Feedback goes by the taste less often than answers do: its probability is drawn towards ½ by √weight, which is the
    share of ``types.WEIGHTS`` turned back.
    """
    if choice not in {"a", "b"}:
        return None
    left = float(predict(v[np.newaxis], post, noise)[0])
    chance = 0.5 + np.sqrt(WEIGHTS[kind]) * ((left if choice == "a" else 1 - left) - 0.5)
    return float(-np.log(chance))


def watch(losses: Sequence[float | None], is_asked: Sequence[bool]) -> Drift:
    """Follow the answers, oldest first; ``losses`` as ``log_loss`` gave them, None where there was none."""
    excess, alarms, changed_at, restart, began = 0.0, 0, 0, 0, 0
    for i, loss in enumerate(losses):
        if loss is None:
            continue
        excess = max(0.0, excess + loss - COIN)
        if excess == 0:
            began = i + 1
        elif excess >= THRESHOLD:
            excess, alarms, changed_at, restart, began = 0.0, alarms + 1, began, i + 1, i + 1
    return Drift(excess, alarms, changed_at, restart, sum(is_asked[restart:]))


def fade(days: Array, weight: Array, half_life_days: float | None, changed_at: int = 0) -> Array:
    """Discount what each answer counts, (n,), for its age and for a change of taste since.

    ``days`` are times, oldest first. Age is counted from a clock that answers move, not from today: nobody is forgotten
    for being away, and the same answers give the same profile whenever they are fitted. None forgets nothing.
    """
    faded = weight.copy()
    if half_life_days is not None:
        faded *= 0.5 ** (np.maximum(_clock(days, weight) - days, 0) / half_life_days)
    faded[:changed_at] *= STALE
    return faded


def _clock(days: Array, weight: Array) -> float:
    """Each answer moves the clock towards its own time by what it counts: a skip, which tells nothing, doesn't."""
    clock: float | None = None
    for day, share in zip(days.tolist(), weight.tolist(), strict=True):
        if share > 0:
            clock = day if clock is None else clock + min(share, 1.0) * max(day - clock, 0.0)
    return -np.inf if clock is None else clock
