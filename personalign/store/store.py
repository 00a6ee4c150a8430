"""The Store: people, what they were shown and answered, and the profiles fitted from it.

Values in, values out; one transaction per verb. A verb that writes begins IMMEDIATE and decides under the lock,
so no update is lost between threads or processes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from personalign.errors import InputError, StoreError
from personalign.store import adopting, answering, blobs, records
from personalign.store.answering import now
from personalign.store.engine import Database, Engines, locate, open_engines
from personalign.store.erase import (
    bury,
    bury_again,
    delete_person,
    erased_after,
    note_tombstones,
    truncate_log,
    unburied,
)
from personalign.store.export import export_person
from personalign.store.faults import typed_errors
from personalign.store.files import make_file, require_file
from personalign.store.schema import check_revision, read_revision, upgrade
from personalign.store.tables import MAX_USER, BasisRow, PresentationRow, UserRow
from personalign.store.values import Answer, Fit, Measure, Presentation, Shown
from personalign.store.watch import Watch
from personalign.types import Message, Profile


class Store:
    """An open database; threads may share it, and a forked child starts with connections of its own."""

    def __init__(self, database: Database, engines: Engines) -> None:
        self._database = database
        self._engines = engines
        self._watch = Watch(engines.reader)
        self._is_closed = False

    @classmethod
    def open(cls, url: str, create: bool = True) -> Store:
        """Open a store; where there is none yet, make it with the current schema.

        Raises:
            StoreError: the file can't be used, or belongs to another program.
            SchemaError: its schema is older or newer than this code.
        """
        database = locate(url)
        if create:
            make_file(database.path)
        require_file(database.path)
        store = cls(database, open_engines(database))
        try:
            store._prepare(create)
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close all connections; a process that never does ends as promptly."""
        self._is_closed = True
        self._watch.close()
        self._engines.close()

    def __enter__(self) -> Store:  # noqa: PYI034 - beartype can't check Self on a method
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save_basis(self, basis_id: str, model: str, config: dict[str, Any]) -> None:
        """Record a basis that profiles will refer to; a known one stays as it is."""
        with self._read() as session:
            if session.get(BasisRow, basis_id) is not None:
                return
        with self._write() as session:
            if session.get(BasisRow, basis_id) is None:
                session.add(BasisRow(id=basis_id, model=model, config=config, created_at=now()))

    def add_user(self, user: str, consent: str | None = None) -> None:
        """Add a person, or record their new consent; otherwise a known one stays as they are.

        Raises:
            InputError: the id isn't 1 to 128 characters without control characters.
        """
        _check_user(user)
        at = now()
        with self._write() as session:
            row = session.get(UserRow, user)
            if row is None:
                row = UserRow(id=user, created_at=at)
                session.add(row)
                session.flush()
                records.add_event(session, user, "created", at)
            if consent is not None and consent != row.consent:
                row.consent, row.consent_at = consent, at
                records.add_event(session, user, "consented", at)

    def has_user(self, user: str) -> bool:
        """Tell whether the person is known."""
        with self._read() as session:
            return session.get(UserRow, user) is not None

    def present(
        self,
        user: str,
        basis_id: str,
        question_id: str,
        prompt: Sequence[Message],
        a: str,
        b: str,
        swapped: bool,
        v: Float[NDArray[np.float64], "d"],
        kind: str = "question",
    ) -> Presentation:
        """Record what is shown, ``a`` left and ``b`` right; while another question is open, return that one.

        ``v`` are the features, left minus right; ``kind`` is "question", or "check" where it is asked again.
        """
        blobs.check_finite("the question's features", v)
        with self._write() as session:
            shown = Shown(question_id, tuple(prompt), a, b, swapped, v, kind)
            return records.to_presentation(answering.show(session, user, basis_id, shown))

    def open_presentation(self, user: str, basis_id: str) -> Presentation | None:
        """Return the question that waits for an answer, if there is one."""
        with self._read() as session:
            row = records.find_open(session, user, basis_id)
            return None if row is None else records.to_presentation(row)

    def presentation(self, user: str, presentation_id: str) -> Presentation:
        """Return what a person was shown; another person's and an absent one raise the same QuestionError."""
        with self._read() as session:
            return records.to_presentation(records.find_presentation(session, user, presentation_id))

    def exposures(self, basis_id: str) -> dict[str, int]:
        """Count how often each question was shown, over all people."""
        with self._read() as session:
            counts = session.execute(
                select(PresentationRow.question_id, func.count())
                .where(PresentationRow.basis_id == basis_id, PresentationRow.kind == "question")
                .group_by(PresentationRow.question_id)
            )
            return dict(counts.all())

    def asked(self, user: str, basis_id: str) -> frozenset[str]:
        """Return the questions that are answered or open; one that was withdrawn may be asked again."""
        with self._read() as session:
            found = session.scalars(
                select(PresentationRow.question_id).where(
                    PresentationRow.user_id == user,
                    PresentationRow.basis_id == basis_id,
                    PresentationRow.state != "withdrawn",
                )
            )
            return frozenset(found)

    def answers(self, user: str, basis_id: str) -> tuple[Answer, ...]:
        """Return the answers that stand, oldest first."""
        with self._read() as session:
            return records.to_answers(records.find_answers(session, user, basis_id))

    def commit_answer(
        self,
        user: str,
        presentation_id: str,
        choice: str,
        fit: Fit,
        loss: float | None = None,
        gain: float | None = None,
    ) -> Profile:
        """Store an answer and the profile fitted with it, both or neither; the same answer again changes nothing.

        ``loss`` is the answer's log-loss under the profile before it, where that took a side; ``gain`` how many nats
        better that foresaw it than everybody's, where the basis has a gate.

        Raises:
            QuestionError: the presentation isn't this person's, or was withdrawn, or the choice is unknown.
            AlreadyAnswered: it has another answer.
            ProfileError: the fit isn't finite.
        """
        with self._write() as session:
            shown = records.find_presentation(session, user, presentation_id)
            return answering.answer(session, shown, choice, fit, loss, gain)

    def commit_feedback(
        self,
        user: str,
        basis_id: str,
        shown: Shown,
        choice: str,
        fit: Fit,
        loss: float | None = None,
        gain: float | None = None,
    ) -> Profile:
        """Store which of two replies feedback chose, and the profile fitted with it, both or neither.

        The same again changes nothing; the other choice on the same pair takes its place.

        Raises:
            InputError: the person isn't known.
            ProfileError: features or fit aren't finite.
        """
        blobs.check_finite("the feedback's features", shown.v)
        with self._write() as session:
            return answering.observe(session, user, basis_id, shown, choice, fit, loss, gain)

    def undo_answer(self, user: str, basis_id: str, fit: Fit) -> Profile | None:
        """Withdraw the newest answer, which is kept and marked, and open its question again; None without answers.

        A question that was open is withdrawn, so that never two are open.
        """
        with self._write() as session:
            return answering.undo(session, user, basis_id, fit)

    def behind(self, basis_id: str) -> list[str]:
        """List the people with an answer under another basis that this one lacks."""
        with self._read() as session:
            return adopting.behind(session, basis_id)

    def adopt(self, user: str, basis_id: str, measure: Measure, fit: Fit) -> Profile | None:
        """Copy a person's answers from other bases to this one, measured anew, with the profile fitted there.

        What they have under the other bases stays. None where nothing is lacking, or the person isn't known.
        """
        with self._write() as session:
            return adopting.adopt(session, user, basis_id, measure, fit)

    def profile(self, user: str, basis_id: str) -> Profile | None:
        """Return the newest revision, without its axes; StoreError or ProfileError where it was damaged."""
        with self._read() as session:
            row = records.find_profile(session, user, basis_id)
            return None if row is None else records.to_profile(row)

    def export(self, user: str) -> dict[str, Any]:
        """Return everything that is kept of a person, as JSON values."""
        with self._read() as session:
            return export_person(session, user)

    def forget(self, user: str) -> None:
        """Erase a person to the last byte; afterwards the id may start anew.

        Raises:
            ErasurePending: the rows are gone, but a reader or the disk kept them in the write-ahead log; call again.
            StoreError: they are still there; call again, or open the store again, which erases them too where the
                tombstone was written.
        """
        with self._write() as session:
            row = session.get(UserRow, user)
            if row is not None:
                at = max(now(), row.created_at + timedelta(microseconds=1))
                hashed = bury(self._database, user, at)
                delete_person(session, user)
                note_tombstones(session, {hashed: at})
        self._truncate()

    def erased(self, users: Sequence[str], after: datetime) -> tuple[list[str], datetime]:
        """Tell who of these people was erased after a moment, and when anybody was last; they may be back since."""
        with self._read() as session:
            return erased_after(self._database, session, users, after)

    def data_version(self) -> int:
        """Return a number that differs after any commit, by this process or another."""
        self._check_open()
        with typed_errors(self._database):
            return self._watch.version()

    def _prepare(self, create: bool) -> None:
        with typed_errors(self._database):
            with self._engines.reader.connect() as connection:
                found = read_revision(connection)
            if found is None and create:
                found = upgrade(f"sqlite:///{self._database.path}")
        check_revision(found)
        with self._read() as session:
            missing = unburied(self._database, session)
        if missing:
            with self._write() as session:
                bury_again(self._database, session, missing)
            self._truncate()
            with self._write() as session:  # only now, so that the next to open takes over where this one is stopped
                note_tombstones(session, missing)

    def _truncate(self) -> None:
        with typed_errors(self._database):
            truncate_log(self._engines.writer, self._database)

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreError(f"the store {self._database.path} is closed; open it again")

    def _read(self) -> AbstractContextManager[Session]:
        self._check_open()
        return _transaction(self._database, self._engines.reader)

    def _write(self) -> AbstractContextManager[Session]:
        self._check_open()
        return _transaction(self._database, self._engines.writer)


@contextmanager
def _transaction(database: Database, engine: Engine) -> Iterator[Session]:
    with typed_errors(database), Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


def _check_user(user: str) -> None:
    if not 1 <= len(user) <= MAX_USER:
        raise InputError(f"a user id has {len(user)} characters, expected 1 to {MAX_USER}")
    if any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in user):
        raise InputError("a user id holds control characters; expected printable text")
