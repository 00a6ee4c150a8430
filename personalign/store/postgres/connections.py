"""The transactions on one database, shared by the threads of this process and by processes on any machine.

A transaction that writes takes a lock that the server keeps until it ends: one on the person, beside any number of
others, or one on everything. It decides under that lock, so no update is lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.orm import Session

from personalign.store.connections import Connections, Place
from personalign.store.postgres.tombstones import TableTombstones
from personalign.store.postgres.watch import CHANNEL, SNAPSHOT, Watch

EVERYTHING = 0x50414C4E  # the lock on the whole store; "PALN"
LOCK_ALL = text("SELECT pg_advisory_xact_lock(:everything)")
LOCK_ONE = text("SELECT pg_advisory_xact_lock_shared(:everything), pg_advisory_xact_lock(:person)")
# a transaction without a number of its own changed nothing
TELL = text("SELECT pg_notify(:channel, :token) WHERE pg_current_xact_id_if_assigned() IS NOT NULL")
PATIENT = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"


class PostgresConnections(Connections):
    """A pool of connections, and one more that listens."""

    def __init__(self, place: Place, engine: Engine, listener: Engine) -> None:
        self._watch = Watch(listener.raw_connection, self._look)
        super().__init__(place, engine.execution_options(), engine.execution_options(), TableTombstones())
        event.listen(self.reader, "begin", lambda connection: _begin(connection, "REPEATABLE_READ", is_read_only=True))
        event.listen(self.writer, "begin", lambda connection: _begin(connection, "READ_COMMITTED"))
        event.listen(self.writer, "commit", self._tell)

    @contextmanager
    def write(self, person: str | None = None) -> Iterator[Session]:
        """Write in one transaction, which has the person's lock, or everybody's, from its beginning."""
        with self.enter(), Session(self.writer, expire_on_commit=False) as session, session.begin():
            if person is None:
                session.execute(LOCK_ALL, {"everything": EVERYTHING})
            else:
                session.execute(LOCK_ONE, {"everything": EVERYTHING, "person": _lock(person)})
            yield session
        self._watch.count()

    def version(self) -> int:
        """Return a number that differs after any commit; of another process's as soon as the server tells."""
        with self.enter():
            return self._watch.version()

    def purge(self) -> None:
        """Nothing: the rows are gone for everyone, and when their bytes go is the server's to say (VACUUM)."""

    def be_patient(self, session: Session) -> None:
        """Let this transaction's statements take as long as whole stores need."""
        session.connection().exec_driver_sql(PATIENT)

    def close(self) -> None:
        """Close all connections, and end the thread that listens."""
        super().close()
        self._watch.close()

    def before_fork(self) -> None:
        """Nothing: a child uses none of them."""

    def _start_anew(self) -> None:
        super()._start_anew()
        self._watch.renew()

    def _look(self) -> str:
        with self.reader.connect() as connection:
            return str(connection.exec_driver_sql(SNAPSHOT).scalar())

    def _tell(self, connection: Connection) -> None:
        connection.execute(TELL, {"channel": CHANNEL, "token": self._watch.token})


def _begin(connection: Connection, level: str, *, is_read_only: bool = False) -> None:
    """Say how the next BEGIN is to be; a writer leaves to the server whether it may write."""
    from psycopg import IsolationLevel

    driver = connection.connection.driver_connection
    assert driver is not None, "a connection that begins is open"
    driver.isolation_level, driver.read_only = IsolationLevel[level], is_read_only or None


def _lock(person: str) -> int:
    """A person's lock: two of them may share one, which costs a wait and no more."""
    return int.from_bytes(hashlib.sha256(person.encode("utf-8", "surrogatepass")).digest()[:8], signed=True)
