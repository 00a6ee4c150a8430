"""What the store takes and gives: frozen values, never rows; and how their content is written and sealed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from personalign.errors import ProfileError
from personalign.messages import read_pick
from personalign.types import SIDES, Array, Choice, Gaussian, Message, Pick, Profile, Statement, StatementKind


@dataclass(frozen=True, eq=False)
class Shown:
    """Two replies side by side, ``a`` left, ``b`` right; ``swapped`` if the bank's first reply is on the right.

    Behind them are those of a pick, which isn't ``swapped``.
    """

    question_id: str
    prompt: tuple[Message, ...]
    a: str
    b: str
    swapped: bool
    v: Array  # (d,) features, left minus right; (k, d) of each reply of a pick
    kind: str = "question"  # or "check", "trial", or feedback's, as in ``types.WEIGHTS``
    others: tuple[str, ...] = ()
    graded: bool = False  # whether "much better" was offered, so that "a" is a little better

    def __post_init__(self) -> None:
        check_finite("what is shown", self.v)

    @property
    def replies(self) -> tuple[str, ...]:
        """All of them, in the order of their letters."""
        return (self.a, self.b, *self.others)

    @classmethod
    def pair(cls, user: str, name: str, prompt: tuple[Message, ...], first: str, second: str, v: Array) -> Shown:
        """Put each reply on a side; ``v`` are the features, first minus second."""
        # a fair coin for the side, but the same one each time: what is shown can be repeated
        swapped = _digest(user, name)[0] % 2 == 1
        a, b = (second, first) if swapped else (first, second)
        return cls(name, prompt, a, b, swapped, v * (-1.0 if swapped else 1.0))

    @classmethod
    def pick(cls, user: str, name: str, prompt: tuple[Message, ...], replies: Sequence[str], features: Array) -> Shown:
        """Put replies in an order, the same one each time."""
        order = np.random.default_rng(list(_digest(user, name))).permutation(len(replies)).tolist()
        a, b, *others = (replies[i] for i in order)
        return cls(name, prompt, a, b, swapped=False, v=features[order], others=tuple(others))

    def turned(self, choice: str) -> Shown:
        """A question asked again, its sides changed; of a pick its best reply and its worst, or another."""
        best, worst = read_pick(SIDES.get(choice, choice), len(self.replies))
        left, right = sorted((best, int(best == 0) if worst is None else worst), reverse=True)
        v = -self.v if self.v.ndim == 1 else self.v[left] - self.v[right]
        a, b = self.replies[left], self.replies[right]
        return Shown(self.question_id, self.prompt, a, b, not self.swapped, v, kind="check")


def _digest(user: str, name: str) -> bytes:
    return hashlib.sha256(f"{user}\0{name}".encode()).digest()


@dataclass(frozen=True, eq=False, kw_only=True)
class Presentation(Shown):
    """What one person was shown, as it is stored."""

    id: str
    user: str
    basis_id: str
    shown_at: datetime


@dataclass(frozen=True, eq=False)
class Answer:
    """One answer that stands; ``seconds`` is the time from showing to answering."""

    presentation_id: str
    choice: Choice | Pick
    v: Array  # as in ``Shown``
    seconds: float
    answered_at: datetime
    kind: str = "question"  # as in ``Shown``
    question_id: str = ""  # of what was answered
    number: int = 0  # grows with a person's answers; 0 until it is stored


@dataclass(frozen=True)
class Trial:
    """A comparison of several ways to write, over many people."""

    id: str
    arms: tuple[str, ...]
    started_at: datetime
    stopped_at: datetime | None  # None while it runs
    num_erased: int  # people who were in it and were erased since


@dataclass(frozen=True)
class Comparison:
    """What arms of a trial wrote for one person, and what they chose; people have numbers and no names."""

    person: int
    a: str  # the arm of the left side
    b: str
    failed: str  # the sides whose arm failed: "", "a", "b" or "ab"
    choice: str | None = None  # None while there is no answer
    lengths: tuple[int, int] = (0, 0)  # characters, left and right


@dataclass(frozen=True)
class Person:
    """A person as a call finds them when it begins: erased meanwhile, they don't come back by it."""

    user: str
    created_at: datetime | None  # None while they aren't known
    erasures: int  # of all people, until then
    is_paused: bool = False  # whether they get plain replies


@dataclass(frozen=True, eq=False)
class Logged:
    """What a log told of a person, which their answers here add to."""

    answers: int
    informative: int
    mean: Array  # (d,)
    variance: Array  # (d,)

    @property
    def belief(self) -> Gaussian:
        """What their answers here start from."""
        return Gaussian(self.mean, np.diag(self.variance))

    def encode(self) -> bytes:
        """All of it as bytes."""
        return encode(np.concatenate([np.array([self.answers, self.informative]), self.mean, self.variance]))

    @classmethod
    def decode(cls, content: bytes) -> Logged:
        """Read such bytes."""
        counts, *parts = np.split(numbers := decode(content), [2, 1 + len(numbers) // 2])
        answers, informative = counts.astype(int).tolist()
        return cls(answers, informative, *parts)


@dataclass(frozen=True, eq=False)
class State:
    """What a change of a person's answers starts from, and what has to be the same when it is written."""

    user: str
    basis_id: str
    created_at: datetime | None  # of the person; None while they aren't known
    profile: Profile | None
    answers: tuple[Answer, ...]  # that stand, oldest first
    revisions: Mapping[str, int]  # of the person's profiles, by basis: each change of answers makes a new one
    is_behind: bool = False  # whether the profile lacks what was stated since, on another basis
    logged: Logged | None = None


Key = tuple[str, StatementKind]
Statements = Mapping[Key, Statement | None]
"""What is stated, by axis and kind; None takes it back."""

Fit = Callable[[tuple[Answer, ...]], Gaussian]
"""From all answers that stand, oldest first, to the posterior. It runs outside of every transaction."""

Measure = Callable[[Presentation], Array | None]
"""From what was shown to its features under another basis, as in ``Shown``."""


def check_finite(what: str, *arrays: Array | float) -> None:
    """Refuse NaN and Inf."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise ProfileError(
            f"{what} holds NaN or Inf, expected finite numbers; undo the last answer, or forget the person"
        )


def encode(array: Array) -> bytes:
    """Write the array's content as little-endian float64, row by row."""
    return array.astype("<f8").tobytes()


def decode(content: bytes) -> Array:
    """Read such an array, flat; a row's checksum has shown before that none of it is missing."""
    return np.frombuffer(content, dtype="<f8").astype(np.float64)


def checksum(values: Mapping[str, object]) -> str:
    """SHA-256 over columns by name; whatever a damaged column holds has one, too."""
    digest = hashlib.sha256()
    for name in sorted(values):
        content = _content(values[name])
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _content(value: object) -> bytes:
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogateescape")  # as the driver reads text that isn't UTF-8
    if isinstance(value, datetime):
        return b"t" + value.isoformat().encode()
    if isinstance(value, float):
        return b"f" + repr(value + 0.0).encode()  # SQLite keeps no sign of 0
    if type(value) is int:
        return b"j%d" % value  # as JSON has it, and ten times as fast
    return b"j" + json.dumps(value, sort_keys=True).encode()
