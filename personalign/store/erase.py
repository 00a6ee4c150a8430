"""Erasure that lasts: tombstones beside the database, and no bytes left in its write-ahead log.

A tombstone is a keyed hash of an erased id. It is kept in the database and in a file beside it: an old backup, or a
database whose disk failed in the middle, lacks the row but not the file's line, so opening it erases the person again.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.orm import Session

from personalign.errors import ErasurePending, StoreError
from personalign.store.engine import BUSY_TIMEOUT_MS, Database
from personalign.store.files import append_durably, make_whole, read_whole
from personalign.store.tables import USER_KEY, Table, TombstoneRow, UserRow

LINE = re.compile(rb"(\d+) ([0-9a-f]{64})")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TRUNCATE_DEADLINE_S = 5.0
KEY_BYTES = 32


def digests(database: Database, users: Iterable[str]) -> Iterator[str]:
    """Hash ids with the key kept beside the database, so that the tombstone alone tells nothing."""
    key = _key(database)
    return (hmac.new(key, user.encode(), hashlib.sha256).hexdigest() for user in users)


def bury(database: Database, user: str, at: datetime) -> str:
    """Write a tombstone beside the database, durably, before any row goes; return its digest."""
    (hashed,) = digests(database, [user])
    microseconds = (at - EPOCH) // timedelta(microseconds=1)
    # starts a line of its own, in case a killed process left half a one
    append_durably(database.beside(".tombstones"), f"\n{microseconds} {hashed}\n".encode())
    return hashed


def delete_person(session: Session, user: str) -> None:
    """Delete every row with this user's key, children first."""
    for table in reversed(Table.metadata.sorted_tables):
        if USER_KEY in table.columns:
            session.execute(delete(table).where(table.columns[USER_KEY] == user))
    session.execute(delete(UserRow).where(UserRow.id == user))


def note_tombstones(session: Session, tombstones: dict[str, datetime]) -> None:
    """Note in the database that these tombstones are heeded."""
    newest = session.scalar(select(func.max(TombstoneRow.number))) or 0
    for number, (hashed, at) in enumerate(tombstones.items(), newest + 1):
        session.merge(TombstoneRow(digest=hashed, at=at, number=number))


def unburied(database: Database, session: Session) -> dict[str, datetime]:
    """List the tombstones beside the database that it lacks: it is a copy older than they are."""
    known = {row.digest: row.at for row in session.scalars(select(TombstoneRow))}
    return {hashed: at for hashed, at in _lines(database).items() if hashed not in known or known[hashed] < at}


def bury_again(database: Database, session: Session, missing: dict[str, datetime]) -> None:
    """Erase whoever these tombstones speak of; a person who came later under the same id stays."""
    people = session.execute(select(UserRow.id, UserRow.created_at)).all()
    for (user, created_at), hashed in zip(people, digests(database, [user for user, _ in people]), strict=True):
        if hashed in missing and created_at < missing[hashed]:
            delete_person(session, user)


def erased_after(database: Database, session: Session, users: Sequence[str], after: int) -> tuple[list[str], int]:
    """Tell who of these people was erased after that many erasures, and how many there are now."""
    found = select(TombstoneRow.digest, TombstoneRow.number).where(TombstoneRow.number > after)
    erased = dict(session.execute(found).all())
    if not erased or not users:
        return [], max(erased.values(), default=after)
    hashed = zip(users, digests(database, users), strict=True)
    return [user for user, its in hashed if its in erased], max(erased.values())


def truncate_log(writer: Engine, database: Database) -> None:
    """Fold the write-ahead log into the file and empty it; ErasurePending while a reader or the disk prevents it."""
    if database.journal_mode != "wal":
        return
    connection = writer.raw_connection()  # outside of a transaction, where a checkpoint must run
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA busy_timeout=250")  # a waiting checkpoint keeps all writers out
        deadline = time.monotonic() + TRUNCATE_DEADLINE_S
        while cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
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
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.close()
        connection.close()


def _lines(database: Database) -> dict[str, datetime]:
    path = database.beside(".tombstones")
    if not path.exists():
        return {}
    found: dict[str, datetime] = {}
    for line in read_whole(path).splitlines():
        if match := LINE.fullmatch(line):
            at, hashed = EPOCH + timedelta(microseconds=int(match[1])), match[2].decode()
            found[hashed] = max(at, found.get(hashed, at))
    return found


def _key(database: Database) -> bytes:
    path = database.beside(".key")
    if not path.exists():
        if database.beside(".tombstones").exists():
            raise StoreError(f"{path} is lost, so nobody can tell whom the tombstones beside it mean; restore the key")
        make_whole(path, secrets.token_bytes(KEY_BYTES))
    key = read_whole(path)
    if len(key) != KEY_BYTES:
        raise StoreError(f"{path} has {len(key)} bytes, expected {KEY_BYTES}; restore it together with the database")
    return key
