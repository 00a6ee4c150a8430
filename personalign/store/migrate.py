"""Runs the revisions of ``migrations/versions``; the only module that imports alembic.

A migration is one transaction that begins IMMEDIATE: a kill leaves the old schema or the new one, and processes
that migrate at once wait for each other.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from personalign.errors import StoreError
from personalign.store.engine import APPLICATION_ID, Database, migration_engine
from personalign.store.faults import typed_errors
from personalign.store.schema import check_revision, read_revision

_ALEMBIC = Lock()  # alembic keeps the running environment in a global of its own


def migrate(database: Database, target: str) -> None:
    """Run revisions up or down to the target, or change nothing."""
    engine = migration_engine(database)
    with typed_errors(database), _ALEMBIC, engine.begin() as connection:
        found = read_revision(connection)
        known = known_revisions()
        if found is not None and found not in known:
            check_revision(found)
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
        config = _config()
        config.attributes["connection"] = connection
        order = ["base", *known]
        move = command.downgrade if order.index(found or "base") > order.index(target) else command.upgrade
        move(config, target)
        # the engine migrates with foreign keys off, so what they would have caught is looked for here
        if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall():
            raise StoreError(f"{database.path}: the migration would orphan {len(broken)} rows; nothing was changed")


def known_revisions() -> tuple[str, ...]:
    """All revisions this code carries, oldest first."""
    scripts = ScriptDirectory.from_config(_config())
    return tuple(reversed([script.revision for script in scripts.walk_revisions()]))


def migrations_folder() -> Path:
    """Find the migrations: inside the package in a wheel, beside it in a checkout or an editable install."""
    here = Path(__file__).resolve()
    candidates = (here.parent / "migrations", here.parents[2] / "migrations")
    for folder in candidates:
        if (folder / "env.py").is_file():
            return folder
    raise StoreError(
        f"the migrations were found neither in {candidates[0]} nor in {candidates[1]}; install personalign again"
    )


def _config() -> Config:
    # made in code, not read from a file, so that it works wherever the package lies
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
