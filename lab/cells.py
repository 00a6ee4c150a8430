"""What stands in the cells of made tables: a figure with its interval, and whether it meets its bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(row: Mapping[str, Any] | None) -> str:
    """A row's value with its ends; nothing where there is no row."""
    if row is None:
        return ""
    show = "{:.2f}" if abs(row["value"]) < 10 else "{:,.0f}"
    value, *ends = (show.format(row[name]) for name in ("value", "low", "high") if row.get(name) is not None)
    return f"{value} ({' … '.join(ends)})" if ends and len(set(ends)) > 1 else value


def summary(figures: Mapping[str, float], key: str) -> str:
    """The same of a result's figures, whose ends stand beside it."""
    if key not in figures:
        return ""
    return interval({"value": figures[key], "low": figures[f"{key}.low"], "high": figures[f"{key}.high"]})


def verdict(row: Mapping[str, Any]) -> str:
    """The bar, and whether the whole interval is on its right side."""
    if "bar" not in row:
        return ""
    ends = [row.get(name, row["value"]) for name in ("low", "high")]
    reached = [_reaches(row["bar"], end) for end in (*ends, row["value"])]
    return f"{row['bar']} {'reached' if all(reached) else 'open' if any(reached) else 'missed'}"


def _reaches(bar: str, value: float) -> bool:
    sense, _, limit = bar.partition(" ")
    if sense in {"≥", "≤"}:
        return value >= float(limit) if sense == "≥" else value <= float(limit)
    low, high = map(float, bar.split(" … "))
    return low <= value <= high
