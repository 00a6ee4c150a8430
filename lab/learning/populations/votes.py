"""Votes: what many people said of pairs of texts, as features of the pairs; read from the data folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import NDArray

from personalign.errors import InputError


class MissingData(InputError):  # noqa: N818 - reads as what happened
    """A set isn't in the data folder: its figures are left out."""


@dataclass(frozen=True, eq=False)
class Votes:
    """N votes: whose, on which prompt, of which pair, and what was said."""

    user: Integer[NDArray[np.int64], "N"]
    group: Integer[NDArray[np.int64], "N"]  # users who are held out together
    prompt: Integer[NDArray[np.int64], "N"]
    v: Float[NDArray[np.float64], "N F"]  # left minus right, in standard deviations of the texts' features
    choice: NDArray[Any]  # texts: "a", "b" or "tie"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, one a line.

    Raises:
        MissingData: there is no such file.
    """
    return [json.loads(line) for line in read(path).split("\n") if line]


def read(path: Path) -> str:
    """A file of the data folder."""
    if not path.is_file():
        raise MissingData(f"there is no {path}; pass the folder that holds {path.parent.name}/ with --data")
    return path.read_text(encoding="utf-8")


def numbered(names: list[str]) -> Integer[NDArray[np.int64], "N"]:
    """Number names by the order of the alphabet."""
    return np.asarray(np.unique(np.array(names), return_inverse=True)[1], dtype=np.int64)
