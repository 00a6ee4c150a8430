"""What a database notes of itself: facts by name, and the tombstones of those it erased."""

from __future__ import annotations

import hashlib

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from personalign.store.connections import Tombstone
from personalign.store.tables import FactRow, TombstoneRow

KEY, APPLIED = "key", "applied"  # the digest of the tombstones' key, and the last tombstone that was applied


def count_erasures(session: Session) -> int:
    """Return the number of the newest erasure that the database notes; 0 where there is none."""
    return session.scalar(select(func.max(TombstoneRow.number))) or 0


def num_applied(session: Session) -> int:
    """Return how many tombstones the database has applied to the last byte."""
    return int(read_fact(session, APPLIED) or 0)


def read_fact(session: Session, name: str) -> str | None:
    """Read what the database notes under a name."""
    return session.scalar(select(FactRow.value).where(FactRow.name == name))


def note_fact(session: Session, name: str, value: str) -> None:
    """Note something under a name."""
    session.merge(FactRow(name=name, value=value))


def read_tombstones(session: Session) -> list[Tombstone]:
    """Read the tombstones that the database notes, of each person the newest, in the order of their numbers."""
    rows = session.scalars(select(TombstoneRow).where(TombstoneRow.number > 0).order_by(TombstoneRow.number))
    return [Tombstone(row.digest, row.erased_at, row.number) for row in rows]


def note_key(session: Session, key: bytes) -> None:
    """Note the digest of a key whose tombstones came with other rows, all of them applied."""
    note_fact(session, KEY, hashlib.sha256(key).hexdigest())
    note_fact(session, APPLIED, str(count_erasures(session)))
