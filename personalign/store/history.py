"""What a person answered and stated, for them to read: the newest first, undone answers included."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from personalign.store import records
from personalign.store.tables import AnswerRow, BasisRow, PresentationRow
from personalign.types import Message


@dataclass(frozen=True)
class AnswerEvent:
    """An answer, and what was shown."""

    kind: str  # "question", "check" or "trial", or that of feedback
    time: datetime
    prompt: tuple[Message, ...]
    replies: tuple[str, ...]  # in the order in which they are called a, b, c, d
    choice: str
    seconds: float  # from showing to answering
    undone_at: datetime | None  # None while it stands

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; ``event`` says what it is."""
        return {"event": "answer"} | _plain(self)


@dataclass(frozen=True)
class StatementEvent:
    """What was stated of an axis, or taken back."""

    kind: str  # "set" or "said"
    time: datetime
    axis: str
    position: float | None  # None: taken back
    words: str  # in which it was said
    holds: bool  # whether nothing on the axis came later

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; ``event`` says what it is."""
        return {"event": "statement"} | _plain(self)


Event = AnswerEvent | StatementEvent


def read_history(session: Session, user: str) -> list[Event]:
    """Read all that a person answered and stated, whatever the basis, each once."""
    events: list[Event] = [*_answers(session, user), *_stated(session, user)]
    return sorted(events, key=lambda event: event.time, reverse=True)


def _answers(session: Session, user: str) -> list[AnswerEvent]:
    """Of an answer and its copies for other bases, the newest basis says whether it stands."""
    rows = session.execute(
        select(AnswerRow, PresentationRow)
        .join(PresentationRow, AnswerRow.presentation_id == PresentationRow.id)
        .join(BasisRow, PresentationRow.basis_id == BasisRow.id)
        .where(AnswerRow.user_id == user)
        .order_by(BasisRow.created_at, BasisRow.id, AnswerRow.number.desc())
    )
    events: dict[tuple[str, int], AnswerEvent] = {}
    for row, source in rows:
        answer, shown = records.to_answer(row, source), records.to_presentation(source)
        events[source.origin or source.id, row.number] = AnswerEvent(
            kind=answer.kind,
            time=answer.answered_at,
            prompt=shown.prompt,
            replies=shown.replies,
            choice=answer.choice,
            seconds=answer.seconds,
            undone_at=row.undone_at,
        )
    return list(events.values())


def _stated(session: Session, user: str) -> list[StatementEvent]:
    rows = records.statements(session, user)[::-1]
    newest = {(row.axis, row.kind): row.number for row in rows[::-1]}
    return [
        StatementEvent(
            kind=row.kind,
            time=row.stated_at,
            axis=row.axis,
            position=row.position,
            words=row.words,
            holds=row.position is not None and newest[row.axis, row.kind] == row.number,
        )
        for row in rows
    ]


def _plain(event: Event) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in vars(event).items()}
