"""The command line, run in the test's own process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from personalign.cli import main


@dataclass(frozen=True)
class Ran:
    """What a run left behind."""

    code: int
    out: str
    err: str

    def row(self) -> dict[str, Any]:
        """The one line on stdout, a JSON object."""
        assert self.code == 0, self.err
        assert self.out.endswith("\n")
        assert self.out.count("\n") == 1, self.out
        row: dict[str, Any] = json.loads(self.out)
        assert isinstance(row, dict)
        return row


def run_verb(capfd: pytest.CaptureFixture[str], *words: str) -> Ran:
    """Run a verb, and tell what it printed since."""
    capfd.readouterr()
    code = 0
    try:
        main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    found = capfd.readouterr()
    return Ran(code, found.out, found.err)
