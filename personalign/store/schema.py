"""The schema's revision: tell it, check it, upgrade to it. How revisions run is in ``migrate``.

Serving code only checks: an older or newer schema is refused, and nothing is written.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from personalign.errors import SchemaError
from personalign.store.engine import locate, open_engines
from personalign.store.faults import typed_errors
from personalign.store.files import make_file, require_file

HEAD = "0006"  # stated here, so that opening a store needn't import alembic


def upgrade(url: str) -> str:
    """Bring a store to this code's schema, making the file if there is none; return the revision."""
    from personalign.store.migrate import migrate

    database = locate(url)
    make_file(database.path)
    require_file(database.path)
    migrate(database, HEAD)
    return HEAD


def current(url: str) -> str | None:
    """Tell the revision of an existing store; None for a file without a schema."""
    database = locate(url)
    require_file(database.path)
    engines = open_engines(database)
    try:
        with typed_errors(database), engines.reader.connect() as connection:
            return read_revision(connection)
    finally:
        engines.close()


def check(url: str) -> None:
    """Refuse a store whose schema isn't this code's, with the command to run; nothing is written."""
    check_revision(current(url))


def check_revision(found: str | None) -> None:
    """Refuse any revision but this code's."""
    if found == HEAD:
        return
    from personalign.store.migrate import known_revisions

    if found is None or found in known_revisions():
        raise SchemaError(
            f"the store's schema is {found or 'missing'}, this code needs {HEAD}; run: personalign db upgrade"
        )
    raise SchemaError(
        f"the store's schema is {found}, newer than this code, which has {HEAD}; install the release that wrote it"
    )


def read_revision(connection: Connection) -> str | None:
    """Read the revision; None for a file without a schema."""
    if not connection.scalar(text("SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'")):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision
