"""Progress bars of long work: on stderr and only where that is a terminal, since stdout is for results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

Item = TypeVar("Item")


def bar() -> Progress:
    """Make a bar; nothing is drawn where nobody looks."""
    console = Console(stderr=True)
    return Progress(console=console, disable=not console.is_terminal)


def track(items: Sequence[Item], name: str) -> Iterator[Item]:
    """Go through the items, with a bar."""
    with bar() as progress:
        yield from progress.track(items, description=name)
