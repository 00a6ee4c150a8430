"""Arrays as bytes: little-endian float64, with a checksum over shapes and content, checked when they are read."""

from __future__ import annotations

import hashlib

import numpy as np

from personalign.errors import ProfileError, StoreError
from personalign.types import Array


def encode(array: Array) -> bytes:
    """Write the array's content, row by row."""
    return np.ascontiguousarray(array, dtype="<f8").tobytes()


def decode(blob: bytes, shape: tuple[int, ...]) -> Array:
    """Read an array of this shape; StoreError where the length doesn't fit it."""
    expected = 8 * int(np.prod(shape))
    if len(blob) != expected:
        raise StoreError(f"a stored array has {len(blob)} bytes, expected {expected}; restore the store from a backup")
    return np.frombuffer(blob, dtype="<f8").reshape(shape).astype(np.float64)


def checksum(*arrays: Array) -> str:
    """SHA-256 over shapes and content."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}".encode() + encode(array))
    return digest.hexdigest()


def check(stated: str, *arrays: Array) -> None:
    """Refuse arrays that changed since they were written (StoreError) or aren't finite (ProfileError)."""
    if checksum(*arrays) != stated:
        raise StoreError("a stored array doesn't match its checksum: the file was damaged; restore it from a backup")
    check_finite("a stored array", *arrays)


def check_finite(what: str, *arrays: Array) -> None:
    """Refuse NaN and Inf."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise ProfileError(
            f"{what} holds NaN or Inf, expected finite numbers; undo the last answer or forget the person"
        )
