"""basis bootstrap, basis fit and expert train: one line of JSON, errors that say where, and what is made."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from personalign.bundled import TINY
from personalign.errors import InputError
from personalign.train.plans import QUICK, Budget
from tests.commands import run_verb

pytestmark = pytest.mark.filterwarnings("ignore")  # of things to come in a loaded model's libraries

SMALL = str(TINY / "small")
ASKED = [json.loads(line)[0]["content"] for line in (TINY / "prompts.jsonl").read_text("utf-8").splitlines()][:20]


@pytest.mark.slow
def test_a_basis_is_made_and_used(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line says what was made; then people are asked its questions and answered with it."""
    prompts, out = tmp_path / "prompts.txt", tmp_path / "basis"
    prompts.write_text("\n".join(dict.fromkeys(ASKED)), encoding="utf-8")
    words = ("basis", "bootstrap", "--model", SMALL, "--prompts", str(prompts), "--out", str(out), "--max-tokens", "32")
    words += ("--replies", "60", "--quick")
    row = run_verb(capfd, *words, "--json").row()
    assert row["basis"] == str(out)
    assert row["model"] == "small"
    assert row["questions"] >= 10
    assert {"id", "axes", "prompts", "replies", "tokens", "r2", "r2_forced", "steering", "utility", "kl"} <= set(row)
    use = ("--model", SMALL, "--basis", str(out), "--store", f"sqlite:///{tmp_path / 'p.db'}", "--json")
    assert run_verb(capfd, "db", "upgrade", "--store", use[5]).code == 0
    assert run_verb(capfd, "profile", "ada", *use).row()["basis"] == row["id"]
    assert run_verb(capfd, "chat", "ada", "Hello.", *use).row()["reason"] == "no_answers"
    again = run_verb(capfd, *words)
    assert (again.code, "already holds something" in again.err) == (2, True)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two dozen people, every other of whom prefers the longer reply."""
    replies = (
        "Yes.",
        "Sure, I can do that for you at once!",
        "What time do you like?",
        "It costs 20 dollars, all told.",
    )
    prompts, rng = list(dict.fromkeys(ASKED)), random.Random(0)
    rows = []
    for person in range(24):
        for _ in range(14):
            a, b = rng.sample(replies, 2)
            choice = "a" if (len(a) > len(b)) == bool(person % 2) else "b"
            rows.append({"user": f"p{person}", "prompt": rng.choice(prompts), "a": a, "b": b, "choice": choice})
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_basis_is_fitted_and_used(log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line says what was found in the log and made; the basis gives people profiles, and its axes to a reward."""
    out = tmp_path / "basis"
    words = ("basis", "fit", str(log), "--model", SMALL, "--rank", "1", "--max-tokens", "32", "--replies", "60")
    words += ("--ask-log-prompts", "--quick")
    row = run_verb(capfd, *words, "--out", str(out), "--json").row()
    assert row["basis"] == str(out)
    assert row["log"]["people"] == row["people"] == 24
    assert row["held_out"] == 6
    assert row["learnt"] == 1
    assert row["axes"][-1] == "learnt_1"
    assert {"noise", "shares", "active", "accuracy", "calibration_error", "after", "left_out"} <= set(row)
    use = ("--model", SMALL, "--basis", str(out), "--store", f"sqlite:///{tmp_path / 'p.db'}", "--json")
    assert run_verb(capfd, "db", "upgrade", "--store", use[5]).code == 0
    assert run_verb(capfd, "profile", "ada", *use).row()["basis"] == row["id"]
    words = ("basis", "fit", str(log), "--backbone", "--model", SMALL, "--out", str(tmp_path / "reward"))
    assert run_verb(capfd, *words, "--basis", str(out), "--json").row()["axes"] == row["axes"]


@pytest.mark.slow
def test_a_basis_of_known_items_is_fitted_and_used(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Ratings need no prompts, and take none; the basis gives people profiles over the items."""
    rng, ratings, out = random.Random(0), tmp_path / "ratings.csv", tmp_path / "basis"
    rows = [
        f"p{person},joke {i},{(1 if (i < 7) == bool(person % 2) else 0) + rng.random()}"
        for person in range(40)
        for i in range(14)
    ]
    ratings.write_text("\n".join(["user,item,rating", *rows]) + "\n", encoding="utf-8")
    words = ("basis", "fit", str(ratings), "--out", str(out), "--model", "tiny")
    refused = run_verb(capfd, *words, "--ask-log-prompts")
    assert (refused.code, "found prompts for a log of known items" in " ".join(refused.err.split())) == (2, True)
    assert not out.exists()
    row = run_verb(capfd, *words, "--json").row()
    assert row["axes"][:2] == ["liked", "taste_1"]
    assert (row["log"]["people"], row["compared"], row["likeness"]) == (40, 14, None)
    assert row["questions"] > 14
    use = ("--basis", str(out), "--store", f"sqlite:///{tmp_path / 'p.db'}", "--json")
    assert run_verb(capfd, "db", "upgrade", "--store", use[3]).code == 0
    assert run_verb(capfd, "profile", "ada", *use).row()["basis"] == row["id"]


@pytest.mark.parametrize(
    ("words", "budget"),
    [
        ((), Budget()),
        (("--seed", "3"), Budget(seed=3)),
        (("--temperature", "0.7", "--top-p", "0.9"), Budget(temperature=0.7, top_p=0.9)),
        (("--replies", "80", "--max-tokens", "9", "--axes", "dialogue"), Budget(80, 9, axes="dialogue")),
        (("--quick",), Budget(calibration=QUICK)),
    ],
)
def test_each_option_reaches_the_plan(
    words: tuple[str, ...],
    budget: Budget,
    log: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is asked for is what the replies are drawn with, for a basis from prompts and from a log."""
    seen: list[object] = []

    def make(*arguments: object, **_: object) -> None:
        seen.append(arguments[-1])
        raise InputError("far enough")

    monkeypatch.setattr("personalign.train.basis.build.make_basis", make)
    monkeypatch.setattr("personalign.train.basis.fit.fit_from_log", make)
    assert run_verb(capfd, "basis", "bootstrap", "--prompts", "prompts.txt", *words).code == 2
    assert run_verb(capfd, "basis", "fit", str(log), *words).code == 2
    assert seen == [budget, budget]


def test_options_of_the_other_kind_are_refused(log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A reward model has no rank, and a basis takes no axes from another; nothing is made."""
    words = ("basis", "fit", str(log), "--model", SMALL, "--out", str(tmp_path / "out"))
    for more, said in (
        (("--backbone", "--rank", "2"), "leave them out"),
        (("--backbone", "--temperature", "0.7"), "leave them out"),
        (("--backbone", "--top-p", "0.9"), "leave them out"),
        (("--basis", "x"), "with --backbone"),
        ((), "--ask-log-prompts"),
    ):
        refused = run_verb(capfd, *words, *more)
        assert (refused.code, refused.out) == (2, "")
        assert said in " ".join(refused.err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_expert_is_made_and_used(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line holds its figures; it is stacked under the bundled model by its name."""
    from personalign import Personalign

    data = tmp_path / "talk.jsonl"
    data.write_text("".join(json.dumps({"turns": [text, "Ahoy, at once!"]}) + "\n" for text in dict.fromkeys(ASKED)))
    words = ("expert", "train", "--base", "tiny", "--big", "tiny", "--data", str(data), "--name", "pirate")
    row = run_verb(capfd, *words, "--out", str(tmp_path), "--steps", "4", "--json").row()
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
        ("basis", "fit", str(bad), "--model", SMALL, "--out", str(tmp_path / "out")),
        ("expert", "train", "--base", "tiny", "--data", str(bad), "--name", "e", "--out", str(tmp_path / "out")),
    ):
        refused = run_verb(capfd, *words, "--json")
        assert (refused.code, refused.out) == (2, "")
        assert f"{bad}, line" in refused.err.replace("\n", "")
    assert not (tmp_path / "out").exists()
