"""Counts what is committed: the server tells, and a poll is the net under it.

Each commit ends with a NOTIFY. A thread listens and looks at the server's snapshot whenever it is told, and once a
second: the snapshot differs after every commit, also of programs that tell nobody. While the thread has no connection,
as on a standby, which refuses LISTEN, every question is a look of its own.

The driver's library keeps locks of its own, so the thread holds forks off while it is inside, and not while it waits: a
child forked in that moment would wait for a thread that it lacks.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import wait
from typing import Any

from sqlalchemy import PoolProxiedConnection

CHANNEL = "personalign"
SNAPSHOT = "SELECT pg_current_snapshot()::text"
HEARTBEAT_S = 1.0  # between two looks when nothing is told
RETRY_S = 0.5  # before the next try to listen
DriverConnection = Any  # psycopg's, which is an extra

log = logging.getLogger(__name__)


class Watch:
    """A number that grows with commits.

    ``connect`` gives a connection of its own, ``look`` a snapshot, and ``enter`` keeps forks out.
    """

    def __init__(
        self,
        connect: Callable[[], PoolProxiedConnection],
        look: Callable[[], str],
        enter: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._connect, self._look, self._enter = connect, look, enter
        self.token = secrets.token_hex(8)  # this process's own commits are counted at once
        self._number, self._seen = 0, ""
        self._lent: list[PoolProxiedConnection] = []  # a child that collected its parent's would be warned of it
        self.renew()

    def renew(self) -> None:
        """Begin without a thread: what a forked child does."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._listens_until = 0.0
        self._ends: tuple[int, int] | None = None  # of the pipe that wakes the thread to end

    def version(self) -> int:
        """The number now; an error of the driver where the server can't be asked."""
        if self._thread is None:
            self._start()
        if time.monotonic() > self._listens_until:
            self._compare(self._look())
        return self._number

    def count(self) -> None:
        """Count a commit of this process."""
        with self._lock:
            self._number += 1

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            thread, ends, self._ends = self._thread, self._ends, None
        if thread is not None and ends is not None:
            os.write(ends[1], b"!")
            thread.join()
            for each in ends:
                os.close(each)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._ends = os.pipe()
                self._thread = threading.Thread(target=self._run, args=self._ends[:1], name="watch", daemon=True)
                self._thread.start()

    def _run(self, end: int) -> None:
        """Listen until the pipe's other end is written to; whatever ends a connection, another one is tried."""
        is_new = True
        while not wait([end], 0):
            try:
                self._listen(end)
            except Exception as error:  # noqa: BLE001 - of the driver, whatever it is
                self._listens_until = 0.0
                if is_new:
                    log.warning("the server can't be listened to (%s), and is polled", type(error).__name__)
                is_new = False
                wait([end], RETRY_S)

    def _listen(self, end: int) -> None:
        with self._enter():
            lent = self._connect()
        try:
            self._lent = [*(each for each in self._lent if each.is_valid), lent]
            connection: DriverConnection = lent.driver_connection
            with self._enter():
                connection.autocommit = True
                connection.execute(f"LISTEN {CHANNEL}")
            look_at = 0.0
            while True:
                with self._enter():
                    is_told = any(notice.payload != self.token for notice in list(connection.notifies(timeout=0)))
                    is_due = is_told or time.monotonic() >= look_at
                    if is_due:
                        self._compare(connection.execute(SNAPSHOT).fetchone()[0])
                        look_at = time.monotonic() + HEARTBEAT_S
                        self._listens_until = look_at + HEARTBEAT_S
                patience_s = 0 if is_due else look_at - time.monotonic()  # what came with the snapshot is read first
                if end in wait([end, connection.fileno()], patience_s):
                    return
        finally:
            with self._enter():
                lent.invalidate()  # closes it for good, whatever state it is in

    def _compare(self, snapshot: str) -> None:
        with self._lock:
            if snapshot != self._seen:
                self._seen = snapshot
                self._number += 1
