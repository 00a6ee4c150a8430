"""Where the command line writes: a line of JSON or tables on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

P = ParamSpec("P")
# what a terminal obeys, but for tabs and line ends: control characters, and what turns the direction of writing
OBEYED = [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
SHOWN = dict.fromkeys(OBEYED, "\N{REPLACEMENT CHARACTER}")
ESCAPED = {code: f"\\u{code:04x}" for code in OBEYED if code >= 127}  # JSON escapes the others by itself


class Terminal(Console):
    """A console on which no text of a user or a model can steer the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Take what a terminal would obey out of all text; colours and cursor moves of our own are no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=segment.text.translate(SHOWN))


out, err = Terminal(), Terminal(stderr=True)


def prepare_streams() -> None:
    """Let a character that stdout or stderr can't encode become a question mark, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:  # not where the shell closed it
            reconfigure(errors="replace")


def print_row(row: dict[str, Any], as_json: bool, show: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Print one line of JSON where that was asked for, otherwise call ``show``."""
    print_json(row) if as_json else show(*args, **kwargs)


def print_json(row: dict[str, Any]) -> None:
    """Print one line; it is flushed, so that it fails here or not at all."""
    text = json.dumps(row, ensure_ascii=False).translate(ESCAPED)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(row)
    typer.echo(text)
