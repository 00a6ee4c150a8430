"""Profiles from files of parts into a store, which serves them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path

import pyarrow.parquet as pq

from personalign.basis import Basis
from personalign.scale.block import matrix
from personalign.scale.engines import run_local
from personalign.store import Store
from personalign.store.bulk import Profiles, Written
from personalign.train.work import bar


@dataclass(frozen=True)
class StoreSink:
    """A database by its URL; each part is one transaction."""

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
        table["answers"].to_numpy(),
        table["informative"].to_numpy(),
    )
    with Store.open(url, create=False) as store:
        return store.bulk.put(profiles)
