"""The door for files of our own: JSON by a strict schema, arrays by one numeric check.

Nothing is converted, repaired or guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from safetensors import SafetensorError, safe_open

from personalign.errors import InputError
from personalign.messages import MAX_TEXT, shown

MAX_BYTES = 1 << 32  # of a file
MAX_NUMBER = 1e9  # in an array: sums of products of such numbers stay finite
MAX_SIZE = 1 << 28  # numbers in an array
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16"}

S = TypeVar("S", bound=BaseModel)
Name = Annotated[str, StringConstraints(max_length=4096, pattern=r"\S")]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Number = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Size = Annotated[float, Field(ge=0, le=MAX_NUMBER)]
Share = Annotated[float, Field(ge=0, le=1)]


class Schema(BaseModel):
    """A JSON object of ours: every key known, every value of its own type, every number finite."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class FingerprintsRow(Schema):
    """The hashes of tokenizer and model."""

    tokenizer: Name
    model: Name


@dataclass(frozen=True)
class Door:
    """How files of one kind are read: the error that refuses them, and what it advises."""

    error: type[InputError]
    advice: str

    def refusal(self, sentence: str) -> InputError:
        """The error to raise for what was found and expected."""
        return self.error(f"{sentence}; {self.advice}")

    def read(self, path: Path) -> bytes:
        """Read a file of at most 4 GB."""
        try:
            if (size := path.stat().st_size) > MAX_BYTES:
                raise self.refusal(f"{path} has {size} bytes, expected at most {MAX_BYTES}")
            return path.read_bytes()
        except OSError as failure:
            raise self.refusal(f"{path} can't be read ({failure})") from failure

    def parse(self, schema: type[S], text: bytes, place: str) -> S:
        """Read a JSON object; a refusal names the key and its value."""
        try:
            return schema.model_validate_json(text)
        except ValidationError as failure:
            fault = failure.errors(include_url=False, include_context=False)[0]
            keys = "".join(f", {part}" for part in fault["loc"])
            value = "" if fault["type"] in {"missing", "json_invalid"} else f" (found {shown(fault['input'])})"
            raise self.refusal(f"{place}{keys}: {fault['msg'].removeprefix('Value error, ')}{value}") from failure

    def arrays(self, path: Path) -> dict[str, NDArray[Any]]:
        """Load a safetensors file's arrays of floating-point numbers, each of them finite and bounded."""
        try:
            with safe_open(path, "np") as file:
                parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it isn't a mapping
                for name, part in parts.items():
                    self._check_header(f"{path}: {name}", part.get_dtype(), part.get_shape())
                return {name: file.get_tensor(name) for name in parts}
        except (SafetensorError, OSError) as failure:
            raise self.refusal(f"{path} isn't a readable safetensors file ({failure})") from failure

    def _check_header(self, place: str, dtype: str, shape: Sequence[int]) -> None:
        """Refuse what numpy can't hold before any memory is reserved."""
        if dtype not in DTYPES:
            raise self.refusal(f"{place} holds {dtype}, expected one of {', '.join(DTYPES)}")
        if not all(size <= MAX_SIZE for size in shape) or np.prod(shape, dtype=float) > MAX_SIZE:
            raise self.refusal(f"{place} has the shape {tuple(shape)}, expected at most {MAX_SIZE} numbers")

    def check(self, place: str, array: NDArray[Any], shape: Sequence[int | None], dtype: str | None = "F64") -> None:
        """Refuse another shape (None: any size), another type, NaN, Inf and huge numbers."""
        if dtype is not None and array.dtype != DTYPES[dtype]:
            raise self.refusal(f"{place} is {array.dtype}, expected {DTYPES[dtype]}")
        if array.ndim != len(shape) or any(s not in {None, n} for s, n in zip(shape, array.shape, strict=True)):
            expected = ", ".join("any" if size is None else str(size) for size in shape)
            raise self.refusal(f"{place} has the shape {array.shape}, expected ({expected})")
        if not np.isfinite(array).all():
            raise self.refusal(f"{place} holds NaN or Inf, expected finite numbers")
        if array.size and max(float(array.max()), -float(array.min())) > MAX_NUMBER:
            raise self.refusal(f"{place} holds {np.abs(array).max():.3g}, expected numbers up to {MAX_NUMBER:g}")
