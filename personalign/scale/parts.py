"""A log cut into parts, each with all answers of its people, in as much memory as one part takes.

A Parquet file that is sorted by user is cut where it lies. Any other log is scattered over files of the work folder
in one pass, by a hash of the user. A part's rows stand in the log's order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from personalign.errors import InputError
from personalign.train.rows import regrades
from personalign.train.work import write_whole
from personalign.types import Ints

PART_BYTES = 1 << 25  # of what a part holds: about 12,500 people who gave ten answers on 32 axes
MOST_FILES = 256  # of parts: all are open while a log is scattered, and systems allow a thousand
BATCH = 1 << 16  # rows that are read at once
FEATURES = "v"  # a column of vectors; or a column for each axis, v_0, v_1, …
TEXTS = pa.schema([(name, pa.string()) for name in ("user", "prompt", "a", "b", "choice", "event")])
TEXT_SUFFIX = ".arrow"


@dataclass(frozen=True)
class Part:
    """Rows of a file."""

    path: str
    start: int = 0
    stop: int = 0  # of a Parquet file; any other is a part as a whole


@dataclass(frozen=True)
class Plan:
    """What is to be done with a log."""

    parts: tuple[Part, ...]
    rows: int  # of the log
    regrades: bool  # whether its "a" and "b" mean "a little better" (``train.log``)
    refused: dict[str, int]  # rows that can't be used, by reason, as far as reading alone tells

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_whole(path, lambda partial: partial.write_text(json.dumps(asdict(self)), encoding="utf-8"))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read what ``save`` wrote."""
        plan = json.loads(path.read_text(encoding="utf-8"))
        return cls(**plan | {"parts": tuple(Part(**part) for part in plan["parts"])})


def plan_features(log: Path, work: Path, num_axes: int) -> Plan | None:
    """Cut a log of features into parts, those to be written in the folder ``work``; None for a log of texts.

    Raises:
        InputError: it isn't a log, or lacks columns.
    """
    if log.is_dir() or not log.exists():
        state = "a folder" if log.is_dir() else "not there"
        raise InputError(f"{log} is {state}; expected a file that ends in .parquet, .jsonl or .csv")
    if log.suffix.lower() == ".parquet":
        with _opened(log) as file:
            if columns := feature_columns(file.schema_arrow, num_axes):
                return _plan_features(log, file, work, ["user", "choice", *columns])
    return None


def feature_columns(schema: pa.Schema, num_axes: int) -> list[str]:
    """The columns of features in a log; none where it has texts. InputError where they don't fit the axes."""
    single = [name for name in schema.names if name.startswith(f"{FEATURES}_")]
    columns = [FEATURES] if FEATURES in schema.names else [f"{FEATURES}_{j}" for j in range(num_axes)] if single else []
    if missing := [name for name in ("user", "choice", *columns) if columns and name not in schema.names]:
        raise InputError(
            f"the log has no column {', '.join(missing[:3])}; expected user, choice, and {FEATURES} or {FEATURES}_0 to "
            f"{FEATURES}_{num_axes - 1} for the basis's {num_axes} axes"
        )
    if len(single) > num_axes:
        raise InputError(
            f"the log has {len(single)} columns of features, the basis has {num_axes} axes; pass its basis"
        )
    for name in ("user", "choice", *columns):
        _check_type(schema.field(name), num_axes)
    return columns


def read_part(part: Part) -> pa.Table:
    """Read a part's rows, as the log has them."""
    if part.path.endswith(TEXT_SUFFIX):
        with pa.OSFile(part.path) as file:
            return pa.ipc.open_stream(file).read_all()
    with _opened(Path(part.path)) as file:
        names = [name for name in file.schema_arrow.names if name in {"user", "choice"} or name.startswith(FEATURES)]
        groups, before = _overlapping(file, part)
        table = file.read_row_groups(groups, names, use_threads=False)
    return table.slice(part.start - before, part.stop - part.start)


def _overlapping(file: pq.ParquetFile, part: Part) -> tuple[list[int], int]:
    """The row groups that a part is in, and how many rows there are before them."""
    ends = np.cumsum([0] + [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
    groups = np.flatnonzero((ends[:-1] < part.stop) & (ends[1:] > part.start))
    return groups.tolist(), int(ends[groups[0]])


def _check_type(field: pa.Field, num_axes: int) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if field.name in {"user", "choice"}:
        expected, fits = "text", pa.types.is_string(kind) or pa.types.is_large_string(kind)
    elif field.name == FEATURES:
        is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)
        width = kind.list_size if pa.types.is_fixed_size_list(kind) else num_axes
        expected = f"lists of {num_axes} numbers"
        fits = is_list and pa.types.is_floating(kind.value_type) and width == num_axes
    else:
        expected, fits = "numbers", pa.types.is_floating(kind) or pa.types.is_integer(kind)
    if not fits:
        raise InputError(f"the log's column {field.name!r} holds {field.type}, expected {expected}; write it as such")


@contextmanager
def _opened(log: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(log) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk, above all
        raise InputError(f"{log} can't be read ({error}); expected a whole Parquet file") from error


# ---------------------------------------------------------------- features


def _plan_features(log: Path, file: pq.ParquetFile, work: Path, columns: Sequence[str]) -> Plan:
    cuts, choices = _cuts(file, max(1, PART_BYTES // _row_bytes(file)))
    rows, is_regraded = file.metadata.num_rows, regrades(choices)
    if not rows:
        return Plan((), 0, regrades=False, refused={})
    if cuts is not None:
        parts = tuple(Part(str(log.resolve()), *ends) for ends in zip(cuts, [*cuts[1:], rows], strict=True))
        return Plan(parts, rows, is_regraded, {})
    num_parts = 1 + rows * _row_bytes(file) // PART_BYTES
    with Scatter(work, num_parts) as scatter:
        for batch in file.iter_batches(BATCH, columns=columns, use_threads=False):
            scatter.add(pa.Table.from_batches([batch]))
    return Plan(scatter.parts, rows, is_regraded, {})


def _row_bytes(file: pq.ParquetFile) -> int:
    sizes: list[int] = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)]
    return 1 + sum(sizes) // max(int(file.metadata.num_rows), 1)


def _cuts(file: pq.ParquetFile, most: int) -> tuple[list[int] | None, set[str]]:
    """Rows at which parts begin, and all choices; None where people aren't sorted, or a row group is too large."""
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    row, last, is_sorted = 0, None, max(sizes, default=0) <= 4 * most
    cuts: list[int] = [0] if any(sizes) else []
    choices: set[str] = set()
    for batch in file.iter_batches(BATCH, columns=["user", "choice"], use_threads=False):
        users, texts = (batch.column(i).cast(pa.string()) for i in range(2))
        choices.update(choice for choice in texts.unique().to_pylist() if choice is not None)
        if is_sorted and users.null_count == 0 and len(users):
            users = pa.concat_arrays([pa.array([users[0] if last is None else last], pa.string()), users])
            is_sorted = bool(pc.all(pc.less_equal(users[:-1], users[1:])).as_py())
            begins = row + np.flatnonzero(pc.not_equal(users[:-1], users[1:]).to_numpy(zero_copy_only=False))
            for begin in begins[np.searchsorted(begins, cuts[-1] + most) :].tolist():
                if begin >= cuts[-1] + most:
                    cuts.append(begin)
            last = users[-1]
        is_sorted = is_sorted and users.null_count == 0
        row += batch.num_rows
    return (cuts if is_sorted else None), choices


# ---------------------------------------------------------------- files of parts


class Scatter(ExitStack):
    """Writes tables into files, each person's rows into one of them."""

    def __init__(self, work: Path, num_parts: int) -> None:
        super().__init__()
        self._paths = [work / f"rows-{i:05}{TEXT_SUFFIX}" for i in range(min(num_parts, MOST_FILES))]
        self._writers: list[pa.ipc.RecordBatchStreamWriter] = []

    @property
    def parts(self) -> tuple[Part, ...]:
        """Those that were written."""
        return tuple(Part(str(path)) for path in self._paths if path.exists())

    def add(self, table: pa.Table) -> None:
        """Write the rows of a table, in its order."""
        if not self._writers:
            self._writers = [self._open(path, table.schema) for path in self._paths]
        place = _places(table["user"].combine_chunks(), len(self._paths))
        order = np.argsort(place, kind="stable")
        ends, table = np.searchsorted(place[order], np.arange(len(self._paths) + 1)), table.take(pa.array(order))
        for writer, start, stop in zip(self._writers, ends[:-1], ends[1:], strict=True):
            if stop > start:
                writer.write_table(table.slice(start, stop - start))

    def _open(self, path: Path, schema: pa.Schema) -> pa.ipc.RecordBatchStreamWriter:
        file = self.enter_context(pa.OSFile(str(path), "wb"))
        return self.enter_context(closing(pa.ipc.new_stream(file, schema)))


def _places(users: pa.Array, num_parts: int) -> Ints:
    """Which of the parts each row belongs to; rows without a user to any."""
    whole = users.cast(pa.binary()).dictionary_encode()
    place_of = [crc32(user or b"") % num_parts for user in whole.dictionary.to_pylist()]
    return np.asarray(np.array(place_of or [0], dtype=np.int64)[whole.indices.fill_null(0).to_numpy()])
