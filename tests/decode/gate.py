"""A gate before every step of an engine, so that a test decides what happens between two of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from personalign.decode import Engine
from tests.forked import PATIENCE_S


class Gate:
    """Lets steps through one by one; the engine waits before each."""

    def __init__(self, engine: Engine) -> None:
        self._free, self._step, self.num_steps = threading.Semaphore(0), engine.step, 0
        self._is_open = self._is_stepping = False
        self.is_waited_at = False  # whether the engine is before a step right now
        engine.step = self._pass  # type: ignore[method-assign]

    def _pass(self) -> None:
        if not self._is_open:
            self.is_waited_at = True
            self._free.acquire()
            self.is_waited_at = False
        self._is_stepping = True
        try:
            self._step()
            self.num_steps += 1
        finally:
            self._is_stepping = False

    def let(self, steps: int) -> None:
        """Let so many steps happen, and wait for the last of them."""
        wanted = self.num_steps + steps
        self._free.release(steps)
        until(lambda: self.num_steps >= wanted)

    def open(self) -> None:
        """Let everything through, until it is closed again."""
        self._is_open = True
        self._free.release()  # whoever waits

    def close(self) -> None:
        """Make steps wait again, while none is asked for; the last one ends a little after its reply is there."""
        until(lambda: not self._is_stepping)
        self._is_open = False
        while self._free.acquire(blocking=False):
            pass


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that another thread brings about."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never happens"
        time.sleep(0.001)
