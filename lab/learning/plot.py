"""A picture of ``learn.py``'s curves: accuracy against answers for each rule, a panel for each set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from personalign.errors import InputError, MissingExtra

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtra("matplotlib", "notebook") from error

# Okabe and Ito's colours, which the colour-blind can tell apart; markers for everyone
STYLES: Mapping[str, tuple[str, str, str]] = {
    "d_optimal": ("D-optimal", "#0072B2", "o"),
    "settled": ("what settles most forecasts", "#E69F00", "v"),
    "accuracy": ("looking one answer ahead", "#56B4E9", "P"),
    "gap": ("expected gap", "#009E73", "s"),
    "pref": ("PReF's rule", "#D55E00", "^"),
    "random": ("random questions", "#000000", "x"),
    "as given": ("answers as they came, through the gate", "#CC79A7", "D"),
}
Curves = Sequence[Mapping[str, Any]]


def plot_learn(curves: Curves, path: Path) -> None:
    """Draw how many points more accurate than the population's model everyone is after so many answers.

    Raises:
        InputError: there are no curves.
    """
    curves = [point for point in curves if point["answers"] is not None]
    names = list(dict.fromkeys(point["set"] for point in curves))
    if not names:
        raise InputError("there are no curves to draw; pass the folder of data sets with --data")
    figure = Figure(figsize=(3.2 * len(names), 3.8), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        _panel(axes, [point for point in curves if point["set"] == name], name)
    panels[0].set_ylabel("points over the population's model")
    labelled = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(labelled.values()), list(labelled), fontsize=8, loc="outside lower center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _panel(axes: Axes, curves: Curves, name: str) -> None:
    for rule, (label, colour, marker) in STYLES.items():
        points = [point for point in curves if point["rule"] == rule]
        if not points:
            continue
        x, y = [point["answers"] for point in points], [100 * point["gain"] for point in points]
        low = [100 * (point["gain"] - point["low"]) for point in points]
        high = [100 * (point["high"] - point["gain"]) for point in points]
        axes.errorbar(x, y, [low, high], color=colour, marker=marker, markersize=4, label=label, capsize=2, linewidth=1)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(title=name, xlabel="answers")
    axes.grid(alpha=0.3)
