"""The rows of a result whose intervals come from people and prompts; a figure is the name and value of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A figure, its 95 % interval where there is one, and what else is to be told of it."""

    figure: str
    value: float
    low: float | None = None
    high: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, figure: str, interval: tuple[float, float, float], facts: Mapping[str, Any]) -> Row:
        """A figure from its value and bounds."""
        return cls(figure, *interval, facts)

    def to_json(self) -> dict[str, Any]:
        """All of it on one level; four digits are enough."""
        row = {"figure": self.figure, "value": self.value, "low": self.low, "high": self.high} | dict(self.facts)
        return {name: round(x, 4) if isinstance(x, float) else x for name, x in row.items() if x is not None}
