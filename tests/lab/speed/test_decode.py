"""The speed benchmark on models of a few thousand parameters: its contract, and that it measures what it says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.harness import Report
from lab.speed import freshness
from lab.speed.batch import Batch, EngineSide, people
from lab.speed.decode import BARS, Plan, run_decode, timed
from lab.speed.models import HeadShape, Shape, Specimens
from personalign.decode import generate
from personalign.errors import InputError

# a loaded model's libraries warn of things to come
pytestmark = pytest.mark.filterwarnings("ignore")

BASE, SMALL = Shape(64, 128, 2, 4, vocabulary=512), Shape(32, 64, 1, 2, vocabulary=512)
PLAN = Plan(
    num_pairs=1, num_few=1, num_answers=3, num_heads=50, prompt_tokens=16, new_tokens=4, ragged_tokens=(2, 8),
    args_prompt_tokens=32,
)  # fmt: skip


def make_specimens(device: str) -> Specimens:
    return Specimens(device, BASE, SMALL, HeadShape(axes=4, rank=8, inner=16))


@pytest.fixture(scope="module")
def specimens() -> Specimens:
    return make_specimens("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One run of everything, and the file it kept."""
    out = tmp_path_factory.mktemp("bench") / "decode.json"
    return run_decode("cpu", PLAN, out=out, make_specimens=make_specimens), out


@pytest.mark.slow
def test_every_figure_with_a_bar_is_measured(run: tuple[dict[str, Any], Path]) -> None:
    """The figures are the promised keys, flat, each a finite number with its bar and its interval in its row."""
    found, _ = run
    assert list(found) == ["command", "machine", "versions", "figures", "skipped", "rows"]
    assert found["figures"].keys() >= BARS.keys()
    assert all(math.isfinite(value) and value > 0 for name, value in found["figures"].items() if "commit" not in name)
    for row in found["rows"]:
        assert row["value"] == found["figures"][row["figure"]]
        assert row["low"] <= row["value"] <= row["high"]
        assert row["bar"] == str(BARS[row["figure"]])
        assert row["is_reached"] == BARS[row["figure"]].is_reached(row["value"])


@pytest.mark.slow
def test_it_says_what_it_ran_on(run: tuple[dict[str, Any], Path]) -> None:
    """The machine and the versions stand beside the figures."""
    found, _ = run
    assert found["command"] == "personalign bench decode"
    assert found["machine"].keys() == {"cpu", "cores", "threads", "memory_gb", "device"}
    assert found["versions"].keys() == {"python", "torch", "transformers", "personalign"}


@pytest.mark.slow
def test_what_there_is_is_kept(run: tuple[dict[str, Any], Path]) -> None:
    """The file holds the whole result at the end, on one line of JSON."""
    found, out = run
    text = out.read_text(encoding="utf-8")
    assert text.count("\n") == 1
    assert json.loads(text) == json.loads(json.dumps(found))


def test_partial_results_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a run is stopped, the figures until then are in the file."""
    out = tmp_path / "decode.json"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(freshness, "bytes_of_heads", stop)
    with pytest.raises(KeyboardInterrupt):
        run_decode("cpu", PLAN, out=out, make_specimens=make_specimens)
    assert set(json.loads(out.read_text(encoding="utf-8"))["figures"]) == {"head_write_us"}


def test_full_is_the_whole_grid() -> None:
    """With --full every ratio of both models at every concurrency is there, and those with a bar are among them."""
    plan = replace(PLAN, is_full=True)
    found = run_decode("cpu", plan, "plain_over_generate.tiny.1", make_specimens=make_specimens)
    ratios = (
        "personal_over_plain",
        "distinct_over_same",
        "plain_over_generate",
        "plain_over_generate_by_onednn",
        "attached_over_plain",
    )
    assert set(found["figures"]) == {f"{ratio}.tiny.1" for ratio in ratios}
    assert found["command"].endswith("--full")


def test_an_unknown_figure_is_refused() -> None:
    """Before any model is loaded."""
    with pytest.raises(InputError, match="no figure begins with 'speed'"):
        run_decode("abacus", PLAN, only="speed")


def test_a_figure_tells_its_samples() -> None:
    """The row is the median of what was measured, beside how long every side took."""
    row = timed("personal_over_plain.110m.8", [0.5, 0.97, 0.96], {"plain": [1.0, 2.0, 9.0]})
    assert (row.value, row.facts["medians"]) == (0.96, {"plain": 2.0})
    report = Report("", "cpu", bars=BARS)
    rows = [row, timed("personal_over_plain.110m.8", [0.94]), timed("plain_over_generate.tiny.1", [0.1])]
    report.extend(rows)
    assert [row.get("is_reached") for row in report.rows] == [True, False, None]


def test_guidance_is_felt(specimens: Specimens) -> None:
    """A side for people whose rewards change nothing is no measurement of guidance, and fails; the control doesn't."""
    models = specimens.personal("110m")
    batch = Batch.random(models.base, [4, 4], 8)
    engine, both = EngineSide(models, batch), people(2, 4)
    assert engine.side(both)(4) > 0
    with pytest.raises(AssertionError, match="KL is 0"):
        engine.side([replace(guidance, weights=np.zeros(4), user="") for guidance in both])(4)
    assert engine.side(people(2, 4, strength=0.0))(4) > 0


def test_a_batch_is_what_was_asked_for(specimens: Specimens) -> None:
    """So many prompts of so many tokens by the model's own count, and no reply longer than its length or the most."""
    models = specimens.personal("110m")
    batch = Batch.random(models.base, [3, 9], 16)
    replies = generate(models, batch.requests(5))
    assert [reply.usage.prompt_tokens for reply in replies] == [16, 16]
    assert [len(reply.ids) for reply in replies] == [3, 5]
    assert batch.longest == 25
    assert batch.prompts != Batch.random(models.base, [3], 16).prompts * 2  # not one prompt again and again
