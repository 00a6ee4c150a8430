"""Write the schema that a new database gets at once, ``migrations/schema.sql``: ``python -m lab.schema``.

It is what all revisions together make. A test compares the two, so after a new revision this is run once more.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer

from personalign.store import schema
from personalign.store.database import locate
from personalign.store.engine import migration_engine
from personalign.store.files import make_file


def migrated(folder: Path) -> list[str]:
    """The statements that make the tables and indexes of a file that all revisions ran on."""
    database = locate(f"sqlite:///{folder / 'migrated.db'}")
    make_file(database.path)
    schema.migrate(database, schema.known_revisions()[0])  # a file without any schema would get the one in question
    schema.migrate(database, schema.HEAD)
    with migration_engine(database).connect() as connection:
        return schema.statements(connection)


def main() -> None:
    """Write the file, and say where it is."""
    with tempfile.TemporaryDirectory() as folder:
        made = migrated(Path(folder))
    path = schema.migrations_folder() / schema.SNAPSHOT
    path.write_text(schema.SEPARATOR.join(made) + "\n", encoding="utf-8")
    typer.echo(f"{len(made)} statements in {path}")


if __name__ == "__main__":
    typer.run(main)
