"""The door for files of our own: JSON by a strict schema, arrays by one numeric check; and what a basis may hold.

Nothing is converted, repaired or guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from safetensors import SafetensorError, safe_open

from personalign.errors import BasisError, InputError
from personalign.messages import MAX_TEXT, read_messages, shown
from personalign.types import MAX_AXES, MAX_UTILITY, is_covariance

MAX_BYTES = 1 << 32  # of a file
MAX_NUMBER = 1e9  # in an array: sums of products of such numbers stay finite
MAX_SIZE = 1 << 28  # numbers in an array
MAX_EMBEDDING = 1 << 16  # dimensions
SMALLEST = 1e-12  # standard deviation of an axis over replies
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16"}

S = TypeVar("S", bound=BaseModel)
Name = Annotated[str, StringConstraints(max_length=4096, pattern=r"\S")]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Number = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Size = Annotated[float, Field(ge=0, le=MAX_NUMBER)]
Share = Annotated[float, Field(ge=0, le=1)]
Features = Annotated[list[Number], AfterValidator(np.array)]


class Schema(BaseModel):
    """A JSON object of ours: every key known, every value of its own type, every number finite."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


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


# ---------------------------------------------------------------- a basis

BASIS = Door(BasisError, "make the basis again with: personalign basis bootstrap")


class Version(BaseModel):
    """The one entry of ``config.json`` that every format has."""

    format: int


class _AxisRow(Schema):
    name: Name
    about: Name
    less: Name
    more: Name


class FingerprintsRow(Schema):
    """The hashes of tokenizer and model."""

    tokenizer: Name
    model: Name


class _SteeringRow(Schema):
    beta: Size
    clip: Size
    num_candidates: Annotated[int, Field(ge=1, le=1 << 20)]


class _NoiseRow(Schema):
    tie: Annotated[float, Field(ge=0, le=MAX_UTILITY)]
    lapse: Annotated[float, Field(ge=0, lt=1)]
    side: Annotated[float, Field(ge=0, le=MAX_UTILITY)]


class Config(Schema):
    """``config.json``."""

    format: int
    id: Name
    model: Name
    fingerprints: FingerprintsRow
    axes: Annotated[list[_AxisRow], Field(min_length=1, max_length=MAX_AXES)]
    noise: _NoiseRow
    steering: _SteeringRow
    accuracy: Share | None
    embedder: Name | None = None
    kappa: Share | None = None
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    active: bool = True


class QuestionRow(Schema):
    """A line of ``questions.jsonl``."""

    id: Name
    prompt: Annotated[list[dict[str, str]], AfterValidator(read_messages)]
    first: Text
    second: Text
    first_features: Features
    second_features: Features


def check_questions(rows: Sequence[QuestionRow], d: int, place: str) -> None:
    """Refuse questions that share an id or show one reply twice, and features of other axes."""
    if twice := [name for name, times in Counter(row.id for row in rows).items() if times > 1]:
        raise BASIS.refusal(f"{place} has several questions {twice[0]!r}, expected an id for each")
    for row in rows:
        if row.first == row.second:
            raise BASIS.refusal(f"{place}: question {row.id} shows the same reply twice, expected two that differ")
        if not len(row.first_features) == len(row.second_features) == d:
            raise BASIS.refusal(f"{place}: question {row.id} lacks features, expected {d} of each reply")


def check_arrays(
    arrays: Mapping[str, NDArray[Any]], head: Mapping[str, NDArray[Any]], config: Config, place: str
) -> None:
    """Refuse arrays that are missing or unknown, don't fit the config, or can't be computed with."""
    d, projection = len(config.axes), arrays.get("projection")
    if twice := [name for name, times in Counter(axis.name for axis in config.axes).items() if times > 1]:
        raise BASIS.refusal(f"{place} has several axes {twice[0]!r}, expected a name for each")
    if (projection is None) != (config.embedder is None):
        has = "no" if projection is None else "a"
        raise BASIS.refusal(
            f"{place} has the embedder {config.embedder!r} and {has} projection, expected both or neither"
        )
    if (config.kappa is None) != (config.share is None):
        raise BASIS.refusal(f"{place} has kappa {config.kappa} and share {config.share}, expected both or neither")
    shapes: dict[str, tuple[int | None, ...]] = {"center": (d,), "scale": (d,), "reference": (None, d)}
    shapes |= {"prior.mean": (d,), "prior.covariance": (d, d)}
    shapes |= {} if projection is None else {"projection": (None, None)}
    if arrays.keys() != shapes.keys():
        raise BASIS.refusal(f"{place} holds the arrays {sorted(arrays)}, expected {sorted(shapes)}")
    for name, shape in shapes.items():
        BASIS.check(f"{place}: {name}", arrays[name], shape)
    for name, array in head.items():
        BASIS.check(f"{place}: {name} of the head", array, (None,) * array.ndim, None)
    _check_numbers(arrays, d, place)


def _check_numbers(arrays: Mapping[str, NDArray[Any]], d: int, place: str) -> None:
    if arrays["scale"].min() < SMALLEST:
        raise BASIS.refusal(f"{place}: scale holds {arrays['scale'].min():g}, expected numbers above 0")
    if not is_covariance(arrays["prior.covariance"]):
        raise BASIS.refusal(f"{place}: prior.covariance isn't symmetric and positive definite")
    if not len(arrays["reference"]):
        raise BASIS.refusal(f"{place} has no reference pairs, expected at least one")
    if np.abs(arrays["reference"]).max() < SMALLEST:
        raise BASIS.refusal(f"{place}: reference holds no difference, expected pairs of different replies")
    width, num_learnt = arrays["projection"].shape if "projection" in arrays else (1, 1)
    if not (0 < width <= MAX_EMBEDDING and 0 < num_learnt <= d):
        expected = f"expected up to ({MAX_EMBEDDING}, {d})"
        raise BASIS.refusal(f"{place}: projection has the shape {(width, num_learnt)}, {expected}")
