"""Rows into values and back, a checksum over each row. No row is believed that doesn't fit its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import numpy as np
from sqlalchemy import ColumnElement, Select, bindparam, func, select
from sqlalchemy.orm import Session, defer

from personalign.errors import InputError, ProfileError, QuestionError, StoreError
from personalign.messages import FEEDBACK
from personalign.store.tables import (
    TEXTS,
    TRIAL,
    AnswerRow,
    ComparisonRow,
    PresentationRow,
    ProfileRow,
    StatementRow,
    TrialRow,
    UserRow,
)
from personalign.store.values import (
    Answer,
    Key,
    Logged,
    Presentation,
    Shown,
    State,
    Statements,
    check_finite,
    checksum,
    decode,
    encode,
)
from personalign.types import INFORMATIVE, WEIGHTS, Array, Gaussian, Message, Profile, Statement, StatementKind

KEPT_STATEMENTS = 1000  # of a person: the newest, and those that hold
MOST_FEEDBACK = 100  # pieces of a person's that are fitted: the newest
DAMAGED = "doesn't match its checksum: the file was damaged; restore it from a backup, or forget the person"
# columns that a value has under the same name
SHOWN = ("question_id", "a", "b", "swapped", "kind", "graded")
GIVEN = ("presentation_id", "choice", "seconds", "answered_at")
Sealed = PresentationRow | AnswerRow | ProfileRow | StatementRow | TrialRow | ComparisonRow
Row = TypeVar("Row", PresentationRow, AnswerRow)
# made once: a chat reads it, and making a statement takes as long as running it
PROFILE = select(ProfileRow).where(
    ProfileRow.user_id == bindparam("user"), ProfileRow.basis_id == bindparam("basis_id")
)
UNSEALED = {"checksum", "num_erased", *TEXTS}  # the digest stands for the texts
LATER = {"graded", "stated", "logged"}  # columns that older rows lack: where they are set, they are in the checksum


def now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


def read_state(session: Session, user: str, basis_id: str) -> State:
    """Read what is known of a person on a basis, all of it checked."""
    row = find_profile(session, user, basis_id)
    asked = _standing(user, basis_id).where(PresentationRow.kind.not_in(FEEDBACK))
    wanted = (asked, newest_feedback(user, basis_id).limit(MOST_FEEDBACK))
    no_texts = [defer(getattr(PresentationRow, name)) for name in TEXTS]
    answers = [to_answer(*row) for rows in wanted for row in session.execute(rows.options(*no_texts)).all()]
    if len(answers) != (0 if row is None else row.standing):
        raise StoreError("answers of this person are missing: the file was damaged; restore it from a backup")
    profile = None if row is None else to_profile(session, row)
    in_order = tuple(sorted(answers, key=lambda answer: answer.number))
    is_behind = _newest_statement(session, user) != (row and row.stated)
    revisions = _revisions(session, user)
    return State(user, basis_id, created_at(session, user), profile, in_order, revisions, is_behind, to_logged(row))


def created_at(session: Session, user: str) -> datetime | None:
    """Tell since when a person is known; None for someone who isn't."""
    return session.scalar(select(UserRow.created_at).where(UserRow.id == user))


def is_unchanged(session: Session, state: State) -> bool:
    """Tell whether a person's answers are as they were read, on every basis."""
    before = state.created_at, state.revisions
    return (created_at(session, state.user), _revisions(session, state.user)) == before


def find_presentation(session: Session, user: str, presentation_id: str) -> PresentationRow:
    """Find a person's presentation; another person's and an absent one get the same QuestionError."""
    row = _find(session, PresentationRow, PresentationRow.id == presentation_id, PresentationRow.user_id == user)
    if row is None:
        raise QuestionError("there is no such question for this person; ask for a new one")
    return row


def find_open(session: Session, user: str, basis_id: str) -> PresentationRow | None:
    """Find the question that waits for this person's answer; what a trial shows isn't one that is asked."""
    is_asked = PresentationRow.state == "open", PresentationRow.kind != TRIAL
    return _find(session, PresentationRow, *shown_to(user, basis_id), *is_asked)


def find_feedback(session: Session, user: str, basis_id: str, question_id: str) -> PresentationRow | None:
    """Find the pair that a person gave feedback on before; its kind is part of the id."""
    pair = PresentationRow.question_id == question_id, PresentationRow.kind.in_(FEEDBACK)
    return _find(session, PresentationRow, *shown_to(user, basis_id), *pair)


def find_answer(session: Session, presentation_id: str) -> AnswerRow | None:
    """Find the answer to a presentation that stands."""
    return _find(session, AnswerRow, AnswerRow.presentation_id == presentation_id, AnswerRow.undone_at.is_(None))


def find_profile(session: Session, user: str, basis_id: str) -> ProfileRow | None:
    """Find a person's profile; StoreError where it is damaged, or missing although they answered."""
    row = session.scalar(PROFILE, {"user": user, "basis_id": basis_id})
    if row is not None:
        check_row(row)
    else:
        answered = select(PresentationRow.id).where(*shown_to(user, basis_id), PresentationRow.state == "answered")
        if session.scalar(answered.limit(1)) is not None:
            raise StoreError("a profile is missing, though there are answers: the file was damaged; restore a backup")
    return row


def shown_to(user: str, basis_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Select what a person was shown on a basis."""
    return PresentationRow.user_id == user, PresentationRow.basis_id == basis_id


def newest_feedback(user: str, basis_id: str) -> Select[AnswerRow, PresentationRow]:
    """Select the feedback that stands, the newest first."""
    return _standing(user, basis_id).where(PresentationRow.kind.in_(FEEDBACK)).order_by(AnswerRow.number.desc())


def to_presentation(row: PresentationRow) -> Presentation:
    """Make the value, its texts and features checked."""
    check_row(row)
    if row.digest != _digest(row):
        raise StoreError(f"the texts of presentation {row.id!a} {DAMAGED}")
    prompt = tuple(cast("list[Message]", row.prompt))
    columns = _same(row, (*SHOWN, "id", "basis_id", "shown_at"))
    others = tuple(row.others or ())
    return Presentation(**columns, user=row.user_id, prompt=prompt, others=others, v=_features(row))


def to_answer(given: AnswerRow, shown: PresentationRow) -> Answer:
    """Make the value, both rows checked; the texts stay where they are."""
    check_row(given)
    check_row(shown)
    columns = _same(given, (*GIVEN, "number")) | _same(shown, ("kind", "question_id"))
    return Answer(**columns, v=_features(shown))


def _features(row: PresentationRow) -> Array:
    v = decode(row.v)
    return v if len(v) == row.num_axes else v.reshape(-1, row.num_axes)


def to_profile(session: Session, row: ProfileRow) -> Profile:
    """Make the value of a checked row, with what was stated."""
    columns, log = _same(row, ("basis_id", "revision", "answers", "informative")), to_logged(row)
    mean, content = decode(row.mean), decode(row.covariance)
    # what is written in bulk has the diagonal alone
    is_diagonal = len(content) == row.num_axes
    covariance = np.diag(content) if is_diagonal else content.reshape(row.num_axes, row.num_axes)
    stated = () if row.stated is None else tuple(standing(session, row.user_id, row.stated).values())
    return Profile(
        **columns, user=row.user_id, mean=mean, covariance=covariance, stated=stated, logged=log.answers if log else 0
    )


def to_logged(row: ProfileRow | None) -> Logged | None:
    """What a log told of a person: all of the profile, until they answer or state something here."""
    if row is None:
        return None
    if row.logged:
        return Logged.decode(row.logged)
    is_from_log = row.answers and not row.standing and row.stated is None
    return Logged(row.answers, row.informative, decode(row.mean), decode(row.covariance)) if is_from_log else None


def standing(session: Session, user: str, newest: int | None = None) -> dict[Key, Statement]:
    """Read what a person stated and didn't take back, up to a statement's number; StoreError where one is missing."""
    stated: dict[Key, Statement] = {}
    for row in statements(session, user, newest or 0):
        if newest is None or row.number <= newest:
            kind = cast("StatementKind", row.kind)
            stated.pop((row.axis, kind), None)
            if row.position is not None:
                stated[row.axis, kind] = Statement(row.axis, row.position, kind, row.words)
    return stated


def add_statements(session: Session, user: str, stated: Statements) -> None:
    """Write statements, the next of this person's, and drop what is old and holds no longer."""
    rows = statements(session, user)
    for (axis, kind), statement in stated.items():
        position, words = (None, "") if statement is None else (statement.position, statement.words)
        number = rows[-1].number + 1 if rows else 1
        row = StatementRow(user_id=user, number=number, axis=axis, kind=kind, position=position, words=words)
        row.stated_at = now()
        seal(row)
        session.add(row)
        rows.append(row)
    held = {(row.axis, row.kind): row.number for row in rows}.values()
    for row in rows:
        if row.number <= rows[-1].number - KEPT_STATEMENTS and row.number not in held:
            session.delete(row)


def check_row(row: Sealed) -> None:
    """Refuse a row that changed since it was written, by its number and never by its content."""
    if row.checksum != _checksum(row):
        number = row.number if isinstance(row, StatementRow) else None if isinstance(row, ProfileRow) else row.id
        name = "a profile" if number is None else f"{row.__tablename__[:-1]} {number!a}"
        raise StoreError(f"{name} {DAMAGED}")


def is_sound(row: Sealed) -> bool:
    """Tell whether a row is as it was written, its texts included."""
    are_texts_sound = not isinstance(row, PresentationRow) or row.digest == _digest(row)
    return row.checksum == _checksum(row) and are_texts_sound


def new_presentation(
    user: str, basis_id: str, shown: Shown, state: str, presentation_id: str | None = None, origin: str | None = None
) -> PresentationRow:
    """Make the row of what is shown."""
    row = PresentationRow(
        **_same(shown, SHOWN),
        id=presentation_id or secrets.token_hex(16),
        origin=origin,
        shown_at=shown.shown_at if isinstance(shown, Presentation) else now(),
        user_id=user,
        basis_id=basis_id,
        state=state,
        prompt=[{"role": message["role"], "content": message["content"]} for message in shown.prompt],
        others=list(shown.others) or None,
        num_axes=shown.v.shape[-1],
        v=encode(shown.v),
    )
    row.digest = _digest(row)
    seal(row)
    return row


def new_answer(session: Session, user: str, answer: Answer) -> AnswerRow:
    """Make the row of an answer, the next of this person's where it has no number yet."""
    newest = session.scalar(select(func.max(AnswerRow.number)).where(AnswerRow.user_id == user)) or 0
    row = AnswerRow(**_same(answer, GIVEN), number=answer.number or newest + 1, user_id=user, undone_at=None)
    seal(row)
    return row


def write_profile(session: Session, state: State, answers: tuple[Answer, ...], fitted: Gaussian) -> Profile:
    """Write the next revision of a profile; ProfileError where the fit isn't sound."""
    d = fitted.mean.size
    if fitted.mean.shape != (d,) or fitted.covariance.shape != (d, d):
        raise ProfileError(
            f"the fit has shapes {fitted.mean.shape} and {fitted.covariance.shape}, expected (d,) and (d, d)"
        )
    check_finite("the fitted profile", fitted.mean, fitted.covariance)
    row = ProfileRow(
        user_id=state.user,
        basis_id=state.basis_id,
        revision=1 + (0 if state.profile is None else state.profile.revision),
        standing=len(answers),
        answers=sum(answer.kind in {"question", TRIAL} for answer in answers),
        informative=int(sum(WEIGHTS[answer.kind] for answer in answers if answer.choice in INFORMATIVE)),
        logged=None,
        stated=_newest_statement(session, state.user),
        num_axes=d,
        mean=encode(fitted.mean),
        covariance=encode(fitted.covariance),
        created_at=now(),
    )
    if (log := state.logged) is not None:
        row.logged, row.answers, row.informative = (
            log.encode(),
            row.answers + log.answers,
            row.informative + log.informative,
        )
    seal(row)
    return to_profile(session, session.merge(row))


def check_known(session: Session, user: str) -> None:
    """Refuse a person who isn't known."""
    if created_at(session, user) is None:
        raise InputError("this person isn't known; add them first")


def seal(row: Sealed) -> None:
    """Set a row's checksum; a stored row was checked before it was changed."""
    row.checksum = _checksum(row)


def _find(session: Session, table: type[Row], *conditions: ColumnElement[bool]) -> Row | None:
    row = session.scalar(select(table).where(*conditions))
    if row is not None:
        check_row(row)
    return row


def _revisions(session: Session, user: str) -> dict[str, int]:
    rows = select(ProfileRow.basis_id, ProfileRow.revision).where(ProfileRow.user_id == user)
    return dict(session.execute(rows).all())


def statements(session: Session, user: str, least: int = 0) -> list[StatementRow]:
    """Read a person's statements, all of them checked; ``least`` is a number that the newest has at least."""
    rows = list(session.scalars(select(StatementRow).where(StatementRow.user_id == user).order_by(StatementRow.number)))
    for row in rows:
        check_row(row)
    newest = rows[-1].number if rows else 0
    num_kept = sum(row.number > newest - KEPT_STATEMENTS for row in rows)
    if newest < least or num_kept != min(newest, KEPT_STATEMENTS):
        raise StoreError("statements of this person are missing: the file was damaged; restore it from a backup")
    return rows


def _newest_statement(session: Session, user: str) -> int | None:
    return session.scalar(select(func.max(StatementRow.number)).where(StatementRow.user_id == user))


def _standing(user: str, basis_id: str) -> Select[AnswerRow, PresentationRow]:
    return (
        select(AnswerRow, PresentationRow)
        .join(PresentationRow, AnswerRow.presentation_id == PresentationRow.id)
        .where(AnswerRow.user_id == user, PresentationRow.basis_id == basis_id, AnswerRow.undone_at.is_(None))
    )


def _same(source: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _digest(row: PresentationRow) -> str:
    return checksum({name: text for name, text in _same(row, TEXTS).items() if name != "others" or text})


def _checksum(row: Sealed) -> str:
    unsealed = UNSEALED | {"id"} if isinstance(row, AnswerRow) else UNSEALED  # which SQLite gives an answer later
    columns = set(row.__table__.columns.keys()) - unsealed
    return checksum(_same(row, (name for name in columns if name not in LATER or getattr(row, name))))
