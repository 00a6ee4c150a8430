"""basis bootstrap and expert train on the command line: one JSON line, errors with file and line, and what is made."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from personalign.bundled import TINY
from personalign.cli import main
from personalign.train import bootstrap
from personalign.train.calibrate import GRID, calibrate

pytestmark = pytest.mark.filterwarnings("ignore")  # of things to come in a loaded model's libraries

SMALL = str(TINY / "small")
ASKED = [json.loads(line)[0]["content"] for line in (TINY / "prompts.jsonl").read_text("utf-8").splitlines()][:20]


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = 0
    try:
        main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    found = capfd.readouterr()
    return code, found.out, found.err


def line_of(found: tuple[int, str, str]) -> dict:
    code, out, err = found
    assert code == 0, err
    assert out.count("\n") == 1, out
    return json.loads(out)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One setting, for few people."""
    monkeypatch.setattr(bootstrap, "calibrate", partial(calibrate, grid=GRID[-1:], num_people=2))


def test_a_basis_is_made_and_used(quick, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line says what was made; then people are asked its questions and answered with it."""
    prompts, out = tmp_path / "prompts.txt", tmp_path / "basis"
    prompts.write_text("\n".join(dict.fromkeys(ASKED)), encoding="utf-8")
    words = ("basis", "bootstrap", "--model", SMALL, "--prompts", str(prompts), "--out", str(out), "--max-tokens", "32")
    words += ("--replies", "60")
    row = line_of(run(capfd, *words, "--json"))
    assert row["basis"] == str(out)
    assert row["model"] == "small"
    assert row["questions"] >= 10
    assert {"id", "axes", "prompts", "replies", "tokens", "r2", "r2_forced", "steering", "utility", "kl"} <= set(row)
    use = ("--model", SMALL, "--basis", str(out), "--store", f"sqlite:///{tmp_path / 'p.db'}", "--json")
    assert line_of(run(capfd, "profile", "ada", *use))["basis"] == row["id"]
    assert line_of(run(capfd, "chat", "ada", "Hello.", *use))["reason"] == "no_answers"
    code, _, err = run(capfd, *words)
    assert (code, "already holds something" in err) == (2, True)


def test_an_expert_is_made_and_used(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line holds its figures; it is stacked under the bundled model by its name."""
    from personalign import Personalign

    data = tmp_path / "talk.jsonl"
    data.write_text("".join(json.dumps({"turns": [text, "Ahoy, at once!"]}) + "\n" for text in dict.fromkeys(ASKED)))
    words = ("expert", "train", "--base", "tiny", "--big", "tiny", "--data", str(data), "--name", "pirate")
    row = line_of(run(capfd, *words, "--out", str(tmp_path), "--steps", "4", "--json"))
    assert row["expert"] == str(tmp_path / "pirate")
    assert set(row["bits"]) == {"small", "expert", "big", "stack"}
    assert {"alpha", "sweep", "texts", "steps", "learning_rate", "helps"} <= set(row)
    store = f"sqlite:///{tmp_path / 'p.db'}"
    with Personalign.open(store, "tiny", experts=[tmp_path / "pirate"], device="cpu") as p:
        stacked = p.chat("ada", [{"role": "user", "content": "Hello."}], max_tokens=8, expert="pirate")
    assert stacked.usage.completion_tokens


def test_bad_lines_exit_with_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """File and line are named on stderr, and nothing is made."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "hello"}\n{"text": 3}\n')
    for words in (
        ("basis", "bootstrap", "--model", SMALL, "--prompts", str(bad), "--out", str(tmp_path / "out")),
        ("expert", "train", "--base", "tiny", "--data", str(bad), "--name", "e", "--out", str(tmp_path / "out")),
    ):
        code, out, err = run(capfd, *words, "--json")
        assert (code, out) == (2, "")
        assert f"{bad}, line" in err.replace("\n", "")
    assert not (tmp_path / "out").exists()
