"""Where a store is, and the SQLite driver that speaks to it, which is chosen here and nowhere else.

Two copies of SQLite in one process break each other's locks. ``pysqlite3`` carries a SQLite without the WAL-reset
corruption bug (3.7.0 to 3.51.2: two connections that write and checkpoint at once). Where it has no wheel, the
standard library's driver runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, runtime_checkable

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from personalign.errors import StoreError

JournalMode = Literal["wal", "truncate"]
FIRST_SAFE_WAL = (3, 51, 3)


@runtime_checkable
class DriverConnection(Protocol):
    """A connection of either driver."""

    text_factory: Callable[[bytes], str]
    total_changes: int

    def cursor(self) -> Any:  # noqa: ANN401 - each driver has a class of its own
        """Make a cursor."""

    def execute(self, statement: str, values: tuple[object, ...] = (), /) -> Any:  # noqa: ANN401
        """Run one statement."""

    def backup(self, target: Any, /) -> None:  # noqa: ANN401
        """Copy everything to another connection."""

    def close(self) -> None:
        """Close it, and roll back what it had begun."""


def sqlite_driver() -> ModuleType:
    """Import the driver that every connection of this process uses."""
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        import sqlite3 as dbapi2
    driver: ModuleType = dbapi2
    return driver


def journal_mode(version: tuple[int, ...]) -> JournalMode:
    """Choose WAL where it is safe, else the slower rollback journal, which never had the bug."""
    return "wal" if version >= FIRST_SAFE_WAL else "truncate"


@dataclass(frozen=True)
class Database:
    """Where a store is, whatever folder the process goes to later, and how it is spoken to."""

    path: Path  # absolute, and not a link
    driver: ModuleType = field(default_factory=sqlite_driver)

    @property
    def journal_mode(self) -> JournalMode:
        """The mode that is safe with this driver's SQLite."""
        return journal_mode(self.driver.sqlite_version_info)

    def beside(self, suffix: str) -> Path:
        """A file kept next to the database."""
        return self.path.with_name(self.path.name + suffix)


def locate(url: str) -> Database:
    """Read a store URL; StoreError for one that isn't a SQLite file's."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError("the store's URL can't be read; expected sqlite:///profiles.db") from error
    if parsed.drivername != "sqlite":
        raise StoreError(f"the store's URL is of kind {parsed.drivername}, expected sqlite:///profiles.db")
    if parsed.database in (None, "", ":memory:") or str(parsed.database).startswith("file:") or parsed.query:
        raise StoreError("the store needs a file that several connections can share, such as sqlite:///profiles.db")
    try:
        return Database(Path(str(parsed.database)).resolve())
    except (OSError, RuntimeError) as error:
        raise StoreError("the store's path can't be followed to a file; check its links and folders") from error
