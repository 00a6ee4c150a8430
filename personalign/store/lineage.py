"""Tells whether a log beside a database was written for it: each commit names the one before.

SQLite applies whatever log has the right name. A backup that is copied over a database whose log is still there becomes
a mixture of both, without an error. So every commit leaves a random name and its predecessor's in the database; a
log goes with a file whose newest commit is in the log, or comes right before it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from urllib.parse import quote

from personalign.errors import StoreError
from personalign.store.database import Database, DriverConnection
from personalign.store.files import read_bytes

COMMIT = re.compile(rb"commit ([0-9a-f]{16}) after ([0-9a-f]{16})")
ORIGIN = b"0" * 16
WAL_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24


def sign_commit(connection: DriverConnection) -> None:
    """Name the commit that is about to be made."""
    if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'facts'").fetchone()[0]:
        return  # a schema from before
    before = _newest(connection)[0].decode()
    connection.execute(
        "INSERT INTO facts (name, value) VALUES ('commit', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (f"commit {secrets.token_hex(8)} after {before}",),
    )


def check_log(database: Database) -> None:
    """Refuse a log that wasn't written for this database; nobody may write meanwhile."""
    for suffix, read in (("-wal", _read_wal), ("-journal", _read_journal)):
        path = database.beside(suffix)
        content = read_bytes(path) if path.exists() else b""
        names = set(read(content))
        if names and not _goes_with(database, suffix, names):
            raise StoreError(
                f"{path} was written for another database than the {database.path.name} beside it; "
                "restore backups with: personalign db restore, or delete the log to take the file as it is"
            )


def _goes_with(database: Database, suffix: str, names: set[bytes]) -> bool:
    """Tell whether the file without its log is at one of these commits."""
    connection = database.driver.connect(f"file:{quote(str(database.path))}?immutable=1", uri=True)
    try:
        newest, before = _newest(connection)
    except database.driver.Error as error:
        # from before commits were named; or damaged, which SQLite will say
        return ORIGIN in names or "no such table" not in str(error)
    finally:
        connection.close()
    # a rollback journal has pages from before its commit, which may or may not be in the file already
    return newest in names or (suffix == "-journal" and before in names)


def _newest(connection: DriverConnection) -> tuple[bytes, bytes]:
    row = connection.execute("SELECT value FROM facts WHERE name = 'commit'").fetchone()
    match = row and COMMIT.fullmatch(row[0].encode())
    return (match[1], match[2]) if match else (ORIGIN, ORIGIN)


def _read_wal(content: bytes) -> Iterator[bytes]:
    """Name the commits in a write-ahead log, and the one before them; what an older log left is passed over."""
    salts, frame_bytes = content[16:24], FRAME_HEADER_BYTES + int.from_bytes(content[8:12])
    for start in range(WAL_HEADER_BYTES, len(content) - frame_bytes + 1, frame_bytes):
        if content[start + 8 : start + 16] != salts:
            return
        for match in COMMIT.finditer(content, start, start + frame_bytes):
            yield from match.groups()


def _read_journal(content: bytes) -> Iterator[bytes]:
    """Name the commit whose pages a rollback journal keeps."""
    for match in COMMIT.finditer(content):
        yield match[1]
