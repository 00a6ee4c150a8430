"""What a GGUF file says of itself, read before anything is built: whether it is whole, and what it holds.

Read ``gguf.py`` next: how such a file becomes a folder that transformers reads.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from personalign.errors import MissingExtra, ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, where the file doesn't say
MOST = 1 << 24  # entries, tensors or elements of an array
MOST_DIMENSIONS = 8  # of a tensor; GGUF has four, and the sizes of very many would be multiplied for ever
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9  # types of values beside the numbers
Value = int | float | str
HALF = (1, 2)  # a block of float16 or bfloat16: one value in two bytes


@dataclass(frozen=True)
class Header:
    """A file's metadata, and how much its tensors hold."""

    metadata: Mapping[str, Value]  # of an array, the number of its elements
    num_tensors: int
    num_bytes: int  # of the file
    unpacked: int  # bytes of its tensors, each in half precision if it is stored so, else in float32


def read_header(file: Path) -> Header:
    """Read what a file says of itself.

    Raises:
        ModelError: it can't be read, isn't a GGUF, is cut short or is one of several parts.
        MissingExtra: gguf isn't installed.
    """
    try:
        with reading(file), file.open("rb") as opened:
            if (start := opened.read(len(MAGIC))) != MAGIC:
                raise ModelError(
                    f"{file} begins with {start!r}; expected {MAGIC!r}, as a GGUF file does; pass such a file, or a "
                    "model's folder"
                )
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header, end = _Reader(data).read()
                size = len(data)
    except struct.error as error:
        raise ModelError(_cut_short(file, "ends within its header")) from error
    except _OddError as error:
        raise ModelError(f"{file} holds {error}; download the file again, or another one of the model") from error
    if size < end:
        raise ModelError(_cut_short(file, f"has {size:,} bytes; its header describes {end:,}"))
    if (num_parts := header.metadata.get("split.count", 1)) not in {0, 1}:
        raise ModelError(
            f"{file} is one of {num_parts} parts; expected a whole model; join them with: llama-gguf-split --merge"
        )
    return header


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what the system says of a file into a ModelError."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"{file} can't be read ({error}); expected a GGUF file") from error


def _cut_short(file: Path, finding: str) -> str:
    return f"{file} is cut short: it {finding}; download it again"


class _OddError(Exception):
    """A header holds what it can't; what, in words."""


class _Reader:
    """A place in a file that moves on; beyond its end ``struct.error`` is raised."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._place = data, len(MAGIC)

    def read(self) -> tuple[Header, int]:
        """The header, and where the last tensor ends."""
        if (version := self._number("I")) not in VERSIONS:
            raise _OddError(f"GGUF version {version}; expected 2 or 3, in little-endian order")
        num_tensors, num_entries = self._count(), self._count()
        metadata = {self._text(): self._value(self._number("I")) for _ in range(num_entries)}
        tensors = [*self._tensors(num_tensors)]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise _OddError(f"the alignment {alignment!r}; expected a number of bytes")
        start = -(-self._place // alignment) * alignment
        end = start + max((offset + num_bytes for _, offset, num_bytes in tensors), default=0)
        return Header(metadata, num_tensors, len(self._data), sum(unpacked for unpacked, _, _ in tensors)), end

    def _tensors(self, count: int) -> Iterator[tuple[int, int, int]]:
        """Each tensor's size when it is unpacked, its offset, and its size in the file, in bytes."""
        try:
            from gguf import GGML_QUANT_SIZES
        except ImportError as error:
            raise MissingExtra("gguf", "gguf") from error
        sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
        for _ in range(count):
            self._text()
            num_values = prod(self._number("Q") for _ in range(self._count("I", MOST_DIMENSIONS)))
            kind, offset = self._number("I"), self._number("Q")
            if kind not in sizes:
                raise _OddError(f"a tensor of the unknown type {kind}; expected one that the package gguf knows")
            block, num_bytes = sizes[kind]
            unpacked = 2 if (block, num_bytes) == HALF else 4
            yield num_values * unpacked, offset, num_values // block * num_bytes

    def _value(self, kind: int) -> Value:
        if kind in NUMBERS:
            number: Value = self._take(NUMBERS[kind])[0]
            return number
        if kind == TEXT:
            return self._text()
        if kind != ARRAY:
            raise _OddError(f"a value of the unknown type {kind}")
        element, count = self._number("I"), self._count()
        if element in NUMBERS:
            self._skip(count * struct.calcsize(NUMBERS[element]))
        elif element == TEXT:
            for _ in range(count):
                self._skip(self._number("Q"))
        else:
            raise _OddError(f"an array of the unknown type {element}")
        return count

    def _number(self, code: str) -> int:
        number: int = self._take(code)[0]
        return number

    def _take(self, code: str) -> tuple[Any, ...]:
        numbers = struct.unpack_from(f"<{code}", self._data, self._place)
        self._place += struct.calcsize(f"<{code}")
        return numbers

    def _count(self, code: str = "Q", most: int = MOST) -> int:
        if (count := self._number(code)) > most:
            raise _OddError(f"a list of {count:,}; expected at most {most:,}")
        return count

    def _text(self) -> str:
        start = self._place + 8
        self._skip(self._number("Q"))
        return self._data[start : self._place].decode("utf-8", errors="replace")

    def _skip(self, num_bytes: int) -> None:
        self._place += num_bytes
        if self._place > len(self._data):
            raise struct.error("the file ends before")
