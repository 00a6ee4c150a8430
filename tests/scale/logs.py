"""Logs of people with known answers, and the bundled basis that they are fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from personalign.basis import Basis
from personalign.bundled import ZOO
from personalign.learn.fit import fit
from personalign.learn.mixture import Mixture
from personalign.scale.block import answer_schema
from personalign.scale.fit import Ways
from personalign.types import CHOICES, Array, Ints

FOLDER = ZOO / "tiny" / "basis"
BASIS = Basis.load(FOLDER)
WAYS = Ways(FOLDER, "tiny")
D = BASIS.num_axes


def drawn(num_people: int, num_answers: int, seed: int = 0) -> tuple[list[str], list[str], Array]:
    """Users, choices and features, a row for each answer, person after person."""
    rng = np.random.default_rng(seed)
    users = [f"u{i:04}" for i in range(num_people) for _ in range(num_answers)]
    choices = rng.choice(["a", "b", "tie", "skip"], len(users), p=[0.45, 0.4, 0.1, 0.05]).tolist()
    return users, choices, rng.normal(size=(len(users), D))


def raw(users: list[str | None], choices: list[str | None], v: Array) -> pa.Table:
    """As a log has it, a column for each axis."""
    return pa.table({"user": users, "choice": choices} | {f"v_{j}": v[:, j] for j in range(v.shape[1])})


def answers(users: list[str], choices: list[str], v: Array) -> pa.Table:
    """As ``fit_block`` takes it."""
    names = pa.array(users).dictionary_encode()
    places = pa.array([CHOICES.index(choice) for choice in choices], pa.int8())
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), v.shape[1])
    return pa.Table.from_arrays([names, places, vectors], schema=answer_schema(v.shape[1]))


def written(path: Path, table: pa.Table, rows: int = 1 << 20) -> Path:
    """A log in Parquet, so many rows in a group."""
    pq.write_table(table, path, row_group_size=rows)
    return path


def shuffled(users: list[str], choices: list[str], v: Array) -> tuple[list[str], list[str], Array, Ints]:
    """The same rows in another order, in which each person's stay in theirs."""
    order = np.argsort(np.random.default_rng(1).permutation(len(users)) % 7, kind="stable")
    order = order[np.argsort([users[i][-1] for i in order], kind="stable")]
    return [users[i] for i in order], [choices[i] for i in order], v[order], order


def means(table: pa.Table) -> dict[str, bytes]:
    """Everybody's mean, in bytes."""
    return {row["user"]: np.array(row["mean"]).tobytes() for row in table.to_pylist()}


def alone(choices: list[str], v: Array, weight: Array | None = None) -> bytes:
    """The mean of a person's own fit, in bytes."""
    return fit(v, choices, Mixture.of_people(BASIS), BASIS.noise, weight).mean.tobytes()
