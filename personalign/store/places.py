"""From a store's address to its place: the one choice between SQLite and Postgres."""

from __future__ import annotations

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from personalign.errors import StoreError
from personalign.messages import check_place
from personalign.store.connections import Place
from personalign.store.postgres.connections import DRIVER, EXAMPLE, PostgresPlace
from personalign.store.sqlite.connections import SqlitePlace
from personalign.store.sqlite.database import EXAMPLE as FILE_EXAMPLE
from personalign.store.sqlite.database import locate

EXAMPLES = f"{FILE_EXAMPLE}, or a database, such as {EXAMPLE}"


def find(url: str) -> Place:
    """Read a store's URL; StoreError where it names neither a SQLite file nor a Postgres database."""
    text = check_place("store", url)
    try:
        parsed = make_url(text)
    except (ArgumentError, ValueError) as error:  # the latter is of ports
        raise StoreError(f"the store's URL can't be read; {EXAMPLES}") from error
    if parsed.drivername == DRIVER:
        return PostgresPlace(parsed)
    if parsed.drivername.startswith("postgres"):
        raise StoreError(f"the store's URL begins with {parsed.drivername}://, expected {DRIVER}://; {EXAMPLES}")
    return SqlitePlace(locate(url))
