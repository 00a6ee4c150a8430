"""A store as the source of people's answers, as the product's own fit takes them, and as the place of profiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from personalign.basis import Basis
from personalign.errors import InputError
from personalign.learn.evidence import evidence
from personalign.scale.block import KNOWN, matrix, vectors
from personalign.scale.engines import run_local
from personalign.scale.parts import BATCH, FEATURES, Plan, Scatter
from personalign.store import Store
from personalign.store.bulk import Profiles, Stored, Written
from personalign.train.work import bar, track_all

PEOPLE = 25_000  # of a part
STATED = "a person who stated something, which only a fit of their own takes"
LOGGED = "a person of whom a log told before, which only a fit of their own takes"


@dataclass(frozen=True)
class StoreSource:
    """The people who answered on the basis in a store, by ranges of their ids."""

    url: str
    half_life_days: float | None = None

    @property
    def name(self) -> str:
        """What errors say: a URL may hold a password."""
        return "the store"

    def state(self, basis: Basis) -> list[object]:
        """The URL, and what differs after any answer."""
        with Store.open(self.url, create=False) as store:
            return [self.url, self.half_life_days, store.bulk.state(basis.id)]

    def plan(self, work: Path, basis: Basis) -> Plan:
        """Read everybody's answers into files of the folder ``work``.

        Raises:
            StoreError: the store can't be opened, or a row is damaged.
        """
        refused: Counter[str] = Counter()
        rows = 0
        with Store.open(self.url, create=False) as store, Scatter(work, 1 + store.num_people() // PEOPLE) as scatter:
            for table in _tables(store, basis, self.half_life_days, refused):
                rows += table.num_rows
                scatter.add(table)
        return Plan(scatter.parts, rows + refused.total(), regrades=False, refused=dict(refused))


@dataclass(frozen=True)
class StoreSink:
    """A store that takes profiles, those of each part in one transaction."""

    url: str

    @property
    def name(self) -> str:
        """What the report says: a URL may hold a password."""
        return "the store"

    def check(self) -> None:
        """Refuse a store that can't be opened."""
        Store.open(self.url).close()

    def put(self, parts: Sequence[Path], basis: Basis) -> Mapping[str, int]:
        """Write the profiles, and tell how many were written and how many people were left as they are."""
        with Store.open(self.url) as store:
            store.save_basis(basis.id, basis.model, {"axes": [axis.name for axis in basis.axes]})
        done = []
        with bar("storing", len(parts)) as advance:
            for written in run_local(partial(put_part, self.url, basis.id), parts):
                done.append(written)
                advance()
        return asdict(reduce(add, done, Written(0, 0, 0)))


def put_part(url: str, basis_id: str, path: Path) -> Written:
    """Write the profiles of one part's file."""
    table = pq.read_table(path, use_threads=False)
    d = table.schema.field("mean").type.list_size
    profiles = Profiles(
        basis_id,
        table["user"].to_pylist(),
        matrix(table["mean"], d),
        matrix(table["variance"], d),
        table["answers"].to_numpy().astype(np.int64),
        table["informative"].to_numpy().astype(np.int64),
    )
    with Store.open(url, create=False) as store:
        return store.bulk.put(profiles)


def check_apart(source: str, sink: str) -> None:
    """Refuse to read and write one store: people's profiles there follow from their answers already."""
    if source == sink:
        raise InputError(
            "the answers and the profiles are in one store, where each profile follows from its answers; pass another "
            "--store or --out, or fit people anew on another basis with: personalign db refit"
        )


def _tables(store: Store, basis: Basis, half_life_days: float | None, refused: Counter[str]) -> Iterator[pa.Table]:
    schema = pa.schema([("user", pa.string()), ("choice", pa.string()), (FEATURES, vectors(basis.num_axes)), *KNOWN])
    rows: list[dict[str, Any]] = []
    for person in track_all(store.bulk.people(basis.id), "reading", store.num_people()):
        if person.is_stated or person.is_logged:
            refused[LOGGED if person.is_logged else STATED] += len(person.answers)
            continue
        rows += _rows(person, basis, half_life_days)
        if len(rows) >= BATCH:
            yield pa.Table.from_pylist(rows, schema=schema)
            rows.clear()
    yield pa.Table.from_pylist(rows, schema=schema)


def _rows(person: Stored, basis: Basis, half_life_days: float | None) -> Iterator[dict[str, Any]]:
    v, choices, weight = evidence(person.answers, basis.prior, half_life_days)
    counts = {"answers": person.num_answers, "informative": person.num_informative}
    for features, choice, share in zip(v, choices, weight.tolist(), strict=True):
        yield {"user": person.user, "choice": choice, FEATURES: features, "weight": share} | counts
