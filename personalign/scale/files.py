"""A log as a file, and profiles as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from personalign.basis import Basis
from personalign.errors import InputError
from personalign.scale.block import profile_schema
from personalign.scale.parts import Plan, plan_features


@dataclass(frozen=True)
class LogFile:
    """A log in Parquet, JSONL or CSV."""

    path: Path

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    def state(self, basis: Basis) -> list[object]:  # noqa: ARG002 - the file is the same for each
        """Its path, size and time: another log, or a changed one, has another state."""
        facts = self.path.stat() if self.path.is_file() else None
        return [str(self.path.resolve()), facts and facts.st_size, facts and facts.st_mtime_ns]

    def plan(self, work: Path, basis: Basis) -> Plan:
        """Cut it into parts; those that have to be written are put into the folder ``work``."""
        plan = plan_features(self.path, work, basis.num_axes)
        if plan is not None:
            return plan
        from personalign.scale.texts import plan_texts  # loads torch

        return plan_texts(self.path, work)


@dataclass(frozen=True)
class ProfileFile:
    """A new Parquet file of profiles."""

    path: Path

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    def check(self) -> None:
        """Refuse a file that is there, or a folder that isn't."""
        if self.path.exists():
            raise InputError(f"{self.path} is there already; pass another --out, or remove it")
        if not self.path.parent.is_dir():
            raise InputError(f"the folder {self.path.parent} isn't there; make it, or pass another --out")

    def put(self, parts: Sequence[Path], basis: Basis) -> Mapping[str, int]:
        """Write them one after the other; the file is there once it is whole."""
        unfinished = self.path.with_name(f".{self.path.name}.partial")
        schema = profile_schema(basis.num_axes).with_metadata({"basis": basis.id})
        try:
            with pq.ParquetWriter(unfinished, schema, use_dictionary=False) as writer:
                for path in parts:
                    table = pq.read_table(path, use_threads=False)
                    writer.write_table(table.replace_schema_metadata(schema.metadata))
            unfinished.replace(self.path)
        finally:
            unfinished.unlink(missing_ok=True)
        return {}
