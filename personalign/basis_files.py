"""What the files of a basis may hold: the schemas of its JSON, and checks of what a schema doesn't say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field

from personalign.artefact import Door, FingerprintsRow, Name, Number, Schema, Share, Size, Text
from personalign.errors import BasisError
from personalign.messages import MAX_REPLIES, read_messages
from personalign.types import MAX_AXES, MAX_UTILITY, Noise, is_covariance

MAX_EMBEDDING = 1 << 16  # dimensions
MAX_PARTICLES = 1 << 14
SMALLEST = 1e-12  # standard deviation of an axis over replies
Features = Annotated[list[Number], AfterValidator(np.array)]
BASIS = Door(BasisError, "make the basis again with: personalign basis bootstrap")


class Version(BaseModel):
    """The one entry of ``config.json`` that every format has."""

    format: int


class _AxisRow(Schema):
    name: Name
    about: Name
    less: Name
    more: Name


class _SteeringRow(Schema):
    beta: Size
    clip: Size
    num_candidates: Annotated[int, Field(ge=1, le=1 << 20)]


class _NoiseRow(Schema):
    tie: Annotated[float, Field(ge=0, le=MAX_UTILITY)]
    lapse: Annotated[float, Field(ge=0, lt=1)]
    side: Annotated[float, Field(ge=0, le=MAX_UTILITY)]
    much: Annotated[float, Field(gt=0, le=MAX_UTILITY)] = Noise.much


class _SharesRow(Schema):
    nothing: Share
    few: Share


class Config(Schema):
    """``config.json``."""

    format: int
    id: Name
    model: Name
    fingerprints: FingerprintsRow
    axes: Annotated[list[_AxisRow], Field(min_length=1, max_length=MAX_AXES)]
    noise: _NoiseRow
    shares: _SharesRow
    steering: _SteeringRow
    accuracy: Share | None
    embedder: Name | None = None
    items: tuple[Text, ...] = ()
    active: bool = True


class QuestionRow(Schema):
    """A line of ``questions.jsonl``."""

    id: Name
    prompt: Annotated[list[dict[str, str]], AfterValidator(read_messages)]
    first: Text
    second: Text
    first_features: Features
    second_features: Features
    others: Annotated[tuple[Text, ...], Field(max_length=MAX_REPLIES - 2)] = ()
    other_features: tuple[Features, ...] = ()

    @property
    def replies(self) -> tuple[str, ...]:
        """All replies, the pair first."""
        return (self.first, self.second, *self.others)


def check_questions(rows: Sequence[QuestionRow], d: int, place: str) -> None:
    """Refuse questions that share an id or show one reply twice, and features of other axes."""
    if twice := [name for name, times in Counter(row.id for row in rows).items() if times > 1]:
        raise BASIS.refusal(f"{place} has several questions {twice[0]!r}, expected an id for each")
    for row in rows:
        if len({*row.replies}) < len(row.replies):
            raise BASIS.refusal(f"{place}: question {row.id} shows the same reply twice, expected replies that differ")
        features = (row.first_features, row.second_features, *row.other_features)
        if len(features) != len(row.replies) or any(len(each) != d for each in features):
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
    if config.shares.nothing + config.shares.few > 1:
        raise BASIS.refusal(f"{place} has the {config.shares}, which sum to more than 1; expected shares of all people")
    shapes: dict[str, tuple[int | None, ...]] = {"center": (d,), "scale": (d,), "reference": (None, d)}
    shapes |= {"prior.mean": (d,), "prior.covariance": (d, d)}
    shapes |= {} if projection is None else {"projection": (None, None)}
    shapes |= {"particles": (None, d)} if "particles" in arrays else {}
    if arrays.keys() != shapes.keys():
        raise BASIS.refusal(f"{place} holds the arrays {sorted(arrays)}, expected {sorted(shapes)}")
    for name, shape in shapes.items():
        BASIS.check(f"{place}: {name}", arrays[name], shape)
    for name, array in head.items():
        BASIS.check(f"{place}: {name} of the head", array, (None,) * array.ndim, None)
    _check_numbers(arrays, d, place)
    num, rows = len(config.items), len(arrays.get("projection", ()))
    if num and not len(set(config.items)) == num == rows:
        raise BASIS.refusal(f"{place} has {num} known items and a projection of {rows} rows, expected one for each")


def _check_numbers(arrays: Mapping[str, NDArray[Any]], d: int, place: str) -> None:
    if arrays["scale"].min() < SMALLEST:
        raise BASIS.refusal(f"{place}: scale holds {arrays['scale'].min():g}, expected numbers above 0")
    if not is_covariance(arrays["prior.covariance"]):
        raise BASIS.refusal(f"{place}: prior.covariance isn't symmetric and positive definite")
    if not len(arrays["reference"]):
        raise BASIS.refusal(f"{place} has no reference pairs, expected at least one")
    if np.abs(arrays["reference"]).max() < SMALLEST:
        raise BASIS.refusal(f"{place}: reference holds no difference, expected pairs of different replies")
    if "particles" in arrays and not 0 < (num := len(arrays["particles"])) <= MAX_PARTICLES:
        raise BASIS.refusal(f"{place} has {num} particles, expected from 1 to {MAX_PARTICLES}, or no such array")
    width, num_learnt = arrays["projection"].shape if "projection" in arrays else (1, 1)
    if not (0 < width <= MAX_EMBEDDING and 0 < num_learnt <= d):
        expected = f"expected up to ({MAX_EMBEDDING}, {d})"
        raise BASIS.refusal(f"{place}: projection has the shape {(width, num_learnt)}, {expected}")
