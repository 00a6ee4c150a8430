"""An expert's texts: every kind of line, split without leaks, packed into full rows, and bad lines named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from personalign.decode import CausalModel, load_causal
from personalign.errors import InputError
from personalign.train.expert.texts import read_texts, rows_at
from tests.decode.tiny_models import network, saved, tokenizer

TALK = [{"role": "user", "content": "hat?"}, {"role": "assistant", "content": "mat."}]


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> CausalModel:
    return load_causal(saved(tmp_path_factory.mktemp("small"), network("llama", 1), tokenizer()), "cpu")


def written(folder: Path, *lines: str, name: str = "data.jsonl") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def test_dialogues_and_texts_become_tokens(causal: CausalModel, tmp_path: Path) -> None:
    """Messages and turns by the chat template, texts as they are, with an end; a line that came before is counted."""
    fillers = [json.dumps({"text": f"the cat {i}"}) for i in range(9)]
    turns = json.dumps({"turns": [m["content"] for m in TALK], "services": []})
    texts = read_texts(written(tmp_path, json.dumps({"messages": TALK}), turns, *fillers), causal, 0)
    everything = [causal.tokenizer.decode(ids) for ids in (*texts.train, *texts.dev, *texts.held_out)]
    assert texts.num_repeated == 1
    assert sorted(everything) == sorted(
        ["<|user|>hat?<|end|><|assistant|>mat.<|end|>", *(f"the cat {i}<|end|>" for i in range(9))]
    )
    assert (len(texts.dev), len(texts.held_out)) == (1, 1)


def test_a_text_file_has_a_text_a_line(causal: CausalModel, tmp_path: Path) -> None:
    """Blank lines are none; the split is the seed's."""
    path = written(tmp_path, *(f"the cat sat {i}\n" for i in range(30)), name="texts.txt")
    texts = read_texts(path, causal, 0)
    assert (len(texts.train), len(texts.dev), len(texts.held_out)) == (24, 3, 3)
    assert read_texts(path, causal, 0) == texts != read_texts(path, causal, 1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hello", "line 2 isn't JSON"),
        ('{"label": 1}', r"line 2 has label .int.; expected"),
        ('{"text": " "}', r"line 2 has text .str.; expected"),
        ('{"turns": 7}', "line 2 has turns .int.; expected"),
        ('{"turns": "text"}', "line 2 has turns .str.; expected"),
        ('{"turns": {"a": "hat?"}}', "line 2 has turns .dict.; expected"),
        ('{"messages": "text"}', "line 2 has messages .str.; expected"),
        ('{"messages": {"role": "user", "content": "hat?"}}', "line 2 has messages .dict.; expected"),
        ('{"turns": ["hat?", ""]}', "line 2 isn't a dialogue to learn from: message 1 .assistant. is blank"),
        ('{"messages": []}', "line 2 isn't a dialogue to learn from: found no messages"),
        (
            '{"messages": [{"role": "user"}]}',
            "line 2 isn't a dialogue to learn from: message 0 has 'role', but not 'content'",
        ),
        ('{"turns": ["a<|end|>b"]}', "line 2 isn't a dialogue to learn from: .*<|end|>"),
    ],
)
def test_a_bad_line_is_named(causal: CausalModel, tmp_path: Path, line: str, said: str) -> None:
    path = written(tmp_path, '{"text": "the cat"}', line)
    with pytest.raises(InputError, match=said) as error:
        read_texts(path, causal, 0)
    assert str(path) in str(error.value)


def test_too_few_texts_are_refused(causal: CausalModel, tmp_path: Path) -> None:
    """However often each is repeated."""
    with pytest.raises(InputError, match="holds 9 different texts, expected at least 10"):
        read_texts(written(tmp_path, *[json.dumps({"text": f"cat {i}"}) for i in range(9)] * 3), causal, 0)


def test_rows_are_full_and_the_same_again() -> None:
    """Of one length however short the texts, with all of a long text among them, and each step's its own."""
    short = rows_at([[1, 2, 3]], 4, 10, 0, torch.device("cpu"))(0)
    assert short.tolist() == [[1, 2, 3, 1, 2, 3, 1, 2, 3, 1]] * 4
    rows = rows_at([list(range(100)), [7] * 5], 8, 10, 3, torch.device("cpu"))
    assert torch.equal(rows(5), rows(5))
    assert not torch.equal(rows(5), rows(6))
    assert {int(token) for step in range(20) for token in rows(step).flatten()} == set(range(100))
