"""Data rights: a person's rows for them to read, and an erasure that lasts.

An erasure leaves a tombstone beside the database, and no bytes in its write-ahead log. It takes the ``STEPS`` in
order, and opening the database takes over where one was stopped. The docstring of each step says what holds after it,
and what becomes of the rest if the process is killed right then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sqlalchemy import Boolean, Column, delete, select, type_coerce
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import Session
from sqlalchemy.types import NullType

from personalign.store.connections import Connections, Tombstone, Tombstones
from personalign.store.facts import APPLIED, KEY, count_erasures, note_fact, num_applied, read_fact
from personalign.store.once import note
from personalign.store.records import Sealed, is_sound
from personalign.store.tables import (
    USER_KEY,
    AnswerRow,
    ComparisonRow,
    Json,
    PresentationRow,
    ProfileRow,
    StatementRow,
    Table,
    TombstoneRow,
    UserRow,
    UtcDateTime,
)
from personalign.store.trials import note_erasure
from personalign.store.values import Person, decode

MARK = "damaged"  # of an exported row
SEALED: dict[str, type[Sealed]] = {
    table.__tablename__: table for table in (PresentationRow, AnswerRow, ProfileRow, StatementRow, ComparisonRow)
}


def erase(connections: Connections, user: str) -> bool:
    """Erase a person to the last byte; tell whether they were known."""
    tombstones = connections.tombstones
    with connections.write() as session:
        row = session.get(UserRow, user)
        if row is not None:
            tombstones.check(session)
            tombstones.require_key(session)
            _delete_rows(session, [user], [_write_tombstone(tombstones, session, row)])
            note(session)
    _finish(connections)
    return row is not None


def erase_again(connections: Connections) -> None:
    """Apply the tombstones that are newer than the database, or whose erasure was stopped half-way."""
    with connections.read() as session:
        connections.tombstones.check(session)
        missing = connections.tombstones.after(num_applied(session))
    if missing:
        with connections.write() as session:
            apply(session, connections.tombstones, missing)
        _finish(connections, missing[-1].number)


def erased_after(
    connections: Connections, session: Session, users: Sequence[str], number: int
) -> tuple[list[str], int]:
    """Tell who of these people was erased after the erasure of this number, and the number of the newest."""
    newest = count_erasures(session)
    if newest <= number or not users:
        return [], max(newest, number)
    digests = set(session.scalars(select(TombstoneRow.digest).where(TombstoneRow.number > number)))
    connections.forget_values()
    hashed = zip(users, connections.tombstones.digests(session, users), strict=True)
    return [user for user, digest in hashed if digest in digests], newest


def share_key(connections: Connections) -> bytes:
    """Return the key of the tombstones, which is made where there is none yet."""
    tombstones = connections.tombstones
    with connections.read() as session:
        tombstones.check(session)
        if read_fact(session, KEY) is not None:
            return tombstones.key(session)
    with connections.write() as session:
        tombstones.require_key(session)
        return tombstones.key(session)


def read_person(session: Session, user: str) -> Person:
    """Read how a person is now, and how many erasures there were."""
    row, erasures = session.get(UserRow, user), count_erasures(session)
    return Person(user, None, erasures) if row is None else Person(user, row.created_at, erasures, bool(row.paused_at))


def apply(session: Session, tombstones: Tombstones, missing: Sequence[Tombstone]) -> None:
    """Delete the rows of those whose tombstones the database doesn't note yet; a person who came later stays."""
    tombstones.require_key(session)
    newest = {tombstone.digest: tombstone for tombstone in missing}
    noted = session.execute(
        select(TombstoneRow.digest, TombstoneRow.number).where(TombstoneRow.number >= missing[0].number)
    )
    for digest, number in noted:
        if digest in newest and newest[digest].number <= number:
            del newest[digest]  # the rows are gone, only their bytes may not be
    if not newest:
        return
    people = session.execute(select(UserRow.id, UserRow.created_at)).all()
    hashed = zip(people, tombstones.digests(session, (user for user, _ in people)), strict=True)
    users = [
        user for (user, created_at), digest in hashed if digest in newest and created_at < newest[digest].erased_at
    ]
    _delete_rows(session, users, newest.values())


def _finish(connections: Connections, number: int = 0) -> None:
    """Leave no byte of the erasures that are noted, and note that they were applied."""
    with connections.read() as session:
        applied = num_applied(session)
        later = select(TombstoneRow.number).where(TombstoneRow.number > applied).order_by(TombstoneRow.number)
        noted = enumerate(session.scalars(later), start=applied + 1)
        # one that was refused after its tombstone was written leaves a gap
        number = max([number, *(last for expected, last in noted if expected == last)])
    _empty_log(connections)
    if number > applied:
        _note_applied(connections, number)


def _write_tombstone(tombstones: Tombstones, session: Session, row: UserRow) -> Tombstone:
    """A tombstone is on the disk, beside the database: a hash of the id, and the time.

    The next opening deletes the rows; until then other processes still serve the person.
    """
    (digest,) = tombstones.digests(session, [row.id])
    erased_at = max(datetime.now(UTC), row.created_at + timedelta(microseconds=1))
    return Tombstone(digest, erased_at, tombstones.append(session, digest, erased_at))


def _delete_rows(session: Session, users: Iterable[str], tombstones: Iterable[Tombstone]) -> None:
    """The rows are gone and the tombstone is noted in the database, in one transaction; other processes notice.

    The person is gone for every process. The next opening or erasure empties the log.
    """
    for user in users:
        note_erasure(session, user)
        for table in reversed(Table.metadata.sorted_tables):  # children first
            if USER_KEY in table.columns:
                session.execute(delete(table).where(table.columns[USER_KEY] == user))
        session.execute(delete(UserRow).where(UserRow.id == user))
    for tombstone in tombstones:
        session.merge(TombstoneRow(**vars(tombstone)))


def _empty_log(connections: Connections) -> None:
    """The write-ahead log is folded into the database and empty, so that no byte is left.

    Nothing of the person is left. The next opening repeats this step.
    """
    connections.forget_values()
    connections.purge()


def _note_applied(connections: Connections, number: int) -> None:
    """The database notes how many tombstones it has applied.

    The erasure is complete. An old backup notes fewer, so opening it erases again.
    """
    with connections.write() as session:
        note_fact(session, APPLIED, str(max(number, num_applied(session))))


STEPS = (_write_tombstone, _delete_rows, _empty_log, _note_applied)


def export_person(session: Session, user: str) -> dict[str, Any]:
    """Read every row with this user's key, also in tables that are added later.

    What can't be read is exported as it is stored. Its row, and one that doesn't match its checksum, has ``MARK``.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    for table in UserRow.metadata.sorted_tables:
        key = table.columns.get(USER_KEY) if table.name != UserRow.__tablename__ else table.columns["id"]
        if key is not None:
            stored = [type_coerce(column, NullType()).label(column.name) for column in table.columns]
            rows = session.execute(select(*stored).where(key == user).order_by(*table.primary_key)).mappings()
            tables[table.name] = [_readable(table, dict(row)) for row in rows]
            if (sealed := SEALED.get(table.name)) is not None:
                whole = session.scalars(select(sealed).where(key == user).order_by(*table.primary_key))
                for plain, sealed_row in zip(tables[table.name], whole, strict=True):
                    plain.update({} if is_sound(cast("Sealed", sealed_row)) else {MARK: True})
    return {"user": user, "tables": tables}


def num_damaged(exported: Mapping[str, Any]) -> int:
    """Count the rows of an export that have ``MARK``."""
    return sum(MARK in row for rows in exported["tables"].values() for row in rows)


def _readable(table: SqlTable, stored: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in stored.items():
        try:
            row[name] = _parse(table.columns[name], value)
        except (KeyError, TypeError, ValueError, RecursionError):
            row[name] = _raw(value)
            row[MARK] = True
    return row


def _raw(value: Any) -> object:  # noqa: ANN401 - whatever a damaged column holds
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value.hex() if isinstance(value, bytes) else value


def _parse(column: Column[Any], value: Any) -> object:  # noqa: ANN401 - likewise
    if isinstance(value, bytes):
        return decode(value).tolist()
    if isinstance(value, str):
        value.encode()  # refuses what isn't UTF-8
    if isinstance(column.type, UtcDateTime) and value is not None:
        # SQLite has text for times and JSON, Postgres both as they are
        return datetime.fromisoformat(str(value)).replace(tzinfo=UTC).isoformat()
    if isinstance(column.type, Json) and (value is not None or not column.nullable):
        plain = value if isinstance(value, list | dict) else json.loads(value)
        json.dumps(plain, ensure_ascii=False).encode()  # refuses half a surrogate pair, which isn't text
        return plain
    return {0: False, 1: True}[value] if isinstance(column.type, Boolean) else value
