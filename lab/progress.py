"""Where a measurement has got to, on stderr: stdout is for its result."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.progress import track


def turns(num: int, name: str) -> Iterable[int]:
    """Count from 0, with a bar."""
    return track(range(num), name, console=Console(stderr=True))
