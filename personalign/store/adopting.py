"""Answers given under other bases, taken over by a new one: copied and measured anew, the originals left as they are.

What is copied keeps its time and number, and names the presentation it comes from first, so that it is copied once,
however often and from however many bases.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from sqlalchemy import and_, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from personalign.messages import FEEDBACK
from personalign.store import records
from personalign.store.answering import Change, newest
from personalign.store.tables import AnswerRow, BasisRow, PresentationRow, ProfileRow, UserRow
from personalign.store.values import Answer, Measure, Presentation, State
from personalign.types import Array


@dataclass(frozen=True, eq=False)
class Lacking:
    """The answers that a basis lacks, and what they answer, each with the presentation that it comes from first."""

    state: State
    originals: tuple[tuple[str, Presentation, Answer], ...]

    @property
    def names(self) -> list[tuple[str, int]]:
        """Which answers these are."""
        return [(root, given.number) for root, _, given in self.originals]

    def measured(self, measure: Measure) -> Change:
        """Draft their copies, with features under the new basis."""
        user, basis_id = self.state.user, self.state.basis_id
        copies = [(root, shown, _copy(root, given, basis_id, measure(shown))) for root, shown, given in self.originals]
        answers = (*self.state.answers, *(given for _, _, given in copies))

        def write(session: Session, judged: tuple[Answer, ...]) -> None:
            newest_of = {answer.presentation_id: answer for answer in judged}
            for root, shown, given in copies:
                copied, name = replace(shown, v=given.v), given.presentation_id
                session.add(records.new_presentation(user, basis_id, copied, "answered", name, origin=root))
                session.flush()
                session.add(records.new_answer(session, user, newest_of.get(name, given)))

        in_order = tuple(sorted(answers, key=lambda answer: answer.number))
        return Change(
            state=self.state,
            answers=newest(in_order),
            write=write,
            is_needed=bool(copies),
            is_current=lambda session: find_lacking(session, user, basis_id).names == self.names,
            is_complete=True,
        )


def behind(session: Session, basis_id: str, is_gated: bool) -> list[str]:
    """List the people with an answer under another basis that this one lacks, or whose record a gate hasn't judged."""
    other = aliased(PresentationRow)
    is_known = exists().where(
        other.user_id == PresentationRow.user_id,
        other.basis_id == basis_id,
        func.coalesce(other.origin, other.id) == func.coalesce(PresentationRow.origin, PresentationRow.id),
    )
    is_lacking = exists().where(
        AnswerRow.user_id == UserRow.id,
        AnswerRow.undone_at.is_(None),
        PresentationRow.id == AnswerRow.presentation_id,
        PresentationRow.basis_id != basis_id,
        ~is_known,
    )
    # two ranges, which the index serves; "differs" would read every row
    lacking = select(UserRow.id).where(or_(UserRow.home < basis_id, UserRow.home > basis_id), is_lacking)
    unjudged = select(ProfileRow.user_id).where(ProfileRow.basis_id == basis_id, ProfileRow.gain.is_(None))
    people = set(session.scalars(lacking))
    return sorted(people | set(session.scalars(unjudged)) if is_gated else people)


def find_lacking(session: Session, user: str, basis_id: str) -> Lacking:
    """Find the answers to copy, oldest first; where several bases hold one, the newest basis says how it stands."""
    presented = session.scalars(select(PresentationRow).where(*records.shown_to(user, basis_id))).all()
    known = {_root(shown) for shown in presented}
    pairs = {shown.question_id for shown in presented if shown.kind in FEEDBACK}  # given anew on this basis
    latest = {_root(shown): (shown, given) for shown, given in _elsewhere(session, user, basis_id)}
    originals = [
        (root, records.to_presentation(shown), records.to_answer(given, shown))
        for root, (shown, given) in latest.items()
        if given is not None and root not in known and shown.question_id not in pairs
    ]
    return Lacking(records.read_state(session, user, basis_id), tuple(originals))


def _elsewhere(session: Session, user: str, basis_id: str) -> list[tuple[PresentationRow, AnswerRow | None]]:
    """What a person was shown under other bases, the oldest basis first, each with the answer that stands."""
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


def _copy(root: str, given: Answer, basis_id: str, v: Array) -> Answer:
    copy_id = hashlib.sha256(f"{root}\0{basis_id}".encode()).hexdigest()[:32]
    return replace(given, presentation_id=copy_id, v=v, loss=None, gain=None)
