"""Erasure that lasts: tombstones beside the database, and no bytes left in its write-ahead log.

An erasure goes through these states, and whoever opens the database takes over where it was stopped:

1. The tombstone is on the disk, beside the database: from here on the person can't come back.
2. The rows are gone, and the tombstone is noted in the database: other processes notice by its number.
3. The write-ahead log is folded in and empty: no byte is left.
4. The database notes how many tombstones are heeded. An old backup notes fewer, so opening it erases again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from personalign.errors import ErasurePending
from personalign.store.connections import Connections
from personalign.store.database import BUSY_TIMEOUT_MS
from personalign.store.tables import USER_KEY, FactRow, Table, TombstoneRow, UserRow
from personalign.store.tombstones import Tombstone, Tombstones

TRUNCATE_DEADLINE_S = 5.0
KEY, HEEDED = "key", "heeded"


def erase(connections: Connections, user: str) -> bool:
    """Erase a person to the last byte; tell whether they were known."""
    tombstones = Tombstones(connections.database)
    with connections.write() as session:
        row = session.get(UserRow, user)
        is_known = row is not None
        if row is not None:
            check_tombstones(connections, session)
            at = max(datetime.now(UTC), row.created_at + timedelta(microseconds=1))
            (digest,) = _own_key(tombstones, session).digests([user])
            number = tombstones.append(digest, at)
            _delete_person(session, user)
            session.merge(TombstoneRow(digest=digest, at=at, number=number))
    _finish(connections)
    return is_known


def erase_again(connections: Connections) -> None:
    """Heed the tombstones that the database hasn't: it is older than they are, or an erasure was stopped half-way."""
    tombstones = Tombstones(connections.database)
    with connections.read() as session:
        check_tombstones(connections, session)
        missing = tombstones.after(_heeded(session))
    if missing:
        with connections.write() as session:
            _heed(session, tombstones, missing)
        _finish(connections, missing[-1].number)


def erased_after(
    connections: Connections, session: Session, users: Sequence[str], number: int
) -> tuple[list[str], int]:
    """Tell who of these people was erased after the erasure of this number, and the number of the newest."""
    newest = session.scalar(select(func.max(TombstoneRow.number))) or 0
    if newest <= number or not users:
        return [], max(newest, number)
    digests = set(session.scalars(select(TombstoneRow.digest).where(TombstoneRow.number > number)))
    connections.forget_values()
    hashed = zip(users, Tombstones(connections.database).digests(users), strict=True)
    return [user for user, digest in hashed if digest in digests], newest


def check_tombstones(connections: Connections, session: Session) -> None:
    """Refuse a key or tombstones that aren't this database's."""
    newest = session.scalar(select(func.max(TombstoneRow.number))) or 0
    Tombstones(connections.database).check(_fact(session, KEY), max(newest, _heeded(session)))


def _heed(session: Session, tombstones: Tombstones, missing: list[Tombstone]) -> None:
    _own_key(tombstones, session)
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
    for (user, created_at), digest in zip(people, tombstones.digests(user for user, _ in people), strict=True):
        # a person who came later under the same id stays
        if digest in newest and created_at < newest[digest].at:
            _delete_person(session, user)
    for tombstone in newest.values():
        session.merge(TombstoneRow(digest=tombstone.digest, at=tombstone.at, number=tombstone.number))


def _finish(connections: Connections, number: int = 0) -> None:
    """Leave no byte of the erasures that are noted, and note that they are heeded."""
    with connections.read() as session:
        heeded = _heeded(session)
        later = session.scalars(
            select(TombstoneRow.number).where(TombstoneRow.number > heeded).order_by(TombstoneRow.number)
        )
        for expected, noted in enumerate(later, start=heeded + 1):
            if noted == expected:  # one that was refused after its tombstone was written leaves a gap
                number = max(number, noted)
    connections.forget_values()
    _truncate_log(connections)
    if number > heeded:
        with connections.write() as session:
            _note(session, HEEDED, str(max(number, _heeded(session))))


def _truncate_log(connections: Connections) -> None:
    """Fold the write-ahead log into the file and empty it; ErasurePending while a reader or the disk prevents it."""
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


def _delete_person(session: Session, user: str) -> None:
    """Delete every row with this user's key, children first."""
    for table in reversed(Table.metadata.sorted_tables):
        if USER_KEY in table.columns:
            session.execute(delete(table).where(table.columns[USER_KEY] == user))
    session.execute(delete(UserRow).where(UserRow.id == user))


def _own_key(tombstones: Tombstones, session: Session) -> Tombstones:
    """Note in the database whose key its tombstones are made with."""
    _note(session, KEY, tombstones.key_digest())
    return tombstones


def _heeded(session: Session) -> int:
    return int(_fact(session, HEEDED) or 0)


def _fact(session: Session, name: str) -> str | None:
    return session.scalar(select(FactRow.value).where(FactRow.name == name))


def _note(session: Session, name: str, value: str) -> None:
    session.merge(FactRow(name=name, value=value))
