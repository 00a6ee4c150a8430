"""What ``personalign doctor`` says: versions, database, basis and model files, and whether they are there."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from personalign.basis import Basis
from personalign.bundled import locate
from personalign.store import doctor

PACKAGES = ("personalign", "torch", "transformers", "peft", "sqlalchemy", "alembic", "numpy")


def examine(store: str, model: str, basis: Path | None) -> dict[str, Any]:
    """Look at everything without changing anything.

    Raises:
        BasisError: the basis can't be read.
        StoreError: the database isn't there or can't be read.
    """
    source = locate(model, basis)
    loaded = Basis.load(source.basis)
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "store": doctor.report(store),
        "basis": {"id": loaded.id, "axes": loaded.num_axes, "questions": len(loaded.bank), "model": loaded.model},
        "model": {"name": source.model, "is_local": Path(source.model).is_dir(), "experts": ", ".join(source.experts)},
    }
