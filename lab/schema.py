"""Write the schema that a new database gets at once, ``migrations/schema.sql``: ``python -m lab.schema``.

It is what all revisions together make. A test compares the two, so after a new revision this is run once more.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer

from personalign.store import schema
from personalign.store.places import find
from personalign.store.sqlite.connections import SqlitePlace, statements


def migrated(folder: Path) -> list[str]:
    """The statements that make the tables and indexes of a file that all revisions ran on."""
    place = find(f"sqlite:///{folder / 'migrated.db'}")
    place.make()
    schema.migrate(place, schema.known_revisions()[0])  # a file without any schema would get the one in question
    schema.migrate(place, schema.HEAD)
    with place.migrating() as connection:
        return statements(connection)


def main() -> None:
    """Write the file, and say where it is."""
    with tempfile.TemporaryDirectory() as folder:
        made = migrated(Path(folder))
    path = schema.migrations_folder() / SqlitePlace.snapshot
    path.write_text(schema.SEPARATOR.join(made) + "\n", encoding="utf-8")
    typer.echo(f"{len(made)} statements in {path}")


if __name__ == "__main__":
    typer.run(main)
