"""What ``personalign doctor`` says about the store."""

from __future__ import annotations

import stat
from typing import Any

from sqlalchemy import text

from personalign.store.engine import locate, open_engines
from personalign.store.faults import typed_errors
from personalign.store.files import require_file
from personalign.store.schema import HEAD, read_revision


def report(url: str) -> dict[str, Any]:
    """Describe the driver, the file and the schema, and check every page; nothing is written."""
    database = locate(url)
    require_file(database.path)
    engines = open_engines(database)
    try:
        with typed_errors(database), engines.reader.connect() as connection:
            mode = connection.scalar(text("PRAGMA journal_mode"))
            problems = list(connection.scalars(text("PRAGMA quick_check")))
            revision = read_revision(connection)
    finally:
        engines.close()
    found = database.path.stat()
    return {
        "path": str(database.path.resolve()),
        "bytes": found.st_size,
        "mode": oct(stat.S_IMODE(found.st_mode)),
        "driver": database.driver.__name__.partition(".")[0],
        "sqlite": database.driver.sqlite_version,
        "journal_mode": mode,
        "note": None
        if mode == "wal"
        else "this SQLite may corrupt a write-ahead log, so the slower rollback journal is used",
        "schema": revision,
        "schema_expected": HEAD,
        "problems": [] if problems == ["ok"] else problems,
    }
