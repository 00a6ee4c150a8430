"""Build the sdist, the wheel from it, and say what is in it: ``python -m lab.wheel``.

Ends with 1 if something is missing or too much.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

import typer

ROOT = Path(__file__).parents[1]
MOST_MB = 20
NEEDED = (
    "personalign/cli/__init__.py",
    "personalign/learn/wishes.toml",
    "personalign/serve/static/me.html",
    "personalign/serve/static/onboard.html",
    "personalign/serve/static/operator.html",
    "personalign/store/migrations/env.py",
    "personalign/store/migrations/schema.sql",
    "personalign/zoo/tiny/LICENSE",
    "personalign/zoo/tiny/base/model.safetensors",
    "personalign/zoo/tiny/basis/questions.jsonl",
)
FOREIGN = ("lab", "tests", "notebooks", "docs", "examples")  # folders of a checkout that nobody installs


def build(folder: Path) -> Path:
    """Build the sdist of this checkout into a folder, and the wheel from what is in the sdist."""
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - nobody else's words are in it
    return next(folder.glob("*.whl"))


def faults(names: list[str], megabytes: float) -> list[str]:
    """What is wrong with the files of a wheel."""
    tops = {PurePosixPath(name).parts[0] for name in names}
    return [
        *(f"{name} is missing" for name in NEEDED if name not in names),
        *(f"{folder}/ is in it" for folder in FOREIGN if folder in tops),
        *([f"it has {megabytes:.1f} MB, expected at most {MOST_MB}"] if megabytes > MOST_MB else []),
    ]


def main() -> None:
    """Build, list files by folder, and end with 1 if something is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        names = zipfile.ZipFile(wheel).namelist()
        megabytes = wheel.stat().st_size / 1e6
        typer.echo(f"{wheel.name}: {megabytes:.1f} MB, {len(names)} files")
    folders = Counter(str(PurePosixPath(*PurePosixPath(name).parts[:2])) for name in names)
    for name, count in sorted(folders.items()):
        typer.echo(f"{count:5} {name}")
    if wrong := faults(names, megabytes):
        typer.echo("\n".join(wrong), err=True)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
