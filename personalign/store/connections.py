"""The transactions on one file, shared by threads, and kept whole through forks, interrupts and replaced files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from threading import Lock

from sqlalchemy import Engine, Pool, PoolProxiedConnection, QueuePool, event
from sqlalchemy.orm import Session

from personalign.errors import StoreError
from personalign.store.database import Database, DriverConnection, check_log
from personalign.store.engine import open_engines, typed_errors
from personalign.store.fork import Gate
from personalign.store.turn import Turns


class Connections:
    """An open file: one writer at a time, any number of readers, and a counter that tells of commits."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.engines = open_engines(database)
        self._turns = Turns(database)
        self._identity, self._changed_at = _status(database)
        self._gate = Gate(self._close_idle, self._start_anew)
        self._counter = Counter(self.engines.reader)
        self._writing: DriverConnection = None  # the writer's newest connection
        self._abandoned: list[Pool] = []  # what a parent process used
        self._is_closed = False
        event.listen(self.engines.writer, "connect", self._note_writer)
        try:
            with self.enter(), self._turns.turn():
                check_log(database)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Read in one transaction, which sees one state of the file."""
        with self.enter(), Session(self.engines.reader, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Write in one transaction, which has the lock from its beginning."""
        with self._turn(), Session(self._writer(), expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def bare_writer(self) -> Iterator[DriverConnection]:
        """Lend the writer's connection outside of a transaction."""
        with self._turn(), closing(self._writer().raw_connection()) as connection:
            yield connection.driver_connection

    def version(self) -> int:
        """Return a number that differs after any commit, by this process or another."""
        with self.enter():
            self._check_file()
            return self._counter.read()

    def forget_values(self) -> None:
        """Drop the compiled statements: each keeps the values that it was first used with."""
        self.engines.reader.clear_compiled_cache()
        self.engines.writer.clear_compiled_cache()

    def close(self) -> None:
        """Close all connections; a process that never does ends as promptly."""
        self._is_closed = True
        self._gate.close()
        self._close_idle()
        self._turns.close()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Keep forks out, and turn what the database raises into errors of the tree."""
        with self._gate.enter(), typed_errors(self.database):
            if self._is_closed:
                raise StoreError(f"{self.database.path} is closed; open it again")
            yield

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self.enter(), self._turns.turn():
            if self._check_file() != self._changed_at:
                check_log(self.database)  # a checkpoint, or another file's content
            yield
            self._changed_at = self._check_file()

    def _check_file(self) -> int:
        identity, changed_at = _status(self.database)
        if identity != self._identity:
            raise StoreError(
                f"{self.database.path} was replaced while it was open here; close this store and open it again "
                "(restore backups with: personalign db restore)"
            )
        return changed_at

    def _writer(self) -> Engine:
        writer = self.engines.writer
        assert isinstance(writer.pool, QueuePool), "the writer's pool has room for one"
        if writer.pool.checkedout():
            # it is our turn, so no call uses it: an interrupt lost it, perhaps in the middle of a transaction
            if self._writing is not None:
                with suppress(self.database.driver.Error):
                    self._writing.close()
            writer.dispose()
        return writer

    def _note_writer(self, connection: DriverConnection, _record: object) -> None:
        self._writing = connection

    def _close_idle(self) -> None:
        # a child would inherit SQLite's idea of which locks it holds, but not the locks
        self._counter.close()
        self.engines.close()

    def _start_anew(self) -> None:
        # what other threads of the parent were using all the same is neither used nor closed in the child
        for engine in (self.engines.reader, self.engines.writer):
            self._abandoned.append(engine.pool)
            engine.dispose(close=False)
        self._counter.renew()
        self._turns.renew()


class Counter:
    """One connection that never writes, because SQLite's counter only tells of commits by *other* connections."""

    def __init__(self, reader: Engine) -> None:
        self._reader = reader
        self._connection: PoolProxiedConnection | None = None
        self._num_connections = 0
        self.renew()

    def renew(self) -> None:
        """Take a lock of its own: what a forked child does, where the old one may be held for ever."""
        self._lock = Lock()

    def read(self) -> int:
        """Read the counter."""
        with self._lock:
            if self._connection is None:
                self._connection = self._reader.raw_connection()
                self._num_connections += 1
            try:
                with closing(self._connection.cursor()) as cursor:
                    commits = int(cursor.execute("PRAGMA data_version").fetchone()[0])
            except Exception:
                self._connection.invalidate()
                self._connection = None
                raise
            return (self._num_connections << 32) + commits  # each connection counts from a start of its own

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _status(database: Database) -> tuple[tuple[int, int], int]:
    """Tell which file it is, and when it was written last."""
    try:
        status = database.path.stat()
    except OSError as error:
        raise StoreError(f"{database.path} can't be reached ({error.strerror}); check the path and its disk") from error
    return (status.st_dev, status.st_ino), status.st_mtime_ns
