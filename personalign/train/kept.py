"""Pieces of work that outlive a killed run: each is a file under the hash of all that it follows from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Arrays = dict[str, NDArray[Any]]


def identity(*parts: object) -> str:
    """A name for what follows from these arrays and JSON values."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]


def keep(path: Path, make: Callable[[], Mapping[str, NDArray[Any]]]) -> Arrays:
    """Read the arrays that an earlier run left at ``path``, or make them and leave them there."""
    if not path.exists():
        # safetensors writes memory as it is: a transposed view would come back as other numbers
        arrays = {name: np.asarray(array, order="C") for name, array in make().items()}
        write_whole(path, lambda partial: save_file(arrays, partial))
    return load_file(path)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, and put it there once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    write(partial)
    partial.replace(path)
