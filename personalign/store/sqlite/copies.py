"""Copies of a store's file, made while it is in use, with its key and tombstones beside them.

A draft is made in full before it takes a file's place. Killed half-way it leaves the old database or the new one; an
old log that is then left beside the new one is refused at opening.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from personalign.errors import StoreError
from personalign.store.connections import Tombstone
from personalign.store.facts import KEY, read_fact, read_tombstones
from personalign.store.sqlite.connections import SqlitePlace
from personalign.store.sqlite.database import ERASURES, LOGS, TURNS, Database, check_log, follow
from personalign.store.sqlite.engine import refuse_foreign, typed_errors
from personalign.store.sqlite.files import disk_errors, make_file, make_whole, read_bytes, sync_folder
from personalign.store.sqlite.tombstones import FileTombstones


@contextmanager
def new_file(path: Path, database: Database | None = None) -> Iterator[Database]:
    """Lend a draft that takes this path when all went well; a path that is there, or is a store's own, is refused."""
    target = follow(path)
    reserved = () if database is None else tuple(map(database.neighbour, (*ERASURES, *LOGS, TURNS)))
    if target.path.exists() or target.path in reserved:
        raise StoreError(f"{target.path} is there already, or is kept for the store itself; pass another path")
    with draft_of(target, ".partial") as draft, disk_errors(target.path, "written", "pass another path"):
        yield draft
        for suffix in ERASURES:
            target.neighbour(suffix).unlink(missing_ok=True)
            if draft.neighbour(suffix).exists():
                draft.neighbour(suffix).rename(target.neighbour(suffix))
        draft.path.replace(target.path)
        sync_folder(target.path.parent)


def back_up(database: Database, path: Path) -> None:
    """Copy a store that may be in use to a new file, which can be opened as it is."""
    with new_file(path, database) as draft:
        _copy(database, draft)
        # after the rows: what was erased meanwhile has its tombstone here
        for suffix in ERASURES:
            if database.neighbour(suffix).exists():
                make_whole(draft.neighbour(suffix), read_bytes(database.neighbour(suffix)))


def copy_backup(backup: Database, draft: Database) -> None:
    """Copy a backup, wherever it is, and refuse one that is damaged or none."""
    if not backup.path.is_file():
        raise StoreError(f"there is no backup at {backup.path}; check the path")
    check_log(backup)
    _copy(backup, draft)
    _check(draft, backup)


@contextmanager
def draft_of(target: Database, suffix: str) -> Iterator[Database]:
    """Lend a file beside another; whatever is left of it in the end is removed."""
    draft = Database(target.neighbour(suffix), target.driver)
    _remove(draft)
    try:
        yield draft
    finally:
        _remove(draft)


def take_place(draft: Database, database: Database) -> None:
    """Put a draft in the place of a file that nothing uses."""
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


def gather(draft: Database, *places: Database) -> None:
    """Put beside the draft one key and all tombstones: those beside each place, and those they note; the last wins."""
    keys = [key for place in reversed(places) if (key := place.neighbour(".key")).exists()]
    if keys:
        make_whole(draft.neighbour(".key"), read_bytes(keys[0]))
    records: dict[int, Tombstone] = {}
    for place in (draft, *places[1:]):
        records |= _noted(place, draft)
    for place in places:
        records |= FileTombstones(place).readable(draft)
    if records:
        FileTombstones(draft).write_all(records)


def _noted(database: Database, draft: Database) -> dict[int, Tombstone]:
    """Read the tombstones that a database notes; those of a damaged one are in the file beside it alone."""
    with suppress(StoreError):
        with closing(SqlitePlace(database).connect()) as connections, connections.read() as session:
            key_digest = read_fact(session, KEY)
            noted = read_tombstones(session)
        FileTombstones(draft).check_files(key_digest, 0)
        return {tombstone.number: tombstone for tombstone in noted}
    return {}


def erasures(database: Database) -> list[bytes]:
    """Read the key and the tombstones, to see whether they change."""
    return [read_bytes(database.neighbour(suffix)) for suffix in ERASURES]


def _remove(database: Database) -> None:
    for suffix in ("", *ERASURES, *LOGS, TURNS):
        database.neighbour(suffix).unlink(missing_ok=True)
