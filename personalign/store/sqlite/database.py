"""Where a store is, the SQLite driver that speaks to it, chosen here and nowhere else, and which log goes with a file.

Two copies of SQLite in one process break each other's locks. ``pysqlite3`` carries one without the WAL-reset bug
(3.7.0 to 3.51.2: two connections that write and checkpoint at once); else the standard library's driver runs.

SQLite applies whatever log has the right name. A backup copied over a database whose log is still there would become a
mixture of both, without an error. So every commit leaves a random name and its predecessor's in the database. A log
goes with a file whose newest commit is in the log, or comes right before it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from urllib.parse import quote

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from personalign.errors import StoreError
from personalign.messages import check_place
from personalign.store.sqlite.files import read_bytes

DriverConnection = Any  # each driver has a class of its own
JournalMode = Literal["wal", "truncate"]
APPLICATION_ID = 0x50414C4E  # "PALN", in the file's header
FIRST_SAFE_WAL = (3, 51, 3)
BUSY_TIMEOUT_MS = 15_000
EXAMPLE = "expected a file, such as sqlite:///profiles.db"
COMMIT = re.compile(rb"commit ([0-9a-f]{16}) after ([0-9a-f]{16})")
WAL_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
ORIGIN = b"0" * 16  # before the first commit that has a name
LOGS = ("-wal", "-shm", "-journal")  # SQLite's own files beside a database
ERASURES = (".key", ".tombstones")  # a copy needs them beside it, too
TURNS = ".lock"


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
    """Where a store is, whatever folder the process changes to, and its driver."""

    path: Path  # absolute, and not a link
    driver: ModuleType = field(default_factory=sqlite_driver)

    @property
    def journal_mode(self) -> JournalMode:
        """The mode that is safe with this driver's SQLite."""
        return journal_mode(self.driver.sqlite_version_info)

    def neighbour(self, suffix: str) -> Path:
        """Name a file that is kept next to the database."""
        return self.path.with_name(self.path.name + suffix)

    def connect(self, options: str) -> DriverConnection:
        """Open a bare connection, without any of the store's settings."""
        return self.driver.connect(f"file:{quote(str(self.path))}?{options}", uri=True)


def locate(url: str) -> Database:
    """Read a store URL; StoreError where it doesn't name a SQLite file, InputError where it can't name any."""
    try:
        parsed = make_url(check_place("store", url))
    except ArgumentError as error:
        raise StoreError(f"the store's URL can't be read; {EXAMPLE}") from error
    if parsed.drivername != "sqlite":
        raise StoreError(f"the store's URL is of kind {parsed.drivername}; {EXAMPLE}")
    if parsed.database in (None, "", ":memory:") or str(parsed.database).startswith("file:") or parsed.query:
        raise StoreError(f"the store's URL names no file that several connections can share; {EXAMPLE}")
    return follow(str(parsed.database))


def follow(path: Path | str) -> Database:
    """Name a store by its file's path, whatever characters are in it."""
    try:
        return Database(Path(check_place("the file", path)).resolve())
    except (OSError, RuntimeError) as error:
        raise StoreError("the store's path can't be followed to a file; check its links and folders") from error


def sign_commit(connection: DriverConnection) -> None:
    """Name the commit that is about to be made."""
    if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'facts'").fetchone()[0]:
        return  # a schema from before
    before = name_commit(connection)[0].decode()
    connection.execute(
        "INSERT INTO facts (name, value) VALUES ('commit', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (f"commit {secrets.token_hex(8)} after {before}",),
    )


def name_commit(connection: DriverConnection) -> tuple[bytes, bytes]:
    """Name the newest commit, and the one before it."""
    row = connection.execute("SELECT value FROM facts WHERE name = 'commit'").fetchone()
    match = row and COMMIT.fullmatch(row[0].encode())
    return (match[1], match[2]) if match else (ORIGIN, ORIGIN)


def check_log(database: Database) -> None:
    """Refuse a log that was written for another database; the caller keeps writers out."""
    for suffix in ("-wal", "-journal"):
        path = database.neighbour(suffix)
        content = read_bytes(path)  # nothing where another process removes its log right now
        # a rollback journal keeps the pages from before its commit
        names = set(_read_wal(content)) if suffix == "-wal" else {match[1] for match in COMMIT.finditer(content)}
        if names and not _goes_with(database, suffix, names):
            raise StoreError(
                f"{path} was written for another database than the {database.path.name} beside it; "
                "restore backups with: personalign db restore, or delete the log to take the file as it is"
            )


def _goes_with(database: Database, suffix: str, names: set[bytes]) -> bool:
    """Tell whether the file without its log is at one of these commits."""
    try:
        with closing(database.connect("immutable=1")) as connection:
            newest, before = name_commit(connection)
    except database.driver.Error as error:
        # from before commits were named; or damaged, which SQLite will say
        return ORIGIN in names or "no such table" not in str(error)
    # a rollback journal has pages from before its commit, which may or may not be in the file already
    return newest in names or (suffix == "-journal" and before in names)


def _read_wal(content: bytes) -> Iterator[bytes]:
    """Name the commits in a write-ahead log, and the one before them; what an older log left is passed over."""
    salts, frame_bytes = content[16:24], FRAME_HEADER_BYTES + int.from_bytes(content[8:12])
    for start in range(WAL_HEADER_BYTES, len(content) - frame_bytes + 1, frame_bytes):
        if content[start + 8 : start + 16] != salts:
            return
        for match in COMMIT.finditer(content, start, start + frame_bytes):
            yield from match.groups()
