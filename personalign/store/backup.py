"""Backups: one file that SQLite copies while the store is in use, with its key and tombstones beside it.

Restoring makes the new file in full before it takes the old one's place: copied, checked, brought to this code's
schema, and everybody erased again who has a tombstone beside either. Killed half-way it leaves the old database or the
new one; an old log that is then left beside the new one is refused at opening.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import select

from personalign.errors import StoreError
from personalign.store.connections import Connections
from personalign.store.database import Database, DriverConnection, check_log, locate
from personalign.store.engine import refuse_foreign, typed_errors
from personalign.store.erase import erase_again
from personalign.store.files import make_file, make_whole, read_bytes, sync_folder
from personalign.store.schema import HEAD, migrate
from personalign.store.tables import FactRow, TombstoneRow
from personalign.store.tombstones import Tombstone, Tombstones

LOGS = ("-wal", "-shm", "-journal")
BESIDE = (".key", ".tombstones")


def back_up(database: Database, path: Path) -> None:
    """Copy a store that may be in use; what is copied can be opened as it is.

    Raises:
        StoreError: there is a file at this path, or it can't be written.
    """
    target = Database(path.resolve(), database.driver)
    if target.path.exists():
        raise StoreError(f"{target.path} is there already; pass another path")
    draft = Database(target.path.with_name(target.path.name + ".partial"), database.driver)
    _remove_all(draft)
    try:
        _copy(database, draft)
        # after the rows: what was erased meanwhile has its tombstone here
        for suffix in BESIDE:
            _remove(target.beside(suffix))
            if database.beside(suffix).exists():
                make_whole(target.beside(suffix), read_bytes(database.beside(suffix)))
        draft.path.replace(target.path)
        sync_folder(target.path.parent)
    except OSError as error:
        raise StoreError(f"{target.path} can't be written ({error.strerror}); pass another path") from error
    finally:
        _remove_all(draft)


def restore(url: str, path: Path) -> None:
    """Put a backup in the place of a store; whoever was erased since stays erased.

    Raises:
        StoreError: the backup isn't a whole one of this store, or the store was written to meanwhile.
    """
    database, backup = locate(url), locate(f"sqlite:///{path}")
    if not backup.path.is_file():
        raise StoreError(f"there is no backup at {backup.path}; check the path")
    if backup.path == database.path:
        raise StoreError(f"{backup.path} is the store itself; pass the path of a backup")
    draft = Database(database.path.with_name(database.path.name + ".restoring"), database.driver)
    _remove_all(draft)
    try:
        check_log(backup)
        _copy(backup, draft)
        _check(draft, backup)
        migrate(draft, HEAD)
        before = [_content(database.beside(suffix)) for suffix in BESIDE]
        _gather(draft, backup, database)
        connections = Connections(draft)
        try:
            erase_again(connections)
        finally:
            connections.close()
        if before != [_content(database.beside(suffix)) for suffix in BESIDE]:
            raise StoreError(f"{database.path} was written to meanwhile; stop what uses it, and restore again")
        # the tombstones first: with them the old file is right, too
        for suffix in (".tombstones", ".key", ""):
            if draft.beside(suffix).exists():
                draft.beside(suffix).replace(database.beside(suffix))
        for suffix in LOGS:
            _remove(database.beside(suffix))
        sync_folder(database.path.parent)
    except OSError as error:
        raise StoreError(f"{database.path} can't be replaced ({error.strerror}); check its folder") from error
    finally:
        _remove_all(draft)


def _copy(source: Database, target: Database) -> None:
    """Copy by SQLite's own means, which sees one state of a file in use; into a new file of ours alone."""
    make_file(target.path)
    # a backup may be where nothing can be written: without a log to read, SQLite needs no file beside it
    mode = "mode=rw" if any(_content(source.beside(suffix)) for suffix in LOGS) else "immutable=1"
    with typed_errors(source):
        reader: DriverConnection = source.driver.connect(f"file:{quote(str(source.path))}?{mode}", uri=True)
        try:
            refuse_foreign(reader, source)
            writer = source.driver.connect(str(target.path))
            try:
                reader.backup(writer)
            finally:
                writer.close()
        finally:
            reader.close()


def _check(draft: Database, backup: Database) -> None:
    connection = draft.driver.connect(str(draft.path))
    try:
        problems = [row[0] for row in connection.execute("PRAGMA quick_check")]
        if not connection.execute("PRAGMA application_id").fetchone()[0]:
            raise StoreError(f"{backup.path} holds no store; pass the path of a backup")
    except draft.driver.Error as error:
        problems = [str(error)]
    finally:
        connection.close()
    if problems != ["ok"]:
        raise StoreError(f"{backup.path} is damaged ({problems[0]}); restore another backup")


def _gather(draft: Database, backup: Database, database: Database) -> None:
    """Put beside the draft one key and all tombstones: those beside the store and the backup, and those they note."""
    keys = [place.beside(".key") for place in (database, backup) if place.beside(".key").exists()]
    if keys:
        make_whole(draft.beside(".key"), read_bytes(keys[0]))
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
        connections = Connections(database)
        try:
            with connections.read() as session:
                key_digest = session.scalar(select(FactRow.value).where(FactRow.name == "key"))
                rows = session.scalars(select(TombstoneRow).where(TombstoneRow.number > 0)).all()
        finally:
            connections.close()
        Tombstones(draft).check(key_digest, 0)
        return {row.number: Tombstone(row.digest, row.at, row.number) for row in rows}
    return {}


def _content(path: Path) -> bytes:
    return read_bytes(path) if path.exists() else b""


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def _remove_all(database: Database) -> None:
    for suffix in ("", *BESIDE, *LOGS, ".lock"):
        _remove(database.beside(suffix))
