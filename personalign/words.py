"""A profile in words and as a picture. Surety is a mean over its standard deviation: how far a taste is from 0."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

FAINT, CLEAR, STRONG = 0.5, 1.0, 2.0  # standard deviations from which on a taste is named, more and more firmly
PAUSED = "Personalisation is paused: replies are the model's own until it is resumed."
UNKNOWN = "Nothing is known yet: replies are those that strangers get."
IMPERSONAL = (
    "Nothing personal is served: on this basis one person's answers predict no more than all people's do. Replies are "
    "those that strangers get."
)


@dataclass(frozen=True)
class Axis:
    """One reward axis in words: "length" is about "how long the reply is", from "shorter" to "longer"."""

    name: str
    about: str
    less: str
    more: str

    def direction(self, towards: float) -> str:
        """The end that a number's sign points to."""
        return self.more if towards > 0 else self.less

    def verdict(self, surety: float) -> str:
        """What a person prefers."""
        if abs(surety) < FAINT:
            return "undecided"
        verb = "clearly prefers" if abs(surety) >= STRONG else "prefers" if abs(surety) >= CLEAR else "may prefer"
        return f"{verb} {self.direction(surety)}"

    def wish(self, towards: float, surety: float) -> str:
        """What a language model should do about it."""
        verb = "Strongly favour" if surety >= STRONG else "Favour" if surety >= CLEAR else "Lean towards"
        return f"{verb} {self.direction(towards)}."

    def change(self, before: float, after: float) -> str:
        """How a verdict changed."""
        earlier, later = self.verdict(before), self.verdict(after)
        line = f"towards {self.direction(after - before)} ({self.about})"
        return line if earlier == later else f"{line}: {earlier} → {later}"


def bars(title: str, rows: Iterable[tuple[Axis, float, float]]) -> str:
    """An HTML table of axes: each mean is a dot, with a line of one standard deviation to either side."""
    drawn = list(rows)
    unit = 90 / max((abs(mean) + sd for _, mean, sd in drawn), default=1.0)
    lines = (_bar(axis, mean * unit, sd * unit) for axis, mean, sd in drawn)
    return "\n".join([f"<table><caption>{escape(title)}</caption>", *lines, "</table>"])


def _bar(axis: Axis, mean: float, sd: float) -> str:
    low, middle, high = 100 + mean - sd, 100 + mean, 100 + mean + sd
    colour = "#569cd6" if abs(mean) > sd else "#999"
    return (
        f'<tr><td style="text-align:right">{escape(axis.less)}</td><td><svg width="200" height="14">'
        '<line x1="100" x2="100" y1="0" y2="14" stroke="#bbb"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="7" y2="7" stroke="{colour}" stroke-width="2"/>'
        f'<circle cx="{middle:.1f}" cy="7" r="4" fill="{colour}"/></svg></td>'
        f'<td style="text-align:left">{escape(axis.more)}</td></tr>'
    )
