"""What ``personalign doctor`` says about the store."""

from __future__ import annotations

import stat
from contextlib import closing
from typing import Any

from sqlalchemy import text

from personalign.errors import StoreError
from personalign.store.connections import Connections
from personalign.store.database import ERASURES, LOGS, TURNS, Database, locate
from personalign.store.erase import check_tombstones
from personalign.store.files import require_file
from personalign.store.schema import HEAD, read_revision
from personalign.store.tombstones import Tombstones

ROLLBACK = "this SQLite may corrupt a write-ahead log, so the slower rollback journal is used"


def report(url: str) -> dict[str, Any]:
    """Describe the driver, the files and the schema, and check every page; nothing is written."""
    database = locate(url)
    require_file(database.path)
    with closing(Connections(database)) as connections, connections.read() as session:
        mode = session.scalar(text("PRAGMA journal_mode"))
        problems = [problem for problem in session.scalars(text("PRAGMA quick_check")) if problem != "ok"]
        revision = read_revision(session.connection())
        if revision == HEAD:
            try:
                check_tombstones(connections, session)
                Tombstones(database).after(0)
            except StoreError as error:
                problems.append(str(error))
    status = database.path.stat()
    return {
        "path": str(database.path),
        "bytes": status.st_size,
        "mode": oct(stat.S_IMODE(status.st_mode)),
        "driver": database.driver.__name__.partition(".")[0],
        "sqlite": database.driver.sqlite_version,
        "journal_mode": mode,
        "note": None if mode == "wal" else ROLLBACK,
        "schema": revision,
        "schema_expected": HEAD,
        "problems": problems + _open_to_all(database),
    }


def _open_to_all(database: Database) -> list[str]:
    paths = [path for suffix in ("", *LOGS, *ERASURES, TURNS) if (path := database.neighbour(suffix)).exists()]
    return [
        f"{path} can be read by everyone; run: chmod o= {path}"
        for path in paths
        if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH)
    ]
