"""The question bank: whole, readable, different replies, one question a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from personalign.basis import BankQuestion
from personalign.learn.axes import measure_many
from personalign.learn.dialogue import AXES
from personalign.train.basis.bank import is_distinct, is_readable, make_bank, until_last_sentence
from personalign.train.basis.rollouts import Rollouts
from tests.decode.tiny_models import talk

SHORT, LONG, ASKING = (
    "I found 3 of them.",
    "Sure, I'd be happy to look for a quiet place near the old harbour!",
    "Where to?",
)
NUMBERS = "It opens at 9 in the morning and costs 20 dollars."
TWIN = "I found 3 of them, did I?"  # other features than SHORT, the same words
RAMBLING = "We go and then and then and then."
PROMPTS = talk(*"abcdefg")


def rollouts(replies: Sequence[tuple[int, str]], cut: Sequence[int] = (), expert: Sequence[int] = ()) -> Rollouts:
    """Replies as (prompt, text); those numbered in ``cut`` were cut off, those in ``expert`` had one."""
    n = len(replies)
    return Rollouts(
        prompt=np.array([prompt for prompt, _ in replies]),
        text=tuple(text for _, text in replies),
        complete=~np.isin(np.arange(n), cut),
        alpha=np.isin(np.arange(n), expert).astype(float),
        forced_at=np.full(n, -1),
        reply=np.arange(n),
        position=np.zeros(n, dtype=np.int64),
        token=np.zeros(n, dtype=np.int64),
        hidden=np.zeros((n, 2), dtype=np.float16),
    )


def features_of(prompts: Sequence, replies: Rollouts) -> np.ndarray:
    raw = measure_many([prompts[i] for i in replies.prompt], list(replies.text), AXES)
    return (raw - raw.mean(0)) / np.maximum(raw.std(0), 1e-6)


def bank_of(replies: Rollouts, prompts: Sequence = PROMPTS, seed: int = 0) -> tuple[BankQuestion, ...]:
    return make_bank(prompts, replies, features_of(prompts, replies), np.eye(len(AXES)), seed)


GOOD = rollouts([(p, text) for p in range(4) for text in (SHORT, LONG, ASKING, NUMBERS, RAMBLING, SHORT)])


@pytest.mark.parametrize(
    "text",
    [
        SHORT,
        LONG,
        ASKING,
        NUMBERS,
        "Sure! Which day?",
        "It's $12.50, at 8:15 pm.",
        "“Found,” I say. (“Good!”)",
        "1. tea\n2. milk\n\nWhich?\n",
    ],
)
def test_a_whole_plain_reply_is_readable(text: str) -> None:
    assert is_readable(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("Sure.", id="a single word"),
        pytest.param("?!.", id="no word"),
        pytest.param("I found 3 of", id="cut off"),
        pytest.param("word " * 3 + "and so on " * 20 + ".", id="long and going round"),
        pytest.param(" ".join(f"w{i}" for i in range(151)) + ".", id="151 words"),
        pytest.param("Would you like the blue one or would you like the red one?", id="three words again"),
        pytest.param("I found the the park.", id="stutter"),
        pytest.param("I found \x07 a bell.", id="control character"),
        pytest.param("I like the caf\N{REPLACEMENT CHARACTER} here.", id="half a character"),
    ],
)
def test_a_reply_that_is_broken_is_not(text: str) -> None:
    assert not is_readable(text)


def test_replies_are_distinct_when_most_words_differ() -> None:
    """By the words they share, whatever their case and order."""
    assert is_distinct(SHORT, LONG)
    assert not is_distinct(SHORT, SHORT)
    assert not is_distinct("Sure, the red one.", "the red one, SURE!")
    assert not is_distinct("What is the date of it?", "What was the date of it?")
    assert is_distinct(ASKING, SHORT) == is_distinct(SHORT, ASKING)


def test_questions_can_be_read_and_told_apart() -> None:
    """Every pair is readable and distinct, and of the prompt's own replies; broken ones are never asked about."""
    bank = bank_of(GOOD)
    assert len(bank) == 4
    for question in bank:
        assert is_readable(question.first)
        assert is_readable(question.second)
        assert is_distinct(question.first, question.second)
    assert RAMBLING not in {text for q in bank for text in (q.first, q.second)}
    assert RAMBLING in GOOD.text  # control: it was there to be chosen


def test_a_reply_that_was_cut_off_is_shown_to_its_last_whole_sentence() -> None:
    """What comes after it goes, list numbers and prices end no sentence, and a whole reply stays as it is."""
    texts = ["It rains. Take an umb", "Buy these:\n1. Tea and milk.\n2. ", "It costs 3.50 and", "No end", "It rai"]
    whole = until_last_sentence(rollouts([(0, text) for text in texts], cut=[0, 1, 2, 3]))
    assert whole.text == ("It rains.", "Buy these:\n1. Tea and milk.", "", "", "It rai")
    assert whole.complete.tolist() == [True, True, False, False, True]


def test_a_prompt_is_asked_about_once() -> None:
    """One question a prompt, under that prompt."""
    prompts = [tuple(q.prompt) for q in bank_of(GOOD)]
    assert prompts == [tuple(p) for p in PROMPTS[:4]]
    texts = {prompt: {t for p, t in zip(GOOD.prompt, GOOD.text, strict=True) if p == prompt} for prompt in range(4)}
    assert all({q.first, q.second} <= texts[i] for i, q in enumerate(bank_of(GOOD)))


def test_a_question_carries_the_features_of_its_texts() -> None:
    """What a fit will learn from is what the person has read."""
    features = features_of(PROMPTS, GOOD)
    for i, question in enumerate(bank_of(GOOD)):
        for text, stored in ((question.first, question.first_features), (question.second, question.second_features)):
            j = next(j for j, t in enumerate(GOOD.text) if t == text and GOOD.prompt[j] == i)
            assert np.array_equal(stored, features[j])
            others = [k for k, t in enumerate(GOOD.text) if t != text]
            assert not (features[others] == stored).all(1).any()  # control: features tell texts apart
        assert question.first_features.shape == (len(AXES),)


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param(rollouts([*[(0, t) for t in (SHORT, LONG)], (1, SHORT), (1, SHORT)]), id="the same text twice"),
        pytest.param(rollouts([*[(0, t) for t in (SHORT, LONG)], (1, SHORT)]), id="a single reply"),
        pytest.param(rollouts([(p, t) for p in (0, 1) for t in (SHORT, LONG)], cut=[3]), id="one was cut off"),
        pytest.param(rollouts([(p, t) for p in (0, 1) for t in (SHORT, LONG)], expert=[3]), id="one by an expert"),
        pytest.param(rollouts([(0, SHORT), (0, LONG), (1, SHORT), (1, RAMBLING)]), id="one can't be read"),
        pytest.param(rollouts([(0, SHORT), (0, LONG), (1, SHORT), (1, TWIN)]), id="both say the same"),
    ],
)
def test_a_prompt_without_a_pair_has_no_question(spoilt: Rollouts) -> None:
    """Prompt 1 lacks two whole, different replies of the model's own; prompt 0, the control, has them."""
    assert [tuple(q.prompt) for q in bank_of(spoilt)] == [tuple(PROMPTS[0])]


def test_ids_are_unique_and_stay() -> None:
    """The same pair has the same id in another bank, at another place; no two questions share one."""
    replies = [(p, text) for p in range(6) for text in (SHORT, LONG)]
    bank, again = bank_of(rollouts(replies)), bank_of(rollouts(replies))
    assert [q.id for q in bank] == [q.id for q in again]
    assert len({q.id for q in bank}) == 6  # although all have the same texts

    turned = bank_of(rollouts([(5 - p, text) for p, text in replies]), PROMPTS[5::-1])
    before, after = ({as_shown(q): q.id for q in questions} for questions in (bank, turned))
    same = before.keys() & after.keys()
    assert same  # sides are drawn anew, so not all are
    assert {shown: before[shown] for shown in same} == {shown: after[shown] for shown in same}
    other = bank_of(rollouts([(p, text) for p in range(6) for text in (SHORT, NUMBERS)]))
    assert not {q.id for q in other} & {q.id for q in bank}  # control: another pair has another id


def as_shown(question: BankQuestion) -> tuple[str, str, str]:
    return question.prompt[-1]["content"], question.first, question.second
