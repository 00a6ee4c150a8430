"""Tells cheaply whether the database changed: what a poll for fresh profiles asks."""

from __future__ import annotations

from threading import Lock

from sqlalchemy import Engine, PoolProxiedConnection

from personalign.store.fork import at_fork


class Watch:
    """One connection that never writes, because SQLite's counter only tells of commits by *other* connections."""

    def __init__(self, reader: Engine) -> None:
        self._reader = reader
        self._lock = Lock()
        self._connection: PoolProxiedConnection | None = None
        self._num_connections = 0
        at_fork(self, before=Watch.close)

    def version(self) -> int:
        """A number that differs after any commit, by this process or another."""
        with self._lock:
            if self._connection is None:
                self._connection = self._reader.raw_connection()
                self._num_connections += 1
            try:
                cursor = self._connection.cursor()
                counter = int(cursor.execute("PRAGMA data_version").fetchone()[0])
                cursor.close()
            except Exception:
                self._connection.invalidate()
                self._connection = None
                raise
            return (self._num_connections << 32) + counter  # each connection counts from a start of its own

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
