"""One harness for all measurements: figures with intervals and bars, groups that are chosen by name, and the result.

A benchmark gives its groups of figures and, for each, rows; ``Report`` puts them beside machine and versions, renews
the result file with each row, and is what is printed as the one JSON object.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import psutil
from rich.console import Console
from rich.progress import track

from personalign.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Bar:
    """What a figure has to reach."""

    sense: Literal["≥", "≤"]
    limit: float

    def __str__(self) -> str:
        return f"{self.sense} {self.limit:g}"

    def is_reached(self, value: float) -> bool:
        """Whether a figure is on the right side."""
        return value >= self.limit if self.sense == "≥" else value <= self.limit


@dataclass(frozen=True)
class Between:
    """What a figure that can be too high as well has to reach."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} … {self.high:g}"

    def is_reached(self, value: float) -> bool:
        """Whether a figure is neither too low nor too high."""
        return self.low <= value <= self.high


Bars = Mapping[str, Bar | Between] | Mapping[str, Bar]


def judge(bar: Bar | Between | None, value: float) -> dict[str, Any]:
    """What stands beside a figure that has to reach something."""
    return {} if bar is None else {"bar": str(bar), "is_reached": bar.is_reached(value)}


@dataclass(frozen=True)
class Row:
    """A figure, its 95 % interval where there is one, and further facts about it."""

    figure: str
    value: float
    low: float | None = None
    high: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def estimated(
        cls, figure: str, interval: tuple[float, float, float], facts: Mapping[str, Any] | None = None
    ) -> Row:
        """A figure from its value and bounds."""
        return cls(figure, *interval, facts or {})

    def to_json(self) -> dict[str, Any]:
        """All of it on one level; four digits are enough."""
        row = {"figure": self.figure, "value": self.value, "low": self.low, "high": self.high} | dict(self.facts)
        return {name: round(x, 4) if isinstance(x, float) else x for name, x in row.items() if x is not None}


@dataclass(frozen=True)
class Group(Generic[T]):
    """Figures that are measured together, on the subject that the benchmark hands them."""

    figures: tuple[str, ...]
    measure: Callable[[T], Iterator[Row]]


def choose(groups: Sequence[Group[T]], only: str) -> list[Group[T]]:
    """The groups with a figure whose name begins with ``only``.

    Raises:
        InputError: no figure's name begins so.
    """
    chosen = [group for group in groups if any(name.startswith(only) for name in group.figures)]
    if not chosen:
        names = ", ".join(name for group in groups for name in group.figures)
        raise InputError(f"no figure begins with {only!r}; expected the beginning of one of {names}")
    return chosen


@dataclass
class Report:
    """A result as it grows."""

    command: str
    device: str
    packages: Sequence[str] = ("torch", "transformers", "personalign")
    bars: Bars = field(default_factory=dict)
    out: Path | None = None  # renewed with each row
    facts: dict[str, Any] = field(default_factory=dict)  # further keys of the result
    rows: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def extend(self, rows: Iterable[Row]) -> None:
        """Take rows as they are measured."""
        for row in rows:
            self.figures[row.figure] = round(row.value, 4)
            self.rows.append(row.to_json() | judge(self.bars.get(row.figure), row.value))
            self._keep()

    def skip(self, reason: str) -> None:
        """Say what can't be measured, and why."""
        self.skipped.append(reason)
        self._keep()

    def to_json(self) -> dict[str, Any]:
        """The result."""
        return {
            "command": self.command,
            "machine": machine(self.device),
            "versions": versions(self.packages),
            "figures": self.figures,
            "skipped": self.skipped,
            "rows": self.rows,
        } | self.facts

    def _keep(self) -> None:
        if self.out is not None:
            self.out.write_text(json.dumps(self.to_json(), ensure_ascii=False) + "\n", encoding="utf-8")


def turns(num: int, name: str) -> Iterable[int]:
    """Count from 0, with a bar on stderr."""
    return track(range(num), name, console=Console(stderr=True))


def machine(device: str) -> dict[str, str | int]:
    """The processor, how much of it there is, and the device that the models are on."""
    import torch

    place = torch.device(device)
    return {
        "cpu": _processor(),
        "cores": psutil.cpu_count(logical=False) or 1,
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Python's version and those of packages."""
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _processor() -> str:
    """The name that Linux gives it; elsewhere what Python knows."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
