"""A store in a file: how it is made, opened, migrated and looked over."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from personalign.errors import StoreError
from personalign.store.connections import Connections, Place
from personalign.store.sqlite.connections import SqliteConnections
from personalign.store.sqlite.database import APPLICATION_ID, ERASURES, LOGS, TURNS, Database
from personalign.store.sqlite.engine import migration_engine, typed_errors
from personalign.store.sqlite.files import make_file, require_file, require_folder
from personalign.store.sqlite.tombstones import FileTombstones

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
