"""The one thread that owns the engine, and with it the device. All others hand it requests and read the replies."""

from __future__ import annotations

import atexit
import itertools
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TypeVar

from personalign.decode.engine import Engine
from personalign.decode.request import Request
from personalign.decode.seq import Outbox, Seq, Ticket, engine_error
from personalign.errors import EngineError, check_process

T = TypeVar("T")

DRAIN_S = 1.0  # how long closing waits for the current step


class Writer(ABC):
    """What writes replies, for callers in any thread: our own engine, or vLLM."""

    @property
    @abstractmethod
    def is_alive(self) -> bool:
        """Whether it takes on requests."""

    @property
    @abstractmethod
    def load(self) -> tuple[int, int]:
        """How many replies are being written, and how many wait."""

    def submit(self, requests: Sequence[Request], *, is_streamed: bool = False) -> list[Ticket]:
        """Check requests on the caller's thread, and hand all of them over, or none.

        Raises:
            InputError: and its kinds, for what can't be used.
            Overloaded: too many wait already.
            EngineError: the writer is closed or has failed, or belongs to another process.
        """
        tickets = [Ticket() for _ in requests]
        seqs = self.write(requests, [ticket.put for ticket in tickets], is_streamed=is_streamed)
        for ticket, seq in zip(tickets, seqs, strict=True):
            ticket.seq = seq
        return tickets

    @abstractmethod
    def write(self, requests: Sequence[Request], outboxes: Sequence[Outbox], *, is_streamed: bool) -> list[Seq]:
        """The same, each with the outbox that pieces, reply or error are put into."""

    @abstractmethod
    def perform(self, work: Callable[[], T]) -> T:
        """Do other work where replies are written, and wait for it."""

    @abstractmethod
    def forget(self, user: str) -> None:
        """Let replies that are being written, and those that wait, go on without a person's weights."""

    @abstractmethod
    def close(self) -> None:
        """End the replies that are being written with an error."""


class Worker(Writer):
    """Runs an engine in a thread of its own until it is closed, or until a slot can't be emptied after a failure."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pid = os.getpid()
        self._numbers = itertools.count()
        # work between two steps, and who is told where it can't be done any more
        self._errands: deque[tuple[Callable[[], None], Callable[[EngineError], object]]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._end: EngineError | None = None  # why new work is refused
        self._thread = threading.Thread(target=self._run, name="personalign-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def is_alive(self) -> bool:
        """Whether it takes on requests."""
        return self._end is None and not self._is_closed and self._thread.is_alive()

    @property
    def load(self) -> tuple[int, int]:
        """How many replies have a slot, and how many wait for one."""
        return self._engine.load

    def write(self, requests: Sequence[Request], outboxes: Sequence[Outbox], *, is_streamed: bool) -> list[Seq]:
        """Hand requests over, whose outboxes are filled by the engine's thread; one step admits them."""
        check_process(self._pid)
        engine = self._engine
        seqs = [
            Seq(engine.models, request, next(self._numbers), outbox, is_streamed=is_streamed, longest=engine.max_length)
            for request, outbox in zip(requests, outboxes, strict=True)
        ]
        self._hand_over(lambda: engine.submit(seqs))
        return seqs

    def perform(self, work: Callable[[], T]) -> T:
        """Do other work on the device between two steps; replies wait meanwhile, and so does the caller."""
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
                outcome.set_exception(error)

        self._hand_over(lambda: self._errands.append((run, outcome.set_exception)))
        return outcome.result()

    def forget(self, user: str) -> None:
        """Empty a person's weights: replies that are being written go on without them, those that wait begin so."""
        waiting = self._engine.waiting(user)  # not what they ask when they are back
        work = partial(self._engine.forget, user, waiting)
        self._hand_over(lambda: self._errands.append((work, lambda _: None)))

    def close(self) -> None:
        """End the thread, and the replies that are being written with an error."""
        if os.getpid() != self._pid:
            return
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(DRAIN_S)

    def _hand_over(self, give: Callable[[], None]) -> None:
        """Let the engine's thread have something to do, if it is there."""
        check_process(self._pid)
        with self._changed:
            if self._is_closed:
                raise EngineError("the engine is closed; open personalign again")
            if not self.is_alive:
                raise self._end or EngineError("the engine's thread is gone; open personalign again")
            give()
            self._changed.notify()

    def _run(self) -> None:
        end = EngineError("the engine was closed while the reply was written; send the request again")
        try:
            while self._wait():
                self._run_errands()
                self._step()
            self._run_errands()  # a thread may wait for what was handed over during the last step
        except BaseException as error:  # noqa: BLE001 - no caller may wait for a thread that has ended
            end = EngineError(f"the engine stopped: {engine_error(error)}")
            end.__cause__ = error
        finally:
            self._stop(end)

    def _step(self) -> None:
        try:
            self._engine.step()
        except Exception as error:  # noqa: BLE001 - callers that wait get the error, whatever it is
            self._engine.abort(engine_error(error))
        if not self._engine.is_sound:
            raise EngineError("a slot couldn't be emptied after a failure; send the request again")

    def _stop(self, end: EngineError) -> None:
        """Refuse all new work, and give the error to every caller that waits."""
        with self._changed:
            self._end = end
        for _, fail in self._errands:
            fail(end)
        self._errands.clear()
        with suppress(Exception):  # callers get the error first: emptying the slots may fail
            self._engine.abort(end)
        atexit.unregister(self.close)  # so that nothing keeps the buffers of an engine that failed

    def _run_errands(self) -> None:
        while self._errands:
            run, _ = self._errands.popleft()
            run()

    def _wait(self) -> bool:
        """Sleep until there is something to do; False when the worker is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._errands or self._is_closed or not self._engine.is_idle)
            return not self._is_closed
