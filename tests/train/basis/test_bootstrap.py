"""A basis for models that aren't bundled, from a file of prompts: it steers them, and what can't be used is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from personalign import Basis, Personalign
from personalign.decode import Request, load_causal
from personalign.decode.engine import generate
from personalign.errors import InputError, ModelError
from personalign.learn.axes import measure_many
from personalign.options import Options
from personalign.train.basis.build import Made, make_basis
from personalign.train.basis.calibrate import Trials
from personalign.train.plans import GRID, Budget, Calibration
from personalign.train.prompts import read_prompts, split_prompts, take_prompts
from personalign.train.work import WORK
from personalign.types import Guidance
from tests.decode.tiny_models import network, saved, tokenizer
from tests.lab.zoo.conftest import REAL
from tests.train.conftest import SMALL_HEAD
from tests.train.stories import convert
from tests.train.talker import SUBJECTS, teach

STORIES = REAL / "stories260K"
BUDGET = Budget(  # fewer replies, a smaller head that sees fewer tokens, fewer settings: a basis in seconds
    replies=160,
    num_asked=192,
    head=replace(SMALL_HEAD, tokens_seen=200_000),
    calibration=Calibration(GRID[::12], num_people=2),
)
NAMES = ("Lily", "Tom", "Sam", "Lucy", "Ben", "Mia", "Max", "Sue")
OPENINGS = ("Once upon a time, there was a child named {}.", "{} was playing in the park.", "{} had a big red ball.")


@dataclass(frozen=True)
class Case:
    """A model that isn't bundled, what it is asked, and how far it may go."""

    model: Path
    prompts: Path
    max_tokens: int


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "stories")])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "gpt2":
        texts = [f"{article} {subject}" for article, subject in product(("a", "the"), SUBJECTS)]
        rows = [{"prompt": text} for text in texts[:14]] + [talk(text) for text in [*texts[14:], texts[0]]]
        return Case(teach(folder, "gpt2"), written(folder, "prompts.jsonl", map(json.dumps, rows)), 64)
    if not STORIES.is_dir():
        pytest.skip(f"no stories260K under {REAL}")
    texts = [opening.format(name) for opening, name in product(OPENINGS, NAMES)]
    return Case(convert(STORIES, folder / "stories"), written(folder, "prompts.txt", texts), 96)


def talk(text: str) -> dict:
    return {"messages": [{"role": "user", "content": text}]}


def written(folder: Path, name: str, lines) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def found(case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made]:
    out = tmp_path_factory.mktemp("made") / "basis"
    return out, make_basis(str(case.model), case.prompts, out, "cpu", replace(BUDGET, max_tokens=case.max_tokens))


@pytest.mark.slow
def test_the_basis_is_of_that_model(case: Case, found: tuple[Path, Made]) -> None:
    """Its folder holds the four files and nothing else; its name says what it is of, not where that lies."""
    out, made = found
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors", "questions.jsonl", "README.md"}
    basis = Basis.load(out)
    basis.check_model(load_causal(case.model, "cpu").fingerprints)
    assert (basis.id, basis.model) == (made.basis.id, case.model.name)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert str(case.model.parent) not in card
    assert f'Personalign.open(model="{case.model.name}", basis="basis")' in card
    assert all(axis.name in card for axis in basis.axes)
    json.dumps(made.row(), allow_nan=False)


@pytest.mark.slow
def test_the_model_is_personal_with_it(case: Case, found: tuple[Path, Made], tmp_path: Path) -> None:
    """A person answers its questions, and is answered under their own reward; a stranger gets the model's own words."""
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", str(case.model), found[0], device="cpu") as p:
        while question := p.ask("ada"):
            p.answer("ada", question.id, "a" if len(question.a) > len(question.b) else "b")
        assert p.profile("ada").informative
        messages = [dict(m) for m in found[1].prompts.dev[0]]
        ada, stranger = (p.chat(user, messages, max_tokens=32) for user in ("ada", "ben"))
        assert ada.guided == bool(p.basis.steering.beta)
        assert stranger.reason == "no_answers"


@pytest.mark.slow
def test_its_head_moves_replies_both_ways(case: Case, found: tuple[Path, Made], tmp_path: Path) -> None:
    """Who cares about length alone gets longer replies than the model's own, or shorter ones."""
    out, made = found
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", str(case.model), out, device="cpu") as p:
        j = [axis.name for axis in p.basis.axes].index("reply_length")
        prompts = [prompt for prompt in made.prompts.train[:8] for _ in range(4)]
        models = replace(p.models, steering=GRID[-1])

        def length(weight: float) -> float:
            guidance = Guidance(weight * np.eye(p.basis.num_axes)[j])
            requests = [
                Request(prompt, Options(case.max_tokens, 1.0, seed=i), guidance) for i, prompt in enumerate(prompts)
            ]
            return float(measure_many(prompts, [r.text for r in generate(models, requests)], p.basis.axes)[:, j].mean())

        down, plain, up = (length(weight) for weight in (-0.5, 0.0, 0.5))
        assert down < plain < up


@pytest.mark.slow
def test_no_prompt_is_on_two_sides(found: tuple[Path, Made], case: Case) -> None:
    """Those to learn from, to test on and to calibrate on are all different, and one that came twice is counted."""
    made = found[1]
    parts = [
        {json.dumps(prompt) for prompt in part}
        for part in (made.prompts.train, made.prompts.held_out, made.prompts.dev)
    ]
    assert sum(map(len, parts)) == len(set.union(*parts))
    num_lines = len(case.prompts.read_text().splitlines())
    assert sum(map(len, parts)) == num_lines - made.num_repeated
    assert made.num_repeated == (case.prompts.suffix == ".jsonl")


@pytest.mark.slow
def test_a_killed_run_goes_on(case: Case, found: tuple[Path, Made], tmp_path: Path) -> None:
    """Killed in the calibration, it writes no roll-out twice and ends in the same basis."""
    out, made = tmp_path / "basis", found[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trials, "calibrate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_basis(str(case.model), case.prompts, out, "cpu", replace(BUDGET, max_tokens=case.max_tokens))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("personalign.train.basis.rollouts._write_shard", interrupted)
        again = make_basis(str(case.model), case.prompts, out, "cpu", replace(BUDGET, max_tokens=case.max_tokens))
    assert again.basis.id == made.basis.id
    assert not (out / WORK).exists()


def interrupted(*_args, **_options):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("random") / "llama", network("llama", 3), tokenizer())


BAD_LINES = {
    "no JSON": ("hello", "line 2 isn't JSON"),
    "deep JSON": ('{"messages": ' + "[" * 5_000, "line 2 isn't JSON"),
    "a long number": ('{"prompt": ' + "9" * 9_000 + "}", "line 2 isn't JSON"),
    "a list": ("[1]", "line 2 holds a list"),
    "other keys": ('{"text": "hi"}', "line 2 has text; expected"),
    "no keys": ("{}", "line 2 has nothing in it; expected"),
    "a number": ('{"prompt": 3}', "line 2 has prompt; expected"),
    "messages of no form": ('{"messages": ["hi"]}', "line 2 can't be answered: message 0 is .hi."),
    "printed messages": (
        json.dumps({"prompt": str([{"role": "user", "content": "hi"}])}),
        "line 2 can't .* begins like",
    ),
    "parts that are no text": (json.dumps({"messages": [{"role": "user", "content": [{"type": "image"}]}]}), "part 0"),
    "a blank message": ('{"prompt": " "}', "line 2 can't be answered: message 0 .user. is blank"),
    "an unknown role": ('{"messages": [{"role": "me", "content": "hi"}]}', "line 2 can't be answered: .*role 'me'"),
    "an answer": (
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
        "line 2 can't be answered: the last message is the assistant's",
    ),
    "a special token": ('{"prompt": "a<|end|>b"}', "line 2 can't be answered: .*<|end|>"),
    "a novel": (json.dumps({"prompt": "so on " * 16_000}), "line 2 can't be answered: .*tokens"),
    "half a surrogate": ('{"prompt": "\\ud83d"}', "line 2 can't be answered: .*surrogate"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named(model: Path, tmp_path: Path, name: str) -> None:
    """With the file and its number, before anything is written."""
    line, said = BAD_LINES[name]
    prompts = written(tmp_path, "prompts.jsonl", ['{"prompt": "hi"}', line])
    with pytest.raises(InputError, match=said) as error:
        make_basis(str(model), prompts, tmp_path / "out", "cpu")
    assert str(prompts) in str(error.value)
    assert not (tmp_path / "out").exists()


def test_no_model_is_loaded_for_a_file_that_cannot_do(tmp_path: Path) -> None:
    """The line is named though there is no such model; with good lines the model is missed (the control)."""
    bad = written(tmp_path, "bad.JSONL", ['{"prompt": "hi"}', "[]"])
    with pytest.raises(InputError, match="line 2 holds a list"):
        make_basis(str(tmp_path / "none"), bad, tmp_path / "out", "cpu")
    with pytest.raises(ModelError):
        make_basis(str(tmp_path / "none"), written(tmp_path, "good.txt", ["hi"]), tmp_path / "out", "cpu")


@pytest.mark.parametrize("suffix", ["csv", "parquet", "TSV"])
def test_a_table_is_not_taken_for_prompts(tmp_path: Path, suffix: str) -> None:
    """Its header and commas would become what users said."""
    with pytest.raises(InputError, match="is a table; expected JSONL"):
        make_basis("tiny", written(tmp_path, f"prompts.{suffix}", ["prompt,user"]), tmp_path / "out", "cpu")


def test_files_that_cannot_be_read_are_named(model: Path, tmp_path: Path) -> None:
    """Missing, a folder, or not UTF-8, with the line."""
    (tmp_path / "latin.txt").write_bytes("hello\ncafé\n".encode("latin-1"))
    for path, said in (("none.txt", "can't be read"), (".", "can't be read"), ("latin.txt", "line 2 isn't UTF-8")):
        with pytest.raises(InputError, match=said):
            make_basis(str(model), tmp_path / path, tmp_path / "out", "cpu")


def test_too_few_prompts_are_refused(model: Path, tmp_path: Path) -> None:
    """Repeated ones count once; right-to-left text and emoji are text."""
    causal = load_causal(model, "cpu")
    texts = ["שלום", "😀😀", *(f"hello {i}" for i in range(13))]
    with pytest.raises(InputError, match="holds 15 different prompts, expected at least 16"):
        take_prompts(read_prompts(written(tmp_path, "a.txt", texts * 3)), causal, 64, "a.txt", strict=True)
    lines = read_prompts(written(tmp_path, "b.txt", [*texts, "", "bye", "bye"]))
    prompts, num_different = take_prompts(lines, causal, 64, "b.txt", strict=True)
    assert (len(prompts), num_different, len(lines)) == (16, 16, 17)
    assert len(split_prompts(prompts, 0).train) == 10
    assert split_prompts(prompts, 0) == split_prompts(prompts, 0) != split_prompts(prompts, 1)


def test_a_model_without_a_template_is_told_what_to_do(model: Path, tmp_path: Path) -> None:
    """The file to put into its folder is named; with it the model is welcome (the control)."""
    bare, prompts = shutil.copytree(model, tmp_path / "bare"), written(tmp_path, "prompts.txt", ["hi"])
    words = AutoTokenizer.from_pretrained(bare)
    template, words.chat_template = words.chat_template, None
    shutil.rmtree(bare)
    saved(bare, network("llama", 3), words)
    with pytest.raises(ModelError, match=r"no chat template.*chat_template\.jinja"):
        make_basis(str(bare), prompts, tmp_path / "out", "cpu")
    (bare / "chat_template.jinja").write_text(template)
    with pytest.raises(InputError, match="holds 1 different prompts"):
        make_basis(str(bare), prompts, tmp_path / "out", "cpu")


def test_a_folder_with_something_else_is_left_alone(model: Path, tmp_path: Path) -> None:
    """A basis, somebody's notes or a file: nothing in it is changed."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for path in (out, out / "notes.txt"):
        with pytest.raises(InputError, match="already holds something"):
            make_basis(str(model), written(tmp_path, "prompts.txt", ["hi"]), path, "cpu")
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
