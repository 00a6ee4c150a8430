"""What benchmarks show to people: figures beside their bars, with their intervals."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def show_decode(console: Console, found: dict[str, Any]) -> None:
    """Speeds beside what they have to reach, with their intervals."""
    table = Table("figure", "median", "95 %", "bar", "samples")
    for row in found["rows"]:
        reached = row.get("is_reached")
        table.add_row(
            row["figure"],
            Text(f"{row['value']:g}", style="" if reached is None else "green" if reached else "red"),
            f"{row['low']:g} … {row['high']:g}",
            row.get("bar", ""),
            str(len(row["samples"])),
        )
    console.print(table)
    console.print(Text(", ".join(f"{name} {value}" for name, value in (found["machine"] | found["versions"]).items())))


def show_learn(console: Console, found: dict[str, Any]) -> None:
    """Figures beside their bars and what can be reached at best, then the curves."""
    table = Table("figure", "value", "95 %", "bar", "ceiling")
    for row in found["rows"]:
        reached = row.get("is_reached")
        table.add_row(
            row["figure"],
            Text(f"{row['value']:g}", style="" if reached is None else "green" if reached else "red"),
            f"{row['low']:g} … {row['high']:g}" if "high" in row else "",
            row.get("bar", ""),
            f"{row['ceiling']:g}" if "ceiling" in row else "",
        )
    console.print(table)
    curves = Table("set", "questions", "answers", "accuracy", "log-loss", "calibration error", "over the population")
    for told in found["curves"]:
        curves.add_row(
            told["set"],
            told["rule"],
            "all" if told["answers"] is None else str(told["answers"]),
            f"{told['accuracy']:.1%}",
            f"{told['log_loss']:.3f}",
            "" if told["ece"] is None else f"{told['ece']:.3f}",
            f"{told['gain']:+.1%} ({told['low']:+.1%} … {told['high']:+.1%})",
        )
    console.print(curves)
    for reason in found["skipped"]:
        console.print(Text(f"skipped {reason}"))


def show_quality(console: Console, found: dict[str, Any]) -> None:
    """Figures with their intervals, and the divergence that they cost."""
    table = Table("figure", "value", "95 %", "KL")
    for row in found["rows"]:
        interval = f"{row['low']:+.2f} … {row['high']:+.2f}" if "low" in row else ""
        table.add_row(row["figure"], f"{row['value']:+.3f}", interval, f"{row['kl']:.3f}" if "kl" in row else "")
    console.print(table)
    for reason in found["skipped"]:
        console.print(Text(f"skipped {reason}"))
