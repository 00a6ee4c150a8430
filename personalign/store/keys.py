"""Keys of the server's callers, and the secrets that its processes share.

A key is shown when it is made. Only its SHA-256 is stored: it has 256 random bits, so nobody guesses it from that.
Secrets come from the key of the tombstones, so all processes on one database have the same.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, cast, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from personalign.errors import InputError, StoreError
from personalign.messages import shown
from personalign.options import check_choice
from personalign.store.connections import Connections
from personalign.store.erase import share_key
from personalign.store.once import Write, claim, keyed
from personalign.store.records import now
from personalign.store.tables import KeyRow, WriteRow

KeyKind = Literal["backend", "operator"]
KEY_KINDS: tuple[KeyKind, ...] = get_args(KeyKind)
PREFIX = "pa_"
MAX_NAME = 64  # characters
MAX_STALE_S = 300.0  # how long what is at hand holds when the store can't be read


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key, which isn't the key itself."""

    id: str
    kind: KeyKind  # a backend acts for its users; an operator may also look after the server
    name: str
    created_at: datetime
    revoked_at: datetime | None  # None while it is good


@dataclass(frozen=True)
class _Live:
    """The keys that are good, by digest, as one version of the database has them."""

    version: int = -1
    read_at: float = 0.0
    keys: Mapping[bytes, ApiKey] = field(default_factory=dict)


class Keys:
    """The keys of one store."""

    def __init__(self, connections: Connections, clock: Callable[[], float] = time.monotonic) -> None:
        self._connections, self._clock = connections, clock
        self._live = _Live()

    def create(self, kind: KeyKind, name: str) -> tuple[ApiKey, str]:
        """Make a key, and return it with its text, which isn't kept."""
        check_choice("the kind of a key", kind, KEY_KINDS)
        if not isinstance(name, str) or not 0 < len(name.strip()) <= len(name) <= MAX_NAME or not name.isprintable():
            raise InputError(
                f"the name of a key is {shown(name)}, expected 1 to {MAX_NAME} characters; say whose it is"
            )
        text = PREFIX + secrets.token_urlsafe(32)
        row = KeyRow(id=secrets.token_hex(8), kind=kind, name=name, digest=_digest(text).hex(), created_at=now())
        with self._connections.write() as session:
            session.add(row)
        return _to_key(row), text

    def list(self) -> list[ApiKey]:
        """All keys, the oldest first, revoked ones included."""
        with self._connections.read() as session:
            return [_to_key(row) for row in session.scalars(select(KeyRow).order_by(KeyRow.created_at, KeyRow.id))]

    def revoke(self, key_id: str) -> ApiKey:
        """Make a key good for nothing, at once and in all processes; InputError for an unknown one."""
        with self._connections.write() as session:
            row = session.get(KeyRow, key_id)
            if row is None:
                raise InputError(f"found no key with the id {shown(key_id)}; list them with: personalign key list")
            row.revoked_at = row.revoked_at or now()
            return _to_key(row)

    def find(self, text: str) -> ApiKey | None:
        """The key with this text, unless it was revoked.

        While the store can't be read, for five minutes, as it was last; else StoreError.
        """
        digest, match = _digest(text), None
        for other, key in self._newest().items():
            if hmac.compare_digest(other, digest):
                match = key
        return match

    def secret(self, purpose: str) -> bytes:
        """256 bits for one purpose, the same in all processes on one file, and unlike those for any other purpose."""
        return hmac.new(share_key(self._connections), f"secret for {purpose}".encode(), hashlib.sha256).digest()

    def spend(self, nonce: str, until: datetime, attempt: str = "") -> bool:
        """Whether something that is good for one use, until then, is used first, or again by the same attempt."""
        secret = self.secret("nonces")
        write = Write(keyed(secret, nonce), keyed(secret, "attempt", attempt) if attempt else "", until)
        with self._connections.write() as session:
            if claim(session, write):
                return True
            row = session.get(WriteRow, write.digest)
            return bool(attempt) and row is not None and row.request == write.request

    def _newest(self) -> Mapping[bytes, ApiKey]:
        known = self._live
        try:
            version = self._connections.version()
            if version != known.version:
                with self._connections.read() as session:
                    known = _Live(version, keys=_good_ones(session))
        except StoreError:
            if known.version < 0 or self._clock() - known.read_at > MAX_STALE_S:
                raise
            return known.keys
        self._live = _Live(known.version, self._clock(), known.keys)
        return known.keys


def _good_ones(session: Session) -> Mapping[bytes, ApiKey]:
    rows = session.scalars(select(KeyRow).where(KeyRow.revoked_at.is_(None)))
    return {bytes.fromhex(row.digest): _to_key(row) for row in rows}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _to_key(row: KeyRow) -> ApiKey:
    return ApiKey(row.id, cast("KeyKind", row.kind), row.name, row.created_at, row.revoked_at)
