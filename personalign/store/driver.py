"""The one place that names a SQLite driver, because two copies of SQLite in one process break each other's locks.

``pysqlite3`` carries a SQLite without the WAL-reset corruption bug (3.7.0 to 3.51.2: two connections that write
and checkpoint at once). Where it has no wheel, the standard library's driver runs, and the journal mode
follows its version.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, Protocol, runtime_checkable

JournalMode = Literal["wal", "truncate"]
FIRST_SAFE_WAL = (3, 51, 3)


@runtime_checkable
class DriverConnection(Protocol):
    """A connection of whichever driver it is."""

    text_factory: Callable[[bytes], str]

    def cursor(self) -> Any:  # noqa: ANN401 - each driver has a class of its own
        """Make a cursor."""


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
