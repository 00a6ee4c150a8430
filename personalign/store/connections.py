"""What the store asks of a database: ``sqlite`` and ``postgres`` are the two rooms that answer.

A verb that writes names the person whose rows it decides on, and no other verb with that person runs until it commits.
One that names nobody has the whole store to itself.
"""

from __future__ import annotations

import hashlib
import hmac
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Pool
from sqlalchemy.orm import Session

from personalign.errors import StoreError
from personalign.store.fork import Gate

KEY_BYTES = 32  # of the key of tombstones


@dataclass(frozen=True)
class Tombstone:
    """An erasure: the keyed hash of an id, when it was, and its place among all that were, from 1."""

    digest: str
    erased_at: datetime
    number: int


class Tombstones(ABC):
    """The tombstones of one database, and the key that their digests are made with."""

    @abstractmethod
    def check(self, session: Session) -> None:
        """Refuse a key or tombstones of another database, and lost ones."""

    @abstractmethod
    def key(self, session: Session) -> bytes:
        """Read the key; StoreError where it is lost, or isn't one."""

    @abstractmethod
    def require_key(self, session: Session) -> None:
        """Make the key where there is none yet; the database notes its digest."""

    @abstractmethod
    def adopt(self, session: Session, key: bytes) -> None:
        """Take over the key of the store whose rows were copied, and its tombstones among them.

        Raises:
            StoreError: this store has another key.
        """

    @abstractmethod
    def append(self, session: Session, digest: str, erased_at: datetime) -> int:
        """Write a record and return its number when it lasts; one writer at a time."""

    @abstractmethod
    def after(self, number: int) -> list[Tombstone]:
        """Read the records after the one with this number that the database itself may lack."""

    def digests(self, session: Session, users: Iterable[str]) -> list[str]:
        """Hash ids with the key, so that a tombstone alone tells nothing."""
        key = self.key(session)
        return [hmac.new(key, user.encode(), hashlib.sha256).hexdigest() for user in users]


class Place(ABC):
    """Where a store is, and how it is opened."""

    name: str  # as errors and reports say it; without a password
    snapshot: str | None  # the file of statements that make the newest schema at once, where there is one

    @abstractmethod
    def make(self, *, folders: bool = False) -> None:
        """Make room for a store where there is none; missing folders only if asked for."""

    @abstractmethod
    def require(self) -> None:
        """Refuse a place where no store can be."""

    @abstractmethod
    def connect(self) -> Connections:
        """Open it."""

    @abstractmethod
    def typed_errors(self) -> AbstractContextManager[None]:
        """Turn what the database raises into a StoreError that says what to do, and quotes nothing of the content."""

    @abstractmethod
    def migrating(self) -> AbstractContextManager[Connection]:
        """Lend a connection that alone may change the schema, in one transaction."""

    @abstractmethod
    def report(self, connections: Connections, session: Session) -> dict[str, Any]:
        """Describe server and place, with the ``problems`` that a look at all of it shows."""


class Connections(ABC):
    """An open database: one transaction a verb, shared by threads, and kept whole through forks."""

    def __init__(self, place: Place, reader: Engine, writer: Engine, tombstones: Tombstones) -> None:
        self.place, self.reader, self.writer, self.tombstones = place, reader, writer, tombstones
        self._gate = Gate(self.before_fork, self._start_anew)
        self._abandoned: list[Pool] = []  # what a parent process used
        self._is_closed = False

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Read in one transaction, which sees one state of the database."""
        with self.enter(), Session(self.reader, expire_on_commit=False) as session, session.begin():
            yield session

    @abstractmethod
    def write(self, person: str | None = None) -> AbstractContextManager[Session]:
        """Write in one transaction, which has the lock from its beginning."""

    @abstractmethod
    def version(self) -> int:
        """Return a number that differs after any commit, by this process or another."""

    @abstractmethod
    def purge(self) -> None:
        """Leave no byte of rows that were deleted; ErasurePending where something keeps them for now."""

    @abstractmethod
    def be_patient(self, session: Session) -> None:
        """Let this transaction's statements take as long as whole stores need."""

    def forget_values(self) -> None:
        """Drop the compiled statements: each keeps the values that it was first used with."""
        self.reader.clear_compiled_cache()
        self.writer.clear_compiled_cache()

    def close(self) -> None:
        """Close all connections; a process that never does ends as promptly."""
        self._is_closed = True
        self._gate.close()
        self._close_idle()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Keep forks out, and turn what the database raises into errors of the tree."""
        with self._gate.enter(), self.place.typed_errors():
            if self._is_closed:
                raise StoreError(f"{self.place.name} is closed; open it again")
            yield

    def _close_idle(self) -> None:
        self.reader.dispose()
        self.writer.dispose()

    @abstractmethod
    def before_fork(self) -> None:
        """Let go of what a child must not inherit."""

    def _start_anew(self) -> None:
        # what other threads of the parent were using all the same is neither used nor closed in the child
        for engine in (self.reader, self.writer):
            self._abandoned.append(engine.pool)
            engine.dispose(close=False)
