"""What is kept: questions without options, answers dictated to the engine, and the benchmark on the bundled toy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab.prose import exam, traits
from lab.prose.domain import NAME, Pair, directly_tuned, expert_on, read_sums
from lab.prose.exam import Exam, Way
from lab.prose.knowledge import Plan, run_knowledge
from lab.prose.questions import ClosedBook, read_questions
from personalign import Personalign
from personalign.bundled import SMOLLM2_GENERATION, TINY
from personalign.cli import main
from personalign.decode import Models, Request, generate, load_causal, load_expert, render
from personalign.errors import InputError
from personalign.options import Options
from personalign.types import Guidance

BASE = str(TINY / "base")
PLAN = Plan(num_questions=6, num_people=2, num_taught=12, num_steps=2, num_sums=3, alphas=(0.5, 1.0))
WEB = [(f"what is the capital of country {i}?", ["Paris", "Paree"]) for i in range(4)]
TRIVIA = [(f"Who wrote book {i}?", "Jane Austen") for i in range(4)]
BY_OPTIONS = [
    ("Which of these is a bird?", "Owl"),
    ("Is it so?", "Yes"),
    ("Name a bird.", "Owl"),
    ("Who?", "a b c d e"),
    (f"Who {'really ' * 30}did it?", "Owl"),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The three files, small."""
    corpora = tmp_path / "data" / "corpora"
    corpora.mkdir(parents=True)
    web = [{"qId": str(i), "qText": text, "answers": answers} for i, (text, answers) in enumerate(WEB)]
    trivia = [{"category": "x", "question": q, "answer": a, "options": []} for q, a in (*TRIVIA, *BY_OPTIONS)]
    sums = [{"question": f"What is {i} plus {i}?", "answer": f"<<{i}+{i}={2 * i}>>{2 * i}"} for i in range(15)]
    (corpora / "webquestions_train.json").write_text(json.dumps(web), encoding="utf-8")
    for name, rows in (("opentriviaqa.jsonl", trivia), ("gsm8k_train.jsonl", sums)):
        (corpora / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return corpora.parent


def test_questions_need_no_options(data: Path) -> None:
    """Both sets in turns, the same ones each time; what leans on options, or has a long answer, is left out."""
    questions = read_questions(data, 8)
    assert questions == read_questions(data, 8)
    texts = {question.text for question in questions}
    assert texts == {text for text, _ in (*WEB, *TRIVIA)}
    assert [question.text.startswith("what") for question in questions] == [True, False] * 4
    with pytest.raises(InputError, match="10 questions are asked for, and the sets have 8"):
        read_questions(data, 10)


def test_a_missing_file_is_named(data: Path) -> None:
    """The error says which file, and how to name the folder."""
    for name, read in (
        ("opentriviaqa.jsonl", lambda: read_questions(data, 2)),
        ("gsm8k_train.jsonl", lambda: read_sums(data)),
    ):
        (data / "corpora" / name).unlink()
        with pytest.raises(InputError, match=rf"{name} isn't there; .*--data DIR"):
            read()


def test_the_verb_asks_for_the_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Before any model is loaded, without a trace of Python."""
    with pytest.raises(SystemExit) as end:
        main(["bench", "knowledge", "--data", str(tmp_path), "--work", str(tmp_path / "work"), "--json"])
    told = capfd.readouterr()
    assert end.value.code
    assert told.out == ""
    assert "opentriviaqa.jsonl isn't there" in told.err
    assert "Traceback" not in told.err
    assert not (tmp_path / "work").exists()


def test_an_answer_counts_as_words_of_its_own() -> None:
    """Case and signs don't matter; a part of a word isn't an answer."""
    question = ClosedBook("where?", ("Paris", "New York City"))
    assert question.is_answered("It is PARIS, of course.")
    assert question.is_answered("new york-city")
    assert not question.is_answered("A parish in New York.")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The bundled model, with its head."""
    with Personalign.open(f"sqlite:///{tmp_path_factory.mktemp('store')}/p.db", model="tiny") as p:
        return p.models


ANSWERS = ("For how many people?", "What a zebra!", "I have found 3 for you.")  # not all of them likely


def _exam(work: Path) -> Exam:
    return Exam([ClosedBook(f"Can you book a table for {i}?", (answer,)) for i, answer in enumerate(ANSWERS)], work)


def _guidance(models: Models, seed: int) -> Guidance:
    assert models.head is not None
    return Guidance(np.random.default_rng(seed).normal(size=models.head.num_axes))


def test_dictation_notes_what_the_model_itself_says(tiny: Models, tmp_path: Path) -> None:
    """Bits are those of one plain pass; short list, temperature and top-p leave in what they should."""
    questions, settings = _exam(tmp_path), SMOLLM2_GENERATION
    marks = questions.dictate(Way("base", tiny, "x"))
    logits, ids = (torch.cat(parts) for parts in zip(*(_read(tiny, one) for one in questions.questions), strict=True))
    expected = torch.nn.functional.cross_entropy(logits, ids, reduction="none").numpy() / np.log(2)
    np.testing.assert_allclose(marks.bits, expected, atol=1e-3)
    assert marks.row.tolist() == sorted(marks.row.tolist())
    rank = (logits > logits.gather(-1, ids[:, None])).sum(-1).numpy()
    assert (marks.is_listed == (rank < tiny.steering.num_candidates)).all()
    p, order = (logits.double() / settings.temperature).softmax(-1).sort(descending=True)
    before = [
        float(row[: int((places == token).nonzero())].sum()) for row, places, token in zip(p, order, ids, strict=True)
    ]
    assert (marks.is_drawn == (np.array(before) < settings.top_p)).all()
    for holds in (marks.is_listed, marks.is_drawn):
        assert 0 < holds.mean() < 1  # the control: both happen
    assert marks.whole(marks.is_listed).tolist() == [marks.is_listed[marks.row == row].all() for row in range(3)]
    assert (marks.listed_bits <= marks.bits)[marks.is_listed].all()


@torch.inference_mode()
def _read(models: Models, question: ClosedBook) -> tuple[torch.Tensor, torch.Tensor]:
    ids: list[int] = models.base.tokenizer(question.answers[0], add_special_tokens=False)["input_ids"]
    prompt = render(models.base.tokenizer, question.messages)
    logits = models.base.model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return logits, torch.tensor(ids)


def test_a_tilt_has_no_bits_outside_its_list(tiny: Models, tmp_path: Path) -> None:
    """Its list is the base's, whoever is guided; within it weights matter, and without them nothing changes."""
    questions = _exam(tmp_path)
    base = questions.dictate(Way("base", tiny, "x"))
    people = [_guidance(tiny, seed) for seed in range(2)]
    tilt = questions.dictate(Way("tilt", tiny, "x", people))
    assert tilt.row.max() == 5
    for listener in range(2):
        heard = tilt.row % 2 == listener
        assert (tilt.is_listed[heard] == base.is_listed).all()
        assert (np.isfinite(tilt.bits[heard]) == base.is_listed).all()
        assert not np.allclose(tilt.listed_bits[heard][base.is_listed], base.listed_bits[base.is_listed])
    off = questions.dictate(Way("off", tiny, "x", [replace(people[0], strength=0.0)]))
    np.testing.assert_allclose(off.bits, base.bits, atol=1e-4)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Path]:
    """The bundled base, and itself after a few steps on one text."""
    work = tmp_path_factory.mktemp("work")
    sums = [
        ({"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": f"It is <<{i}>>."})
        for i in range(12)
    ]
    folder = expert_on(BASE, sums, 3, work, "cpu")
    return Pair(load_causal(BASE, "cpu"), directly_tuned(BASE, folder, "cpu"), "x"), folder


@pytest.mark.slow
def test_the_engine_writes_what_is_read(tiny: Models, pair: tuple[Pair, Path], tmp_path: Path) -> None:
    """α read off two passes is the engine's own stack: at 0 the base, at 1 the merged model, and these two differ."""
    both, folder = pair
    stacked = replace(tiny, experts={NAME: load_expert(folder, load_causal(BASE, "cpu"))})
    direct = Models(both.direct, None, tiny.steering)
    ways = {
        0.0: Way("base", tiny, "x"),
        0.5: Way("half", stacked, "x", options={"expert": NAME, "alpha": 0.5}),
        1.0: Way("direct", direct, "x"),
    }
    questions = _exam(tmp_path)
    read = both.bits([question.conversation for question in questions.questions], [*ways], tmp_path)
    for column, way in enumerate(ways.values(), start=1):
        marks = questions.dictate(way)
        np.testing.assert_allclose(marks.by_answer(marks.bits), read[:, column], atol=1e-2)
    assert (np.abs(read[:, 1] - read[:, 3]) > 0.1).all()
    full = Way("full", stacked, "x", options={"expert": NAME, "alpha": 1.0})
    requests = [Request(question.messages, Options(max_tokens=8, **full.options)) for question in questions.questions]
    plain = [Request(question.messages, Options(max_tokens=8)) for question in questions.questions]
    assert [r.text for r in generate(stacked, requests)] == [r.text for r in generate(direct, plain)]


@pytest.mark.slow
def test_a_run_tells_every_figure_and_goes_on_where_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ratios, shares and gaps; the same run again asks nothing and tells the same."""
    monkeypatch.setattr(traits, "_likeness", lambda texts: np.zeros((len(texts), len(traits.STYLES))))
    result = run_knowledge(PLAN, "auto", data, tmp_path, model="tiny")
    figures = result["figures"]
    names = {
        "knowledge_kept",
        "knowledge.listed",
        "knowledge.drawn.tilt",
        "knowledge.ratio.uncut",
        "knowledge.ratio.alpha.1",
    }
    names |= {
        "knowledge.right.base",
        "knowledge.right.blocks.4.8",
        "knowledge.right.direct",
        "domain.bits.0",
        "domain.bits.0.5",
    }
    assert {f"smollm2.{name}" for name in names} <= figures.keys()
    assert all(np.isfinite(value) for value in figures.values())
    rows = {row["figure"]: row for row in result["rows"]}
    assert rows["smollm2.domain.bits.0"]["gap_closed"] == 0
    assert rows["smollm2.domain.bits.1"]["gap_closed"] == 1
    assert rows["smollm2.knowledge_kept"]["bar"] == "≤ 1.03"
    asked: list[int] = []

    def write(_: Models, requests: Sequence[Request], **_steers: Any) -> None:
        asked.append(len(requests))

    monkeypatch.setattr(exam, "generate", write)
    again = run_knowledge(PLAN, "auto", data, tmp_path, model="tiny")
    assert (again["figures"], asked) == (figures, [])
