"""Keeps calls out of SQLite while the process forks: a child would inherit locks whose holders it lacks."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

PATIENCE_S = 60.0  # then the process forks all the same
LONGEST_SLEEP_S = 0.1  # of a thread that waits for others; it is woken before


class Call:
    """A thread's call that is inside, or waits; when an interrupt ends it anywhere, it dies with its frames."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class Gate:
    """Knows the calls inside, and shuts for a fork when the last one of other threads has left.

    ``before`` runs in the parent with the gate shut, ``in_child`` in the child before anything else.
    """

    def __init__(self, before: Callable[[], None], in_child: Callable[[], None]) -> None:
        self.before, self.in_child = before, in_child
        self.renew()
        _gates().members.add(self)

    def renew(self) -> None:
        """Start empty and with locks of its own: what a child does, having one thread."""
        self._lock = threading.RLock()  # entered by itself: a Condition's own __exit__ may be interrupted
        self._changed = threading.Condition(self._lock)
        self._calls: weakref.WeakSet[Call] = weakref.WeakSet()
        self._is_shut = False

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Wait while the process forks, then hold off the next fork; a thread that is inside may enter again."""
        call = Call()
        with self._lock:
            while self._is_shut and not any(other.thread == call.thread for other in self._calls):
                self._changed.wait(LONGEST_SLEEP_S)
            self._calls.add(call)
        try:
            yield
        finally:
            with self._lock:
                self._calls.discard(call)
                if self._is_shut:
                    self._changed.notify_all()

    def shut(self) -> None:
        """Admit no further call, wait until only this thread is inside, and keep the lock."""
        deadline, me = time.monotonic() + PATIENCE_S, threading.get_ident()
        self._lock.acquire()
        self._is_shut = True
        while any(call.thread != me for call in self._calls) and time.monotonic() < deadline:
            self._changed.wait(LONGEST_SLEEP_S)
        self.before()

    def open(self) -> None:
        """Admit calls again."""
        self._is_shut = False
        self._changed.notify_all()
        self._lock.release()

    def close(self) -> None:
        """Take no part in forks any more."""
        _gates().members.discard(self)


class Gates:
    """All gates of the process: Python can't take a fork's hook back, so there is one, made by the first gate."""

    def __init__(self) -> None:
        self.members: weakref.WeakSet[Gate] = weakref.WeakSet()
        self._forking = threading.Lock()
        self._shut: list[Gate] = []
        os.register_at_fork(before=self._shut_all, after_in_parent=self._open_all, after_in_child=self._renew_all)

    def _shut_all(self) -> None:
        self._forking.acquire()
        for gate in list(self.members):
            self._shut.append(gate)
            gate.shut()

    def _open_all(self) -> None:
        while self._shut:
            self._shut.pop().open()
        self._forking.release()

    def _renew_all(self) -> None:
        self._forking = threading.Lock()
        while self._shut:
            gate = self._shut.pop()
            gate.renew()
            gate.in_child()


_gates = cache(Gates)
