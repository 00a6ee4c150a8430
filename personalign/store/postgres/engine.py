"""The engine for a PostgreSQL database, and what its errors mean to whoever reads them.

READ COMMITTED loses updates between transactions that read first: those that write take a lock before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from personalign.errors import InputError, MissingExtra, StoreError

if TYPE_CHECKING:
    from psycopg import Connection

POOL = {"pool_size": 5, "max_overflow": 5, "pool_timeout": 5, "pool_recycle": 1800, "pool_pre_ping": True}
CONNECTIONS = POOL["pool_size"] + POOL["max_overflow"] + 1  # of a process at most; one of them listens
REACH: dict[str, Any] = {  # a server that is gone is noticed
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # ms
}
SETTINGS = {
    "statement_timeout": "5s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "10s",
    "default_transaction_isolation": "read committed",
    "TimeZone": "UTC",
}
# a commit that is acknowledged is on the disk; what an operator set beyond that stays
DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
OLDEST = 13_00_00

AGAIN = "nothing was changed; try again"
GONE = "the server went away; whether the last change was made is seen by asking again"
FULL = (
    f"it takes no more connections (max_connections), and a process of personalign uses up to {CONNECTIONS}; "
    "raise max_connections, or run fewer processes"
)
# by the codes of PostgreSQL, or by words where a connection fails before there are codes
ADVICE = {
    "53300": FULL,
    "too many clients": FULL,
    "connection slots": FULL,
    "28": "check the name and the password in the URL",
    "authentication": "check the name and the password in the URL",
    "no password": "the server wants a password; put it into the URL, or into a file as PGPASSFILE names it",
    "3D000": "make the database with: createdb",
    "does not exist": "check the name in the URL, or make the database with: createdb",
    "25P03": f"the process paused in the middle of it; {AGAIN}",
    "25006": "the database is read-only (a standby, or default_transaction_read_only); pass the URL of the primary",
    "42501": "the role may not do this; grant it the rights on the database, or pass a role that owns it",
    "53100": "free some space on the server's disk and try again, no row was changed",
    "55P03": f"another transaction kept a lock for too long; {AGAIN}",
    "57014": f"the statement took too long; {AGAIN}",
    "40": f"other transactions were in the way; {AGAIN}",
    "57P": GONE,
    "08": GONE,
    "starting up": "it is starting; try again",
    "shutting down": "it is stopping; try again when it is back",
    "server closed the connection": GONE,
    "connection is lost": GONE,
    "connection to server": "check that the server runs, and its name and port in the URL",
}


def make_engine(url: URL, **pool: Any) -> Engine:  # noqa: ANN401 - settings of any type
    """Make the engine; MissingExtra where there is no driver."""
    try:
        engine = create_engine(url, connect_args=REACH, hide_parameters=True, **pool)
    except ModuleNotFoundError as error:
        raise MissingExtra("psycopg", "postgres") from error

    @event.listens_for(engine, "connect")
    def set_up(connection: Connection[Any], _record: object) -> None:
        check_server(connection.info.server_version, connection.info.parameter_status("server_encoding"))
        settings = "; ".join(f"SET {name} = '{value}'" for name, value in SETTINGS.items())
        connection.execute(f"{settings}; {DURABLE}".encode())
        connection.commit()

    return engine


def check_server(version: int, encoding: str | None) -> None:
    """Refuse a server that is too old, and a database that can't hold every text."""
    if version < OLDEST:
        raise StoreError(
            f"the server is PostgreSQL {version // 10_000}, expected {OLDEST // 10_000} or newer; "
            "pass the URL of a newer one"
        )
    if encoding != "UTF8":
        raise StoreError(
            f"the database is encoded in {encoding}, expected UTF8; "
            "make one with: createdb --encoding=UTF8 --template=template0"
        )


@contextmanager
def typed_errors(name: str) -> Iterator[None]:
    """Turn what the server or the driver raises into a StoreError that says what to do, and quotes no row."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise InputError("the text holds half a surrogate pair, expected characters; send proper Unicode") from error
    except PoolTimeoutError as error:
        raise StoreError(
            f"{name}: all {CONNECTIONS - 1} connections of this process's pool were in use for "
            f"{POOL['pool_timeout']} s; send fewer requests at once, or run more processes"
        ) from error
    except SQLAlchemyError as error:
        if "NUL" in str(cause := getattr(error, "orig", None) or error):
            raise InputError("the text holds a NUL character, which Postgres can't store; send it without") from None
        # the details, which the driver's own error has, quote rows
        raise StoreError(f"{name}: {_explain(cause)}") from None


def _explain(cause: BaseException) -> str:
    """What the server said, without details, and what to do about it."""
    code = getattr(cause, "sqlstate", None) or ""
    words = getattr(getattr(cause, "diag", None), "message_primary", None) or _first_line(cause)
    signs = (advice for sign, advice in ADVICE.items() if code.startswith(sign) or (not code and sign in words))
    return f"{words}; {next(signs, 'see: personalign doctor')}"


def _first_line(cause: BaseException) -> str:
    return (str(cause).splitlines() or [type(cause).__name__])[0]
