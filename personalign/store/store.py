"""The Store: people, what they were shown and answered, and the profiles fitted from it.

Values in, values out; one transaction per verb. A verb that writes has the lock from its beginning and decides under
it, so no update is lost between threads or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Integer, cast, func, select
from sqlalchemy.orm import Session

from personalign.errors import Conflict, InputError
from personalign.messages import check_user
from personalign.store import answering, once, records, trials
from personalign.store.answering import Change
from personalign.store.bulk import Bulk
from personalign.store.connections import Connections
from personalign.store.erase import erase, erase_again, erased_after, export_person, read_person
from personalign.store.history import Event, read_history
from personalign.store.keys import Keys
from personalign.store.places import find
from personalign.store.records import now
from personalign.store.schema import check_revision, migrate, read_revision
from personalign.store.tables import BasisRow, ExposureRow, PresentationRow, UserRow
from personalign.store.trials import Sides
from personalign.store.values import (
    Answer,
    Comparison,
    Fit,
    Logged,
    Measure,
    Person,
    Presentation,
    Shown,
    State,
    Statements,
    Trial,
)
from personalign.types import Profile

ATTEMPTS = 100  # to write what a fit was made for, before another changes the same profile
Args = ParamSpec("Args")
Value = TypeVar("Value")


class Store:
    """An open database; threads may share it, and a forked child starts with connections of its own.

    A verb with a ``person`` raises InputError where they were erased since they were read. A verb with a ``fit`` raises
    ProfileError where that isn't finite, and Conflict where others changed the same person again and again.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._read, self._write = connections.read, connections.write
        self.keys, self.bulk = Keys(connections), Bulk(connections)

    @classmethod
    def open(cls, url: str, create: bool = True) -> Store:
        """Open a store; where there is none yet, make it with the current schema, unless ``create`` is False.

        Folders are made by ``upgrade`` alone.

        Raises:
            StoreError: the file or the server can't be used, or belongs to another program, or its tombstones do.
            SchemaError: its schema is older or newer than this code.
        """
        place = find(url)
        if create:
            place.make()
        place.require()
        connections = place.connect()
        try:
            with connections.read() as session:
                revision = read_revision(session.connection())
            if revision is None and create:
                migrate(place)
            else:
                check_revision(revision)
            erase_again(connections)
        except BaseException:
            connections.close()
            raise
        return cls(connections)

    def close(self) -> None:
        """Close all connections; a process that never does ends as promptly."""
        self._connections.close()

    def backup(self, path: str | Path) -> None:
        """Copy the store to a new file, which is a store itself, while this one is in use."""
        from personalign.store.upkeep import back_up  # what no server needs to serve

        with self._connections.enter():
            back_up(self._connections, Path(path))

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

    def person(self, user: str) -> Person:
        """Tell how a person is now, so that a verb that takes its time can refuse to bring them back."""
        return self._look(read_person, user)

    def add_user(self, user: str, consent: str | None = None) -> Person:
        """Add a person, or record their new consent; otherwise a known one stays as they are."""
        check_user(user)
        with self._read() as session:
            row = session.get(UserRow, user)
            if row is not None and consent in {None, row.consent}:
                return read_person(session, user)
        with self._write(user) as session:
            row = session.get(UserRow, user) or UserRow(id=user, created_at=now())
            session.add(row)
            if consent is not None and consent != row.consent:
                row.consent, row.consent_at = consent, now()
                once.note(session)
            session.flush()
            return read_person(session, user)

    def pause(self, user: str, *, is_paused: bool) -> None:
        """Let a person have plain replies, adding who isn't known, or let their profile act again."""
        with self._write(check_user(user)) as session:
            answering.pause(session, user, is_paused=is_paused)

    def present(self, user: str, basis_id: str, shown: Shown, person: Person | None = None) -> Presentation:
        """Record what is shown to someone who is known; while another question is open, return that one."""
        with self._write(user) as session:
            self._check_alive(session, person)
            return answering.show(session, user, basis_id, shown)

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
        """Tell how often each question was shown, over all people."""
        counts = select(ExposureRow.question_id, cast(ExposureRow.shown, Integer))
        return self._look(lambda session: dict(session.execute(counts.where(ExposureRow.basis_id == basis_id)).all()))

    def asked(self, user: str, basis_id: str) -> frozenset[str]:
        """Return the questions that are answered or open; one that was withdrawn may be asked again."""
        question_ids = select(PresentationRow.question_id).where(*records.shown_to(user, basis_id))
        with self._read() as session:
            return frozenset(session.scalars(question_ids.where(PresentationRow.state != "withdrawn")))

    def state(self, user: str, basis_id: str) -> State:
        """Return a person's profile and the answers that stand: all those to questions, of feedback the newest."""
        return self._look(records.read_state, user, basis_id)

    def answers(self, user: str, basis_id: str) -> tuple[Answer, ...]:
        """Return the answers that stand, oldest first."""
        return self.state(user, basis_id).answers

    def commit_answer(self, user: str, presentation_id: str, choice: str, fit: Fit) -> Profile:
        """Store an answer and the profile fitted with it, both or neither; the same answer again changes nothing.

        QuestionError for what isn't this person's or was withdrawn; AlreadyAnswered where it has another answer.
        """
        return _present(self._commit(lambda: self._look(answering.answer, user, presentation_id, choice), fit))

    def commit_feedback(
        self, user: str, basis_id: str, shown: Shown, choice: str, fit: Fit, person: Person | None = None
    ) -> Profile:
        """Store which of two replies feedback chose, and the profile fitted with it, both or neither.

        The same again changes nothing; the other choice on the same pair takes its place. Someone who wasn't known
        when ``person`` was read is added; without it they have to be known.
        """
        check_user(user)
        if person is None:
            self._look(records.check_known, user)
        return _present(self._commit(lambda: self._look(answering.observe, user, basis_id, shown, choice), fit, person))

    def commit_statements(
        self, user: str, basis_id: str, stated: Statements, fit: Fit, person: Person | None = None
    ) -> Profile | None:
        """Store what a person states or takes back, and the profile fitted with it, both or neither.

        What holds already changes nothing; None where nothing is known then. Newcomers are added as by feedback.
        """
        check_user(user)
        return self._commit(lambda: self._look(answering.declare, user, basis_id, stated), fit, person)

    def undo_answer(self, user: str, basis_id: str, fit: Fit) -> Profile | None:
        """Withdraw the newest answer, and open its question again in place of another; None without answers."""
        return self._commit(lambda: self._look(answering.undo, user, basis_id), fit)

    def behind(self, basis_id: str) -> list[str]:
        """List the people with an answer or a statement that this basis lacks."""
        return self._look(answering.behind, basis_id)

    def adopt(self, user: str, basis_id: str, measure: Measure, fit: Fit) -> Profile | None:
        """Copy a person's answers from other bases, measured anew, and fit them; None where nothing is lacking."""
        return self._commit(lambda: answering.copy(*self._look(answering.find_lacking, user, basis_id), measure), fit)

    def start_trial(self, basis_id: str, arms: Sequence[str]) -> Trial:
        """Start a trial of a basis; the one that runs, or InputError where that has other arms."""
        with self._write() as session:
            return trials.start(session, basis_id, arms)

    def stop_trial(self, basis_id: str) -> Trial | None:
        """Stop the trial that runs; None where none does."""
        with self._write() as session:
            return trials.stop(session, basis_id)

    def newest_trial(self, basis_id: str) -> Trial | None:
        """Return the trial that runs, or else the last one."""
        return self._look(trials.newest, basis_id)

    def comparisons(self, trial_id: str) -> list[Comparison]:
        """Return all that was compared in a trial, in the order of the answers; what has none comes first."""
        return self._look(trials.comparisons, trial_id)

    def num_compared(self, user: str, trial_id: str) -> int:
        """Count what was written for a person in a trial, failures included."""
        return self._look(trials.num_compared, user, trial_id)

    def open_comparison(self, user: str, basis_id: str, question_id: str) -> Presentation | None:
        """Return what a trial shows on one conversation, while it waits for a choice."""
        return self._look(trials.find_open, user, basis_id, question_id)

    def present_comparison(
        self, person: Person, basis_id: str, trial_id: str, sides: Sides, shown: Shown
    ) -> Presentation:
        """Record what two arms wrote for a person; what waits on the same conversation is returned instead."""
        with self._write(person.user) as session:
            self._check_alive(session, person)
            return trials.present(session, person.user, basis_id, trial_id, sides, shown)

    def note_failure(self, person: Person, trial_id: str, sides: Sides, failed: str) -> None:
        """Record that of two arms those on the ``failed`` sides wrote nothing."""
        with self._write(person.user) as session:
            self._check_alive(session, person)
            trials.note(session, person.user, trial_id, sides, failed=failed)

    def profile(self, user: str, basis_id: str) -> Profile | None:
        """Return the newest revision, without its axes; StoreError where it was damaged."""
        with self._read() as session:
            row = records.find_profile(session, user, basis_id)
            return None if row is None else records.to_profile(session, row)

    def before_answers(self, user: str, basis_id: str) -> tuple[Statements, Logged | None]:
        """Return what a person stated and didn't take back, oldest first, and what a log told of them."""
        with self._read() as session:
            return records.standing(session, user), records.to_logged(records.find_profile(session, user, basis_id))

    def history(self, user: str) -> list[Event]:
        """Return what a person answered and stated on all bases, the newest first."""
        return self._look(read_history, user)

    def export(self, user: str) -> dict[str, Any]:
        """Return everything that is stored of a person, as JSON values."""
        return self._look(export_person, user)

    def forget(self, user: str) -> bool:
        """Erase a person to the last byte, and tell whether they were known; afterwards the id may start anew.

        ErasurePending: the rows are gone, but a reader or the disk kept them in the write-ahead log; call again.
        Another StoreError: they are still there; call again.
        """
        return erase(self._connections, user)

    def erased(self, users: Sequence[str], number: int) -> tuple[list[str], int]:
        """Tell who of these people was erased after the erasure of this number, and the newest; they may be back."""
        with self._read() as session:
            return erased_after(self._connections, session, users, number)

    def write_once(self, caller: str, key: str, request: str) -> AbstractContextManager[bool]:
        """Make the first change inside once; False, at the ``with``, where it was made before under the caller's key.

        Presentations and trials aren't such changes. InputError where the key came with another request.
        """
        write = once.seal(self.keys.secret("writes"), caller, key, request)
        return once.block(write, lambda: self._look(once.is_done, write))

    def check(self) -> None:
        """Raise a StoreError where the file isn't there or can't be read, SchemaError where another code's is."""
        self.data_version()
        check_revision(self._look(lambda session: read_revision(session.connection())))

    def num_people(self) -> int:
        """Count the people something is stored about."""
        return self._look(lambda session: session.scalar(select(func.count()).select_from(UserRow)) or 0)

    def data_version(self) -> int:
        """Return a number that differs after any commit, by this process or another."""
        return self._connections.version()

    def _look(self, read: Callable[Concatenate[Session, Args], Value], *args: Args.args, **named: Args.kwargs) -> Value:
        """Read in a transaction of its own."""
        with self._read() as session:
            return read(session, *args, **named)

    def _commit(
        self, draft: Callable[[], Change | Profile | None], fit: Fit, person: Person | None = None
    ) -> Profile | None:
        """Draft, fit and write a change; once more where others changed the same in between."""
        for _ in range(ATTEMPTS):
            change = draft()
            if not isinstance(change, Change):
                return change
            fitted = fit(change.answers)
            with self._write(change.state.user) as session:
                self._check_alive(session, person)
                if records.is_unchanged(session, change.state):
                    return answering.write(session, change, fitted)
        raise Conflict("other processes changed the same profile again and again; try again")

    def _check_alive(self, session: Session, person: Person | None) -> None:
        """Refuse a call that began before its person was erased."""
        if person is None:
            return
        if person.created_at is None:
            is_alive = not erased_after(self._connections, session, [person.user], person.erasures)[0]
        else:
            is_alive = records.created_at(session, person.user) == person.created_at
        if not is_alive:
            raise InputError(
                "this person was erased meanwhile, and nothing is stored of them; call again to start anew"
            )


def _present(profile: Profile | None) -> Profile:
    assert profile is not None, "an answer is stored together with its profile"
    return profile
