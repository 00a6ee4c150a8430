"""Each arm's share of wins in a trial, in intervals that hold at whatever times one looks.

People are the unit, not choices. A person counts by the mean of their first choice, of their first 3, and of their
first 10. Each mean is fixed once it is known. Over people, in the order they got there, it is a sequence of independent
numbers in [0, 1], if whether people go on doesn't depend on what they chose. Hedged bets (Waudby-Smith & Ramdas, JRSS B
2024, theorem 3) give an interval that holds its mean at all times at once, with chance 1 − α. The three means and all
pairs of arms divide ``MISS`` among them (Bonferroni); of the three intervals the narrowest is given.

A choice's two arms are drawn from all pairs of K alike, so each choice says something of every arm: its *credit* is its
score − ½ where it wrote a side, and 0 elsewhere. Its share of wins is ½ + K/2 · the mean credit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import log, sqrt

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import expit

from personalign.types import Array, Ints

MISS = 0.05  # the chance that any interval of a report ever misses
COUNTED = (1, 3, 10)  # choices of a person that a mean is of
BOLD = 0.5  # of the stake a bet may lose
EDGE = 1e-9
ALIKE = 0.1  # arms whose shares differ by less are as good as each other
RIDGE = 1 / 9  # of the regression: its coefficients have the prior deviation 3
STRIDE = 2.0  # log-odds that a step of the regression moves a choice at most
TUNED, FEW = 100, 20  # people for whom the asymptotic intervals are narrowest; they say nothing of as few
Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Results:
    """The choices of a trial, oldest first."""

    arms: tuple[str, ...]
    person: Ints  # (n,)
    left: Ints  # (n,) places in ``arms``
    right: Ints  # (n,)
    score: Array  # (n,) of the left side: 1 where it won, ½ for a tie, 0
    longer: Array  # (n,) log of the left side's length over the right one's

    @property
    def credit(self) -> Float[Array, "n K"]:
        """What each choice says of each arm."""
        credit, rows = np.zeros((len(self.score), len(self.arms))), np.arange(len(self.score))
        credit[rows, self.left], credit[rows, self.right] = self.score - 0.5, 0.5 - self.score
        return credit

    @property
    def weight(self) -> Float[Array, "n"]:
        """What a choice counts where all people count alike."""
        _, place, number = np.unique(self.person, return_inverse=True, return_counts=True)
        return np.asarray(1 / number[place])

    @property
    def miss(self) -> float:
        """The chance of one interval to miss."""
        return MISS / len(list(combinations(self.arms, 2)))


@dataclass(frozen=True)
class Share:
    """A share of wins against the other arms, and the interval it is in."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Pair:
    """Two arms, and by how much the first one's share of wins is the larger, from −1 to 1."""

    first: str
    second: str
    low: float
    high: float
    people: int  # who have chosen so far

    @property
    def is_known(self) -> bool:
        """Whether one is the better, or both are alike."""
        return self.low > 0 or self.high < 0 or (self.low > -ALIKE and self.high < ALIKE)

    def explain(self) -> str:
        """The same in words."""
        points = sorted((abs(100 * self.low), abs(100 * self.high)))
        if self.low > 0 or self.high < 0:
            better, worse = (self.first, self.second) if self.low > 0 else (self.second, self.first)
            return f"{better} beats {worse}: its share of wins is {points[0]:.0f} to {points[1]:.0f} points larger"
        if self.is_known:
            return f"{self.first} and {self.second} are alike: their shares differ by less than {points[1]:.0f} points"
        people = "1 person" if self.people == 1 else f"{self.people} people"
        return (
            f"no difference between {self.first} and {self.second} is seen yet; with {people} so far, "
            f"differences under {50 * (self.high - self.low):.0f} points can't be told"
        )


def shares(results: Results) -> list[Share]:
    """Each arm's share of wins."""
    factor, total = len(results.arms) / 2, max(results.weight.sum(), 1.0)
    means = results.weight @ results.credit / total
    bounds = [interval(results.person, credit + 0.5, results.miss) for credit in results.credit.T]
    scaled = 0.5 + factor * np.column_stack([means, np.array(bounds) - 0.5])
    return [Share(*row) for row in np.clip(scaled, 0.0, 1.0).tolist()]


def pairs(results: Results) -> list[Pair]:
    """Every two arms, compared by their shares."""
    people = len(np.unique(results.person))
    return [
        Pair(results.arms[first], results.arms[second], *_difference(results, first, second), people)
        for first, second in combinations(range(len(results.arms)), 2)
    ]


def _difference(results: Results, first: int, second: int) -> Interval:
    gap = results.credit[:, first] - results.credit[:, second]  # from −1 to 1
    bounds = 2 * np.array(interval(results.person, (gap + 1) / 2, results.miss)) - 1
    low, high = np.clip(len(results.arms) / 2 * bounds, -1.0, 1.0).tolist()
    return low, high


def interval(person: Ints, values: Array, miss: float) -> Interval:
    """Where the mean of people's values in [0, 1] is, whenever one looks."""
    bounds = [bet(_means(person, values, count), miss / len(COUNTED)) for count in COUNTED]
    return min(bounds, key=lambda bound: bound[1] - bound[0])


def _means(person: Ints, values: Array, count: int) -> Float[Array, "people"]:
    """The mean of each person's first ``count`` values, in the order in which people have got so many."""
    order = np.argsort(person, kind="stable")
    _, start, number = np.unique(person[order], return_index=True, return_counts=True)
    firsts = order[start[number >= count][:, np.newaxis] + np.arange(count)]
    return np.asarray(values[firsts[np.argsort(firsts[:, -1])]].mean(axis=1))


def bet(x: Float[Array, "n"], miss: float) -> Interval:
    """The interval of hedged bets for the mean of numbers in [0, 1], which come one by one."""
    n = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (n + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (n + 1)
    before = np.concatenate([[0.25], variance[:-1]])[: len(x)]  # a bet knows what came before it
    stakes = np.sqrt(2 * log(2 / miss) / (before * n * np.log(n + 1)))
    return _lowest(x, stakes, miss), 1 - _lowest(1 - x, stakes, miss)


def _lowest(x: Array, stakes: Array, miss: float) -> float:
    """The least mean that betting on more doesn't make rich enough to be refused."""
    poor = _wealth(EDGE, x, stakes, miss) <= 0
    return 0.0 if poor else float(brentq(_wealth, EDGE, 1.0, args=(x, stakes, miss), xtol=1e-6))


def _wealth(mean: float, x: Array, stakes: Array, miss: float) -> float:
    """The logarithm of what betting on more than a mean has come to, over what refuses it."""
    return float(np.log1p(np.minimum(stakes, BOLD / mean) * (x - mean)).sum()) - log(2 / miss)


def even_shares(results: Results) -> list[Share]:
    """Each arm's share of wins if all replies were equally long: a logistic regression on arms and lengths.

    Its variance is that of clusters, which are people. The intervals hold at all times where people are many
    (Waudby-Smith et al., Annals of Statistics 2024, theorem 2.2).
    """
    k = len(results.arms)
    arms = np.eye(k)
    x = np.column_stack([arms[results.left] - arms[results.right], results.longer])
    fitted, covariance = regress(x, results.score, results.weight, results.person)
    wins = expit(fitted[:k, np.newaxis] - fitted[:k])
    slopes = wins * (1 - wins) / (k - 1) * (1 - arms)
    gradient = np.diag(slopes.sum(1)) - slopes
    deviation = np.sqrt(np.einsum("ij,jl,il->i", gradient, covariance[:k, :k], gradient))
    values = (wins * (1 - arms)).sum(1) / (k - 1)
    people = len(np.unique(results.person))
    reach = widening(people, results.miss) * deviation if people > FEW else np.ones(k)
    rows = np.column_stack([values, values - reach, values + reach])
    return [Share(*row) for row in np.clip(rows, 0.0, 1.0).tolist()]


def regress(x: Array, score: Array, weight: Array, person: Ints) -> tuple[Array, Array]:
    """The coefficients of a logistic regression by Newton's steps, and their covariance with people as clusters."""
    fitted, ridge = np.zeros(x.shape[1]), RIDGE * np.eye(x.shape[1])
    for _ in range(100):
        chance = expit(x @ fitted)
        curvature = (x.T * (weight * chance * (1 - chance))) @ x + ridge
        step = np.linalg.solve(curvature, x.T @ (weight * (score - chance)) - RIDGE * fitted)
        step *= min(1.0, STRIDE / max(np.abs(x @ step).max(initial=0.0), EDGE))
        fitted = fitted + step
        if np.abs(step).max() < EDGE:
            break
    people, place = np.unique(person, return_inverse=True)
    pull = np.zeros((len(people), x.shape[1]))
    np.add.at(pull, place, x * (weight * (score - chance))[:, np.newaxis])
    inverse = np.linalg.inv(curvature)
    return fitted, inverse @ (pull.T @ pull) @ inverse


def widening(people: int, miss: float) -> float:
    """How many standard errors an interval reaches to either side that holds whenever one looks."""
    mixed = people * (-2 * log(miss) + log(-2 * log(miss)) + 1) / TUNED
    return sqrt(2 * (mixed + 1) / mixed * log(sqrt(mixed + 1) / miss))
