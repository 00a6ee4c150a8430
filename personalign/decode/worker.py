"""The one thread that owns the engine, and with it the device; everybody else hands it requests and reads replies."""

from __future__ import annotations

import atexit
import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from personalign.decode.admit import admit
from personalign.decode.engine import Engine, typed
from personalign.decode.request import Piece, Request
from personalign.decode.seq import Outbox, Seq
from personalign.errors import EngineError
from personalign.types import Reply

T = TypeVar("T")

DRAIN_S = 1.0  # how long closing waits for the step at work


class Ticket:
    """A reply to come: wait for all of it, or read it as it is written. Safe to use from any thread."""

    def __init__(self, write: Callable[[Outbox], Seq]) -> None:
        self._news: queue.SimpleQueue[Piece | Reply | Exception] = queue.SimpleQueue()
        self.seq = write(self._news.put)
        self._outcome: Reply | Exception | None = None

    def __iter__(self) -> Iterator[Piece | Reply]:
        """Yield the pieces as they come, then the reply, or raise what ended it."""
        while self._outcome is None:
            item = self._news.get()
            if not isinstance(item, Piece):
                self._outcome = item
            if isinstance(item, Exception):
                raise item
            yield item

    def result(self) -> Reply:
        """Wait for the reply, or raise what ended it."""
        for _ in self:
            pass
        if isinstance(self._outcome, Exception):
            raise self._outcome
        assert self._outcome is not None, "the last item is a reply or an error"
        return self._outcome

    def cancel(self) -> None:
        """Let the reply end within two steps; whoever waits for it gets an error."""
        if self._outcome is None:
            self.seq.is_cancelled = True
            self._news.put(EngineError("the reply was cancelled; send the request again"))


class Worker:
    """Runs an engine in a thread of its own until it is closed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._numbers = itertools.count()
        self._errands: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="personalign-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def submit(self, request: Request, *, is_streamed: bool = False) -> Ticket:
        """Check a request on the caller's thread, and hand it over.

        Raises:
            InputError: and its kinds, as ``generate``.
            Overloaded: too many wait already.
            EngineError: the worker is closed.
        """
        return self.submit_all([request], is_streamed=is_streamed)[0]

    def submit_all(self, requests: Sequence[Request], *, is_streamed: bool = False) -> list[Ticket]:
        """Hand several requests over together: they are admitted in one step, and whoever is alone shares no batch.

        Raises:
            InputError, Overloaded, EngineError: as ``submit``; then none of them is handed over.
        """
        tickets = []
        for i, request in enumerate(requests):
            tickets.append(self._ticket(request, is_streamed=is_streamed))
            self._engine.check(tickets[i].seq, also_waiting=len(self._errands) + i)
        self._send(*(partial(self._engine.submit, ticket.seq) for ticket in tickets))
        return tickets

    def _ticket(self, request: Request, *, is_streamed: bool) -> Ticket:
        models, number = self._engine.models, next(self._numbers)
        return Ticket(lambda outbox: admit(models, request, number, outbox, is_streamed=is_streamed))

    def perform(self, work: Callable[[], T]) -> T:
        """Do other work of the device's between two steps; replies wait meanwhile, and so does the caller.

        Raises:
            EngineError: the worker is closed; or whatever the work raises.
        """
        outcome: Future[T] = Future()

        def errand() -> None:
            try:
                outcome.set_result(work())
            except Exception as error:  # noqa: BLE001 - it is the caller's, whatever it is
                outcome.set_exception(error)

        self._send(errand)
        return outcome.result()

    def forget(self, user: str) -> None:
        """Empty a person's rows: replies that are being written go on without them, those that wait begin so."""
        self._send(lambda: self._engine.forget(user))

    def close(self) -> None:
        """End the thread, and the replies that are being written with an error."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(DRAIN_S)
        atexit.unregister(self.close)

    def _send(self, *errands: Callable[[], None]) -> None:
        with self._changed:
            if self._is_closed:
                raise EngineError("the engine is closed; open personalign again")
            self._errands.extend(errands)
            self._changed.notify()

    def _run(self) -> None:
        while self._wait():
            try:
                self._run_errands()
                self._engine.step()
            except Exception as error:  # noqa: BLE001 - whoever waits has to hear of it, whatever it is
                self._engine.abort(typed(error))
        self._run_errands()  # what was handed over during the last step has somebody waiting, too
        self._engine.abort(EngineError("the engine was closed while the reply was written; send the request again"))

    def _run_errands(self) -> None:
        while self._errands:
            self._errands.popleft()()

    def _wait(self) -> bool:
        """Sleep until there is something to do; False when the worker is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._errands or self._is_closed or not self._engine.is_idle)
            return not self._is_closed
