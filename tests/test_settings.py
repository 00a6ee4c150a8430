"""The environment, read in one place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from personalign.errors import InputError
from personalign.settings import Settings

PACKAGE = Path(__file__).parents[1] / "personalign"


def test_variables_carry_the_prefix(monkeypatch) -> None:
    """A variable with the prefix counts, one without doesn't."""
    monkeypatch.delenv("PERSONALIGN_STORE", raising=False)
    monkeypatch.setenv("PERSONALIGN_MODEL", "mine")
    monkeypatch.setenv("STORE", "sqlite:///other.db")
    assert (Settings().model, Settings().store) == ("mine", "sqlite:///profiles.db")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HALF_LIFE_DAYS", "soon", "PERSONALIGN_HALF_LIFE_DAYS holds 'soon': input should be a valid number"),
        ("PINNED", "length", "PERSONALIGN_PINNED isn't JSON"),
        ("PINNED", '{"length": "much"}', "PERSONALIGN_PINNED.LENGTH holds 'much'"),
        ("SHADOW", "perhaps", "PERSONALIGN_SHADOW holds 'perhaps'"),
    ],
)
def test_a_variable_that_means_nothing_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    """With what it holds and what was expected; the defaults can be read (the control)."""
    Settings()
    monkeypatch.setenv(f"PERSONALIGN_{variable}", value)
    with pytest.raises(InputError, match=re.escape(message)):
        Settings()


def _reads_environment(source: str) -> bool:
    names = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    return bool(names & {"environ", "getenv"})


def test_only_settings_read_the_environment() -> None:
    """No other module touches the environment; the finder finds the one that does (the control)."""
    assert _reads_environment("import os; os.getenv('X')")
    readers = [file.name for file in PACKAGE.rglob("*.py") if _reads_environment(file.read_text(encoding="utf-8"))]
    assert readers == ["settings.py"]
