"""What benchmarks show to people: figures beside their bars, with their intervals."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def show_decode(console: Console, result: dict[str, Any]) -> None:
    """Speeds beside what they have to reach, with their intervals."""
    console.print(_figures(result))
    console.print(
        Text(", ".join(f"{name} {value}" for name, value in (result["machine"] | result["versions"]).items()))
    )


def show_figures(console: Console, result: dict[str, Any]) -> None:
    """Figures beside their bars, with their intervals."""
    console.print(_figures(result))


def show_learn(console: Console, result: dict[str, Any]) -> None:
    """Figures beside their bars and what can be reached at best, then the curves."""
    console.print(_figures(result))
    curves = Table("set", "questions", "answers", "accuracy", "log-loss", "calibration error", "over the population")
    for curve in result["curves"]:
        curves.add_row(
            curve["set"],
            curve["rule"],
            "all" if curve["answers"] is None else str(curve["answers"]),
            f"{curve['accuracy']:.1%}",
            f"{curve['log_loss']:.3f}",
            "" if curve["ece"] is None else f"{curve['ece']:.3f}",
            f"{curve['gain']:+.1%} ({curve['low']:+.1%} … {curve['high']:+.1%})",
        )
    console.print(curves)
    _show_skipped(console, result)


def show_quality(console: Console, result: dict[str, Any]) -> None:
    """Figures with their intervals, and the divergence that they cost."""
    table = Table("figure", "value", "95 %", "KL")
    for row in result["rows"]:
        interval = f"{row['low']:+.2f} … {row['high']:+.2f}" if "low" in row else ""
        table.add_row(row["figure"], f"{row['value']:+.3f}", interval, f"{row['kl']:.3f}" if "kl" in row else "")
    console.print(table)
    _show_skipped(console, result)


def _figures(result: dict[str, Any]) -> Table:
    """Figures with their intervals and bars: green if a bar is reached, red if it isn't."""
    table = Table("figure", "value", "95 %", "bar", "at best")
    for row in result["rows"]:
        reached = row.get("is_reached")
        table.add_row(
            row["figure"],
            Text(f"{row['value']:g}", style="" if reached is None else "green" if reached else "red"),
            f"{row['low']:g} … {row['high']:g}" if "high" in row else "",
            row.get("bar", ""),
            f"{row['ceiling']:g}" if "ceiling" in row else "",
        )
    return table


def _show_skipped(console: Console, result: dict[str, Any]) -> None:
    for reason in result["skipped"]:
        console.print(Text(f"skipped {reason}"))
