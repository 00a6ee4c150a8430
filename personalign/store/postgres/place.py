"""A store in a database of a PostgreSQL server: how it is opened, migrated and looked over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import URL, Connection, NullPool, inspect, text
from sqlalchemy.orm import Session

from personalign.errors import StoreError
from personalign.store.connections import Connections, Place
from personalign.store.postgres.connections import PostgresConnections
from personalign.store.postgres.engine import POOL, make_engine, typed_errors

DRIVER = "postgresql+psycopg"
EXAMPLE = f"{DRIVER}://name:password@host/database"
MIGRATIONS = 0x50414C4F  # the lock that a migration takes
MARK = "personalign"  # the comment on alembic's table, which many programs have
VERSIONS = "alembic_version"
PATIENCE_S = 120  # for another process's migration


class PostgresPlace(Place):
    """One database, which has to be there; the tables are ours to make."""

    snapshot = None

    def __init__(self, url: URL) -> None:
        if not url.database:
            raise StoreError(f"the store's URL names no database; expected one such as {EXAMPLE}")
        self._url = url
        self.name = f"{DRIVER}://{url.host or url.query.get('host', '')}/{url.database}"

    def make(self, *, folders: bool = False) -> None:
        """Nothing: making a database is its server's operator's."""

    def require(self) -> None:
        """Refuse a server that can't be reached, and another program's database."""
        with self.typed_errors(), make_engine(self._url, poolclass=NullPool).connect() as connection:
            _refuse_foreign(connection)

    def connect(self) -> Connections:
        """Open the database."""
        return PostgresConnections(self, make_engine(self._url, **POOL), make_engine(self._url, poolclass=NullPool))

    def typed_errors(self) -> AbstractContextManager[None]:
        """Say what the server refused, and quote no row."""
        return typed_errors(self.name)

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """Migrate in one transaction; processes that come meanwhile wait, and find the work done."""
        with self.typed_errors(), make_engine(self._url, poolclass=NullPool).begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{PATIENCE_S}s'")
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATIONS})
            _refuse_foreign(connection)
            yield connection
            if inspect(connection).has_table(VERSIONS):
                connection.exec_driver_sql(f"COMMENT ON TABLE {VERSIONS} IS '{MARK}'")

    def report(self, connections: Connections, session: Session) -> dict[str, Any]:  # noqa: ARG002 - as for a file
        """Describe server, database and role."""
        names = ("server_version", "max_connections", "synchronous_commit", "default_transaction_read_only")
        described = {name: session.scalar(text("SELECT current_setting(:name)"), {"name": name}) for name in names}
        is_standby = bool(session.scalar(text("SELECT pg_is_in_recovery()")))
        asking = text("SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user")
        role, is_superuser = session.execute(asking).one()
        problems = ["the role is a superuser; pass one that owns the database alone"] if is_superuser else []
        if is_standby or described.pop("default_transaction_read_only") == "on":
            problems.append("the database is read-only, so nothing can be stored; pass the URL of the primary")
        size = session.scalar(text("SELECT pg_database_size(current_database())"))
        return {"path": self.name, "bytes": size, "role": role} | described | {"problems": problems}


def _refuse_foreign(connection: Connection) -> None:
    """Refuse a database with tables that aren't ours; an empty one may become ours."""
    tables = inspect(connection).get_table_names()
    mark = connection.scalar(text("SELECT obj_description(to_regclass(:table), 'pg_class')"), {"table": VERSIONS})
    if tables and mark != MARK:
        raise StoreError(
            f"the database holds {len(tables)} tables of another program, expected none; "
            "make one for the store with: createdb"
        )
