"""Pictures of results: gain against KL, what an expert gives against what people gain, and curves of learning."""

from __future__ import annotations

import json
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
METHODS: Mapping[str, tuple[str, str, str]] = {
    "successor": ("successor head", "#0072B2", "o"),
    "args_prefixes": ("ARGS, reward trained on prefixes", "#009E73", "s"),
    "args_replies": ("ARGS, reward trained on whole replies", "#D55E00", "^"),
    "best_of": ("best of n, by the profile", "#000000", "x"),
    "in_context": ("profile as a system message", "#CC79A7", "D"),
}
QUESTION_STYLES: Mapping[str, tuple[str, str, str]] = {
    "d_optimal": ("D-optimal", "#0072B2", "o"),
    "settled": ("what settles most forecasts", "#E69F00", "v"),
    "accuracy": ("looking one answer ahead", "#56B4E9", "P"),
    "gap": ("expected gap", "#009E73", "s"),
    "pref": ("PReF's rule", "#D55E00", "^"),
    "random": ("random questions", "#000000", "x"),
    "as given": ("answers as they came", "#CC79A7", "D"),
}
REWARDS = ("successor", "args_prefixes", "args_replies")  # their curves begin with the short list, weight 0
MOST_KL = 1.0  # nats a token; beyond it replies fall apart, whatever anybody makes of them
Rows = Sequence[Mapping[str, Any]]


def plot(result: Path, folder: Path) -> list[Path]:
    """Draw ``quality.png`` and ``alpha.png`` of a result file.

    Raises:
        InputError: the file holds no result of ``personalign bench quality``.
    """
    try:
        rows = json.loads(result.read_text(encoding="utf-8"))["rows"]
        pictures = {folder / "quality.png": plot_quality, folder / "alpha.png": plot_alpha}
        for path, draw in pictures.items():
            draw(rows, path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{result} can't be drawn ({error!r}); expected what personalign bench quality --out FILE leaves"
        ) from error
    return list(pictures)


def plot_quality(rows: Rows, path: Path) -> None:
    """Draw what people gain against the divergence from base, a curve for each method, at temperature 1."""
    figure = Figure(figsize=(9.5, 4.8), layout="constrained")
    gains, wins = figure.subplots(1, 2)
    for axes, name, title in (
        (gains, "gain", "utility gained, standard deviations"),
        (wins, "wins", "base's replies that are liked less, share"),
    ):
        for method in METHODS:
            _curve(axes, _points(rows, name, method), method)
        axes.set(xlabel="KL from base, nats a token", ylabel=title, xlim=(-0.02, None))
        axes.grid(alpha=0.3)
    gains.axhline(0, color="grey", linewidth=0.8)
    wins.axhline(0.5, color="grey", linewidth=0.8)
    figure.legend(*gains.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3)
    _save(figure, path)


def plot_alpha(rows: Rows, path: Path) -> None:
    """Draw bits per character of the expert's domain against what people gain, a point for each α."""
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axes = figure.subplots()
    bits = {row["alpha"]: row["value"] for row in _named(rows, "alpha.bits.")}
    for name, label, colour, marker in (
        ("alpha.gain.", "with each person's reward", "#0072B2", "o"),
        ("alpha.gain_without_reward.", "without a reward", "#000000", "x"),
    ):
        points = [row for row in _named(rows, name) if row["alpha"] in bits]
        x, y = [bits[row["alpha"]] for row in points], [row["value"] for row in points]
        axes.errorbar(x, y, _bars(points), color=colour, marker=marker, label=label, capsize=2, linewidth=1)
        for row, place in zip(points, zip(x, y, strict=True), strict=True):
            axes.annotate(f"α {row['alpha']:g}", place, xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set(
        xlabel="hotel dialogues, bits per character (less is better)", ylabel="utility gained, standard deviations"
    )
    axes.grid(alpha=0.3)
    axes.margins(x=0.08)
    axes.legend(fontsize=8)
    _save(figure, path)


def plot_learn(curves: Rows, path: Path) -> None:
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
    _save(figure, path)


def _panel(axes: Axes, curves: Rows, name: str) -> None:
    for rule, (label, colour, marker) in QUESTION_STYLES.items():
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


def _points(rows: Rows, name: str, method: str) -> list[Mapping[str, Any]]:
    """The sampled points of a method's curve, with the candidates that both rewards have; by KL."""
    methods = ("short_list", method) if method in REWARDS else (method,)
    points = [row for one in methods for row in _named(rows, f"{name}.sampled.{one}")]
    return sorted((row for row in points if row.get("k", 10) == 10 and row["kl"] <= MOST_KL), key=_kl)


def _kl(row: Mapping[str, Any]) -> float:
    return float(row["kl"])


def _named(rows: Rows, beginning: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["figure"].startswith(beginning)]


def _curve(axes: Axes, points: Rows, method: str) -> None:
    label, colour, marker = METHODS[method]
    x, y = [row["kl"] for row in points], [row["value"] for row in points]
    axes.errorbar(x, y, _bars(points), color=colour, marker=marker, markersize=4, label=label, capsize=2, linewidth=1)


def _bars(points: Rows) -> list[list[float]]:
    """How far each interval reaches down and up."""
    down = [max(0.0, row["value"] - row["low"]) for row in points]
    return [down, [max(0.0, row["high"] - row["value"]) for row in points]]


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
