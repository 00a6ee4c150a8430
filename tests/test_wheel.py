"""What is installed from a wheel runs anywhere: no checkout, no laboratory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from lab.wheel import build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel; what it depends on is this one's, the checkout isn't."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    wheel = build(folder)
    packages = next((folder / "venv").glob("lib/python*/site-packages"))
    # a path in a .pth file is searched, but the .pth files in it, such as this checkout's own, aren't read
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    install = [sys.executable, "-m", "pip", "--python", folder / "venv" / "bin" / "python", "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--ignore-installed", wheel], check=True)
    return folder / "venv" / "bin"


def run(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_demo_runs_from_a_wheel_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """The sdist makes a wheel, and its demo needs nothing of the checkout."""
    place = run(tmp_path, installed / "python", "-c", "import personalign; print(personalign.__file__)")
    assert place.stdout.startswith(str(installed.parent)), place.stderr
    demo = run(tmp_path, installed / "personalign", "demo", "--model", "tiny", "--json")
    assert demo.returncode == 0, demo.stderr
    assert json.loads(demo.stdout)


def test_the_schema_comes_with_the_wheel(installed: Path, tmp_path: Path) -> None:
    """A store is made, and looked over, by what was installed."""
    made = run(tmp_path, installed / "personalign", "db", "upgrade", "--store", "sqlite:///people.db", "--json")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "people.db").exists()


def test_the_laboratory_stays_outside(installed: Path, tmp_path: Path) -> None:
    """The benchmarks are of the checkout alone."""
    assert run(tmp_path, installed / "python", "-c", "import lab").returncode == 1
    assert run(tmp_path, installed / "personalign", "bench", "people").returncode == 2
