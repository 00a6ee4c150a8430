"""Whether a person's taste still is what their profile says: an alarm on how well answers were predicted.

The profile predicts each answer before it is fitted (prequentially, Dawid 1984). The excess of the answer's log-loss
over a coin's, log 2, is the log-likelihood ratio of "anything goes" over "as the profile says". The CUSUM of the
excesses (Page 1954) raises the alarm. While the profile is right, exp(sum of excesses) is a martingale from wherever
the sum starts. So by Ville's inequality an alarm within n answers has a chance of at most n·exp(−THRESHOLD). The true
rate is far lower, because losses are below a coin's on average: ``tests/learn/test_drift.py`` simulates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from personalign.learn.fit import predict
from personalign.types import SIDES, WEIGHTS, Array, Gaussian, Noise

THRESHOLD = 4.0  # nats: 3 % of simulated people whose taste stays have an alarm within 50 answers (of 2,000)
STALE = 0.25  # what answers from before a change still count: the change may be of one taste among several
COIN = float(np.log(2))


@dataclass(frozen=True)
class Drift:
    """What the answers so far say about a change of taste.

    Both indices are 0 while there was no alarm.
    """

    excess: float  # nats; the CUSUM since the last alarm
    alarms: int
    changed_at: int  # index of the newer taste's first answer, by estimate
    restart: int  # index of the first answer after the last alarm
    asked: int  # questions answered from there on

    def explain(self) -> str:
        """The same in words."""
        if self.alarms:
            return (
                "The profile predicted some answers worse than a coin would: the taste seems to have changed. Answers "
                f"from before count a quarter; questions answered since: {self.asked}."
            )
        return "The answers are as the profile predicted, or there are too few to tell."


def log_loss(v: Float[Array, "d"], choice: str, post: Gaussian, noise: Noise, kind: str = "question") -> float | None:
    """−log of the probability that a profile gave to an answer before it came; None where it takes no side.

    Feedback follows the taste less often than answers do: √weight draws its probability towards ½, which inverts the
    formula of ``types.WEIGHTS``.
    """
    if choice not in SIDES:
        return None
    left = float(predict(v[np.newaxis], post, noise)[0])
    chance = 0.5 + np.sqrt(WEIGHTS[kind]) * ((left if SIDES[choice] == "a" else 1 - left) - 0.5)
    return float(-np.log(chance))


def watch(losses: Sequence[float | None], is_asked: Sequence[bool]) -> Drift:
    """Follow the answers, oldest first, by what ``log_loss`` gave for each."""
    excess, alarms, changed_at, restart, start = 0.0, 0, 0, 0, 0
    for i, loss in enumerate(losses):
        if loss is None:
            continue
        excess = max(0.0, excess + loss - COIN)
        if excess == 0:
            start = i + 1
        elif excess >= THRESHOLD:
            excess, alarms, changed_at, restart, start = 0.0, alarms + 1, start, i + 1, i + 1
    return Drift(excess, alarms, changed_at, restart, sum(is_asked[restart:]))


def fade(days: Array, weight: Array, half_life_days: float | None, changed_at: int = 0) -> Array:
    """Discount what each answer counts, (n,), for its age and for a change of taste since.

    ``days`` are times, oldest first. Age is counted from a clock that answers move, not from today: a person's absence
    changes nothing, and the same answers give the same profile whenever they are fitted. None forgets nothing.
    """
    faded = weight.copy()
    if half_life_days is not None:
        faded *= 0.5 ** (np.maximum(_clock(days, weight) - days, 0) / half_life_days)
    faded[:changed_at] *= STALE
    return faded


def _clock(days: Array, weight: Array) -> float:
    """Each answer moves the clock towards its own time by what it counts; a skip doesn't."""
    clock: float | None = None
    for day, share in zip(days.tolist(), weight.tolist(), strict=True):
        if share > 0:
            clock = day if clock is None else clock + min(share, 1.0) * max(day - clock, 0.0)
    return -np.inf if clock is None else clock
