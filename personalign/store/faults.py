"""Turns what the database raises into errors of the tree that say what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from personalign.errors import InputError, StoreError
from personalign.store.engine import Database

ADVICE = {
    "locked": "another process kept it locked for too long; try again",
    "full": "free some space on the disk and try again, no row was changed",
    "malformed": "the file is damaged; restore it from a backup",
    "not a database": "this isn't a SQLite file; pass another path",
    "readonly": "the file or its folder can't be written; check their permissions",
    "unable to open": "the file or its folder can't be opened; check the path and its permissions",
    "TimeoutError": "all of this process's connections stayed busy; close what holds them and try again",
    "disk I/O": "the disk failed or is full; check it and try again",
}


@contextmanager
def typed_errors(database: Database) -> Iterator[None]:
    """Turn whatever the database raises into a StoreError that says what to do."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise InputError("the text holds half a surrogate pair, which is no character; send proper Unicode") from error
    except (SQLAlchemyError, database.driver.Error) as error:
        cause = (
            str(getattr(error, "orig", None) or type(error).__name__)
            if isinstance(error, SQLAlchemyError)
            else str(error)
        )
        advice = next((advice for sign, advice in ADVICE.items() if sign in cause), "see: personalign doctor")
        raise StoreError(f"{database.path}: {cause}; {advice}") from error
