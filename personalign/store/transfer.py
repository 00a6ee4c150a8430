"""Rows of one store into another, whatever databases they are in: all of them in one transaction, or none.

Every row is held to its checksum on the way, so that no damage is copied unseen. Facts of the database itself stay
where they are. Key and tombstones go along: whom the one store erased, the other one erases, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from personalign.errors import StoreError
from personalign.store.connections import Connections
from personalign.store.erase import apply
from personalign.store.facts import KEY, read_fact, read_tombstones
from personalign.store.records import Sealed, is_sound
from personalign.store.tables import AnswerRow, FactRow, Table, TombstoneRow, UserRow

BATCH = 1000
Watch = Callable[[Iterator[int], int], Iterable[int]]  # follows the steps, each so many rows, of a number in all


def unwatched(steps: Iterator[int], total: int) -> Iterable[int]:  # noqa: ARG001 - as every watch has it
    """Show nothing."""
    return steps


def fill(source: Connections, target: Connections, watch: Watch = unwatched) -> int:
    """Copy all rows into a store that has none; return the number of people."""
    with source.read() as session, target.write() as into:
        if num_rows := _count(into):
            raise StoreError(
                f"{target.place.name} holds {num_rows} rows, expected an empty store; pass another one, "
                "or put a backup in its place with: personalign db restore"
            )
        _replace(session, into, source, target, watch)
        return into.scalar(select(func.count()).select_from(UserRow)) or 0


def replace(source: Connections, target: Connections) -> None:
    """Put the rows of one store in the place of another's; whom either erased stays erased."""
    with source.read() as session, target.write() as into:
        _replace(session, into, source, target, unwatched)


def _replace(session: Session, into: Session, source: Connections, target: Connections, watch: Watch) -> None:
    source.be_patient(session)
    target.be_patient(into)
    before = read_tombstones(into)
    for table in reversed(_tables()):
        into.execute(delete(table))
    for _ in watch(_rows(session, into), _count(session)):
        pass
    if read_fact(session, KEY) is not None:
        target.tombstones.adopt(into, source.tombstones.key(session))
    known = {(tombstone.digest, tombstone.number) for tombstone in read_tombstones(into)}
    if missing := [each for each in before if (each.digest, each.number) not in known]:
        apply(into, target.tombstones, missing)


def _rows(session: Session, into: Session) -> Iterator[int]:
    for table in _tables():
        for rows in session.scalars(select(table).execution_options(yield_per=BATCH)).partitions():
            into.execute(insert(table), [_values(row) for row in rows])
            yield len(rows)
            session.expunge_all()


def _values(row: Table) -> dict[str, Any]:
    """The columns of a row, by the names of its attributes; a damaged one is refused."""
    if isinstance(row, Sealed) and not is_sound(row):
        raise StoreError(
            f"a row of {row.__tablename__} doesn't match its checksum, so nothing was copied; "
            "restore the store from a backup, or forget the person"
        )
    names = set(row.__mapper__.attrs.keys())
    if isinstance(row, AnswerRow):
        names.remove("id")  # the database's to give; answers keep their order
    return {name: getattr(row, name) for name in names}


def _count(session: Session) -> int:
    """Count the rows of all tables but those that the database has for itself."""
    tables = [table for table in _tables() if table is not TombstoneRow]
    return sum(session.scalar(select(func.count()).select_from(table)) or 0 for table in tables)


def _tables() -> list[type[Table]]:
    """The tables in an order in which parents come first."""
    classes = {mapper.local_table: mapper.class_ for mapper in Table.registry.mappers}
    return [classes[table] for table in Table.metadata.sorted_tables if table is not FactRow.__table__]
