"""The command line: one JSON line on stdout, and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a verb on a database in the folder."""
    store = f"sqlite:///{folder / 'p.db'}"
    command = [sys.executable, "-m", "personalign.cli", *arguments, "--store", store]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_json_is_one_line(tmp_path: Path) -> None:
    """With --json stdout is one JSON object."""
    found = run(tmp_path, "profile", "ada", "--json")
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("\n") == 1
    assert json.loads(found.stdout)["answers"] == 0


def test_bad_input_exits_with_2(tmp_path: Path) -> None:
    """A model without a basis is refused in words, without a traceback."""
    found = run(tmp_path, "profile", "ada", "--model", "some/model")
    assert found.returncode == 2
    assert "basis bootstrap" in found.stderr
    assert "Traceback" not in found.stderr
