"""The command that makes the bundled model: it passes over what is there, and says what is wrong with its arguments."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lab.zoo import models, people, preferences, train
from lab.zoo.dialogues import load_corpus
from lab.zoo.train import Stage
from personalign.bundled import TINY
from tests.lab.zoo.conftest import TWIN


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundled folder, where the stages work."""
    copy = shutil.copytree(TINY, tmp_path / "tiny")
    for module in (models, people, preferences):
        monkeypatch.setattr(module, "TINY", copy)
    return copy


def run(*arguments: str | Path):
    app = typer.Typer()
    app.command()(train.main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_there_is_passed_over(tiny: Path, tmp_path: Path) -> None:
    """With every artefact in place all stages end at once: nothing is written, not even a checkpoint."""
    before = contents(tiny)
    done = run("--data", TWIN, "--work", tmp_path / "work")
    assert (done.exit_code, done.output) == (0, "")
    assert contents(tiny) == before
    assert not (tmp_path / "work").exists()


def test_what_is_missing_is_made(tiny: Path, tmp_path: Path) -> None:
    """The control: without its artefact a stage runs, and the stages that weren't asked for don't."""
    for name in ("base", "small"):
        (tiny / name / "tokenizer.json").unlink()
    (tiny / "experts" / "hotels" / "expert.json").unlink()
    before = contents(tiny)
    done = run("--data", TWIN, "--work", tmp_path / "work", "--stage", "tokenizer")
    assert done.exit_code == 0
    made = contents(tiny)
    assert {path.relative_to(tiny).as_posix() for path in made.keys() - before.keys()} == {
        "base/tokenizer.json",
        "small/tokenizer.json",
    }


def test_a_model_without_its_card_is_measured_and_not_trained(tiny: Path, tmp_path: Path) -> None:
    """A stage that was killed between the two goes on with the card."""
    weights = (tiny / "small" / "model.safetensors").read_bytes()
    (tiny / "small" / "README.md").unlink()
    assert run("--data", TWIN, "--work", tmp_path / "work", "--stage", "small").exit_code == 0
    assert "bits per character" in (tiny / "small" / "README.md").read_text(encoding="utf-8")
    assert (tiny / "small" / "model.safetensors").read_bytes() == weights
    assert not (tmp_path / "work").exists()


def test_stages_run_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order they are named in, each runs once, after those it builds on; without names all run."""
    seen: list[Stage] = []
    monkeypatch.setattr(train, "MAKE", {stage: lambda _, stage=stage: seen.append(stage) for stage in Stage})
    run("--data", TWIN, "--stage", "basis", "--stage", "base", "--stage", "basis")
    assert seen == [Stage.BASE, Stage.BASIS]
    seen.clear()
    run("--data", TWIN)
    assert seen == ["tokenizer", "base", "small", "hotels", "basis", "people"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--data"),
        (("--data", "x", "--stage", "everything"), "'tokenizer', 'base', 'small', 'hotels', 'basis', 'people'"),
        (("--data", "x", "--steps", "3"), "--steps"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(tiny: Path, arguments: tuple[str, ...], said: str) -> None:
    """Without data, with a stage or an option that isn't known: exit code 2 and what was expected."""
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.output


def test_data_that_isnt_there_is_refused(tiny: Path, tmp_path: Path) -> None:
    """A folder without the corpora ends with exit code 2 and the file that was looked for; the twin's is taken."""
    done = run("--data", tmp_path, "--stage", "small")
    assert done.exit_code == 2
    assert "sgd_dialogues.jsonl" in done.output
    assert run("--data", TWIN, "--stage", "small").exit_code == 0


@pytest.mark.parametrize("line", ["no json", "[1]", '{"services": []}', '{"turns": [3]}', '{"turns": null}', ""])
def test_a_corpus_that_isnt_dialogues_is_refused(tiny: Path, tmp_path: Path, line: str) -> None:
    """A line that is no dialogue is told with its number; as they were the files are read."""
    shutil.copytree(TWIN / "corpora", tmp_path / "corpora")
    path = tmp_path / "corpora" / "self_dialogue.jsonl"
    assert len(load_corpus(tmp_path).chat) > 0
    path.write_text(json.dumps({"turns": ["Hello.", "Hi."]}) + "\n" + line + "\n", encoding="utf-8")
    done = run("--data", tmp_path, "--stage", "small")
    assert done.exit_code == 2
    assert "line 2" in done.output
