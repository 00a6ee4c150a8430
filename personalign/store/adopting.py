"""Answers given under other bases, taken over by a new one: copied and measured anew, the originals left as they are.

Each function runs inside one transaction. What is copied keeps its time, and names the presentation it comes from
first, so that it is copied once, however often and from however many bases.
"""

from __future__ import annotations

import hashlib

from sqlalchemy import and_, exists, func, select
from sqlalchemy.orm import Session, aliased

from personalign.store import blobs, records
from personalign.store.answering import now, refit
from personalign.store.tables import AnswerRow, BasisRow, PresentationRow
from personalign.store.values import Fit, Measure
from personalign.types import FEEDBACK, Profile

Found = tuple[PresentationRow, AnswerRow | None]  # the answer that stands, if there is one


def behind(session: Session, basis_id: str) -> list[str]:
    """List the people with an answer under another basis that this one lacks."""
    own = aliased(PresentationRow)
    is_known = exists().where(
        own.user_id == PresentationRow.user_id,
        own.basis_id == basis_id,
        func.coalesce(own.origin, own.id) == func.coalesce(PresentationRow.origin, PresentationRow.id),
    )
    people = (
        select(AnswerRow.user_id)
        .join(PresentationRow, AnswerRow.presentation_id == PresentationRow.id)
        .where(AnswerRow.undone_at.is_(None), PresentationRow.basis_id != basis_id, ~is_known)
        .distinct()
        .order_by(AnswerRow.user_id)
    )
    return list(session.scalars(people))


def adopt(session: Session, user: str, basis_id: str, measure: Measure, fit: Fit) -> Profile | None:
    """Copy a person's answers to this basis and fit them there; None where it lacks none."""
    lacking = _lacking(session, user, basis_id)
    for shown, given in lacking:
        copy = _copy(shown, basis_id, measure)
        session.add(copy)
        session.flush()
        session.add(
            AnswerRow(
                user_id=user,
                presentation_id=copy.id,
                choice=given.choice,
                seconds=given.seconds,
                answered_at=given.answered_at,
                loss=given.loss,
            )
        )
    session.flush()
    return refit(session, user, basis_id, fit, "refitted", now()) if lacking else None


def _lacking(session: Session, user: str, basis_id: str) -> list[tuple[PresentationRow, AnswerRow]]:
    """The answers to copy, oldest first; where several bases hold one, the newest basis says how it stands."""
    here = session.scalars(
        select(PresentationRow).where(PresentationRow.user_id == user, PresentationRow.basis_id == basis_id)
    ).all()
    known = {_root(shown) for shown in here}
    pairs = {shown.question_id for shown in here if shown.kind in FEEDBACK}  # given here again meanwhile
    newest: dict[str, Found] = {_root(shown): (shown, given) for shown, given in _elsewhere(session, user, basis_id)}
    lacking = [
        (shown, given)
        for root, (shown, given) in newest.items()
        if given is not None and root not in known and shown.question_id not in pairs
    ]
    return sorted(lacking, key=lambda found: (found[1].answered_at, found[1].id))


def _elsewhere(session: Session, user: str, basis_id: str) -> list[Found]:
    """What a person was shown under other bases, the oldest basis first."""
    rows = session.execute(
        select(PresentationRow, AnswerRow)
        .join(BasisRow, PresentationRow.basis_id == BasisRow.id)
        .outerjoin(AnswerRow, and_(AnswerRow.presentation_id == PresentationRow.id, AnswerRow.undone_at.is_(None)))
        .where(PresentationRow.user_id == user, PresentationRow.basis_id != basis_id)
        .order_by(BasisRow.created_at, BasisRow.id)
    )
    return [(shown, given) for shown, given in rows]


def _root(shown: PresentationRow) -> str:
    return shown.origin or shown.id


def _copy(shown: PresentationRow, basis_id: str, measure: Measure) -> PresentationRow:
    v = measure(records.to_presentation(shown))
    blobs.check_finite("the answer's features", v)
    return PresentationRow(
        id=hashlib.sha256(f"{_root(shown)}\0{basis_id}".encode()).hexdigest()[:32],
        user_id=shown.user_id,
        basis_id=basis_id,
        question_id=shown.question_id,
        prompt=shown.prompt,
        a=shown.a,
        b=shown.b,
        swapped=shown.swapped,
        num_axes=len(v),
        v=blobs.encode(v),
        checksum=blobs.checksum(v),
        state="answered",
        shown_at=shown.shown_at,
        kind=shown.kind,
        origin=_root(shown),
    )
