"""A trial's rows: which arms it has, and which of them wrote what a person was shown.

What was shown is a presentation like any other, and its choice an answer. Whoever reads a question doesn't read these.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session, defer

from personalign.errors import InputError
from personalign.store import records
from personalign.store.records import now
from personalign.store.tables import TEXTS, AnswerRow, ComparisonRow, PresentationRow, TrialRow
from personalign.store.values import Comparison, Presentation, Shown, Trial

Sides = tuple[str, str]  # the arms of the left and the right side


def start(session: Session, basis_id: str, arms: Sequence[str]) -> Trial:
    """Start a trial; the one that runs, if it has the same arms."""
    before, chosen = _find(session, basis_id), ",".join(arms)
    if before is not None and before.stopped_at is None:
        if before.arms != chosen:
            raise InputError(f"a trial of {before.arms} is running, whose arms can't be changed; stop it first")
        return _trial(before)
    row = TrialRow(id=secrets.token_hex(16), basis_id=basis_id, arms=chosen, started_at=now(), stopped_at=None)
    row.num_erased = 0
    records.seal(row)
    session.add(row)
    return _trial(row)


def stop(session: Session, basis_id: str) -> Trial | None:
    """Stop the trial that runs; None where none does."""
    row = _find(session, basis_id)
    if row is None or row.stopped_at is not None:
        return None
    row.stopped_at = now()
    records.seal(row)
    return _trial(row)


def newest(session: Session, basis_id: str) -> Trial | None:
    """Find the trial that runs, or else the last one."""
    row = _find(session, basis_id)
    return None if row is None else _trial(row)


def num_compared(session: Session, user: str, trial_id: str) -> int:
    """Count what was written for a person in a trial, failures included."""
    rows = select(func.count()).select_from(ComparisonRow)
    return session.scalar(rows.where(ComparisonRow.trial_id == trial_id, ComparisonRow.user_id == user)) or 0


def find_open(session: Session, user: str, basis_id: str, question_id: str) -> Presentation | None:
    """Find what waits for this person's choice on the same conversation."""
    row = session.scalar(
        select(PresentationRow).where(
            *records.shown_to(user, basis_id),
            PresentationRow.question_id == question_id,
            PresentationRow.state == "open",
        )
    )
    return None if row is None else records.to_presentation(row)


def present(session: Session, user: str, basis_id: str, trial_id: str, sides: Sides, shown: Shown) -> Presentation:
    """Show what two arms wrote; what is open on the same conversation is shown again instead."""
    if (before := find_open(session, user, basis_id, shown.question_id)) is not None:
        return before
    row = records.new_presentation(user, basis_id, shown, "open")
    session.add(row)
    session.flush()
    note(session, user, trial_id, sides, presentation_id=row.id)
    return records.to_presentation(row)


def note(
    session: Session, user: str, trial_id: str, sides: Sides, presentation_id: str | None = None, failed: str = ""
) -> None:
    """Note which arms wrote, or which of them failed."""
    row = ComparisonRow(id=secrets.token_hex(16), trial_id=trial_id, user_id=user, failed=failed)
    row.presentation_id, (row.arm_a, row.arm_b) = presentation_id, sides
    records.seal(row)
    session.add(row)


def comparisons(session: Session, trial_id: str) -> list[Comparison]:
    """Read all that was compared in a trial, in the order of the answers, all of it checked but the texts."""
    rows = session.execute(
        select(
            ComparisonRow, PresentationRow, AnswerRow, func.length(PresentationRow.a), func.length(PresentationRow.b)
        )
        .outerjoin(PresentationRow, ComparisonRow.presentation_id == PresentationRow.id)
        .outerjoin(AnswerRow, and_(AnswerRow.presentation_id == PresentationRow.id, AnswerRow.undone_at.is_(None)))
        .where(ComparisonRow.trial_id == trial_id)
        .order_by(AnswerRow.id.nulls_first())
        .options(*(defer(getattr(PresentationRow, name)) for name in TEXTS))
    )
    numbers: dict[str, int] = {}
    read = []
    for row, shown, given, *lengths in rows:
        for part in (row, shown, given):
            if part is not None:
                records.check_row(part)
        person, (a, b) = numbers.setdefault(row.user_id, len(numbers)), lengths
        read.append(Comparison(person, row.arm_a, row.arm_b, row.failed, given and given.choice, (a or 0, b or 0)))
    return read


def note_erasure(session: Session, user: str) -> None:
    """Count someone whose rows are about to go, in every trial that they were in."""
    trial_ids = select(ComparisonRow.trial_id).where(ComparisonRow.user_id == user)
    session.execute(update(TrialRow).where(TrialRow.id.in_(trial_ids)).values(num_erased=TrialRow.num_erased + 1))


def _find(session: Session, basis_id: str) -> TrialRow | None:
    rows = select(TrialRow).where(TrialRow.basis_id == basis_id).order_by(TrialRow.stopped_at.is_not(None))
    row = session.scalar(rows.order_by(TrialRow.stopped_at.desc()).limit(1))
    if row is not None:
        records.check_row(row)
    return row


def _trial(row: TrialRow) -> Trial:
    return Trial(row.id, tuple(row.arms.split(",")), row.started_at, row.stopped_at, row.num_erased)
