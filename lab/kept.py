"""Outcomes of a run that was stopped: the same run goes on after them. They are thrown away when it has ended."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

import personalign
from lab.quality.arms import Arm, Outcome


@dataclass(frozen=True)
class Kept:
    """A folder of outcomes under the hash of all they follow from, this package's own code included."""

    folder: Path

    @classmethod
    def in_folder(cls, work: Path, content: Mapping[str, Any]) -> Kept:
        """The outcomes in a work folder that follow from ``content``."""
        code = sorted(Path(personalign.__file__).parent.rglob("*.py"))
        whole = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        for path in code:
            whole.update(path.read_bytes())
        return cls(work / f"outcomes-{whole.hexdigest()[:16]}")

    def outcome(self, arm: Arm, measure: Callable[[Arm], Outcome]) -> Outcome:
        """Load an arm's outcome, or measure and keep it."""
        path = self.folder / f"{arm.name}.npz"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _save(measure(arm), path)
        with np.load(path) as arrays:
            values = {name: value if value.ndim else value.item() for name, value in arrays.items()}
        return Outcome(arm, **values)

    def clear(self) -> None:
        """Throw them away."""
        shutil.rmtree(self.folder)


def _save(outcome: Outcome, path: Path) -> None:
    """Who stops a run meanwhile leaves no half of a file."""
    values = {f.name: getattr(outcome, f.name) for f in fields(outcome) if f.name != "arm"}
    part = path.with_suffix(".part.npz")
    np.savez(part, **{name: value for name, value in values.items() if value is not None})
    part.replace(path)
