"""The report on axes finds the variances, twins and siblings that replies were made with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lab.axes import RESULT, Crossed, load, main, report
from lab.learning.populations.votes import MissingData
from personalign.learn.assistant import AXES

NAMES = ("steady", "noise", "twin", "still")
MODELS = [f"m{i}{end}" for i in range(15) for end in ("", "_concise")]


@pytest.fixture(scope="module")
def crossed() -> Crossed:
    """Models that differ by 1, prompts by 1, the rest by 2; half of the second axis's rest is shared by siblings."""
    rng = np.random.default_rng(0)
    shape = (len(MODELS), 400)
    model, prompt = rng.normal(size=(shape[0], 1)), rng.normal(size=shape[1])
    steady = model + prompt + np.sqrt(2) * rng.normal(size=shape)
    family = np.repeat(rng.normal(size=(shape[0] // 2, shape[1])), 2, axis=0)
    noise = family + rng.normal(size=shape)
    return Crossed(MODELS, np.stack([steady, noise, -steady + 0.1 * noise, np.zeros(shape)], axis=2))


def test_the_variances_are_those_that_went_in(crossed: Crossed) -> None:
    """Between models, within a prompt, and what that tells after ten prompts."""
    steady, noise, *_ = report(crossed, NAMES)
    between = np.var(crossed.raw[:, :, 0].mean(axis=1), ddof=1)
    assert steady["between_models"] == pytest.approx(between / (between + 1 + 2), abs=0.03)
    assert steady["within_prompt"] == pytest.approx((between + 2) / (between + 1 + 2), abs=0.03)
    assert steady["retest_ten"] == pytest.approx(between / (between + 0.2), abs=0.02)
    assert noise["between_models"] < 0.01
    assert noise["within_prompt"] > 0.94


def test_siblings_share_what_is_theirs(crossed: Crossed) -> None:
    """Half of the rest was drawn once for two siblings; of another axis nothing was."""
    steady, noise, *_ = report(crossed, NAMES)
    assert noise["retest_siblings"] == pytest.approx(0.5, abs=0.05)
    assert steady["retest_siblings"] == pytest.approx(0.0, abs=0.05)


def test_a_twin_is_named(crossed: Crossed) -> None:
    """Two axes that move against each other are each other's nearest; an axis that never moves is 0 throughout."""
    steady, _, twin, still = report(crossed, NAMES)
    assert (steady["nearest"], twin["nearest"]) == ("twin", "steady")
    assert steady["nearest_r"] < -0.9
    assert [still[key] for key in ("coverage", "between_models", "within_prompt", "retest_ten")] == [0.0] * 4


def test_a_prompt_that_a_model_left_out_is_left_out(tmp_path: Path) -> None:
    """The table has no holes; a folder without the set is named."""
    folder = tmp_path / "alpaca_eval"
    with pytest.raises(MissingData, match="alpaca_eval"):
        load(tmp_path)
    folder.mkdir()
    rows = [
        {"instruction": "Hi", "outputs": {"one": "Hello!", "two": "Good day."}},
        {"instruction": "Bye", "outputs": {"one": "See you."}},
    ]
    (folder / "outputs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert load(tmp_path).raw.shape == (2, 1, len(AXES))


def test_the_report_holds_numbers_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No word of a reply is in what is kept, nor the name of a model."""
    folder = tmp_path / "alpaca_eval"
    folder.mkdir()
    rows = [
        {"instruction": f"Zebra {i}", "outputs": {"giraffe": f"Hello {i}!", "giraffe_concise": "Okapi."}}
        for i in range(3)
    ]
    (folder / "outputs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    main(tmp_path, tmp_path / "axes.json", as_json=True)
    written = (tmp_path / "axes.json").read_text("utf-8")
    assert json.loads(written) == json.loads(capsys.readouterr().out)
    assert not any(word in written.lower() for word in ("zebra", "giraffe", "okapi", "hello"))


def test_what_is_committed_is_of_these_axes() -> None:
    """The report in the repository has a row for every axis, and no two of them are twins."""
    result = json.loads(RESULT.read_text("utf-8"))
    assert [row["axis"] for row in result["rows"]] == [axis.name for axis in AXES]
    assert result["twins"] == []
