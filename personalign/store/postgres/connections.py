"""The transactions on one database, shared by the threads of this process and by processes on any machine.

A transaction that writes takes a lock that the server keeps until it ends: one on the person, beside any number of
others, or one on everything. It decides under that lock, so no update is lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, event, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from personalign.errors import StoreError
from personalign.store.connections import Connections, Place
from personalign.store.postgres.engine import POOL, make_engine, typed_errors
from personalign.store.postgres.tombstones import TableTombstones
from personalign.store.postgres.watch import CHANNEL, SNAPSHOT, Watch

EVERYTHING = 0x50414C4E  # the lock on the whole store; "PALN"
TURNS, LOCK_TIMEOUT = 5, "55P03"  # of three seconds, and how the server says that one is over
LOCK_ALL = text("SELECT pg_advisory_xact_lock(:everything)")
LOCK_ONE = text("SELECT pg_advisory_xact_lock_shared(:everything), pg_advisory_xact_lock(:person)")
# a transaction without a number of its own changed nothing
TELL = text("SELECT pg_notify(:channel, :token) WHERE pg_current_xact_id_if_assigned() IS NOT NULL")
PATIENT = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
DRIVER = "postgresql+psycopg"
EXAMPLE = f"{DRIVER}://name:password@host/database"
MIGRATIONS = 0x50414C4F  # the lock that a migration takes
MARK = "personalign"  # the comment on alembic's table, which many programs have
VERSIONS = "alembic_version"
PATIENCE_S = 120  # for another process's migration


class PostgresPlace(Place):
    """One database, which has to be there; the tables are ours to make."""

    snapshot = None

    def __init__(self, url: URL) -> None:
        if not url.database:
            raise StoreError(f"the store's URL names no database; expected one such as {EXAMPLE}")
        self._url = url
        self.name = f"{DRIVER}://{url.host or url.query.get('host', '')}/{url.database}"

    def make(self, *, folders: bool = False) -> None:
        """Nothing: making a database is its server's operator's."""

    def require(self) -> None:
        """Refuse a server that can't be reached, and another program's database."""
        with self.typed_errors(), make_engine(self._url, poolclass=NullPool).connect() as connection:
            _refuse_foreign(connection)

    def connect(self) -> Connections:
        """Open the database."""
        return PostgresConnections(self, make_engine(self._url, **POOL), make_engine(self._url, poolclass=NullPool))

    def typed_errors(self) -> AbstractContextManager[None]:
        """Say what the server refused, and quote no row."""
        return typed_errors(self.name)

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """Migrate in one transaction; processes that come meanwhile wait, and find the work done."""
        with self.typed_errors(), make_engine(self._url, poolclass=NullPool).begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{PATIENCE_S}s'")
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATIONS})
            _refuse_foreign(connection)
            yield connection
            if inspect(connection).has_table(VERSIONS):
                connection.exec_driver_sql(f"COMMENT ON TABLE {VERSIONS} IS '{MARK}'")

    def report(self, connections: Connections, session: Session) -> dict[str, Any]:  # noqa: ARG002 - as for a file
        """Describe server, database and role."""
        names = ("server_version", "max_connections", "synchronous_commit", "default_transaction_read_only")
        described = {name: session.scalar(text("SELECT current_setting(:name)"), {"name": name}) for name in names}
        is_standby = bool(session.scalar(text("SELECT pg_is_in_recovery()")))
        asking = text("SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user")
        role, is_superuser = session.execute(asking).one()
        problems = ["the role is a superuser; pass one that owns the database alone"] if is_superuser else []
        if is_standby or described.pop("default_transaction_read_only") == "on":
            problems.append("the database is read-only, so nothing can be stored; pass the URL of the primary")
        size = session.scalar(text("SELECT pg_database_size(current_database())"))
        return {"path": self.name, "bytes": size, "role": role} | described | {"problems": problems}


def _refuse_foreign(connection: Connection) -> None:
    """Refuse a database with tables that aren't ours; an empty one may become ours."""
    tables = inspect(connection).get_table_names()
    mark = connection.scalar(text("SELECT obj_description(to_regclass(:table), 'pg_class')"), {"table": VERSIONS})
    if tables and mark != MARK:
        raise StoreError(
            f"the database holds {len(tables)} tables of another program, expected none; "
            "make one for the store with: createdb"
        )


class PostgresConnections(Connections):
    """A pool of connections, and one more that listens."""

    def __init__(self, place: Place, engine: Engine, listener: Engine) -> None:
        self._watch = Watch(listener.raw_connection, self._look, lambda: self._gate.enter())  # noqa: PLW0108 - made below
        super().__init__(place, engine.execution_options(), engine.execution_options(), TableTombstones())
        event.listen(self.reader, "begin", lambda connection: _begin(connection, "REPEATABLE_READ", is_read_only=True))
        event.listen(self.writer, "begin", lambda connection: _begin(connection, "READ_COMMITTED"))
        event.listen(self.writer, "commit", self._tell)

    @contextmanager
    def write(self, person: str | None = None) -> Iterator[Session]:
        """Write in one transaction, which has the person's lock, or everybody's, from its beginning."""
        with self.enter(), Session(self.writer, expire_on_commit=False) as session:
            _take_lock(session, person)
            try:
                yield session
                session.commit()
            except BaseException:
                session.rollback()
                raise
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


def _take_lock(session: Session, person: str | None) -> None:
    """Wait for the lock as long as on SQLite: several times what one statement may wait."""
    for turn in range(TURNS, 0, -1):
        try:
            if person is None:
                session.execute(LOCK_ALL, {"everything": EVERYTHING})
            else:
                session.execute(LOCK_ONE, {"everything": EVERYTHING, "person": _lock(person)})
        except DBAPIError as error:
            if turn == 1 or getattr(error.orig, "sqlstate", None) != LOCK_TIMEOUT:
                raise
            session.rollback()
        else:
            return


def _begin(connection: Connection, level: str, *, is_read_only: bool = False) -> None:
    """Say how the next BEGIN is to be; a writer leaves to the server whether it may write."""
    from psycopg import IsolationLevel

    driver = connection.connection.driver_connection
    assert driver is not None, "a connection that begins is open"
    driver.isolation_level, driver.read_only = IsolationLevel[level], is_read_only or None


def _lock(person: str) -> int:
    """A person's lock: two of them may share one, which costs a wait and no more."""
    return int.from_bytes(hashlib.sha256(person.encode("utf-8", "surrogatepass")).digest()[:8], signed=True)
