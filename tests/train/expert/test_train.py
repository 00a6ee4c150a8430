"""An expert from a file: it reads the held-out texts better, its card says how much, and it can be loaded."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import pytest

from personalign.decode import Models, Request, load_causal, load_expert
from personalign.decode.engine import generate
from personalign.errors import InputError, ModelError
from personalign.options import Options
from personalign.train.expert import train as tune
from personalign.train.expert.train import Tuned, tune_expert
from personalign.train.plans import UNCALIBRATED
from personalign.train.work import WORK
from tests.decode.tiny_models import SMALL_TEMPLATE, network, saved, tokenizer
from tests.train.talker import REPLIES, SUBJECTS, prompt

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small ones of two families, a big one, one with another template and one with more logits."""
    folder = tmp_path_factory.mktemp("models")
    for name, model in (
        ("llama", network("llama", 1)),
        ("gpt2", network("gpt2", 1)),
        ("big", network("llama", 2, hidden=64)),
        ("padded", network("llama", 2, vocabulary=136)),
    ):
        saved(folder / name, model, tokenizer())
    saved(folder / "strange", network("llama", 3), tokenizer(SMALL_TEMPLATE))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "talk.jsonl"
    talks = [
        [*prompt(subject), {"role": "assistant", "content": reply.format(subject)}]
        for subject, reply in product(SUBJECTS, REPLIES)
    ]
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    return path


def tuned(models: Path, data: Path, out: Path, small: str = "llama", big: str | None = None, steps: int = 30) -> Tuned:
    path = None if big is None else str(models / big)
    return tune_expert(str(models / small), data, "talk", out, path, "cpu", num_steps=steps, learning_rate=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("small", "big"), [("llama", None), ("gpt2", None), ("llama", "big"), ("llama", "padded")])
def test_an_expert_knows_its_texts(models: Path, data: Path, tmp_path: Path, small: str, big: str | None) -> None:
    """Held-out texts cost fewer bits with it, α is the best on dev, and all figures stand in its card."""
    made = tuned(models, data, tmp_path, small, big)
    assert made.helps
    assert made.bits["stack"] < 0.8 * made.bits[(big and "big") or "small"]
    assert made.sweep[made.alpha] == min(bits for alpha, bits in made.sweep.items() if alpha)
    assert made.num_texts == {"train": 90, "dev": 11, "held_out": 11}
    card = (tmp_path / "talk" / "README.md").read_text(encoding="utf-8")
    for bits in (*made.bits.values(), *made.sweep.values()):
        assert f"{bits:.3f}" in card
    assert ("--big" in card) == (big is not None)
    assert str(models) not in card
    assert json.loads((tmp_path / "talk" / "figures.json").read_text())["alpha"] == made.alpha
    assert not (tmp_path / "talk" / WORK).exists()


@pytest.mark.slow
@pytest.mark.parametrize("small", ["llama", "gpt2"])
@pytest.mark.slow
def test_it_comes_back_under_any_model_of_that_vocabulary(models: Path, data: Path, tmp_path: Path, small: str) -> None:
    """By its name, with its α; replies are written with it, and differ from those without."""
    made = tuned(models, data, tmp_path, small)
    expert = load_expert(tmp_path / "talk", load_causal(models / small, "cpu"))
    assert (expert.name, expert.alpha) == ("talk", made.alpha)
    models = Models(load_causal(models / "big", "cpu"), None, UNCALIBRATED, {"talk": expert})
    without, with_it = generate(
        models,
        [Request(prompt("cat"), Options(24, expert=name, alpha=1.0 if name else None)) for name in (None, "talk")],
    )
    assert without.ids != with_it.ids


@pytest.mark.slow
def test_a_killed_run_goes_on(models: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the training, it is not trained again and comes to the same figures."""
    once = tuned(models, data, tmp_path / "once")
    with monkeypatch.context() as patch:
        patch.setattr(tune, "save_expert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tuned(models, data, tmp_path / "killed")
    monkeypatch.setattr("personalign.train.loop._step", interrupted)
    again = tuned(models, data, tmp_path / "killed")
    assert again.bits == once.bits
    with pytest.raises(KeyboardInterrupt):  # control: another one would be trained
        tuned(models, data, tmp_path / "other", steps=31)


def interrupted(*_args, **_options):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "__base__", "a b", "../up"])
def test_a_name_that_is_no_folder_is_refused(models: Path, data: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="can't be an expert's name"):
        tune_expert(str(models / "llama"), data, name, tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


def test_models_that_read_otherwise_are_refused(models: Path, data: Path, tmp_path: Path) -> None:
    """Another chat template, or another vocabulary."""
    with pytest.raises(ModelError, match="different chat templates"):
        tuned(models, data, tmp_path, big="strange")
    saved(tmp_path / "other", network("llama", 1), tokenizer(extra="quite other words, other words"))
    with pytest.raises(ModelError, match=r"token \d+ is"):
        tune_expert(str(models / "llama"), data, "talk", tmp_path, str(tmp_path / "other"), "cpu")


def test_an_expert_that_learnt_nothing_says_so(models: Path, data: Path, tmp_path: Path) -> None:
    """With a rate of nearly nothing the stack is the base; the card says that it doesn't help."""
    made = tune_expert(str(models / "llama"), data, "idle", tmp_path, device="cpu", num_steps=1, learning_rate=1e-12)
    card = (tmp_path / "idle" / "README.md").read_text(encoding="utf-8")
    assert made.helps == ("doesn't help" not in card)
    assert abs(made.bits["stack"] - made.bits["small"]) < 1e-3
    assert re.search(r"α \(expert − small\)", card)


def test_a_folder_with_something_else_is_left_alone(models: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds something"):
        tuned(models, data, tmp_path)
    assert [path.name for path in (tmp_path / "talk").iterdir()] == ["notes.txt"]
