"""The reference of the command line says what the command line says."""

from __future__ import annotations

import difflib
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "cli.md"


def difference(reference: str, folder: Path) -> str:
    """The lines by which a reference is out of date, from what `make docs` runs; nothing if it isn't."""
    recipe = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "utils docs" in line)
    words = shlex.split(recipe.partition("/typer ")[2].replace("docs/cli.md", str(folder / "cli.md")))
    subprocess.run([sys.executable, "-m", "typer", *words], check=True, capture_output=True, cwd=ROOT)
    now = (folder / "cli.md").read_text(encoding="utf-8")
    return "\n".join(difflib.unified_diff(reference.splitlines(), now.splitlines(), "docs/cli.md", "now", lineterm=""))


def test_the_reference_is_up_to_date(tmp_path: Path) -> None:
    """Every verb and option is in docs/cli.md as it is now; a word too many is caught (the control)."""
    reference = REFERENCE.read_text(encoding="utf-8")
    stale = difference(reference, tmp_path)
    assert not stale, f"docs/cli.md is out of date; run: make docs\n{stale}"
    assert "+* `--consent" in difference(reference.replace("* `--consent <str>`", "* `--agreement <str>`"), tmp_path)
