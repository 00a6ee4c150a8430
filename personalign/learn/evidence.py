"""What a fit takes of a person's stored answers: which of them, as which pairs, and how much each counts.

A taste may change. The watch for it is Bayesian online change point detection (Adams and MacKay 2007). Each belief says
with which answer the newest taste began, and has weights that start from the prior there. It predicts each answer,
which moves its chance by Bayes's rule and its weights by moment matching; a probit link gives both in closed form. An
answer counts by the chance that no change came after it, and an alarm says that a change is nearly certain.

Mistakes aren't a change of taste. So the watch takes more answers for random ones than a fit does, and lets people lean
more to a side. ``python -m lab.learning.drift`` measures what it notices, how soon, and how often it errs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

from personalign.learn.likelihood import PROBIT
from personalign.learn.rank import as_rows, stand_in
from personalign.learn.rows import select, weigh
from personalign.messages import FEEDBACK
from personalign.types import INFORMATIVE, SIDES, WEIGHTS, Array, Gaussian

DAY_S = 86_400.0
CHANGE = 0.01  # the chance of a change before an answer
ALARM = 0.87  # the chance of a change since the last alarm from which on there is another alarm
FOLLOWED = 0.8  # the share of answers that aren't given at random
LEAN = 0.5  # standard deviation of people's lean to a side, in utility
SETTLED = 10  # answers within which no change is looked for: they come in one sitting
EVERY = 3  # from there on a new taste may begin with every third answer
NORMAL = 1 / np.sqrt(2 * np.pi)  # the peak of the normal density
MOST = 12  # beliefs, the likeliest of all


@runtime_checkable
class Given(Protocol):
    """An answer as it is stored."""

    @property
    def v(self) -> Array:
        """Features, left minus right (d,), or of each reply of a pick (k, d)."""

    @property
    def choice(self) -> str:
        """What was chosen."""

    @property
    def kind(self) -> str:
        """What it came from, as in ``types.WEIGHTS``."""

    @property
    def answered_at(self) -> datetime:
        """When."""


class Evidence(NamedTuple):
    """Pairs (n, d), choices, and weights (n,), as ``fit`` takes them."""

    v: Array
    choice: list[str]
    weight: Array


def evidence(answers: Sequence[Given], prior: Gaussian, half_life_days: float | None = None) -> Evidence:
    """Take the newest answers, oldest first, weighed by kind, by age, and by whether the taste still holds."""
    kinds, choices = [answer.kind for answer in answers], [answer.choice for answer in answers]
    days = np.array([answer.answered_at.timestamp() / DAY_S for answer in answers])
    weight = fade(days, weigh(kinds, choices), half_life_days, follow(answers, prior).holds)
    weighed = zip(answers, weight.tolist(), strict=True)
    rows = [row for given, share in weighed for row in as_rows(given.v, given.choice, given.kind, share)]
    newest = [rows[i] for i in select([row.choice for row in rows], [row.kind for row in rows])]
    v = stacked([row.v for row in newest], prior)
    return Evidence(v, [row.choice for row in newest], np.array([row.weight for row in newest]))


def follow(answers: Sequence[Given], prior: Gaussian) -> Drift:
    """What the answers so far say about a change of taste."""
    pairs = [stand_in(answer.v, answer.choice) for answer in answers]
    v, choices = stacked([v for v, _ in pairs], prior), [choice for _, choice in pairs]
    return watch(v, choices, [answer.kind for answer in answers], prior)


def stacked(rows: Sequence[Array], prior: Gaussian) -> Array:
    """Rows as a matrix, also where there is none."""
    return np.array(rows).reshape(len(rows), len(prior.mean))


@dataclass(frozen=True, eq=False)
class Drift:
    """What the answers so far say about a change of taste; all indices are 0 while there was no alarm."""

    chance: float  # of a change since the last alarm
    alarms: int
    changed_at: int  # index of the newer taste's first answer, by estimate
    restart: int  # index of the first answer after the last alarm
    asked: int  # questions answered from there on
    holds: Float[Array, "n"]  # the chance that no change came after each answer

    def explain(self) -> str:
        """The same in words."""
        if self.alarms:
            return (
                f"The taste seems to have changed, at about answer {self.changed_at + 1}. Answers from before count as "
                f"much as it is likely that they still hold; questions answered since the alarm: {self.asked}."
            )
        return "The answers are as the profile predicted, or there are too few to tell."


class _Beliefs:
    """What may be true of a person: since when the newest taste is held, how likely that is, and which it is.

    The lean to the left is the last of the weights. Places that aren't taken have no chance.
    """

    def __init__(self, prior: Gaussian) -> None:
        d = len(prior.mean)
        self._mean, self._covariance = np.append(prior.mean, 0.0), np.zeros((d + 1, d + 1))
        self._covariance[:d, :d], self._covariance[d, d] = prior.covariance, LEAN**2
        self.since = np.zeros(MOST, dtype=np.int64)  # index of its first answer
        self.chance = np.append(1.0, np.zeros(MOST - 1))
        self.mean = np.tile(self._mean, (MOST, 1))
        self.covariance = np.tile(self._covariance, (MOST, 1, 1))
        self._fall = np.empty_like(self.covariance)  # room for what an answer takes off

    def branch(self, answer: int) -> None:
        """Believe that a new taste begins with an answer, in place of what is least likely."""
        least = self.chance.argmin()
        self.since[least], self.chance[least] = answer, EVERY * CHANGE
        self.mean[least], self.covariance[least] = self._mean, self._covariance

    def learn(self, v: Float[Array, "D"], sign: float, share: float) -> None:
        """Update by an answer, which follows the taste in ``share`` of cases and is given at random in the others."""
        spread = (self.covariance.reshape(-1, len(v)) @ v).reshape(self.mean.shape)
        scale = 1 / np.sqrt(PROBIT**2 + spread @ v)
        z = sign * scale * (self.mean @ v)
        chance = 0.5 + share * (ndtr(z) - 0.5)
        slope = share * NORMAL * np.exp(z * z / -2) / chance
        step = scale * slope
        self.mean += (sign * step)[:, None] * spread
        fall = (step * (step + scale * z))[:, None] * spread
        self.covariance -= np.multiply(fall[:, :, None], spread[:, None, :], out=self._fall)
        self.chance *= chance
        self.chance /= self.chance.sum()

    def changed(self, start: int) -> float:
        """The chance that the taste changed with the answer ``start`` or a later one."""
        return float(self.chance @ (self.since >= start))

    def holds(self, num: int) -> Float[Array, "n"]:
        """The chance for each answer that no change came after it."""
        return np.asarray(np.bincount(self.since, self.chance, minlength=num)[:num].cumsum())

    def likeliest(self) -> int:
        """Index of the answer with which the newest taste most likely began."""
        return int(self.since[self.chance.argmax()])


def watch(v: Float[Array, "n d"], choices: Sequence[str], kinds: Sequence[str], prior: Gaussian) -> Drift:
    """Follow the answers, oldest first."""
    beliefs, alarms, changed_at, restart = _Beliefs(prior), 0, 0, 0
    faces = np.column_stack([v, [kind not in FEEDBACK for kind in kinds]])  # feedback has no side to lean to
    sided = [i for i, choice in enumerate(choices) if choice in SIDES and WEIGHTS[kinds[i]] > 0]
    for number, i in enumerate(sided):
        if number >= SETTLED and (number - SETTLED) % EVERY == 0:
            beliefs.branch(i)
        sign = 1.0 if SIDES[choices[i]] == "a" else -1.0
        beliefs.learn(faces[i], sign, FOLLOWED * np.sqrt(WEIGHTS[kinds[i]]))
        if beliefs.changed(max(restart, 1)) >= ALARM:
            alarms, changed_at, restart = alarms + 1, beliefs.likeliest(), i + 1
    newer = zip(kinds[restart:], choices[restart:], strict=True)
    asked = sum(kind == "question" and choice in INFORMATIVE for kind, choice in newer)
    return Drift(beliefs.changed(max(restart, 1)), alarms, changed_at, restart, asked, beliefs.holds(len(choices)))


def fade(days: Array, weight: Array, half_life_days: float | None, holds: Array | float = 1.0) -> Array:
    """Discount what each answer counts, (n,), for its age and by the chance that it still ``holds``.

    ``days`` are times, oldest first. Age is counted from a clock that answers move, not from today: a person's absence
    changes nothing, and the same answers give the same profile whenever they are fitted. None forgets nothing.
    """
    faded = weight * holds
    if half_life_days is not None:
        faded *= 0.5 ** (np.maximum(_clock(days, weight) - days, 0) / half_life_days)
    return faded


def _clock(days: Array, weight: Array) -> float:
    """Each answer moves the clock towards its own time by what it counts; a skip doesn't."""
    clock: float | None = None
    for day, share in zip(days.tolist(), weight.tolist(), strict=True):
        if share > 0:
            clock = day if clock is None else clock + min(share, 1.0) * max(day - clock, 0.0)
    return -np.inf if clock is None else clock
