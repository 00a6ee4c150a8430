"""Lines of what users pass, each with where it stands, and the folder that something is made in."""

from __future__ import annotations

import codecs
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personalign.errors import InputError

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".xlsx")
WORK = ".work"


@dataclass(frozen=True)
class Line:
    """A line that isn't blank; ``str`` says where it stands."""

    path: Path
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.number}"

    @property
    def is_json(self) -> bool:
        """Whether the file's name promises an object a line."""
        return self.path.suffix.lower() in JSON_SUFFIXES

    def row(self, expected: str) -> dict[str, Any]:
        """The line's JSON object; ``expected`` says what it should hold."""
        try:
            row = json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self} isn't JSON ({error}); expected {expected}") from error
        if not isinstance(row, dict):
            raise InputError(f"{self} holds a {type(row).__name__}; expected {expected}")
        return row


def read_lines(path: Path) -> Iterator[Line]:
    """Give the lines that aren't blank.

    Raises:
        InputError: the file is a table, can't be read, or a line isn't UTF-8.
    """
    if path.suffix.lower() in TABLE_SUFFIXES:
        raise InputError(f"{path} is a table; expected JSONL, or a text a line; write its rows as .jsonl")
    for number, line in enumerate(whole_lines(path), start=1):
        if text := line.strip():
            yield Line(path, number, text)


def whole_lines(path: Path, errors: str = "strict") -> Iterator[str]:
    """Give all lines with their ends, without a byte order mark, one at a time in memory.

    ``errors`` says what becomes of bytes that aren't UTF-8, as ``bytes.decode`` takes it.

    Raises:
        InputError: the file can't be read, or a line isn't UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield _decoded(path, number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, errors)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); expected a text file") from error


def _decoded(path: Path, number: int, line: bytes, errors: str) -> str:
    try:
        return line.decode(errors=errors)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number} isn't UTF-8 at byte {error.start + 1} ({error.reason}); save the file as UTF-8"
        ) from error


@contextmanager
def made_in(folder: Path) -> Iterator[Path]:
    """Give the folder of what a killed run leaves to the next; it is removed once all is made.

    Raises:
        InputError: there is something in the folder that no unfinished run has left.
    """
    work = folder / WORK
    if folder.exists() and not work.is_dir() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} already holds something; expected a new or an empty folder, or one that an unfinished run has "
            "left; pass another --out, or remove it"
        )
    yield work
    if work.is_dir():
        shutil.rmtree(work)


def public_name(model: str) -> str:
    """A model's hub id, or the name of its folder; its path on this machine is nobody's business."""
    return Path(model).resolve().name if Path(model).exists() else model
