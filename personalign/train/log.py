"""A log of many people's answers: which of two replies to a prompt each of them preferred.

JSONL (an object a row), CSV (with a header) and Parquet have the same five columns, ``user``, ``prompt``, ``a``, ``b``
and ``choice``; others are left unread. A prompt is a text or a list of messages, in CSV as JSON. What can't be used is
refused with its place; what can be doubted is counted. Read ``fit_basis.py`` or ``backbones.py`` next.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personalign.errors import InputError, MessageError, MissingExtra
from personalign.messages import read_messages
from personalign.train.files import JSON_SUFFIXES, read_lines, whole_lines
from personalign.train.prompts import Prompt
from personalign.types import CHOICES, INFORMATIVE, MAX_TEXT

COLUMNS = ("user", "prompt", "a", "b", "choice")
EXPECTED = '{"user": "ada", "prompt": "Hello", "a": "Hi!", "b": "Good day.", "choice": "a"}'
MIN_PEOPLE = 2
MIN_CONSTANT = 5  # answers; fewer are on one side by chance too often to speak of
WIDEST_CELL = 2**31 - 1  # of what csv may read: a cell that is too long is refused here, with its column
MIRRORED = {"a": "b", "b": "a"}


@dataclass(frozen=True)
class LogCounts:
    """What a log holds, and what in it may be doubted."""

    rows: int  # of the file
    people: int
    duplicates: int  # rows left out because the same person gave the same answer before
    contradictions: int  # pairs about which one person answered a, b or tie, and something else of these; all are kept
    uninformative: int  # answers that say neither or skip; kept
    constant_people: int  # those whose five or more answers are all for the left, or all for the right; kept


@dataclass(frozen=True)
class AnswerLog:
    """Answers in the order in which they were first given, one entry of each column for an answer."""

    user: tuple[str, ...]
    prompt: tuple[Prompt, ...]
    a: tuple[str, ...]  # the reply shown on the left
    b: tuple[str, ...]
    choice: tuple[str, ...]
    counts: LogCounts


def read_log(path: Path) -> AnswerLog:
    """Read a log of answers; its name says whether it is JSONL, CSV or Parquet.

    The same person's same answer about the same pair is kept once, also where the pair was turned round and the choice
    with it. Texts are kept as they are, to the character.

    Raises:
        InputError: the file isn't such, lacks a column, or has a cell that can't be used, naming file, line (of Parquet
            the row) and column; or the answers are all one person's.
        MissingExtra: it is Parquet, and pyarrow isn't installed.
    """
    return _gathered(path, (_answer(row) for row in _reader(path)(path)))


@dataclass(frozen=True)
class _Row:
    """A row's cells by column, and where it stands."""

    place: str
    cells: dict[str, Any]

    def at(self, column: str) -> str:
        return f"{self.place}, column {column!r}"


@dataclass(frozen=True)
class _Answer:
    user: str
    prompt: Prompt
    a: str
    b: str
    choice: str

    @property
    def about(self) -> tuple[str, tuple[tuple[str, str], ...], str, str]:
        """Who was asked about what; the same for a pair turned round."""
        said = tuple((message["role"], message["content"]) for message in self.prompt)
        return (self.user, said, min(self.a, self.b), max(self.a, self.b))

    @property
    def preferred(self) -> str:
        """The choice as if the pair had been shown in the texts' order."""
        return MIRRORED.get(self.choice, self.choice) if self.a > self.b else self.choice


def _gathered(path: Path, answers: Iterable[_Answer]) -> AnswerLog:
    distinct: dict[Any, _Answer] = {}
    num_rows = 0
    for answer in answers:
        num_rows += 1
        distinct.setdefault((answer.about, answer.preferred), answer)
    kept = list(distinct.values())
    counts = _counts(num_rows, kept)
    if counts.people < MIN_PEOPLE:
        raise InputError(
            f"{path} has {num_rows} answers of {counts.people} people; expected those of at least {MIN_PEOPLE}, better "
            "of hundreds: what people differ in can't be learnt from one"
        )
    return AnswerLog(
        user=tuple(answer.user for answer in kept),
        prompt=tuple(answer.prompt for answer in kept),
        a=tuple(answer.a for answer in kept),
        b=tuple(answer.b for answer in kept),
        choice=tuple(answer.choice for answer in kept),
        counts=counts,
    )


def _counts(num_rows: int, kept: Sequence[_Answer]) -> LogCounts:
    informative = [answer for answer in kept if answer.choice in INFORMATIVE]
    choices = defaultdict(list)
    for answer in informative:
        choices[answer.user].append(answer.choice)
    return LogCounts(
        rows=num_rows,
        people=len({answer.user for answer in kept}),
        duplicates=num_rows - len(kept),
        contradictions=sum(times > 1 for times in Counter(answer.about for answer in informative).values()),
        uninformative=len(kept) - len(informative),
        constant_people=sum(len(given) >= MIN_CONSTANT and set(given) in ({"a"}, {"b"}) for given in choices.values()),
    )


def _answer(row: _Row) -> _Answer:
    user, a, b, choice = (_text(row, column) for column in ("user", "a", "b", "choice"))
    if choice not in CHOICES:
        raise InputError(f"{row.at('choice')} holds {choice[:20]!r}; expected one of {', '.join(CHOICES)}")
    if a == b:
        raise InputError(f"{row.at('b')} holds the same text as column 'a'; expected another reply; leave the row out")
    return _Answer(user, _prompt(row), a, b, choice)


def _text(row: _Row, column: str) -> str:
    found = row.cells[column]
    if not isinstance(found, str):
        raise InputError(f"{row.at(column)} holds {_kind(found)}; expected text")
    if not found.strip():
        raise InputError(f"{row.at(column)} is blank; expected text; leave the row out, or fill it in")
    _check_length(row, column, found)
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{row.at(column)} holds half a surrogate pair at character {error.start + 1}, which is no character; "
            "write the log as proper Unicode"
        ) from error
    return found


def _kind(found: object) -> str:
    return "nothing (null)" if found is None else f"a {type(found).__name__}"


def _check_length(row: _Row, column: str, text: str) -> None:
    if len(text) > MAX_TEXT:
        raise InputError(
            f"{row.at(column)} holds a text of {len(text):,} characters; expected at most {MAX_TEXT:,}; shorten it"
        )


def _prompt(row: _Row) -> Prompt:
    if not isinstance(found := row.cells["prompt"], list):
        return ({"role": "user", "content": _text(row, "prompt")},)
    if not all(isinstance(message, dict) and {"role", "content"} <= set(message) for message in found):
        raise InputError(
            f'{row.at("prompt")} holds a list of something else; expected [{{"role": "user", "content": "Hello"}}]'
        )
    try:
        return read_messages(found)
    except MessageError as error:
        raise InputError(f"{row.at('prompt')} can't be used: {error}") from error


def _reader(path: Path) -> Callable[[Path], Iterator[_Row]]:
    suffix = path.suffix.lower()
    if suffix in JSON_SUFFIXES:
        return _json_rows
    if suffix == ".csv":
        return _csv_rows
    if suffix == ".parquet":
        return _parquet_rows
    raise InputError(f"{path} has a name that ends in {suffix!r}; expected .jsonl, .csv or .parquet")


def _check_columns(place: str, names: Iterable[str]) -> None:
    times = Counter(list(names))  # names, also of a mapping
    if missing := [column for column in COLUMNS if not times[column]]:
        raise InputError(
            f"{place} has no column {', '.join(map(repr, missing))}: found {', '.join(map(repr, times)) or 'none'}; "
            f"expected {', '.join(COLUMNS)}"
        )
    if repeated := [column for column in COLUMNS if times[column] > 1]:
        raise InputError(f"{place} has the column {', '.join(map(repr, repeated))} more than once; expected each once")


def _json_rows(path: Path) -> Iterator[_Row]:
    for line in read_lines(path):
        cells = line.row(EXPECTED)
        _check_columns(str(line), cells)
        yield _Row(str(line), cells)


def _csv_rows(path: Path) -> Iterator[_Row]:
    header: list[str] = []
    for place, cells in _csv_cells(path):
        if not header:
            _check_columns(place, cells)
            header = cells
        elif len(cells) != len(header):
            raise InputError(
                f"{place} has {len(cells)} cells; expected {len(header)}, as the header has; put quotes around a text "
                "with commas or line breaks in it"
            )
        else:
            row = dict(zip(header, cells, strict=True))
            yield _Row(place, row | {"prompt": _messages_or_text(row["prompt"])})


def _csv_cells(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Where each row begins, and its cells; blank lines between rows are none."""
    reader = csv.reader(whole_lines(path), strict=True)
    while True:
        place = f"{path}, line {reader.line_num + 1}"
        limit = csv.field_size_limit(WIDEST_CELL)  # one for the whole process, so it is put back
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"{place} begins a row that is no CSV ({error}); expected commas between quoted cells"
            ) from error
        finally:
            csv.field_size_limit(limit)
        if cells:
            yield place, cells


def _messages_or_text(cell: str) -> Any:  # noqa: ANN401 - JSON
    """The messages that the cell spells out, or the cell."""
    if not cell.startswith("[{"):
        return cell
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return found if all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in found) else cell


def _parquet_rows(path: Path) -> Iterator[_Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet") from error
    number = 0
    try:
        with ParquetFile(path) as file:
            _check_columns(str(path), file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1024, columns=list(COLUMNS)):
                for i in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(f"{path}, row {number}", {name: batch.column(name)[i] for name in COLUMNS})
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} can't be read ({error}); expected a Parquet file") from error


def _parquet_row(place: str, scalars: dict[str, Any]) -> _Row:
    row = _Row(place, {})
    for column, scalar in scalars.items():
        try:
            row.cells[column] = scalar.as_py()
        except UnicodeDecodeError as error:
            raise InputError(f"{row.at(column)} isn't UTF-8 ({error.reason}); write the log as UTF-8") from error
    return row
