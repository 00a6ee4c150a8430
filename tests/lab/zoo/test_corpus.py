"""The text the bundled model is made from: who sees what, and in which order."""

from __future__ import annotations

import json
import random
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lab.zoo.corpus import (
    CHAT_SHARE,
    LONG_ROW_LENGTH,
    ROW_LENGTH,
    SYSTEM_SHARE,
    SYSTEM_TEXTS,
    TOKENS_PER_STEP,
    encode,
    rows_at,
)
from lab.zoo.dialogues import DEV, HELD_OUT, Corpus, Dialogue, load_corpus
from personalign.bundled import TINY
from personalign.errors import InputError
from tests.lab.zoo.conftest import TWIN

TASK, CHAT = 7, 8
DOCUMENTS = [np.full(100 + i, TASK) for i in range(200)]
SMALL_TALK = [np.full(90 + i, CHAT) for i in range(200)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(TINY / "base")


def lines_of(data: Path) -> list[dict]:
    return [json.loads(line) for line in (data / "corpora" / "sgd_dialogues.jsonl").read_text("utf-8").splitlines()]


def texts(dialogues: list[Dialogue]) -> set[tuple[str, ...]]:
    return {d.turns for d in dialogues}


def parts(corpus: Corpus) -> dict[str, set[tuple[str, ...]]]:
    return {field.name: texts(getattr(corpus, field.name)) for field in fields(corpus)}


def test_base_and_small_never_see_a_hotel(data: Path, corpus: Corpus) -> None:
    """No dialogue with a hotel service is among those they learn from, nor is any text of one."""
    hotels = {
        tuple(turn.strip() for turn in row["turns"] if turn.strip())
        for row in lines_of(data)
        if any("hotel" in service.lower() for service in row["services"])
    }
    assert hotels  # control: there are some to be kept out
    assert not hotels & (texts(corpus.task) | texts(corpus.chat) | texts(corpus.task_held_out))
    assert hotels == texts(corpus.hotel) | texts(corpus.hotel_dev) | texts(corpus.hotel_held_out)


def test_what_is_held_out_is_never_learnt_from(corpus: Corpus) -> None:
    """No text is in two parts, and every part has some."""
    by_name = parts(corpus)
    assert all(by_name.values())
    names = sorted(by_name)
    shared = {(a, b) for a in names for b in names if a < b and by_name[a] & by_name[b]}
    assert not shared


def test_nothing_is_lost(data: Path, corpus: Corpus) -> None:
    """Every task dialogue has its part."""
    found = [*corpus.task, *corpus.task_held_out, *corpus.hotel, *corpus.hotel_dev, *corpus.hotel_held_out]
    assert len(found) == len(lines_of(data))


def test_no_reordering_moves_a_dialogue(twin: Corpus, tmp_path: Path) -> None:
    """The split goes by the text alone: shuffled, and with half of the lines gone, each stays where it was."""
    (tmp_path / "corpora").mkdir()
    for name in ("sgd_dialogues.jsonl", "self_dialogue.jsonl"):
        lines = (TWIN / "corpora" / name).read_text("utf-8").splitlines()
        random.Random(0).shuffle(lines)
        (tmp_path / "corpora" / name).write_text("\n".join(lines[::2]) + "\n", encoding="utf-8")
    before, after = parts(twin), parts(load_corpus(tmp_path))
    assert all(after[name] <= before[name] for name in before)
    assert sum(map(len, after.values())) >= 15

    changed = [Dialogue((), ("Hello.", f"Bye {i}.")).part for i in range(4000)]  # control: the text does matter
    assert changed.count("held_out") / 4000 == pytest.approx(HELD_OUT, abs=0.015)
    assert changed.count("dev") / 4000 == pytest.approx(DEV, abs=0.015)


def test_turns_alternate_from_the_user(twin: Corpus) -> None:
    messages = twin.task[0].messages()
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant"]
    assert tuple(m["content"] for m in messages) == twin.task[0].turns
    assert twin.task[0].messages(3) == messages[:3]


def test_whole_dialogues_are_encoded(twin: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    """Each begins and ends with its special token, holds its turns, and a few carry a system message."""
    many = twin.task * 60
    rows = encode(tokenizer, many, seed=0)
    assert {row[0] for row in rows} == {tokenizer.bos_token_id}
    assert {row[-1] for row in rows} == {tokenizer.eos_token_id}
    decoded = tokenizer.decode(rows[0], skip_special_tokens=True)
    assert all(turn in decoded for turn in twin.task[0].turns)
    system = tokenizer.convert_tokens_to_ids("<|system|>")
    told = [row for row in rows if system in row]
    assert len(told) / len(rows) == pytest.approx(SYSTEM_SHARE, abs=0.03)
    assert all(any(text in tokenizer.decode(row) for text in SYSTEM_TEXTS) for row in told)


def test_a_step_has_the_same_rows_again() -> None:
    """Asked anew, in another order, in a new process's function: the same; another step or seed has others."""
    documents = [np.arange(i, i + 100) for i in range(200)]
    rows, again = rows_at(documents, SMALL_TALK, 0.1, 100, 0), rows_at(documents, SMALL_TALK, 0.1, 100, 0)
    first, last = rows(3), rows(90)
    assert again(90).equal(last)
    assert again(3).equal(first)
    assert rows(3).equal(first)
    assert not rows(4).equal(first)
    assert not rows_at(documents, SMALL_TALK, 0.1, 100, 1)(3).equal(first)


def test_every_step_has_as_many_tokens_and_the_last_quarter_long_rows() -> None:
    rows = rows_at(DOCUMENTS, SMALL_TALK, 0.1, 100, 0)
    for step, length in ((0, ROW_LENGTH), (74, ROW_LENGTH), (75, LONG_ROW_LENGTH), (99, LONG_ROW_LENGTH)):
        assert rows(step).shape == (TOKENS_PER_STEP // length, length)


@pytest.mark.parametrize("share", [0.0, CHAT_SHARE, 1 / 3])
def test_others_have_their_share_of_the_rows(share: float) -> None:
    """As many as were asked for over a few hundred steps; whole rows, and none where the share is 0."""
    rows = rows_at(DOCUMENTS, SMALL_TALK if share else (), share, 1000, 0)
    mixed_in = np.concatenate([(rows(step) == CHAT).float().mean(1) for step in range(200)])
    assert set(mixed_in) <= {0.0, 1.0}
    assert mixed_in.mean() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(("documents", "others"), [(DOCUMENTS[:9], SMALL_TALK), (DOCUMENTS, SMALL_TALK[:0])])
def test_too_few_dialogues_are_refused(documents: list[np.ndarray], others: list[np.ndarray]) -> None:
    """A step that can't be filled, from either side, says how many there were; the control has enough of both."""
    assert rows_at(DOCUMENTS, SMALL_TALK, 0.5, 100, 0)(0).shape == (TOKENS_PER_STEP // ROW_LENGTH, ROW_LENGTH)
    with pytest.raises(InputError, match=f"{len(documents)} dialogues and {len(others)} to mix in.*larger corpus"):
        rows_at(documents, others, 0.5, 100, 0)(0)


def test_chit_chat_is_at_most_a_quarter() -> None:
    """The bundled model is to talk like a booking assistant."""
    assert 0 < CHAT_SHARE <= 0.25


def test_a_row_is_of_whole_dialogues() -> None:
    """It begins where one begins; only its last is cut."""
    documents = [np.concatenate([[1], np.full(60, 5), [2]]) for _ in range(300)]
    for row in rows_at(documents, (), 0.0, 100, 0)(0):
        assert row[0] == 1
        assert row.tolist() == (documents[0].tolist() * 5)[:ROW_LENGTH]
