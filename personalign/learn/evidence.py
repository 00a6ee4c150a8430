"""What a fit takes of a person's stored answers: which of them, as which pairs, and how much each counts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import numpy as np

from personalign.learn.drift import Drift, fade, watch
from personalign.learn.rank import as_rows, stand_in
from personalign.learn.rows import select, weigh
from personalign.types import Array, Gaussian

DAY_S = 86_400.0


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
