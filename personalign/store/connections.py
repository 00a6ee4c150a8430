"""The transactions on one file, shared by threads, and kept whole through forks, interrupts and replaced files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from sqlalchemy import Engine, Pool, QueuePool, event
from sqlalchemy.orm import Session

from personalign.errors import StoreError
from personalign.store.database import Database, DriverConnection, check_log, name_commit
from personalign.store.engine import reader_engine, typed_errors, writer_engine
from personalign.store.files import disk_errors
from personalign.store.fork import Gate
from personalign.store.turn import Turns


class Connections:
    """An open file: one writer at a time, and any number of readers."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.reader, self.writer = reader_engine(database), writer_engine(database)
        self._turns = Turns(database)
        self._status = _read_status(database)
        self._gate = Gate(self._close_idle, self._start_anew)
        self._writing: DriverConnection = None  # the writer's newest connection
        self._abandoned: list[Pool] = []  # what a parent process used
        self._is_closed = False
        event.listen(self.writer, "connect", self._note_writer)
        try:
            with self.enter(), self._turns.turn():
                check_log(database)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Read in one transaction, which sees one state of the file."""
        with self.enter(), Session(self.reader, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Write in one transaction, which has the lock from its beginning."""
        with self._turn(), Session(self._free_writer(), expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def bare_writer(self) -> Iterator[DriverConnection]:
        """Lend the writer's connection outside of a transaction."""
        with self._turn(), closing(self._free_writer().raw_connection()) as connection:
            yield connection.driver_connection

    def version(self) -> int:
        """Return the newest commit's name as a number: it differs after any commit, by this process or another."""
        with self.enter():
            self._check_file()
            with closing(self.reader.raw_connection()) as connection:
                return int(name_commit(connection.driver_connection)[0], 16)

    def forget_values(self) -> None:
        """Drop the compiled statements: each keeps the values that it was first used with."""
        self.reader.clear_compiled_cache()
        self.writer.clear_compiled_cache()

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
            if self._check_file().st_mtime_ns != self._status.st_mtime_ns:
                check_log(self.database)  # a checkpoint, or another file's content
            yield
            self._status = self._check_file()

    def _check_file(self) -> os.stat_result:
        status = _read_status(self.database)
        if not os.path.samestat(status, self._status):
            raise StoreError(
                f"{self.database.path} was replaced while it was open here; close this store and open it again "
                "(restore backups with: personalign db restore)"
            )
        return status

    def _free_writer(self) -> Engine:
        assert isinstance(self.writer.pool, QueuePool), "the writer's pool has room for one"
        if self.writer.pool.checkedout():
            # it is our turn, so no call uses it: an interrupt lost it, perhaps in the middle of a transaction
            if self._writing is not None:
                with suppress(self.database.driver.Error):
                    self._writing.close()
            self.writer.dispose()
        return self.writer

    def _note_writer(self, connection: DriverConnection, _record: object) -> None:
        self._writing = connection

    def _close_idle(self) -> None:
        # a child would inherit SQLite's idea of which locks it holds, but not the locks
        self.reader.dispose()
        self.writer.dispose()

    def _start_anew(self) -> None:
        # what other threads of the parent were using all the same is neither used nor closed in the child
        for engine in (self.reader, self.writer):
            self._abandoned.append(engine.pool)
            engine.dispose(close=False)
        self._turns.renew()


def _read_status(database: Database) -> os.stat_result:
    with disk_errors(database.path, "reached", "check the path and its disk"):
        return database.path.stat()
