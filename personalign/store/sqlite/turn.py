"""Writers take turns: one of a process at a time, and the processes of a machine in the order they came.

SQLite's own wait sleeps longer and longer, so that newcomers overtake, and after 15 seconds it gives up. Here each
writer draws a number from a file beside the database, locks the byte of that number, and waits until no byte before it
is locked. The kernel frees the bytes of a process that dies. This is for fairness alone: a writer that gives up
waiting, or has no room for the file, still waits for SQLite's lock.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from personalign.errors import StoreError
from personalign.store.fork import LONGEST_SLEEP_S, Call
from personalign.store.sqlite.database import APPLICATION_ID, BUSY_TIMEOUT_MS, TURNS, Database
from personalign.store.sqlite.files import make_file

COUNTER_BYTES, HEADER_BYTES = 8, 100
MAGIC = b"SQLite format 3\0"
LONGEST_NAP_S = 0.004


class Turns:
    """The turns at one database."""

    def __init__(self, database: Database) -> None:
        self._path, self._database = database.neighbour(TURNS), database.path
        self._file: int | None = None
        self.renew()

    def renew(self) -> None:
        """Forget this process's calls: what a forked child does; byte locks stay with the parent."""
        self._lock = threading.RLock()  # entered by itself: a Condition's own __exit__ may be interrupted
        self._changed = threading.Condition(self._lock)
        self._waiting: list[weakref.ref[Call]] = []
        self._turn: weakref.ref[Call] | None = None  # the call that has it

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn and keep it; StoreError where another thread of this process kept it for too long."""
        call = Call()
        self._enter(call)
        try:
            with suppress(OSError):  # a full disk, or a file system without locks
                self._queue()
            yield
        finally:
            self._leave(call)

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _enter(self, call: Call) -> None:
        deadline, place = time.monotonic() + 2 * BUSY_TIMEOUT_MS / 1000, weakref.ref(call)
        with self._lock:
            self._waiting.append(place)
            try:
                while not self._is_next(call):
                    if time.monotonic() > deadline:
                        raise StoreError("the other threads of this process wrote for too long; try again")
                    self._changed.wait(LONGEST_SLEEP_S)
                self._turn = weakref.ref(call, lambda _: self._free_bytes())
            finally:
                self._waiting.remove(place)

    def _is_next(self, call: Call) -> bool:
        while (first := self._waiting[0]()) is None:
            del self._waiting[0]
        holder = None if self._turn is None else self._turn()
        # a thread that asks again was interrupted before it could let go
        return first is call and (holder is None or holder.thread == call.thread)

    def _leave(self, call: Call) -> None:
        with self._lock:
            if self._turn is not None and self._turn() is call:
                self._free_bytes()
                self._turn = None
                self._changed.notify_all()

    def _free_bytes(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _queue(self) -> None:
        if self._file is None:
            if not (self._path.exists() or self._is_store()):
                return  # another program's file is refused soon, and nothing is left beside it
            make_file(self._path)
            self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        file = self._file
        fcntl.lockf(file, fcntl.LOCK_UN)  # what an interrupted call left
        _lock_soon(file, 0, 1)
        try:
            number = max(1, int.from_bytes(os.pread(file, COUNTER_BYTES, 0))) + 1
            os.pwrite(file, number.to_bytes(COUNTER_BYTES), 0)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)
        _lock_soon(file, 1, number - 1)  # until no number before this one is left

    def _is_store(self) -> bool:
        """Whether the database is ours by its header, or still empty."""
        with self._database.open("rb") as file:
            header = file.read(HEADER_BYTES)
        return not header or (header.startswith(MAGIC) and int.from_bytes(header[68:72]) == APPLICATION_ID)


def _lock_soon(file: int, start: int, length: int) -> None:
    deadline, nap = time.monotonic() + BUSY_TIMEOUT_MS / 1000, LONGEST_NAP_S / 8
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except (BlockingIOError, PermissionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(nap)
            nap = min(2 * nap, LONGEST_NAP_S)
        else:
            return
