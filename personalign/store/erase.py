"""Erasure that lasts: tombstones beside the database, and no bytes left in its write-ahead log.

A tombstone is a keyed hash of an erased id. It is kept in the database and in a file beside it: an old backup
lacks the row but not the file's line, so opening the backup erases the person again.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from personalign.errors import ErasurePending, StoreError
from personalign.store.engine import BUSY_TIMEOUT_MS, Database
from personalign.store.files import append_durably, make_whole
from personalign.store.tables import USER_KEY, Table, TombstoneRow, UserRow

LINE = re.compile(r"(\d+) ([0-9a-f]{64})")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TRUNCATE_DEADLINE_S = 5.0
KEY_BYTES = 32


def digest(database: Database, user: str) -> str:
    """Hash an id with the key kept beside the database, so that the tombstone alone tells nothing."""
    return hmac.new(_key(database), user.encode(), hashlib.sha256).hexdigest()


def bury(database: Database, user: str, at: datetime) -> str:
    """Write a tombstone beside the database, durably, before any row goes; return its digest."""
    hashed = digest(database, user)
    microseconds = (at - EPOCH) // timedelta(microseconds=1)
    # starts a line of its own, in case a killed process left half a one
    append_durably(database.beside(".tombstones"), f"\n{microseconds} {hashed}\n".encode())
    return hashed


def delete_person(session: Session, user: str, hashed: str, at: datetime) -> None:
    """Delete every row with this user's key, children first, and leave the tombstone."""
    for table in reversed(Table.metadata.sorted_tables):
        if USER_KEY in table.columns:
            session.execute(delete(table).where(table.columns[USER_KEY] == user))
    session.execute(delete(UserRow).where(UserRow.id == user))
    session.merge(TombstoneRow(digest=hashed, at=at))


def unburied(database: Database, session: Session) -> dict[str, datetime]:
    """List the tombstones beside the database that it lacks: it is a copy older than they are."""
    known = {row.digest: row.at for row in session.scalars(select(TombstoneRow))}
    return {hashed: at for hashed, at in _lines(database).items() if hashed not in known or known[hashed] < at}


def bury_again(database: Database, session: Session, missing: dict[str, datetime]) -> None:
    """Erase whoever these tombstones speak of; a person who came later under the same id stays."""
    for user, created_at in session.execute(select(UserRow.id, UserRow.created_at)).all():
        hashed = digest(database, user)
        if hashed in missing and created_at < missing[hashed]:
            delete_person(session, user, hashed, missing[hashed])
    for hashed, at in missing.items():
        session.merge(TombstoneRow(digest=hashed, at=at))


def truncate_log(writer: Engine, database: Database) -> None:
    """Fold the write-ahead log into the file and empty it; ErasurePending while a reader holds on to it."""
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
    finally:
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.close()
        connection.close()


def _lines(database: Database) -> dict[str, datetime]:
    path = database.beside(".tombstones")
    if not path.exists():
        return {}
    found: dict[str, datetime] = {}
    for line in path.read_text(encoding="ascii").splitlines():
        if match := LINE.fullmatch(line):
            at = EPOCH + timedelta(microseconds=int(match[1]))
            found[match[2]] = max(at, found.get(match[2], at))
    return found


def _key(database: Database) -> bytes:
    path = database.beside(".key")
    if not path.exists():
        if database.beside(".tombstones").exists():
            raise StoreError(f"{path} is lost, so nobody can tell whom the tombstones beside it mean; restore the key")
        make_whole(path, secrets.token_bytes(KEY_BYTES))
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise StoreError(f"{path} has {len(key)} bytes, expected {KEY_BYTES}; restore it together with the database")
    return key
