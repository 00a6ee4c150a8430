"""Many people's profiles at once, fitted to answers that are kept elsewhere.

Such a profile has no answers in this store, and of its covariance the diagonal alone. People who answered or stated
something here are left as they are, because their profiles follow from that; so are people whom this store erased.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jaxtyping import Float
from sqlalchemy import Insert, func, select, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, defer

from personalign.errors import StoreError
from personalign.store.answering import newest
from personalign.store.connections import Connections
from personalign.store.erase import erased_after
from personalign.store.records import check_row, now, to_answer
from personalign.store.tables import TEXTS, AnswerRow, PresentationRow, ProfileRow, Table
from personalign.store.values import Answer, check_finite, checksum, encode
from personalign.types import Array, Ints

COLUMNS = tuple(ProfileRow.__table__.columns.keys())
CHANGED = [name for name in COLUMNS if name not in {"user_id", "basis_id"}]
AT_ONCE = 500  # people that are read in one transaction
POSTGRES_TYPES = {str: "text", int: "int4", bytes: "bytea", datetime: "timestamptz", type(None): "int4"}
STAGE = "CREATE TEMPORARY TABLE incoming (LIKE profiles) ON COMMIT DROP"
STAGE_PEOPLE = text(
    "INSERT INTO users (id, created_at) SELECT user_id, created_at FROM incoming ON CONFLICT DO NOTHING"
)
# another process may have answered, or written a profile, since the rows were sealed
UNCHANGED = "profiles.standing = 0 AND profiles.stated IS NULL AND profiles.revision = excluded.revision - 1"
UPSERT = text(
    f"INSERT INTO profiles ({', '.join(COLUMNS)}) SELECT {', '.join(COLUMNS)} FROM incoming "  # noqa: S608 - our own names
    f"ON CONFLICT (user_id, basis_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in CHANGED)} "
    f"WHERE {UNCHANGED}"
)
NAMED, NAMED_SQLITE = "user_id = ANY(:users)", "user_id IN (SELECT value FROM json_each(:users))"
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Profiles:
    """What was fitted of many people on one basis."""

    basis_id: str
    users: Sequence[str]
    mean: Float[Array, "U d"]
    variance: Float[Array, "U d"]
    answers: Ints
    informative: Ints


@dataclass(frozen=True)
class Written:
    """How many profiles were written, and how many people were left as they are."""

    written: int
    answered_here: int  # or stated something, or changed meanwhile
    erased: int

    def __add__(self, other: Written) -> Written:
        return Written(
            self.written + other.written, self.answered_here + other.answered_here, self.erased + other.erased
        )


@dataclass(frozen=True, eq=False)
class Stored:
    """A person who answered here, with the answers that stand, oldest first, and how their profile counts them."""

    user: str
    answers: tuple[Answer, ...]
    num_answers: int
    num_informative: int
    is_stated: bool  # whether they stated something, too
    is_logged: bool  # whether a log told of them before


class Bulk:
    """Reads people and writes profiles by the thousand."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def state(self, basis_id: str) -> list[str]:
        """What differs after any change of an answer on a basis."""
        counted = func.count(), func.sum(ProfileRow.revision), func.max(ProfileRow.created_at)
        with self._connections.read() as session:
            return [
                str(value) for value in session.execute(select(*counted).where(ProfileRow.basis_id == basis_id)).one()
            ]

    def people(self, basis_id: str) -> Iterator[Stored]:
        """Read the people who answered on a basis, by ranges of their ids, each range in one transaction.

        Raises:
            StoreError: a row is damaged, or missing.
        """
        after = ""
        while True:
            with self._connections.read() as session:
                people = _next_people(session, basis_id, after)
            yield from people
            if len(people) < AT_ONCE:
                return
            after = people[-1].user

    def put(self, profiles: Profiles) -> Written:
        """Write profiles in one transaction; newcomers are added, and profiles that were written so are replaced.

        The basis has to be saved before.

        Raises:
            ProfileError: a number isn't finite.
        """
        check_finite("a fitted profile", profiles.mean, profiles.variance)
        with self._connections.read() as session:
            revisions = _revisions(session, profiles)
            erased, newest = erased_after(self._connections, session, profiles.users, 0)
        rows = list(_rows(profiles, revisions, set(erased)))
        with self._connections.write() as session:
            self._connections.be_patient(session)
            # whom another process erased meanwhile
            late = set(erased_after(self._connections, session, [row["user_id"] for row in rows], newest)[0])
            rows = [row for row in rows if row["user_id"] not in late]
            num_written = _write(session, rows) if rows else 0
        num_erased = len(erased) + len(late)
        return Written(num_written, len(profiles.users) - num_written - num_erased, num_erased)


def _next_people(session: Session, basis_id: str, after: str) -> list[Stored]:
    where = (ProfileRow.basis_id == basis_id, ProfileRow.user_id > after, ProfileRow.standing > 0)
    rows = session.scalars(select(ProfileRow).where(*where).order_by(ProfileRow.user_id).limit(AT_ONCE)).all()
    answers = _answers(session, basis_id, rows[0].user_id, rows[-1].user_id) if rows else {}
    people = []
    for row in rows:
        check_row(row)
        given = answers.get(row.user_id, ())
        if len(given) != row.standing:
            raise StoreError("answers of a person are missing: the store was damaged; restore it from a backup")
        people.append(
            Stored(row.user_id, given, row.answers, row.informative, row.stated is not None, row.logged is not None)
        )
    return people


def _answers(session: Session, basis_id: str, first: str, last: str) -> dict[str, tuple[Answer, ...]]:
    """The answers that stand of people in a range."""
    answers: dict[str, list[Answer]] = {}
    rows = (
        select(AnswerRow, PresentationRow)
        .join(PresentationRow, AnswerRow.presentation_id == PresentationRow.id)
        .where(AnswerRow.user_id.between(first, last), AnswerRow.undone_at.is_(None))
        .where(PresentationRow.basis_id == basis_id)
        .order_by(AnswerRow.user_id, AnswerRow.number)
    )
    no_texts = [defer(getattr(PresentationRow, name)) for name in TEXTS]
    for given, shown in session.execute(rows.options(*no_texts)):
        answers.setdefault(given.user_id, []).append(to_answer(given, shown))
    return {user: newest(tuple(given)) for user, given in answers.items()}


def _revisions(session: Session, profiles: Profiles) -> dict[str, int | None]:
    """The revision of everybody's profile, None for people whose answers or statements are here."""
    names = (ProfileRow.user_id, ProfileRow.basis_id, ProfileRow.revision, ProfileRow.standing, ProfileRow.stated)
    revisions: dict[str, int | None] = {}
    is_sqlite = session.connection().dialect.name == "sqlite"
    users = json.dumps(profiles.users) if is_sqlite else list(profiles.users)  # one parameter, however many there are
    rows = select(*names).where(text(NAMED_SQLITE if is_sqlite else NAMED)).params(users=users)
    for user, basis_id, revision, standing, stated in session.execute(rows):
        if standing or stated is not None:
            revisions[user] = None
        elif basis_id == profiles.basis_id:
            revisions.setdefault(user, revision)
    return revisions


def _rows(profiles: Profiles, revisions: dict[str, int | None], erased: set[str]) -> Iterator[Row]:
    """Sealed rows of the people whose profile is to be written."""
    common = {"basis_id": profiles.basis_id, "standing": 0, "num_axes": profiles.mean.shape[1], "created_at": now()}
    means, variances = encode(profiles.mean), encode(profiles.variance)
    width = 8 * profiles.mean.shape[1]
    counts = zip(profiles.answers.tolist(), profiles.informative.tolist(), strict=True)
    for i, (user, (answers, informative)) in enumerate(zip(profiles.users, counts, strict=True)):
        before = revisions.get(user, 0)
        if before is None or user in erased:
            continue
        bounds = slice(i * width, (i + 1) * width)
        row = common | {
            "user_id": user,
            "revision": before + 1,
            "answers": answers,
            "informative": informative,
            "mean": means[bounds],
            "covariance": variances[bounds],
        }
        yield row | {"checksum": checksum(row), "stated": None, "logged": None}


def _write(session: Session, rows: Sequence[Row]) -> int:
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        people = [{"id": row["user_id"], "created_at": row["created_at"]} for row in rows]
        connection.execute(sqlite.insert(Table.metadata.tables["users"]).on_conflict_do_nothing(), people)
        return connection.execute(_sqlite_upsert(), list(rows)).rowcount
    connection.execute(text(STAGE))
    _copy(connection.connection.driver_connection, rows)
    connection.execute(STAGE_PEOPLE)
    return connection.execute(UPSERT).rowcount


def _sqlite_upsert() -> Insert:
    new = sqlite.insert(Table.metadata.tables["profiles"])
    changes = {name: new.excluded[name] for name in CHANGED}
    return new.on_conflict_do_update(index_elements=["user_id", "basis_id"], set_=changes, where=text(UNCHANGED))


def _copy(driver: Any, rows: Sequence[Row]) -> None:  # noqa: ANN401 - the driver's connection
    """Copy rows into the table that waits for them."""
    kinds = [POSTGRES_TYPES[type(rows[0][name])] for name in COLUMNS]
    statement = f"COPY incoming ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(kinds)
            for row in rows:
                copy.write_row([row[name] for name in COLUMNS])
    except driver.Error as error:
        raise DBAPIError(statement, None, error) from None
