"""A log of texts in JSONL, CSV or Parquet, cut into parts: its rows are checked one by one, as ``train.log`` does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from personalign.errors import InputError
from personalign.scale.parts import BATCH, PART_BYTES, TEXTS, Plan, Scatter
from personalign.train.log import to_answer
from personalign.train.rows import BadRowError, Row, read_rows, regrades
from personalign.train.work import track_all

CHUNK_BYTES = 1 << 20


def plan_texts(log: Path, work: Path) -> Plan:
    """Read a log as ``basis fit`` does, and scatter its rows over files of the folder ``work``.

    Raises:
        InputError: it isn't a log of answers, or lacks a column.
    """
    refused: Counter[str] = Counter()
    choices: set[str] = set()
    rows = 0
    with Scatter(work, 1 + log.stat().st_size // PART_BYTES) as scatter:
        for table in _text_tables(log, refused):
            choices.update(table["choice"].unique().to_pylist())
            rows += table.num_rows
            scatter.add(table)
    return Plan(scatter.parts, rows + refused.total(), regrades(choices), dict(refused))


def _num_rows(log: Path) -> int:
    """About how many rows there are: a text may hold line ends."""
    if log.suffix.lower() == ".parquet":
        with suppress(pa.ArrowException, OSError):  # which reading will tell
            return int(pq.read_metadata(log).num_rows)
        return 0
    with log.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(CHUNK_BYTES), b""))


def _text_tables(log: Path, refused: Counter[str]) -> Iterator[pa.Table]:
    rows: list[dict[str, str]] = []
    for row in track_all(read_rows(log), "reading", _num_rows(log)):
        if isinstance(row, Row) and row.is_rating:
            raise InputError(f"{log} has ratings, expected answers: user, prompt, a, b and choice")
        try:
            answer = to_answer(row)
        except BadRowError as error:
            refused[error.reason] += error.num_lines
            continue
        texts = {"user": answer.user, "a": answer.a, "b": answer.b, "choice": answer.choice}
        rows.append(texts | {"prompt": json.dumps(answer.prompt), "event": json.dumps(answer.event)})
        if len(rows) == BATCH:
            yield pa.Table.from_pylist(rows, schema=TEXTS)
            rows.clear()
    yield pa.Table.from_pylist(rows, schema=TEXTS)
