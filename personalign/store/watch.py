"""Tells cheaply whether the database changed: what a poll for fresh profiles asks."""

from __future__ import annotations

import os
import weakref
from threading import Lock

from sqlalchemy import Engine, PoolProxiedConnection


class Watch:
    """One connection that never writes, because SQLite's counter only tells of commits by *other* connections."""

    def __init__(self, reader: Engine) -> None:
        self._reader = reader
        self._start()
        found = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: (watch := found()) and watch._leave_to_parent())

    def version(self) -> int:
        """A number that differs after any commit, by this process or another."""
        with self._lock:
            if self._connection is None:
                self._connection = self._reader.raw_connection()
            cursor = self._connection.cursor()
            try:
                return int(cursor.execute("PRAGMA data_version").fetchone()[0])
            finally:
                cursor.close()

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _start(self) -> None:
        self._lock = Lock()
        self._connection: PoolProxiedConnection | None = None

    def _leave_to_parent(self) -> None:
        self._inherited = self._connection  # kept unused: closing it would drop the parent's locks
        self._start()
