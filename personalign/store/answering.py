"""A question's life: open, then answered, or withdrawn by an undo; feedback is answered from the start.

Each function runs inside one write transaction.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from math import fsum

from sqlalchemy import select
from sqlalchemy.orm import Session

from personalign.errors import AlreadyAnswered, BasisError, InputError, QuestionError
from personalign.store import blobs, records
from personalign.store.tables import AnswerRow, BasisRow, PresentationRow, UserRow
from personalign.store.values import Answer, Fit, Shown
from personalign.types import CHOICES, FEEDBACK, INFORMATIVE, WEIGHTS, Profile


def show(session: Session, user: str, basis_id: str, shown: Shown) -> PresentationRow:
    """Open a question, or find the one that is open."""
    _check_known(session, user, basis_id)
    if (waiting := records.find_open(session, user, basis_id)) is not None:
        return waiting
    return _add(session, user, basis_id, shown, "open")


def answer(
    session: Session, shown: PresentationRow, choice: str, fit: Fit, loss: float | None, gain: float | None
) -> Profile:
    """Store an answer with the profile that follows from it."""
    if choice not in CHOICES:
        raise QuestionError(f"the choice is {choice!r}, expected one of {', '.join(CHOICES)}")
    if shown.state == "withdrawn":
        raise QuestionError("an undo withdrew this question; ask for the next one")
    if shown.state == "answered":
        return _answered_again(session, shown, choice)
    at = now()
    seconds = max(0.0, (at - shown.shown_at).total_seconds())
    shown.state = "answered"
    session.add(
        AnswerRow(
            user_id=shown.user_id,
            presentation_id=shown.id,
            choice=choice,
            seconds=seconds,
            answered_at=at,
            loss=loss,
            gain=gain,
        )
    )
    session.flush()
    return refit(session, shown.user_id, shown.basis_id, fit, "answered", at)


def observe(
    session: Session,
    user: str,
    basis_id: str,
    shown: Shown,
    choice: str,
    fit: Fit,
    loss: float | None,
    gain: float | None,
) -> Profile:
    """Store feedback with the profile that follows from it; on the same pair the newest of a kind stands."""
    _check_known(session, user, basis_id)
    row = records.find_feedback(session, user, basis_id, shown.question_id)
    if row is None:
        row = _add(session, user, basis_id, shown, "answered")
    else:
        before = _standing(session, row)
        assert before is not None, "feedback is stored together with its choice"
        if before.choice == choice:
            return _newest(session, row)
        before.undone_at = now()
    session.flush()  # before its answer: the index allows one that stands
    at = now()
    session.add(
        AnswerRow(
            user_id=user,
            presentation_id=row.id,
            choice=choice,
            seconds=0.0,
            answered_at=at,
            loss=loss,
            gain=gain,
        )
    )
    session.flush()
    return refit(session, user, basis_id, fit, "observed", at)


def undo(session: Session, user: str, basis_id: str, fit: Fit) -> Profile | None:
    """Mark the newest answer to a question as undone and open its question again; feedback stays."""
    rows = [found for found in records.find_answers(session, user, basis_id) if found[1].kind not in FEEDBACK]
    if not rows:
        return None
    at = now()
    if (waiting := records.find_open(session, user, basis_id)) is not None:
        waiting.state = "withdrawn"
        session.flush()  # before the other opens: the index allows one
    newest, shown = rows[-1]
    newest.undone_at = at
    shown.state, shown.shown_at = "open", at
    session.flush()
    return refit(session, user, basis_id, fit, "undone", at)


def refit(session: Session, user: str, basis_id: str, fit: Fit, kind: str, at: datetime) -> Profile:
    """Fit the answers that stand, and store what comes out as the next revision."""
    answers = records.to_answers(records.find_answers(session, user, basis_id))
    row = records.profile_row(user, basis_id, fit(answers), at)
    newest = records.find_profile(session, user, basis_id)
    row.revision = 1 if newest is None else newest.revision + 1
    row.answers = sum(answer.kind == "question" for answer in answers)
    row.informative = _num_informative(answers)
    row.gain = fsum(answer.gain or 0.0 for answer in answers)
    session.add(row)
    records.add_event(session, user, kind, at, basis_id, row.revision)
    return records.to_profile(row)


def now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


def _check_known(session: Session, user: str, basis_id: str) -> None:
    if session.get(UserRow, user) is None:
        raise InputError("this person isn't known; add them first")
    if session.get(BasisRow, basis_id) is None:
        raise BasisError(f"basis {basis_id[:12]} isn't in this store; save it first")


def _add(session: Session, user: str, basis_id: str, shown: Shown, state: str) -> PresentationRow:
    row = PresentationRow(
        id=secrets.token_hex(16),
        user_id=user,
        basis_id=basis_id,
        question_id=shown.question_id,
        prompt=[{"role": message["role"], "content": message["content"]} for message in shown.prompt],
        a=shown.a,
        b=shown.b,
        swapped=shown.swapped,
        num_axes=len(shown.v),
        v=blobs.encode(shown.v),
        checksum=blobs.checksum(shown.v),
        state=state,
        shown_at=now(),
        kind=shown.kind,
    )
    session.add(row)
    return row


def _answered_again(session: Session, shown: PresentationRow, choice: str) -> Profile:
    given = _standing(session, shown)
    if given is None or given.choice != choice:
        said = given and given.choice
        raise AlreadyAnswered(f"the question was answered with {said!r}, not {choice!r}; undo that answer first")
    return _newest(session, shown)


def _standing(session: Session, shown: PresentationRow) -> AnswerRow | None:
    return session.scalar(select(AnswerRow).where(AnswerRow.presentation_id == shown.id, AnswerRow.undone_at.is_(None)))


def _newest(session: Session, shown: PresentationRow) -> Profile:
    row = records.find_profile(session, shown.user_id, shown.basis_id)
    assert row is not None, "an answer is stored together with its profile"
    return records.to_profile(row)


def _num_informative(answers: tuple[Answer, ...]) -> int:
    """Answers that say something; feedback by its weight, rounded down."""
    return int(sum(WEIGHTS[answer.kind] for answer in answers if answer.choice in INFORMATIVE))
