"""What users pass: the lines of text files, and the rows of JSONL, CSV and Parquet files, each with its place."""

from __future__ import annotations

import codecs
import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personalign.errors import InputError, MissingExtra

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".xlsx")
REQUIRED, OPTIONAL = ("user", "prompt", "a", "b", "choice"), ("id", "time")  # columns of a log
RATED = ("user", "item", "rating")  # and of one of ratings
COLUMNS = tuple(dict.fromkeys((*REQUIRED, *RATED, *OPTIONAL)))
EXAMPLE = '{"user": "ada", "prompt": "Hello", "a": "Hi!", "b": "Good day.", "choice": "a"}'
WIDEST_CELL = 2**31 - 1  # of what csv may read: a cell that is too long is refused here, with its column
LONGEST_LINE = 64 * 2**20  # bytes: many times what a conversation may have, escaped as JSON


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
    """Give the lines that aren't blank."""
    if path.suffix.lower() in TABLE_SUFFIXES:
        raise InputError(f"{path} is a table; expected JSONL, or a text a line; write its rows as .jsonl")
    for number, line in enumerate(whole_lines(path), start=1):
        if text := line.strip():
            yield Line(path, number, text)


def whole_lines(path: Path, errors: str = "strict") -> Iterator[str]:
    """Give all lines with their ends, without a byte order mark, one at a time in memory.

    ``errors`` says what becomes of bytes that aren't UTF-8, as ``bytes.decode`` takes it.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
                if len(line) > LONGEST_LINE:
                    raise InputError(
                        f"{path}, line {number} has more than {LONGEST_LINE:,} bytes; expected a text file, a line for "
                        "each text"
                    )
                yield (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).decode(errors=errors)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number} isn't UTF-8 at byte {error.start + 1} ({error.reason}); save the file as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); expected a text file") from error


class BadRowError(InputError):
    """A row that can't be used: the reason in a few words, to be counted, and how many lines it takes."""

    def __init__(self, message: str, reason: str, place: str, num_lines: int = 1) -> None:
        super().__init__(message)
        self.reason, self.place, self.num_lines = reason, place, num_lines


@dataclass(frozen=True)
class Row:
    """A row's cells by column; ``place`` says which line or row it is."""

    path: Path
    place: str
    cells: dict[str, Any]

    def name(self, column: str) -> str:
        """Where a cell is."""
        return f"{self.path}, {self.place}, column {column!r}"

    @property
    def is_rating(self) -> bool:
        """Whether it holds a rating and no answer."""
        return _required(self.cells) == RATED

    def bad(self, column: str, reason: str, message: str) -> BadRowError:
        """What is wrong with a cell."""
        return BadRowError(f"{self.name(column)} {message}", reason, self.place)


def regrades(choices: AbstractSet[str]) -> bool:
    """Whether "a" and "b" mean "a little better" in a log with these choices."""
    return not choices.isdisjoint({"a++", "b++"}) and choices.isdisjoint({"a+", "b+"})


def _required(names: Iterable[str]) -> tuple[str, ...]:
    """The columns of ratings where there is one of theirs and none of answers, otherwise those of answers."""
    columns = set(names)
    return RATED if columns & {"item", "rating"} and not columns & {"a", "b", "choice"} else REQUIRED


def _check_columns(place: str, names: Iterable[str]) -> None:
    """Refuse a header or an object that lacks a column, or has one twice."""
    times = Counter(list(names))  # names, also of a mapping
    required = _required(times)
    if missing := [column for column in required if not times[column]]:
        names = ", ".join(map(repr, times)) or "none"
        raise InputError(
            f"{place} has no column {', '.join(map(repr, missing))}: found {names}; expected {', '.join(REQUIRED)}, or "
            f"{', '.join(RATED)}"
        )
    if repeated := [column for column in (*required, *OPTIONAL) if times[column] > 1]:
        raise InputError(f"{place} has the column {', '.join(map(repr, repeated))} more than once; expected once")


def read_rows(path: Path) -> Iterator[Row | BadRowError]:
    """Give the rows of a log; its name says whether it is JSONL, CSV or Parquet."""
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows} | dict.fromkeys(JSON_SUFFIXES, _json_rows)
    if (suffix := path.suffix.lower()) not in readers:
        raise InputError(f"{path} has a name that ends in {suffix!r}; expected .jsonl, .csv or .parquet")
    return readers[suffix](path)


def _json_rows(path: Path) -> Iterator[Row | BadRowError]:
    for number, text in enumerate(whole_lines(path, errors="surrogateescape"), start=1):
        line = Line(path, number, text.strip())
        place = f"line {number}"
        if not _is_utf8(text):
            yield _not_utf8(path, place)
        elif line.text:
            try:
                cells = line.row(EXAMPLE)
                _check_columns(str(line), cells)
            except InputError as error:
                yield BadRowError(str(error), "no object with these columns", place)
            else:
                yield Row(path, place, cells)


def _csv_rows(path: Path) -> Iterator[Row | BadRowError]:
    header: list[str] = []
    for row in _csv_cells(path):
        if isinstance(row, BadRowError):
            if not header:
                raise row
            yield row
            continue
        place, cells = row
        if not header:
            _check_columns(f"{path}, {place}", cells)
            header = cells
        elif len(cells) != len(header):
            yield BadRowError(
                f"{path}, {place} has {len(cells)} cells; expected {len(header)}, as the header has; put quotes around "
                "a text with commas or line breaks in it",
                "another number of cells than the header",
                place,
            )
        elif not all(map(_is_utf8, cells)):
            yield _not_utf8(path, place)
        else:
            yield Row(path, place, dict(zip(header, cells, strict=True)))


def _csv_cells(path: Path) -> Iterator[tuple[str, list[str]] | BadRowError]:
    """Where each row begins, and its cells, or what is wrong with it; blank lines between rows aren't rows."""
    reader = csv.reader(whole_lines(path, errors="surrogateescape"), strict=True)
    while True:
        begin = reader.line_num
        place = f"line {begin + 1}"
        limit = csv.field_size_limit(WIDEST_CELL)  # one for the whole process, so it is put back
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            message = f"{path}, {place} begins a row that isn't CSV ({error}); expected commas between quoted cells"
            # a quote that is left open takes the lines after it along: they count, too
            yield BadRowError(message, "no CSV", place, max(reader.line_num - begin, 1))
            continue
        finally:
            csv.field_size_limit(limit)
        if cells:
            yield place, cells


def _is_utf8(text: str) -> bool:
    """Whether no byte had to be escaped."""
    return text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text)


def _not_utf8(path: Path, place: str) -> BadRowError:
    return BadRowError(f"{path}, {place} isn't UTF-8; save the file as UTF-8", "no UTF-8", place)


def _parquet_rows(path: Path) -> Iterator[Row | BadRowError]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet") from error
    number = 0
    try:
        with ParquetFile(path) as file:
            _check_columns(str(path), file.schema_arrow.names)
            names = [name for name in COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=1024, columns=names):
                for i in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(path, f"row {number}", {name: batch.column(name)[i] for name in names})
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read ({error}); expected a Parquet file") from error


def _parquet_row(path: Path, place: str, scalars: dict[str, Any]) -> Row | BadRowError:
    row = Row(path, place, {})
    for column, scalar in scalars.items():
        try:
            row.cells[column] = scalar.as_py()
        except UnicodeDecodeError as error:
            return row.bad(column, "no UTF-8", f"isn't UTF-8 ({error.reason}); write the log as UTF-8")
        except (OverflowError, ValueError):  # a time that Python has no value for
            row.cells[column] = getattr(scalar, "value", None)
    return row
