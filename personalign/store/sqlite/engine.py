"""Engines for a SQLite file: one writer that begins IMMEDIATE, a pool of readers that cannot write.

SQLAlchemy's defaults lose updates silently between processes; a deferred BEGIN that turns into a write fails
with "database is locked" instead of waiting. Every setting is read back, because SQLite ignores unknown ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from personalign.errors import InputError, StoreError
from personalign.store.sqlite.database import APPLICATION_ID, BUSY_TIMEOUT_MS, Database, DriverConnection, sign_commit

COMMON: dict[str, int | str] = {
    "busy_timeout": BUSY_TIMEOUT_MS,  # first: the others may have to wait
    "synchronous": 2,  # FULL
    "foreign_keys": 1,
    "secure_delete": 1,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "mmap_size": 0,
    "temp_store": 2,  # MEMORY
    "journal_size_limit": 64 << 20,
}

DAMAGED = "the file is damaged; restore a backup with: personalign db restore"
ADVICE = {
    "locked": "another process kept it locked for too long; try again",
    "full": "free some space on the disk and try again, no row was changed",
    "malformed": DAMAGED,
    "decode": DAMAGED,
    "not a database": "this isn't a SQLite file; pass another path",
    "readonly": "the file or its folder can't be written; check their permissions",
    "unable to open": "the file or its folder can't be opened; check the path and its permissions",
    "disk I/O": "the disk failed or is full; check it and try again",
}


def writer_engine(database: Database) -> Engine:
    """Make a pool of one; closing the last writer truncates the write-ahead log."""
    return _engine(database, "BEGIN IMMEDIATE", {}, pool_size=1, max_overflow=0)


def reader_engine(database: Database) -> Engine:
    """Make a pool without a limit: interrupts may lose connections for good, and threads bound the rest."""
    return _engine(database, "BEGIN", {"query_only": 1}, pool_size=4, max_overflow=-1)


def migration_engine(database: Database) -> Engine:
    """Make an engine for migrations only: a batch migration under foreign keys would cascade into the children."""
    return _engine(database, "BEGIN IMMEDIATE", {"foreign_keys": 0}, poolclass=NullPool)


@contextmanager
def typed_errors(database: Database) -> Iterator[None]:
    """Turn what the database raises into a StoreError that says what to do, and quotes nothing of the content."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise InputError("the text holds half a surrogate pair, expected characters; send proper Unicode") from error
    except (SQLAlchemyError, database.driver.Error) as error:
        cause, quotes, _ = str(getattr(error, "orig", None) or error).partition(" with text")
        advice = next((advice for sign, advice in ADVICE.items() if sign in cause), "see: personalign doctor")
        # the traceback of what quotes a text would print it
        raise StoreError(f"{database.path}: {cause}; {advice}") from (None if quotes else error)


def refuse_foreign(connection: DriverConnection, database: Database) -> None:
    """Refuse another program's file; an empty one may become ours."""
    # In this order: another process may make the store between the two looks, id and tables in one commit.
    has_tables = _first(connection, "SELECT count(*) FROM sqlite_master")
    application = _first(connection, "PRAGMA application_id")
    if application != APPLICATION_ID and (application or has_tables):
        raise StoreError(
            f"{database.path} belongs to another program (its application_id isn't ours); pass another path"
        )


def _engine(database: Database, begin: str, special: dict[str, int | str], **pool: object) -> Engine:
    pragmas = COMMON | {"journal_mode": database.journal_mode} | special
    engine = create_engine(
        URL.create("sqlite", database=str(database.path)),
        module=database.driver,
        # the driver's own transactions are off: the "begin" hook below decides
        connect_args={"isolation_level": None, "check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
        hide_parameters=True,  # user ids and texts stay out of error messages
        **pool,
    )

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: DriverConnection, _record: object) -> None:
        # the driver's own error would quote a damaged text; read so, its row's checksum shows the damage
        connection.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
        refuse_foreign(connection, database)  # before anything is changed in the file
        for name, value in pragmas.items():
            _set_pragma(connection, name, value)

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)
        driver_connection: DriverConnection = connection.connection.driver_connection
        connection.info["changes"] = driver_connection.total_changes

    @event.listens_for(engine, "commit")
    def sign(connection: Connection) -> None:
        driver_connection: DriverConnection = connection.connection.driver_connection
        if driver_connection.total_changes != connection.info["changes"]:
            sign_commit(driver_connection)

    return engine


def _set_pragma(connection: DriverConnection, name: str, value: int | str) -> None:
    # a change of the journal mode doesn't wait for other processes, whatever the busy timeout
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while _first(connection, f"PRAGMA {name}") != value:
        try:
            _first(connection, f"PRAGMA {name}={value}")
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        if (setting := _first(connection, f"PRAGMA {name}")) != value:
            raise StoreError(
                f"SQLite answers {name}={setting} where {value} is needed; close other programs that use this file, "
                "or see: personalign doctor"
            )


def _first(connection: DriverConnection, statement: str) -> int | str | None:
    with closing(connection.cursor()) as cursor:
        row = cursor.execute(statement).fetchone()
    return None if row is None else row[0]
