"""Data rights: a person's rows for them to read, and an erasure that lasts.

An erasure leaves a tombstone beside the database, and no bytes in its write-ahead log. It takes the ``STEPS`` in
order, and opening the database takes over where one was stopped. The docstring of each step says what holds after it,
and what becomes of the rest if the process is killed right then.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sqlalchemy import Boolean, Column, delete, func, select, type_coerce
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import Session
from sqlalchemy.types import NullType

from personalign.errors import ErasurePending
from personalign.store.connections import Connections
from personalign.store.database import BUSY_TIMEOUT_MS
from personalign.store.once import note
from personalign.store.records import Sealed, decode, is_sound
from personalign.store.tables import (
    USER_KEY,
    AnswerRow,
    ComparisonRow,
    FactRow,
    Json,
    PresentationRow,
    ProfileRow,
    StatementRow,
    Table,
    TombstoneRow,
    UserRow,
    UtcDateTime,
)
from personalign.store.tombstones import Tombstone, Tombstones
from personalign.store.trials import note_erasure
from personalign.store.values import Person

TRUNCATE_DEADLINE_S = 5.0
KEY, APPLIED = "key", "applied"  # facts: the digest of the key, and the last tombstone that was applied
MARK = "damaged"  # of an exported row
SEALED: dict[str, type[Sealed]] = {
    table.__tablename__: table for table in (PresentationRow, AnswerRow, ProfileRow, StatementRow, ComparisonRow)
}


def erase(connections: Connections, user: str) -> bool:
    """Erase a person to the last byte; tell whether they were known."""
    tombstones = Tombstones(connections.database)
    with connections.write() as session:
        row = session.get(UserRow, user)
        if row is not None:
            check_tombstones(connections, session)
            _note(session, KEY, tombstones.key_digest())
            _delete_rows(session, [user], [_write_tombstone(tombstones, row)])
            note(session)
    _finish(connections)
    return row is not None


def erase_again(connections: Connections) -> None:
    """Apply the tombstones that are newer than the database, or whose erasure was stopped half-way."""
    tombstones = Tombstones(connections.database)
    with connections.read() as session:
        check_tombstones(connections, session)
        missing = tombstones.after(_applied(session))
    if missing:
        with connections.write() as session:
            _apply(session, tombstones, missing)
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
    hashed = zip(users, Tombstones(connections.database).digests(users), strict=True)
    return [user for user, digest in hashed if digest in digests], newest


def count_erasures(session: Session) -> int:
    """Return the number of the newest erasure that the database notes; 0 where there is none."""
    return session.scalar(select(func.max(TombstoneRow.number))) or 0


def share_key(connections: Connections) -> bytes:
    """Return the key beside the database, which is made where there is none yet; the database notes its digest."""
    tombstones = Tombstones(connections.database)
    with connections.read() as session:
        check_tombstones(connections, session)
        is_noted = read_fact(session, KEY) is not None
    if not is_noted:
        with connections.write() as session:
            _note(session, KEY, tombstones.key_digest())
    return tombstones.key()


def read_person(session: Session, user: str) -> Person:
    """Read how a person is now, and how many erasures there were."""
    row, erasures = session.get(UserRow, user), count_erasures(session)
    return Person(user, None, erasures) if row is None else Person(user, row.created_at, erasures, bool(row.paused_at))


def check_tombstones(connections: Connections, session: Session) -> None:
    """Refuse a key or tombstones of another database."""
    least = max(count_erasures(session), _applied(session))
    Tombstones(connections.database).check(read_fact(session, KEY), least)


def _apply(session: Session, tombstones: Tombstones, missing: list[Tombstone]) -> None:
    _note(session, KEY, tombstones.key_digest())
    newest = {tombstone.digest: tombstone for tombstone in missing}
    noted = session.execute(
        select(TombstoneRow.digest, TombstoneRow.number).where(TombstoneRow.number >= missing[0].number)
    )
    for digest, number in noted:
        if newest[digest].number <= number:
            del newest[digest]  # the rows are gone, only their bytes may not be
    if not newest:
        return
    people = session.execute(select(UserRow.id, UserRow.created_at)).all()
    hashed = zip(people, tombstones.digests(user for user, _ in people), strict=True)
    # a person who came later under the same id stays
    users = [
        user for (user, created_at), digest in hashed if digest in newest and created_at < newest[digest].erased_at
    ]
    _delete_rows(session, users, newest.values())


def _finish(connections: Connections, number: int = 0) -> None:
    """Leave no byte of the erasures that are noted, and note that they were applied."""
    with connections.read() as session:
        applied = _applied(session)
        later = select(TombstoneRow.number).where(TombstoneRow.number > applied).order_by(TombstoneRow.number)
        noted = enumerate(session.scalars(later), start=applied + 1)
        # one that was refused after its tombstone was written leaves a gap
        number = max([number, *(last for expected, last in noted if expected == last)])
    connections.forget_values()
    _empty_log(connections)
    if number > applied:
        _note_applied(connections, number)


def _write_tombstone(tombstones: Tombstones, row: UserRow) -> Tombstone:
    """A tombstone is on the disk, beside the database: a hash of the id, and the time.

    The next opening deletes the rows; until then other processes still serve the person.
    """
    (digest,) = tombstones.digests([row.id])
    erased_at = max(datetime.now(UTC), row.created_at + timedelta(microseconds=1))
    return Tombstone(digest, erased_at, tombstones.append(digest, erased_at))


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
    database = connections.database
    if database.journal_mode != "wal":
        return
    with connections.bare_writer() as writer:
        try:
            writer.execute("PRAGMA busy_timeout=250")  # a waiting checkpoint keeps all writers out
            deadline = time.monotonic() + TRUNCATE_DEADLINE_S
            while writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > deadline:
                    raise ErasurePending(
                        "the rows are gone, but a reader keeps them in the write-ahead log; close it and erase again"
                    )
                time.sleep(0.02)
        except database.driver.Error as error:
            raise ErasurePending(
                f"the rows are gone, but the write-ahead log that holds them can't be folded in ({error}); "
                "free some space or check the disk, and erase again"
            ) from error
        finally:
            writer.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")


def _note_applied(connections: Connections, number: int) -> None:
    """The database notes how many tombstones it has applied.

    The erasure is complete. An old backup notes fewer, so opening it erases again.
    """
    with connections.write() as session:
        _note(session, APPLIED, str(max(number, _applied(session))))


STEPS = (_write_tombstone, _delete_rows, _empty_log, _note_applied)


def _applied(session: Session) -> int:
    return int(read_fact(session, APPLIED) or 0)


def read_fact(session: Session, name: str) -> str | None:
    """Read what the database notes under a name."""
    return session.scalar(select(FactRow.value).where(FactRow.name == name))


def _note(session: Session, name: str, value: str) -> None:
    session.merge(FactRow(name=name, value=value))


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
        return datetime.fromisoformat(value).replace(tzinfo=UTC).isoformat()
    if isinstance(column.type, Json) and (value is not None or not column.nullable):
        plain = json.loads(value)
        json.dumps(plain, ensure_ascii=False).encode()  # refuses half a surrogate pair, which isn't text
        return plain
    return {0: False, 1: True}[value] if isinstance(column.type, Boolean) else value
