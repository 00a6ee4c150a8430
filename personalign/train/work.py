"""The folder of what is made: pieces of work that outlive a killed run, and how far the work is.

Each piece is a file under the hash of all that it follows from, so that another run of the same goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from safetensors.numpy import load_file, save_file

from personalign.errors import InputError

WORK = ".work"
EVERY_S = 30.0  # between two lines that say how far it is
Arrays = dict[str, NDArray[Any]]
Item = TypeVar("Item")
Clock = Callable[[], float]


@contextmanager
def made_in(folder: Path) -> Iterator[Path]:
    """Give the folder of what a killed run leaves to the next; it is removed once all is made."""
    work = folder / WORK
    if folder.exists() and not work.is_dir() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} already holds something; expected a new or an empty folder, or one that an unfinished run has "
            "left; pass another --out, or remove it"
        )
    yield work
    if work.is_dir():
        shutil.rmtree(work)


def identity(*parts: object) -> str:
    """A name for what follows from these arrays and JSON values."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]


def keep(path: Path | None, make: Callable[[], Mapping[str, NDArray[Any]]]) -> Arrays:
    """Read the arrays that an earlier run left at ``path``, or make them and leave them there; None keeps nothing."""
    if path is None:
        return dict(make())
    if not path.exists():
        # safetensors writes memory as it is: a transposed view would come back as other numbers
        arrays = {name: np.asarray(array, order="C") for name, array in make().items()}
        write_whole(path, lambda partial: save_file(arrays, partial))
    return load_file(path)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, and put it there once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    write(partial)
    partial.replace(path)


def say(text: str) -> None:
    """Write a line about the work to stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a person waits for it


@contextmanager
def bar(name: str, total: int, done: int = 0, clock: Clock = time.monotonic) -> Iterator[Callable[[], None]]:
    """Give the function to call after each piece of work, for a bar, or a line now and then where no terminal is."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(console=console) as progress:
            task = progress.add_task(name, total=total, completed=done)
            yield lambda: progress.advance(task)
        return
    start = last = clock()

    def advance() -> None:
        nonlocal done, last
        done += 1
        if (now := clock()) - last >= EVERY_S:  # short work is silent
            last = now
            say(f"{name}: {done:,} of {total:,} after {(now - start) / 60:.1f} minutes")

    yield advance


def track(items: Sequence[Item], name: str, clock: Clock = time.monotonic) -> Iterator[Item]:
    """Go through the items and say how far this is."""
    yield from track_all(items, name, len(items), clock)


def track_all(items: Iterable[Item], name: str, total: int, clock: Clock = time.monotonic) -> Iterator[Item]:
    """The same of items that come one by one, of which there are about so many."""
    with bar(name, total, clock=clock) as advance:
        for item in items:
            yield item
            advance()
