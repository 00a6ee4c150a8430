"""Rows into values and back; what every verb reads."""

from __future__ import annotations

from datetime import datetime
from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from personalign.errors import ProfileError, QuestionError
from personalign.store import blobs
from personalign.store.tables import AnswerRow, EventRow, PresentationRow, ProfileRow
from personalign.store.values import Answer, Presentation
from personalign.types import FEEDBACK, Array, Choice, Gaussian, Message, Profile


def find_presentation(session: Session, user: str, presentation_id: str) -> PresentationRow:
    """Find a person's presentation; another person's and an absent one get the same QuestionError."""
    row = session.get(PresentationRow, presentation_id)
    if row is None or row.user_id != user:
        raise QuestionError("there is no such question for this person; ask for a new one")
    return row


def find_open(session: Session, user: str, basis_id: str) -> PresentationRow | None:
    """Find the question that waits for this person's answer."""
    return session.scalar(
        select(PresentationRow).where(
            PresentationRow.user_id == user, PresentationRow.basis_id == basis_id, PresentationRow.state == "open"
        )
    )


def find_answers(session: Session, user: str, basis_id: str) -> list[tuple[AnswerRow, PresentationRow]]:
    """Find the answers that stand, oldest first, with what they answer."""
    rows = session.execute(
        select(AnswerRow, PresentationRow)
        .join(PresentationRow, AnswerRow.presentation_id == PresentationRow.id)
        .where(AnswerRow.user_id == user, PresentationRow.basis_id == basis_id, AnswerRow.undone_at.is_(None))
        .order_by(AnswerRow.answered_at, AnswerRow.id)  # a copy from another basis has a late id
    )
    return [(answer, shown) for answer, shown in rows]


def find_feedback(session: Session, user: str, basis_id: str, question_id: str) -> PresentationRow | None:
    """Find the pair that a person gave feedback on before; its kind is part of the id."""
    return session.scalar(
        select(PresentationRow).where(
            PresentationRow.user_id == user,
            PresentationRow.basis_id == basis_id,
            PresentationRow.question_id == question_id,
            PresentationRow.kind.in_(FEEDBACK),
        )
    )


def find_profile(session: Session, user: str, basis_id: str) -> ProfileRow | None:
    """Find the newest revision of a profile."""
    return session.scalar(
        select(ProfileRow)
        .where(ProfileRow.user_id == user, ProfileRow.basis_id == basis_id)
        .order_by(ProfileRow.revision.desc())
        .limit(1)
    )


def profile_row(user: str, basis_id: str, fitted: Gaussian, at: datetime) -> ProfileRow:
    """Make the row of a fitted profile, its revision and counts still to be set; ProfileError where it isn't sound."""
    d = fitted.mean.size
    if fitted.mean.shape != (d,) or fitted.covariance.shape != (d, d):
        raise ProfileError(
            f"the fit has shapes {fitted.mean.shape} and {fitted.covariance.shape}, expected (d,) and (d, d)"
        )
    blobs.check_finite("the fitted profile", fitted.mean, fitted.covariance)
    return ProfileRow(
        user_id=user,
        basis_id=basis_id,
        num_axes=d,
        mean=blobs.encode(fitted.mean),
        covariance=blobs.encode(fitted.covariance),
        checksum=blobs.checksum(fitted.mean, fitted.covariance),
        created_at=at,
    )


def add_event(
    session: Session, user: str, kind: str, at: datetime, basis_id: str | None = None, revision: int | None = None
) -> None:
    """Append to what happened."""
    session.add(EventRow(user_id=user, kind=kind, at=at, basis_id=basis_id, revision=revision))


def to_presentation(row: PresentationRow) -> Presentation:
    """Make the value, its features checked."""
    return Presentation(
        id=row.id,
        user=row.user_id,
        basis_id=row.basis_id,
        question_id=row.question_id,
        prompt=tuple(cast("list[Message]", row.prompt)),
        a=row.a,
        b=row.b,
        swapped=row.swapped,
        v=_features(row),
        shown_at=row.shown_at,
        kind=row.kind,
    )


def to_answers(rows: list[tuple[AnswerRow, PresentationRow]]) -> tuple[Answer, ...]:
    """Make the values, their features checked."""
    return tuple(
        Answer(
            presentation_id=shown.id,
            choice=cast("Choice", answer.choice),
            v=_features(shown),
            seconds=answer.seconds,
            answered_at=answer.answered_at,
            kind=shown.kind,
            question_id=shown.question_id,
            loss=answer.loss,
            gain=answer.gain,
        )
        for answer, shown in rows
    )


def to_profile(row: ProfileRow) -> Profile:
    """Make the value; StoreError where its bytes changed, ProfileError where they aren't finite."""
    mean = blobs.decode(row.mean, (row.num_axes,))
    covariance = blobs.decode(row.covariance, (row.num_axes, row.num_axes))
    blobs.check(row.checksum, mean, covariance)
    return Profile(
        row.user_id, row.basis_id, row.revision, mean, covariance, row.answers, row.informative, gain=row.gain
    )


def _features(row: PresentationRow) -> Array:
    v = blobs.decode(row.v, (row.num_axes,))
    blobs.check(row.checksum, v)
    return v
