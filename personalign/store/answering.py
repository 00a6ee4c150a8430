"""A question's life: open, then answered, or withdrawn by an undo; feedback is answered from the start.

A change of a person's answers is drafted in one transaction, fitted in none, and written in another, if the person
is still as the draft found them. A new basis takes over copies of what was answered under others. A copy keeps its time
and number, and names the presentation that it comes from first, so that it is made once from however many bases.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from sqlalchemy import and_, delete, exists, func, or_, select, text
from sqlalchemy.orm import Session, aliased

from personalign.errors import AlreadyAnswered, BasisError, QuestionError
from personalign.messages import FEEDBACK, PICKS, read_pick
from personalign.store import once, records
from personalign.store.records import MOST_FEEDBACK, now
from personalign.store.tables import (
    SCATTERED,
    TRIAL,
    AnswerRow,
    BasisRow,
    PresentationRow,
    ProfileRow,
    StatementRow,
    UserRow,
)
from personalign.store.values import Answer, Measure, Presentation, Shown, State, Statements
from personalign.types import ANSWERS, CHOICES, Choice, Gaussian, Profile

KEPT_FEEDBACK = 1000  # pieces of a person's that are stored on one basis: the newest
COUNT = text(
    "INSERT INTO exposures (basis_id, question_id, shown) VALUES (:basis_id, :question_id, 1) "
    "ON CONFLICT (basis_id, question_id) DO UPDATE SET shown = exposures.shown + 1"
)
Original = tuple[Presentation, Answer]  # under the name of the presentation that it comes from first


@dataclass(frozen=True, eq=False)
class Change:
    """What a verb is about to do to a person's answers."""

    state: State
    answers: tuple[Answer, ...]  # that stand after it, oldest first; a new one has no number yet
    write: Callable[[Session], None]  # its rows; of the answers stored before, none
    is_complete: bool = False  # whether the basis has all of the person's answers afterwards


def show(session: Session, user: str, basis_id: str, shown: Shown) -> Presentation:
    """Open a question, or find the one that is open, which offers from here on what this one does."""
    records.check_known(session, user)
    _check_saved(session, basis_id)
    row = records.find_open(session, user, basis_id)
    if row is not None and row.others and not shown.others:
        _set_state(row, "withdrawn")
        session.flush()  # before the other opens: the index allows one
        row = None
    if row is not None and row.graded != shown.graded:
        row.graded = shown.graded
        records.seal(row)
    if row is None:
        row = records.new_presentation(user, basis_id, shown, "open")
        session.add(row)
        if shown.kind == "question":
            session.execute(COUNT, {"basis_id": basis_id, "question_id": shown.question_id})
    return records.to_presentation(row)


def answer(session: Session, user: str, presentation_id: str, choice: str) -> Change | Profile | None:
    """Draft the answer to a question; the profile itself where this answer was given already."""
    shown = records.find_presentation(session, user, presentation_id)
    _check_offered(choice, shown)
    if shown.graded and choice in {"a", "b"}:
        choice += "+"
    if shown.state == "withdrawn":
        raise QuestionError("an undo withdrew this question, or another one took its place; ask for the next one")
    state = records.read_state(session, user, shown.basis_id)
    if shown.state == "answered":
        before = records.find_answer(session, presentation_id)
        if before is None or before.choice != choice:
            first = before and before.choice
            raise AlreadyAnswered(f"the question was answered with {first!r}, not {choice!r}; undo that answer first")
        return state.profile
    seconds = max(0.0, (now() - shown.shown_at).total_seconds())
    given = _given(presentation_id, choice, records.to_presentation(shown), seconds)

    def write(session: Session) -> None:
        _set_state(records.find_presentation(session, user, presentation_id), "answered")
        session.add(records.new_answer(session, user, given))

    return Change(state, (*state.answers, given), write)


def observe(session: Session, user: str, basis_id: str, shown: Shown, choice: str) -> Change | Profile | None:
    """Draft feedback; on the same pair the newest of a kind stands, and the profile itself where that is the same."""
    _check_choice(choice)
    _check_saved(session, basis_id)
    state = records.read_state(session, user, basis_id)
    row = records.find_feedback(session, user, basis_id, shown.question_id)
    before = None if row is None else records.find_answer(session, row.id)
    if before is not None and before.choice == choice:
        return state.profile
    is_new, presentation_id = row is None, secrets.token_hex(16) if row is None else row.id
    others = tuple(other for other in state.answers if other.presentation_id != presentation_id)
    given = _given(presentation_id, choice, shown)

    def write(session: Session) -> None:
        _add_newcomer(session, state)
        if is_new:
            session.add(records.new_presentation(user, basis_id, shown, "answered", presentation_id))
        else:
            _undo(session, presentation_id)
        session.flush()  # before its answer: the index allows one that stands
        session.add(records.new_answer(session, user, given))
        _drop_oldest(session, user, basis_id)

    return Change(state, newest((*others, given)), write)


def declare(session: Session, user: str, basis_id: str, stated: Statements) -> Change | Profile | None:
    """Draft what a person states or takes back; the profile itself where all of it holds already."""
    _check_saved(session, basis_id)
    state, before = records.read_state(session, user, basis_id), records.standing(session, user)
    news = {key: statement for key, statement in stated.items() if statement != before.get(key)}
    if not news:
        return state.profile

    def write(session: Session) -> None:
        _add_newcomer(session, state)
        records.add_statements(session, user, news)

    return Change(state, state.answers, write)


def undo(session: Session, user: str, basis_id: str) -> Change | None:
    """Draft an undo of the newest answer to a question, which opens again; feedback stays."""
    state = records.read_state(session, user, basis_id)
    asked = [given for given in state.answers if given.kind not in FEEDBACK]
    if not asked:
        return None
    last = asked[-1]

    def write(session: Session) -> None:
        if last.kind != TRIAL and (waiting := records.find_open(session, user, basis_id)) is not None:
            _set_state(waiting, "withdrawn")
            session.flush()  # before the other opens: the index allows one
        _undo(session, last.presentation_id)
        shown = records.find_presentation(session, user, last.presentation_id)
        shown.shown_at = now()
        _set_state(shown, "open")

    return Change(state, tuple(given for given in state.answers if given is not last), write)


def pause(session: Session, user: str, *, is_paused: bool) -> None:
    """Pause a person's personalisation, adding who isn't known, or resume it; as it is already, nothing changes."""
    row = session.get(UserRow, user)
    if is_paused != (row is not None and row.paused_at is not None):
        row = row or UserRow(id=user, created_at=now())
        row.paused_at = now() if is_paused else None
        session.add(row)
        once.note(session)


def newest(answers: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """Leave out the oldest feedback beyond what is fitted."""
    feedback = [given for given in answers if given.kind in FEEDBACK]
    old = {given.presentation_id for given in feedback[:-MOST_FEEDBACK]}
    return tuple(given for given in answers if given.presentation_id not in old)


def write(session: Session, change: Change, fitted: Gaussian) -> Profile:
    """Write a change with the profile that follows from it."""
    state = change.state
    change.write(session)
    person = session.get_one(UserRow, state.user)
    once.note(session)
    person.home = state.basis_id if change.is_complete or person.home in {None, state.basis_id} else SCATTERED
    session.flush()
    return records.write_profile(session, state, change.answers, fitted)


def copy(state: State, originals: Sequence[Original], measure: Measure) -> Change | None:
    """Draft copies of answers that the basis lacks, with features under it; None where it lacks none it can measure."""
    copies = []
    for shown, given in originals:
        if (v := measure(shown)) is not None:
            name = hashlib.sha256(f"{shown.id}\0{state.basis_id}".encode()).hexdigest()[:32]
            copies.append((replace(shown, v=v), replace(given, presentation_id=name, v=v)))
    if not copies and not state.is_behind:
        return None

    def write(session: Session) -> None:
        for shown, given in copies:
            name = given.presentation_id
            session.add(records.new_presentation(state.user, state.basis_id, shown, "answered", name, origin=shown.id))
            session.flush()
            session.add(records.new_answer(session, state.user, given))

    answers = sorted((*state.answers, *(given for _, given in copies)), key=lambda answer: answer.number)
    return Change(state, newest(tuple(answers)), write, is_complete=len(copies) == len(originals))


def behind(session: Session, basis_id: str) -> list[str]:
    """List the people whose answers or statements this basis lacks."""
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
    is_fitted = exists().where(
        ProfileRow.user_id == StatementRow.user_id,
        ProfileRow.basis_id == basis_id,
        ProfileRow.stated >= StatementRow.number,
    )
    is_unheard = exists().where(StatementRow.user_id == UserRow.id, ~is_fitted)
    # two ranges, which the index serves; "differs" would read every row
    is_elsewhere = or_(UserRow.home < basis_id, UserRow.home > basis_id)
    return sorted(session.scalars(select(UserRow.id).where(is_elsewhere, or_(is_lacking, is_unheard))))


def find_lacking(session: Session, user: str, basis_id: str) -> tuple[State, list[Original]]:
    """Find the answers to copy, oldest first; where several bases hold one, the newest basis says how it stands."""
    presented = session.scalars(select(PresentationRow).where(*records.shown_to(user, basis_id))).all()
    known = {shown.origin or shown.id for shown in presented}
    pairs = {shown.question_id for shown in presented if shown.kind in FEEDBACK}  # given anew on this basis
    elsewhere = session.execute(
        select(PresentationRow, AnswerRow)
        .join(BasisRow, PresentationRow.basis_id == BasisRow.id)
        .outerjoin(AnswerRow, and_(AnswerRow.presentation_id == PresentationRow.id, AnswerRow.undone_at.is_(None)))
        .where(PresentationRow.user_id == user, PresentationRow.basis_id != basis_id)
        .order_by(BasisRow.created_at, BasisRow.id)
    )
    latest = {shown.origin or shown.id: (shown, given) for shown, given in elsewhere}
    originals = [
        (replace(records.to_presentation(shown), id=root), records.to_answer(given, shown))
        for root, (shown, given) in latest.items()
        if given is not None and root not in known and shown.question_id not in pairs
    ]
    return records.read_state(session, user, basis_id), originals


def _check_choice(choice: str) -> None:
    """Refuse what is no choice."""
    if choice not in ANSWERS:
        raise QuestionError(f"the choice is {choice!r}, expected one of {', '.join(ANSWERS)}")


def _check_offered(choice: str, shown: PresentationRow) -> None:
    """Refuse a pick where a pair was shown, and what names no reply of a pick."""
    _check_choice(choice)
    if shown.others and choice not in {"neither", "skip"}:
        read_pick(choice, 2 + len(shown.others))
    if not shown.others and choice in PICKS:
        raise QuestionError(
            f"the choice is {choice!r}, but two replies were shown; expected one of {', '.join(CHOICES)}"
        )


def _given(presentation_id: str, choice: str, shown: Shown, seconds: float = 0.0) -> Answer:
    return Answer(presentation_id, cast("Choice", choice), shown.v, seconds, now(), shown.kind, shown.question_id)


def _add_newcomer(session: Session, state: State) -> None:
    if state.created_at is None:
        session.add(UserRow(id=state.user, created_at=now()))
        session.flush()


def _check_saved(session: Session, basis_id: str) -> None:
    if session.get(BasisRow, basis_id) is None:
        raise BasisError(f"basis {basis_id[:12]} isn't in this store; save it first")


def _set_state(shown: PresentationRow, state: str) -> None:
    shown.state = state
    records.seal(shown)


def _undo(session: Session, presentation_id: str) -> None:
    row = records.find_answer(session, presentation_id)
    assert row is not None, "what is undone stands until then"
    row.undone_at = now()
    records.seal(row)


def _drop_oldest(session: Session, user: str, basis_id: str) -> None:
    oldest = records.newest_feedback(user, basis_id).with_only_columns(PresentationRow.id).offset(KEPT_FEEDBACK)
    if old := session.scalars(oldest).all():
        session.execute(delete(PresentationRow).where(PresentationRow.id.in_(old)))
