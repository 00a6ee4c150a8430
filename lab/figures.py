"""What is measured of decoding: figures with their intervals, and the bars they have to reach on two cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lab.estimate import estimate
from lab.speed.interleave import Seconds


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


def judge(bar: Bar | Between | None, value: float) -> dict[str, Any]:
    """What stands beside a figure that has to reach something."""
    return {} if bar is None else {"bar": str(bar), "is_reached": bar.is_reached(value)}


BARS: Mapping[str, Bar] = {
    **{f"personal_over_plain.tiny.{n}": Bar("≥", 0.80) for n in (1, 8, 32)},
    **{f"personal_over_plain.110m.{n}": Bar("≥", 0.95) for n in (1, 8, 32)},
    "distinct_over_same.110m.32": Bar("≥", 0.98),
    **{f"plain_over_generate.110m.{n}": Bar("≥", 1.0) for n in (1, 8)},
    "ragged_over_generate.110m.32": Bar("≥", 1.5),
    "args_over_naive.110m.512": Bar("≥", 4),
    "expert_time_over_sum.110m": Bar("≤", 1.15),
    "attached_over_plain.110m.8": Bar("≥", 0.99),
    "head_write_us": Bar("≤", 50),
    "commit_to_steer_ms": Bar("≤", 10),
    "commit_to_steer_other_process_p99_ms": Bar("≤", 100),
    "bytes_10000_heads": Bar("≤", 10_000_000),
}


@dataclass(frozen=True)
class Row:
    """A figure: the median of samples, or another quantile, and how sure it is."""

    figure: str
    value: float
    low: float
    high: float
    samples: list[float]
    medians: dict[str, float] = field(default_factory=dict)  # seconds of each side that was compared

    @classmethod
    def of(cls, figure: str, samples: Sequence[float], seconds: Seconds | None = None, share: float = 0.5) -> Row:
        """Estimate the median, or the quantile that ``share`` of the samples lie below."""
        medians = {side: estimate(taken).value for side, taken in (seconds or {}).items()}
        return cls(figure, *estimate(samples, share), [round(float(x), 4) for x in samples], medians)

    @property
    def bar(self) -> Bar | None:
        """What it has to reach; None where it is only told."""
        return BARS.get(self.figure)

    def to_json(self) -> dict[str, Any]:
        """All of it, and whether the bar is reached."""
        return asdict(self) | judge(self.bar, self.value)
