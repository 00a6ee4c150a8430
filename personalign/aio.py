"""Verbs for tasks on an event loop, which nothing here blocks: what takes time runs in a thread.

A reply is begun in a thread, where the model is loaded and the store is read. The engine's thread then hands its pieces
to the loop, those of all replies at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary, ref

from personalign.types import Reply

if TYPE_CHECKING:
    from personalign.decode.request import Piece
    from personalign.decode.seq import Outbox, Seq

    Begin = Callable[[Outbox], Seq]
    Item = Piece | Reply | Exception
    Items = asyncio.Queue[Item]  # of one reply
    Parts = AsyncGenerator[Piece | Reply, None]  # of a reply: its pieces, then all of it

Keys = ParamSpec("Keys")
Value = TypeVar("Value")


def threaded(verb: Callable[Keys, Value]) -> Callable[Keys, Coroutine[Any, Any, Value]]:
    """Give a verb a twin for tasks on an event loop, which it never blocks; cancelling the task takes nothing back."""

    @wraps(verb)
    async def twin(*args: Keys.args, **named: Keys.kwargs) -> Value:
        return await asyncio.to_thread(verb, *args, **named)

    twin.__name__ = f"a{verb.__name__}"
    twin.__doc__ = f"``{verb.__name__}`` for a task on an event loop, which it never blocks."
    return twin


class Mailbox:
    """What the engine's thread has for one loop: a step's pieces wake it once, however many replies they are of."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)  # as the dictionary of mailboxes has it
        self._waiting: deque[tuple[Items, Item]] = deque()
        self._is_called = False

    def put(self, items: Items, item: Item) -> None:
        """Hand over an item, from any thread; RuntimeError where the loop is over."""
        loop = self._loop()
        if loop is None or loop.is_closed():
            raise RuntimeError("the loop that waited for a reply is closed")
        self._waiting.append((items, item))
        if not self._is_called:
            self._is_called = True
            loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_called = False  # first: what comes from now on calls again
        while self._waiting:
            items, item = self._waiting.popleft()
            items.put_nowait(item)


MAILBOXES: WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = WeakKeyDictionary()


class _Call:
    """A reply that one task waits for."""

    def __init__(self, begin: Begin) -> None:
        self._begin, self._is_given_up = begin, False
        loop = asyncio.get_running_loop()
        self._mailbox = MAILBOXES.get(loop) or MAILBOXES.setdefault(loop, Mailbox(loop))
        self._seq: Seq | None = None  # once it is begun
        self.items: Items = asyncio.Queue()

    def begin(self) -> None:
        """Begin it, on a thread that may wait."""
        self._seq = self._begin(self._put)
        if self._is_given_up:  # meanwhile
            self._seq.is_cancelled = True

    def _put(self, item: Item) -> None:
        self._mailbox.put(self.items, item)

    def give_up(self) -> None:
        """Let it end within two steps, also if it is still being begun."""
        self._is_given_up = True
        if self._seq is not None:
            self._seq.is_cancelled = True


async def items(begin: Begin) -> Parts:
    """An empty piece once it is begun, the others as they come, then the reply; a task that leaves earlier ends it."""
    call = _Call(begin)
    try:
        await asyncio.to_thread(call.begin)
        yield _accepted()
        while True:
            item = await call.items.get()
            if isinstance(item, Exception):
                raise item
            yield item
            if isinstance(item, Reply):
                return
    finally:
        call.give_up()


def _accepted() -> Piece:
    from personalign.decode.request import Piece  # torch is loaded by now

    return Piece((), "")


async def result(begin: Begin) -> Reply:
    """Wait for a whole reply."""
    async with aclosing(items(begin)) as parts:
        return await anext(part async for part in parts if isinstance(part, Reply))


async def texts(begin: Begin) -> AsyncGenerator[str, None]:
    """A reply's text, piece by piece."""
    async with aclosing(items(begin)) as parts:
        async for part in parts:
            if not isinstance(part, Reply) and part.text:
                yield part.text
