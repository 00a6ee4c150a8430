"""The transactions on one file, shared by threads, and kept whole through forks, interrupts and replaced files."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, event, text
from sqlalchemy.orm import Session

from personalign.errors import ErasurePending, StoreError
from personalign.store.connections import Connections, Place, Tombstones
from personalign.store.sqlite.database import (
    APPLICATION_ID,
    BUSY_TIMEOUT_MS,
    ERASURES,
    LOGS,
    TURNS,
    Database,
    DriverConnection,
    check_log,
    name_commit,
)
from personalign.store.sqlite.engine import migration_engine, reader_engine, typed_errors, writer_engine
from personalign.store.sqlite.files import disk_errors, make_file, require_file, require_folder
from personalign.store.sqlite.tombstones import FileTombstones
from personalign.store.sqlite.turn import Turns

TRUNCATE_DEADLINE_S = 5.0
ROLLBACK = "this SQLite may corrupt a write-ahead log, so the slower rollback journal is used"


class SqlitePlace(Place):
    """One file, and what SQLite and the store keep beside it."""

    snapshot = "schema.sql"

    def __init__(self, database: Database) -> None:
        self.database, self.name = database, str(database.path)

    def make(self, *, folders: bool = False) -> None:
        """Make an empty file where there is none."""
        if not folders:
            require_folder(self.database.path)
        make_file(self.database.path)

    def require(self) -> None:
        """Refuse a path that isn't a file which can be written."""
        require_file(self.database.path)

    def connect(self) -> Connections:
        """Open the file."""
        return SqliteConnections(self, self.database, FileTombstones(self.database))

    def typed_errors(self) -> AbstractContextManager[None]:
        """Say what SQLite refused, and quote nothing of the content."""
        return typed_errors(self.database)

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """Begin IMMEDIATE; a kill leaves the old schema or the new one, and processes wait for each other."""
        with self.typed_errors(), migration_engine(self.database).begin() as connection:
            connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
            yield connection
            # foreign keys are off meanwhile, so what they would have caught is looked for here
            if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall():
                raise StoreError(f"{self.name}: the migration would orphan {len(broken)} rows; nothing was changed")

    def report(self, connections: Connections, session: Session) -> dict[str, Any]:  # noqa: ARG002 - the file has all
        """Describe driver and files, and check every page."""
        database, mode = self.database, session.scalar(text("PRAGMA journal_mode"))
        status = database.path.stat()
        problems = [problem for problem in session.scalars(text("PRAGMA quick_check")) if problem != "ok"]
        return {
            "path": str(database.path),
            "bytes": status.st_size,
            "mode": oct(stat.S_IMODE(status.st_mode)),
            "driver": database.driver.__name__.partition(".")[0],
            "sqlite": database.driver.sqlite_version,
            "journal_mode": mode,
            "note": None if mode == "wal" else ROLLBACK,
            "problems": problems + self._open_to_all(),
        }

    def _open_to_all(self) -> list[str]:
        names = ("", *LOGS, *ERASURES, TURNS)
        paths = [path for suffix in names if (path := self.database.neighbour(suffix)).exists()]
        return [
            f"{path} can be read by everyone; run: chmod o= {path}"
            for path in paths
            if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH)
        ]


def statements(connection: Connection) -> list[str]:
    """What makes the tables of a file, and then its indexes."""
    made = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%' ORDER BY type DESC, name"
    return list(connection.scalars(text(made)))


class SqliteConnections(Connections):
    """An open file: one writer at a time, and any number of readers."""

    def __init__(self, place: Place, database: Database, tombstones: Tombstones) -> None:
        self.database, self._turns, self._status = database, Turns(database), _read_status(database)
        super().__init__(place, reader_engine(database), writer_engine(database), tombstones)
        self._writing: DriverConnection = None  # the writer's newest connection
        event.listen(self.writer, "connect", self._note_writer)
        try:
            with self.enter(), self._turns.turn():
                check_log(database)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def write(self, person: str | None = None) -> Iterator[Session]:  # noqa: ARG002 - there is one lock for all
        """Write in one transaction, which has the lock from its beginning."""
        with self._turn(), Session(self._free_writer(), expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _bare_writer(self) -> Iterator[DriverConnection]:
        """Lend the writer's connection outside of a transaction."""
        with self._turn(), closing(self._free_writer().raw_connection()) as connection:
            yield connection.driver_connection

    def version(self) -> int:
        """Return the newest commit's name as a number: it differs after any commit, by this process or another."""
        with self.enter():
            self._check_file()
            with closing(self.reader.raw_connection()) as connection:
                return int(name_commit(connection.driver_connection)[0], 16)

    def be_patient(self, session: Session) -> None:
        """Nothing: SQLite never hurries."""

    def purge(self) -> None:
        """Fold the write-ahead log into the database, and leave it empty."""
        if self.database.journal_mode != "wal":
            return
        with self._bare_writer() as writer:
            try:
                writer.execute("PRAGMA busy_timeout=250")  # a waiting checkpoint keeps all writers out
                deadline = time.monotonic() + TRUNCATE_DEADLINE_S
                while writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    if time.monotonic() > deadline:
                        raise ErasurePending(
                            "the rows are gone, but a reader keeps them in the write-ahead log; "
                            "close it and erase again"
                        )
                    time.sleep(0.02)
            except self.database.driver.Error as error:
                raise ErasurePending(
                    f"the rows are gone, but the write-ahead log that holds them can't be folded in ({error}); "
                    "free some space or check the disk, and erase again"
                ) from error
            finally:
                writer.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")

    def close(self) -> None:
        """Close all connections; a process that never does ends as promptly."""
        super().close()
        self._turns.close()

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

    def before_fork(self) -> None:
        """Close idle ones: a child would inherit SQLite's idea of which locks it holds, but not the locks."""
        self._close_idle()

    def _start_anew(self) -> None:
        super()._start_anew()
        self._turns.renew()


def _read_status(database: Database) -> os.stat_result:
    with disk_errors(database.path, "reached", "check the path and its disk"):
        return database.path.stat()
