"""Tombstones in the database itself, with the key: they come and go with it, and so does a dump of it.

A dump that is put back by hand knows of no erasure since. ``db restore`` and ``db copy`` do.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime

from sqlalchemy.orm import Session

from personalign.errors import StoreError
from personalign.store.connections import KEY_BYTES, Tombstone, Tombstones
from personalign.store.facts import KEY, count_erasures, note_fact, note_key, read_fact

SECRET = "secret"  # noqa: S105 - the name of the fact that is the key


class TableTombstones(Tombstones):
    """The rows of ``tombstones``, and two facts."""

    def check(self, session: Session) -> None:
        """Refuse a key that isn't the one whose digest is noted."""
        noted = read_fact(session, KEY)
        if noted is not None and noted != hashlib.sha256(self.key(session)).hexdigest():
            raise StoreError("the database's key isn't the key of its tombstones; restore a backup")

    def key(self, session: Session) -> bytes:
        """Read the key; StoreError where it is lost."""
        noted = read_fact(session, SECRET)
        if noted is None:
            raise StoreError("the database has lost the key of its tombstones; restore a backup")
        return bytes.fromhex(noted)

    def require_key(self, session: Session) -> None:
        """Make the key where there is none yet."""
        if read_fact(session, SECRET) is None:
            self._note_key(session, secrets.token_bytes(KEY_BYTES))

    def adopt(self, session: Session, key: bytes) -> None:
        """Take over a key; StoreError where the database has another one."""
        if read_fact(session, SECRET) not in {None, key.hex()}:
            raise StoreError(
                "the other store's key isn't the key of this database's tombstones; pass a copy of this one"
            )
        self._note_key(session, key)
        note_key(session, key)

    def append(self, session: Session, digest: str, erased_at: datetime) -> int:  # noqa: ARG002 - the caller writes it
        """Return the next number: the row is written in the same transaction as the erasure."""
        return count_erasures(session) + 1

    def after(self, number: int) -> list[Tombstone]:  # noqa: ARG002 - as the interface has it
        """There are none: a tombstone and its erasure are one transaction."""
        return []

    def _note_key(self, session: Session, key: bytes) -> None:
        note_fact(session, SECRET, key.hex())
        note_fact(session, KEY, hashlib.sha256(key).hexdigest())
