"""The bundled basis with other texts in its questions, and with picks of four replies, which it has none of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from personalign.bundled import locate


def rewritten(folder: Path, rewrite: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy of tiny's basis whose questions are rewritten, each with its number."""
    source = locate("tiny", None, (), None, None, "cpu").basis
    assert source is not None
    shutil.copytree(source, folder)
    path = folder / "questions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps(rewrite(number, row)) for number, row in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def with_picks(_: int, row: dict[str, Any]) -> dict[str, Any]:
    """Two replies more than a question has, which differ from the others by their ends."""
    others = [f"{row['first']} Is that right?", f"{row['second']} Thanks!"]
    return row | {"others": others, "other_features": [row["second_features"], row["first_features"]]}
