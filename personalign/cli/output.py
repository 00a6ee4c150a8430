"""Where the command line writes: a line of JSON or tables on stdout, everything else on stderr."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.console import Console

out, err = Console(), Console(stderr=True)


def print_json(row: dict[str, Any]) -> None:
    """Print one line; it is flushed, so that it fails here or not at all."""
    typer.echo(json.dumps(row, ensure_ascii=False))
