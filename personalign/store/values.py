"""What the store takes and gives: frozen values, never rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from personalign.types import Array, Choice, Gaussian, Message


@dataclass(frozen=True, eq=False)
class Shown:
    """Two replies side by side, ``a`` left, ``b`` right; ``v`` (d,) are their features, left minus right."""

    question_id: str
    prompt: tuple[Message, ...]
    a: str
    b: str
    swapped: bool
    v: Array
    kind: str = "question"  # or "check", or feedback's, as in ``types.WEIGHTS``


@dataclass(frozen=True, eq=False)
class Presentation:
    """A question as it was shown: ``a`` left, ``b`` right; ``swapped`` if the bank's first reply is on the right."""

    id: str
    user: str
    basis_id: str
    question_id: str
    prompt: tuple[Message, ...]
    a: str
    b: str
    swapped: bool
    v: Array  # (d,) features, left minus right
    shown_at: datetime
    kind: str = "question"  # as in ``Shown``


@dataclass(frozen=True, eq=False)
class Answer:
    """One answer that stands; ``seconds`` is the time from showing to answering."""

    presentation_id: str
    choice: Choice
    v: Array  # (d,) features, left minus right
    seconds: float
    answered_at: datetime
    kind: str = "question"  # as in ``Shown``
    question_id: str = ""  # of what was answered
    loss: float | None = None  # log-loss under the profile before it, where that took a side
    gain: float | None = None  # nats by which that foresaw it better than everybody's, where a gate asked


Fit = Callable[[tuple[Answer, ...]], Gaussian]
"""From all answers that stand, oldest first, to the posterior.

It runs under the write lock: it must be quick and must not call the store.
"""

Measure = Callable[[Presentation], Array]
"""From what was shown to its features under another basis (d,), left minus right. It must not call the store."""
