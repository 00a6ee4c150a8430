"""Reward models from logs of answers: they foretell people they weren't trained on, and serve."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from personalign import Basis, Personalign
from personalign.bundled import TINY
from personalign.decode import load_reward
from personalign.errors import InputError
from personalign.train.log import AnswerLog, read_log
from personalign.train.reward import from_log as backbones
from personalign.train.reward import train as training
from personalign.train.reward.from_log import MadeBackbone, make_backbone
from personalign.train.work import WORK
from tests.decode.tiny_models import Kit, bits
from tests.train.talker import SUBJECTS

WORDS = ("the", "hat", "mat", "on", "sat", "and")
HELLO = [{"role": "user", "content": "I need a hotel in Paris"}]
IDS = torch.arange(5, 25)[None]


@dataclass(frozen=True)
class People:
    """Who answers, how often, and about whose prompts; everyone wants the reply that begins with "cat"."""

    num_people: int = 20
    num_answers: int = 10
    at_random: bool = False
    own_prompts: bool = True

    def rows(self) -> Iterator[dict[str, str]]:
        rng = random.Random(0)
        for i in range(self.num_people):
            for j in range(self.num_answers):
                about = f"{SUBJECTS[j]} {WORDS[i % 6]} {WORDS[i // 6]}" if self.own_prompts else SUBJECTS[j]
                good, bad = (" ".join([begin, *rng.choices(WORDS, k=4)]) for begin in ("cat", "hat"))
                choice = rng.choice("ab")
                a, b = (good, bad) if choice == "a" else (bad, good)
                answered = rng.choice("ab") if self.at_random else choice
                yield {"user": f"u{i}", "prompt": about, "a": a, "b": b, "choice": answered}


def written(path: Path, rows) -> AnswerLog:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_log(path)


@pytest.fixture(scope="module")
def make(kit: Kit):
    return partial(make_backbone, str(kit.folder / "base"), device="cpu", epochs=5, learning_rate=1e-2)


@pytest.fixture(scope="module")
def made(make, tmp_path_factory: pytest.TempPathFactory) -> MadeBackbone:
    folder = tmp_path_factory.mktemp("backbone")
    return make(written(folder / "a.jsonl", People().rows()), folder / "cats")


def rewards(model) -> torch.Tensor:
    return model.rewards(IDS, torch.ones_like(IDS))


def test_it_foretells_people_it_was_not_trained_on(make, made: MadeBackbone, tmp_path: Path) -> None:
    """A fifth of the people are measured, before and after; answers given at random teach nothing."""
    row = made.row()
    assert row["pairs"]["train"] == 160
    assert row["pairs"]["held_out"] == row["pairs"]["new_prompts"] == 40
    assert row["people"] == {"train": 16, "held_out": 4}
    assert row["accuracy"]["after"] == row["accuracy"]["new_prompts"] >= 0.9
    assert row["log_loss"]["after"] < 0.5 < row["log_loss"]["before"]
    assert row["helps"]
    nothing = make(written(tmp_path / "a.jsonl", People(at_random=True).rows()), tmp_path / "nothing").row()
    assert abs(nothing["accuracy"]["after"] - 0.5) < 0.25  # control
    assert not nothing["helps"]
    assert "doesn't help" in (tmp_path / "nothing" / "README.md").read_text(encoding="utf-8")


def test_its_folder_comes_back_and_tells_its_story(kit: Kit, made: MadeBackbone) -> None:
    """Loaded it says what was trained; the card has all counts and figures, no text, no person and no path."""
    assert {path.name for path in made.folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "reward.safetensors",
        "reward.json",
        "README.md",
        "figures.json",
    }
    loaded = load_reward(made.folder, "cpu", base=kit.folder / "base")
    assert torch.equal(bits(rewards(loaded)), bits(rewards(made.trained.model)))
    assert loaded.axes == ("reward",)
    card = (made.folder / "README.md").read_text(encoding="utf-8")
    row = json.loads((made.folder / "figures.json").read_text(encoding="utf-8"))
    assert row == json.loads(json.dumps(made.row(), allow_nan=False))
    assert f"{row['accuracy']['after']:.3f}" in card
    assert f"{row['log_loss']['after']:.3f}" in card
    assert "200 answers of 20 people in `a.jsonl`, 200 of them used" in card
    assert "whose people it was not trained on" in card
    assert "u1" not in card
    assert str(kit.folder) not in card


@pytest.mark.slow
def test_a_run_that_was_killed_after_training_trains_no_more(
    make, made: MadeBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends in the same bits without a step; another seed gives other weights (the control)."""
    log = written(tmp_path / "a.jsonl", People().rows())
    with monkeypatch.context() as patch:
        patch.setattr(backbones, "save_reward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(log, tmp_path / "again")
    assert (tmp_path / "again" / WORK).is_dir()
    with monkeypatch.context() as patch:
        patch.setattr("personalign.train.reward.train.differences", only_new_prompts)
        again = make(log, tmp_path / "again")
    assert torch.equal(bits(rewards(again.trained.model)), bits(rewards(made.trained.model)))
    assert again.row() | {"reward": None} == made.row() | {"reward": None}
    other = make(log, tmp_path / "other", seed=1, epochs=1)
    assert not torch.equal(bits(rewards(other.trained.model)), bits(rewards(made.trained.model)))
    with pytest.raises(InputError, match="already holds something"):
        make(log, tmp_path / "again")


differences = training.differences


def only_new_prompts(decoder, head, batch, over):
    """What is measured at the end, without gradients, may be; a step of the training may not."""
    assert not torch.is_grad_enabled()
    return differences(decoder, head, batch, over)


def interrupted(*_args, **_options):
    raise KeyboardInterrupt


def test_what_the_log_says_is_counted(make, tmp_path: Path) -> None:
    """Answers that say nothing, came before or can't be read are left out and counted; ties are trained on."""
    rows = list(People(num_people=6, own_prompts=False).rows())
    rows[1]["choice"], rows[2]["choice"], rows[3]["choice"] = "skip", "neither", "tie"
    rows[4]["a"] = "a<|end|>b"
    rows[5]["prompt"] = "so on " * 2000
    made = make(written(tmp_path / "a.jsonl", [*rows, rows[0]]), tmp_path / "out", epochs=1)
    row = made.row()
    pairs = row["pairs"]
    assert (pairs["uninformative"], pairs["unreadable"], pairs["duplicates"], pairs["bad"]) == (2, 2, 0, 0)
    assert pairs["train"] + pairs["held_out"] == len(rows) + 1 - 4
    assert (pairs["new_prompts"], row["accuracy"]["new_prompts"]) == (0, None)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "All of their prompts were trained on" in card


def test_too_little_to_learn_from_is_refused(make, tmp_path: Path) -> None:
    """One person's answers, whatever others skipped; before anything is written."""
    rows = list(People(num_people=2).rows())
    log = written(tmp_path / "a.jsonl", [*rows[:10], *(row | {"choice": "skip"} for row in rows[10:])])
    with pytest.raises(
        InputError, match="10 of the log's 10 answers a, b or tie, by 1 people; expected those of at least 2"
    ):
        make(log, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert make(written(tmp_path / "a.jsonl", rows), tmp_path / "out", epochs=1).num_held_out == 1  # control


def bank_log(path: Path, basis: Basis) -> AnswerLog:
    """Five people who prefer the shorter reply."""
    rows = [
        {"user": f"u{i % 5}", "prompt": list(q.prompt), "a": q.first, "b": q.second}
        | {"choice": "ab"[len(q.first) > len(q.second)]}
        for i, q in enumerate(basis.bank[:40])
    ]
    return written(path / "bank.jsonl", rows)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_with_a_basis_everyone_is_served_by_their_own_weights(tmp_path: Path) -> None:
    """On the bundled model: one reward an axis; who wants the opposite gets another reply by ``args``."""
    basis = Basis.load(TINY / "basis")
    made = make_backbone("tiny", bank_log(tmp_path, basis), tmp_path / "axes", "cpu", TINY / "basis", epochs=1)
    assert made.trained.model.axes == tuple(axis.name for axis in basis.axes)
    assert made.row()["log_loss"]["after"] < made.row()["log_loss"]["before"]
    assert basis.id[:12] in (tmp_path / "axes" / "README.md").read_text(encoding="utf-8")
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", reward=str(tmp_path / "axes")) as p:
        for user, longer in (("long", True), ("short", False)):
            for _ in range(4):
                question = p.ask(user)
                p.answer(user, question.id, "a" if (len(question.a) > len(question.b)) == longer else "b")
        long, short, stranger = (
            p.chat(user, HELLO, rule="args", strength=3.0, max_tokens=16) for user in ("long", "short", "stranger")
        )
    assert (long.guided, short.guided, stranger.guided) == (True, True, False)
    assert long.text != short.text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_without_a_basis_it_steers_everyone(tmp_path: Path) -> None:
    """On the bundled model: a stranger, too, is guided by what the log's people preferred."""
    made = make_backbone("tiny", bank_log(tmp_path, Basis.load(TINY / "basis")), tmp_path / "short", "cpu")
    assert made.row()["accuracy"]["after"] > 0.7
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", reward=str(tmp_path / "short")) as p:
        plain, guided = (p.chat("ada", HELLO, rule="args", strength=s, max_tokens=16) for s in (0.0, 1.0))
    assert (plain.guided, guided.guided) == (False, True)
    assert guided.gained > 0
