"""A person as people's routes show them: frozen values that the server writes and ``personalign.client`` reads.

They hold words and plain numbers alone. Their fields are the fields of the JSON.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MessageView:
    """One chat message."""

    role: str
    content: str


@dataclass(frozen=True)
class QuestionView:
    """A question as it is shown: its replies are called a, b, c and d, in this order."""

    id: str
    prompt: tuple[MessageView, ...]
    replies: tuple[str, ...]
    graded: bool  # whether "a++" and "b++" are offered


@dataclass(frozen=True)
class NextView:
    """The question that waits for an answer, or why there is none."""

    question: QuestionView | None
    stopped: str | None  # why there is no question, in words
    answered: int  # questions so far
    most: int  # questions that are asked at most


@dataclass(frozen=True)
class ExampleView:
    """Two replies to one prompt that differ most on an axis, and little on others."""

    prompt: tuple[MessageView, ...]
    low: str
    high: str


@dataclass(frozen=True)
class AxisView:
    """What is known of a person on one axis: weights in utility for each standard deviation of the axis."""

    name: str
    about: str
    low: str  # what a negative weight prefers
    high: str
    mean: float
    deviation: float  # how far off the mean may be
    unit: float  # the weight that position 1 stands for
    position: float | None  # from −1 to 1, where the person set it
    example: ExampleView | None


@dataclass(frozen=True)
class StatementView:
    """What a person stated about an axis, and didn't take back."""

    axis: str
    position: float
    kind: str  # "set" or "said"
    words: str  # in which it was said
    explanation: str


@dataclass(frozen=True)
class ProfileView:
    """What is known of a person; ``changes`` is what this request changed, in words, one line for each."""

    user: str
    revision: int
    answers: int  # to questions, informative or not
    informative: int  # those that say something about the weights
    is_personal: bool  # False where answers on this basis set nobody apart
    paused: bool  # whether replies are the model's own for now
    explanation: tuple[str, ...]
    axes: tuple[AxisView, ...]
    stated: tuple[StatementView, ...]
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnderstoodView:
    """What a wish in words says, the parts of it that weren't understood, and the profile with it."""

    understood: tuple[StatementView, ...]
    remainder: tuple[str, ...]
    profile: ProfileView


@dataclass(frozen=True)
class EventView:
    """Something that a person answered or stated; fields of the other kind are None or empty."""

    event: str  # "answer" or "statement"
    kind: str
    time: str  # ISO 8601
    prompt: tuple[MessageView, ...] = ()
    replies: tuple[str, ...] = ()
    choice: str | None = None
    seconds: float | None = None
    undone_at: str | None = None  # when an answer was taken back
    axis: str | None = None
    position: float | None = None
    words: str = ""
    holds: bool | None = None  # whether nothing on the axis came later


@dataclass(frozen=True)
class HistoryView:
    """All that a person answered and stated, the newest first."""

    events: tuple[EventView, ...]


@dataclass(frozen=True)
class DriftView:
    """What a person's answers say about a change of taste."""

    chance: float  # of a change since the last alarm
    alarms: int
    changed_at: int | None  # number of the newer taste's first answer, from 1; None without an alarm
    explanation: str


@dataclass(frozen=True)
class PreviewView:
    """One prompt answered twice: by the model alone, and under the person's reward."""

    plain: str
    personal: str


@dataclass(frozen=True)
class ForgottenView:
    """Whether a person was known and is erased now."""

    forgotten: bool


@dataclass(frozen=True)
class LinkView:
    """An address that opens a page for one person."""

    url: str


@dataclass(frozen=True)
class TokenView:
    """A credential with which a person acts for themselves alone."""

    token: str
    expires_in: float  # seconds


@dataclass(frozen=True)
class SessionView:
    """What a link was changed into: a token, whose it is, and the page it opens."""

    token: str
    expires_in: float  # seconds
    user: str
    page: str
