"""What is stored as bytes, and how its damage is noticed: arrays, and checksums over whole rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime

import numpy as np

from personalign.errors import ProfileError, StoreError
from personalign.types import Array


def encode(array: Array) -> bytes:
    """Write the array's content as little-endian float64, row by row."""
    return np.ascontiguousarray(array, dtype="<f8").tobytes()


def decode(blob: bytes, shape: tuple[int, ...]) -> Array:
    """Read an array of this shape; StoreError where the length doesn't fit it."""
    expected = 8 * int(np.prod(shape))
    if len(blob) != expected:
        raise StoreError(f"a stored array has {len(blob)} bytes, expected {expected}; restore the store from a backup")
    return np.frombuffer(blob, dtype="<f8").reshape(shape).astype(np.float64)


def checksum(values: Mapping[str, object]) -> str:
    """SHA-256 over columns by name; whatever a damaged column holds has one, too."""
    digest = hashlib.sha256()
    for name in sorted(values):
        content = _content(values[name])
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def check_finite(what: str, *arrays: Array | float) -> None:
    """Refuse NaN and Inf."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise ProfileError(
            f"{what} holds NaN or Inf, expected finite numbers; undo the last answer, or forget the person"
        )


def _content(value: object) -> bytes:
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogateescape")  # as the driver reads text that isn't UTF-8
    if isinstance(value, datetime):
        return b"t" + value.isoformat().encode()
    if isinstance(value, float):
        return b"f" + repr(value + 0.0).encode()  # SQLite keeps no sign of 0
    return b"j" + json.dumps(value, sort_keys=True).encode()
