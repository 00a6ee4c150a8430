"""How far long work is: a bar on a terminal, elsewhere a line now and then; on stderr, since stdout is for results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

EVERY_S = 30.0  # between two lines
Item = TypeVar("Item")
Clock = Callable[[], float]


def say(text: str) -> None:
    """Write a line about the work to stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a person waits for it


@contextmanager
def bar(name: str, total: int, done: int = 0, clock: Clock = time.monotonic) -> Iterator[Callable[[], None]]:
    """Give the function to call after each of ``total`` pieces of work, ``done`` of which an earlier run did."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(name, total, done, clock)
        return
    with Progress(console=console) as progress:
        task = progress.add_task(name, total=total, completed=done)
        yield lambda: progress.advance(task)


def track(items: Sequence[Item], name: str, clock: Clock = time.monotonic) -> Iterator[Item]:
    """Go through the items and say how far this is."""
    with bar(name, len(items), clock=clock) as advance:
        for item in items:
            yield item
            advance()


def _lines(name: str, total: int, done: int, clock: Clock) -> Callable[[], None]:
    """Say how far it is when ``EVERY_S`` have passed since the last line; short work says nothing."""
    start = last = clock()

    def advance() -> None:
        nonlocal done, last
        done += 1
        if (now := clock()) - last >= EVERY_S:
            last = now
            say(f"{name}: {done:,} of {total:,} after {(now - start) / 60:.1f} minutes")

    return advance
