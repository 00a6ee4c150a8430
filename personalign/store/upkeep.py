"""What an operator does with a whole store: upgrade it, copy it, bring a backup back, and look it over.

A backup is one SQLite file with its key and tombstones beside it, a store itself, whatever it was made from. It is
restored by bringing a draft of it to this code's schema and erasing everyone again who has a tombstone on either side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from personalign.errors import StoreError
from personalign.store import schema
from personalign.store.connections import Connections, Place
from personalign.store.erase import erase_again
from personalign.store.places import find
from personalign.store.schema import check_revision, migrate, read_revision
from personalign.store.sqlite import copies
from personalign.store.sqlite.connections import SqlitePlace
from personalign.store.sqlite.database import Database, follow
from personalign.store.sqlite.files import disk_errors
from personalign.store.transfer import Watch, fill, replace, unwatched


def upgrade(url: str) -> str:
    """Bring a store to this code's schema, making the file if there is none; return the revision."""
    place = find(url)
    place.make(folders=True)
    place.require()
    return migrate(place)


def back_up(connections: Connections, path: Path) -> None:
    """Copy a store that may be in use to a new file, which can be opened as it is."""
    place = connections.place
    if isinstance(place, SqlitePlace):
        copies.back_up(place.database, path)
        return
    with copies.new_file(path) as draft:
        target = SqlitePlace(draft)
        target.make(folders=True)
        _fill(connections, target, unwatched)


def copy(source: str, target: str, watch: Watch = unwatched) -> int:
    """Copy a store into an empty one, between databases of any kind, in one transaction; return the number of people.

    Raises:
        StoreError: the target isn't empty, or rows of the source are damaged.
    """
    place, other = find(source), find(target)
    place.require()
    with closing(place.connect()) as connections:
        with connections.read() as session:
            check_revision(read_revision(session.connection()))
        erase_again(connections)
        other.make()
        return _fill(connections, other, watch)


def _fill(source: Connections, place: Place, watch: Watch) -> int:
    migrate(place)
    with closing(place.connect()) as target:
        return fill(source, target, watch)


def restore(url: str, path: Path) -> None:
    """Put a backup in the place of a store that nothing uses; everyone erased since stays erased."""
    place, backup = find(url), follow(path)
    if isinstance(place, SqlitePlace):
        _restore_file(place.database, backup)
        return
    with TemporaryDirectory() as folder, _whole_draft(Database(Path(folder) / "draft.db"), backup) as draft:
        migrate(place)
        with closing(SqlitePlace(draft).connect()) as source, closing(place.connect()) as target:
            replace(source, target)


def _restore_file(database: Database, backup: Database) -> None:
    if backup.path == database.path:
        raise StoreError(f"{backup.path} is the store itself; pass the path of a backup")
    before = copies.erasures(database)
    replaced = disk_errors(database.path, "replaced", "check its folder")
    with replaced, _whole_draft(database, backup, database) as draft:
        if before != copies.erasures(database):
            raise StoreError(f"{database.path} was written to meanwhile; stop what uses it, and restore again")
        copies.take_place(draft, database)


@contextmanager
def _whole_draft(target: Database, backup: Database, *others: Database) -> Iterator[Database]:
    """Lend a copy of a backup with the newest schema, without anyone whom it or the others know as erased."""
    with copies.draft_of(target, ".restoring") as draft:
        copies.copy_backup(backup, draft)
        place = SqlitePlace(draft)
        migrate(place)
        copies.gather(draft, backup, *others)
        with closing(place.connect()) as connections:
            erase_again(connections)
        yield draft


def report(url: str) -> dict[str, Any]:
    """Describe server or file and the schema, and check what can be checked; nothing is written."""
    place = find(url)
    place.require()
    with closing(place.connect()) as connections, connections.read() as session:
        revision = read_revision(session.connection())
        described = place.report(connections, session)
        if revision == schema.HEAD:
            try:
                connections.tombstones.check(session)
                connections.tombstones.after(0)
            except StoreError as error:
                described["problems"].append(str(error))
    return described | {"schema": revision, "schema_expected": schema.HEAD}
