"""The schema: its revision in this code and in a file, and the one door through which revisions run.

Serving code only checks: an older or newer schema is refused, and nothing is written. A migration is one transaction
under a lock: a kill leaves the old schema or the new one, and processes that migrate at once wait for each other.
alembic is imported only here, and only to migrate. A new file gets the newest schema at once, from the snapshot of
what all revisions make.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from personalign.errors import SchemaError, StoreError
from personalign.store.connections import Place

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0014"  # stated here, so that opening a store needn't import alembic
SEPARATOR = ";\n"  # of the statements in a snapshot
_ALEMBIC = Lock()  # alembic keeps the running environment in a global of its own


def check_revision(revision: str | None) -> None:
    """Refuse any revision but this code's; they are numbered in the order they were written."""
    if revision is None or revision < HEAD:
        raise SchemaError(
            f"the store's schema is {revision or 'missing'}, this code needs {HEAD}; run: personalign db upgrade"
        )
    if revision > HEAD:
        raise SchemaError(
            f"the store's schema is {revision}, newer than this code, which has {HEAD}; "
            "install the release that wrote it"
        )


def read_revision(connection: Connection) -> str | None:
    """Read the revision; None for a file without a schema."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def migrate(place: Place, target: str = "") -> str:
    """Run revisions up or down to the target, which is this code's unless one is named, or change nothing."""
    target = target or HEAD
    with _ALEMBIC, place.migrating() as connection:
        revision = read_revision(connection)
        if revision is None and target == HEAD and place.snapshot and not inspect(connection).get_table_names():
            _make(connection, place.snapshot)
            return target
        from alembic import command

        known = known_revisions()
        if revision is not None and revision not in known:
            check_revision(revision)
        config = _config()
        config.attributes["connection"] = connection
        order = ["base", *known]
        move = command.downgrade if order.index(revision or "base") > order.index(target) else command.upgrade
        move(config, target)
    return target


def _make(connection: Connection, snapshot: str) -> None:
    content = (migrations_folder() / snapshot).read_text(encoding="utf-8").removesuffix("\n")
    for statement in content.split(SEPARATOR):
        connection.exec_driver_sql(statement)
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


def known_revisions() -> tuple[str, ...]:
    """All revisions this code carries, oldest first."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config())
    return tuple(reversed([script.revision for script in scripts.walk_revisions()]))


def migrations_folder() -> Path:
    """Find the migrations: inside the package in a wheel, beside it in a checkout or an editable install."""
    folders = Path(__file__).resolve().parents
    candidates = (folders[0] / "migrations", folders[2] / "migrations")
    for folder in candidates:
        if (folder / "env.py").is_file():
            return folder
    raise StoreError(
        f"the migrations were found neither in {candidates[0]} nor in {candidates[1]}; install personalign again"
    )


def _config() -> Config:
    # made in code, not read from a file, so that it works wherever the package is
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
