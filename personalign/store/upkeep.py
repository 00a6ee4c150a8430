"""What an operator does with a whole store: copy it, bring a copy back, and look it over.

A backup is one file that SQLite copies while the store is in use, with its key and tombstones beside it. Restoring
makes the new file in full before it takes the old one's place: copied, checked, brought to this code's schema, and
everyone erased again who has a tombstone beside either. Killed half-way it leaves the old database or the new one; an
old log that is then left beside the new one is refused at opening.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import select, text

from personalign.errors import StoreError
from personalign.store.connections import Connections
from personalign.store.database import ERASURES, LOGS, TURNS, Database, check_log, follow, locate
from personalign.store.engine import refuse_foreign, typed_errors
from personalign.store.erase import KEY, check_tombstones, erase_again, read_fact
from personalign.store.files import disk_errors, make_file, make_whole, read_bytes, require_file, sync_folder
from personalign.store.schema import HEAD, migrate, read_revision
from personalign.store.tables import TombstoneRow
from personalign.store.tombstones import Tombstone, Tombstones

ROLLBACK = "this SQLite may corrupt a write-ahead log, so the slower rollback journal is used"


def back_up(database: Database, path: Path) -> None:
    """Copy a store that may be in use to a new file, which can be opened as it is."""
    target = follow(path)
    if target.path.exists() or target.path in map(database.neighbour, (*ERASURES, *LOGS, TURNS)):
        raise StoreError(f"{target.path} is there already, or is kept for the store itself; pass another path")
    with _draft(target, ".partial") as draft, disk_errors(target.path, "written", "pass another path"):
        _copy(database, draft)
        # after the rows: what was erased meanwhile has its tombstone here
        for suffix in ERASURES:
            target.neighbour(suffix).unlink(missing_ok=True)
            if database.neighbour(suffix).exists():
                make_whole(target.neighbour(suffix), read_bytes(database.neighbour(suffix)))
        draft.path.replace(target.path)
        sync_folder(target.path.parent)


def restore(url: str, path: Path) -> None:
    """Put a backup in the place of a store that nothing uses; everyone erased since stays erased."""
    database, backup = locate(url), follow(path)
    if not backup.path.is_file():
        raise StoreError(f"there is no backup at {backup.path}; check the path")
    if backup.path == database.path:
        raise StoreError(f"{backup.path} is the store itself; pass the path of a backup")
    with _draft(database, ".restoring") as draft, disk_errors(database.path, "replaced", "check its folder"):
        check_log(backup)
        _copy(backup, draft)
        _check(draft, backup)
        migrate(draft, HEAD)
        before = _erasures(database)
        _gather(draft, backup, database)
        with closing(Connections(draft)) as connections:
            erase_again(connections)
        if before != _erasures(database):
            raise StoreError(f"{database.path} was written to meanwhile; stop what uses it, and restore again")
        _take_place(draft, database)


@contextmanager
def _draft(target: Database, suffix: str) -> Iterator[Database]:
    draft = Database(target.neighbour(suffix), target.driver)
    _remove(draft)
    try:
        yield draft
    finally:
        _remove(draft)


def _take_place(draft: Database, database: Database) -> None:
    # the tombstones first: with them the old file is right, too
    for suffix in (".tombstones", ".key", ""):
        if draft.neighbour(suffix).exists():
            draft.neighbour(suffix).replace(database.neighbour(suffix))
    for suffix in LOGS:
        database.neighbour(suffix).unlink(missing_ok=True)
    sync_folder(database.path.parent)


def _copy(source: Database, target: Database) -> None:
    """Copy by SQLite's own means, which sees one state of a file in use; into a new file of ours alone."""
    make_file(target.path)
    # a backup may be where nothing can be written: without a log to read, SQLite needs no file beside it
    options = "mode=rw" if any(read_bytes(source.neighbour(suffix)) for suffix in LOGS) else "immutable=1"
    with typed_errors(source), closing(source.connect(options)) as reader:
        refuse_foreign(reader, source)
        with closing(target.connect("mode=rw")) as writer:
            reader.backup(writer)


def _check(draft: Database, backup: Database) -> None:
    with typed_errors(backup), closing(draft.connect("mode=rw")) as connection:
        problems = [row[0] for row in connection.execute("PRAGMA quick_check")]
        (application,) = connection.execute("PRAGMA application_id").fetchone()
    if not application:
        raise StoreError(f"{backup.path} holds no store; pass the path of a backup")
    if problems != ["ok"]:
        raise StoreError(f"{backup.path} is damaged ({problems[0]}); restore another backup")


def _gather(draft: Database, backup: Database, database: Database) -> None:
    """Put beside the draft one key and all tombstones: those beside the store and the backup, and those they note."""
    keys = [key for place in (database, backup) if (key := place.neighbour(".key")).exists()]
    if keys:
        make_whole(draft.neighbour(".key"), read_bytes(keys[0]))
    records: dict[int, Tombstone] = {}
    for place in (draft, database):
        records |= _noted(place, draft)
    for place in (backup, database):
        records |= Tombstones(place).readable(draft)
    if records:
        Tombstones(draft).write_all(records)


def _noted(database: Database, draft: Database) -> dict[int, Tombstone]:
    """Read the tombstones that a database notes; those of a damaged one are in the file beside it alone."""
    with suppress(StoreError):
        with closing(Connections(database)) as connections, connections.read() as session:
            key_digest = read_fact(session, KEY)
            rows = session.scalars(select(TombstoneRow).where(TombstoneRow.number > 0)).all()
        Tombstones(draft).check(key_digest, 0)
        return {row.number: Tombstone(row.digest, row.erased_at, row.number) for row in rows}
    return {}


def _erasures(database: Database) -> list[bytes]:
    return [read_bytes(database.neighbour(suffix)) for suffix in ERASURES]


def _remove(database: Database) -> None:
    for suffix in ("", *ERASURES, *LOGS, TURNS):
        database.neighbour(suffix).unlink(missing_ok=True)


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
