"""Write the description of the server's routes, ``docs/openapi.json``: ``python -m lab.openapi``. No model is loaded.

A running server gives the same under ``/openapi.json``. A test compares what is committed with what is made.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import typer

from personalign.serve.app import create_app
from personalign.service import Personalign

PATH = Path(__file__).parents[1] / "docs" / "openapi.json"


def description() -> str:
    """What a server of the bundled model says of itself."""
    with tempfile.TemporaryDirectory() as folder, Personalign.open(f"sqlite:///{folder}/empty.db") as service:
        whole = create_app(service).openapi()
    whole["info"]["version"] = whole["info"]["version"].partition(".dev")[0]  # what is committed counts no commits
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def main() -> None:
    """Write the file, and say where it is."""
    PATH.write_text(description(), encoding="utf-8")
    typer.echo(f"{len(json.loads(PATH.read_text('utf-8'))['paths'])} paths in {PATH}")


if __name__ == "__main__":
    typer.run(main)
