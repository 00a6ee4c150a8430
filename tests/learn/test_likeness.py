"""Which questions of a bank are too alike to be asked one person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from personalign.basis import ITEMS, BankQuestion, Basis, Learnt
from personalign.bundled import TINY
from personalign.learn.ask import Likeness
from personalign.types import Message

BASIS = Basis.load(TINY / "basis")


def asked(words: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": words},)


def question(prompt: str, first: str, second: str, v: Sequence[float]) -> BankQuestion:
    features = np.zeros(BASIS.num_axes)
    features[: len(v)] = v
    return BankQuestion(f"{prompt} {first} {second}", asked(prompt), first, second, features, np.zeros(BASIS.num_axes))


ASKED = question("a car", "Sure, where?", "Where to?", [1.0, 2.0])
OTHERS = {
    "another difference": question("a car", "No.", "Yes!", [2.0, -1.0]),
    "the same difference": question("a car", "No.", "Yes!", [2.0, 4.0]),
    "the same, turned": question("a car", "Yes!", "No.", [-1.0, -2.02]),
    "the same, elsewhere": question("a table", "No.", "Yes!", [2.0, 4.0]),
    "the same words": question("a table", "where TO", "sure -- where!", [2.0, -1.0]),
    "no difference": question("a car", "No.", "Yes!", []),
    "emoji": question("a car", "🙂", "🙁", [3.0, -1.0]),
    "other emoji": question("a table", "🙂", "🚗", [3.0, -1.0]),
}


def repeats(first: BankQuestion, *others: BankQuestion) -> list[bool]:
    bank = (first, *others)
    found = Likeness.measure(replace(BASIS, bank=bank)).repeats(np.array([True] + [False] * len(others)))
    return [bool(x) for x in found[1:]]


def test_what_tells_the_same_or_reads_the_same_is_a_repeat() -> None:
    """One prompt and one difference, either way round, or the same words; anything else may still be asked."""
    found = dict(zip(OTHERS, repeats(ASKED, *OTHERS.values()), strict=True))
    assert [name for name, is_repeat in found.items() if is_repeat] == [
        "the same difference",
        "the same, turned",
        "the same words",
    ]


def test_replies_without_words_are_told_apart() -> None:
    """Emoji aren't all the same text; the same two are."""
    emoji = OTHERS["emoji"]
    again = replace(emoji, id="again", prompt=asked("a table"), first_features=np.ones(BASIS.num_axes))
    assert repeats(emoji, OTHERS["other emoji"], again) == [False, True]


def test_before_the_first_question_nothing_is_a_repeat() -> None:
    """No question of the bundled bank is like another, either; a bank may be empty."""
    likeness = Likeness.measure(BASIS)
    assert not likeness.repeats(np.zeros(len(BASIS.bank), dtype=bool)).any()
    for i in range(0, len(BASIS.bank), 40):
        one = np.arange(len(BASIS.bank)) == i
        assert (likeness.repeats(one) == one).all()
    assert Likeness.measure(replace(BASIS, bank=())).repeats(np.zeros(0, dtype=bool)).shape == (0,)


def shows_again(first: BankQuestion, *others: BankQuestion, num: int = 4) -> list[bool]:
    bank = (first, *others)
    asked = np.array([True] + [False] * len(others))
    found = Likeness.measure(replace(BASIS, bank=bank)).shows_again(asked, ~asked & False, num)
    assert found[0]  # what was asked shows its own replies
    return [bool(x) for x in found[1:]]


def test_a_reply_that_was_shown_is_told_by_its_text() -> None:
    """On either side, to any prompt, as one of several, but to the letter; no other question shows one again."""
    of_four = replace(question("a boat", "No.", "Yes!", [1.0]), others=("Maybe.", "Where to?"))
    questions = {
        "on the other side": question("a car", "Where to?", "No.", [1.0]),
        "to another prompt": question("a table", "No.", "Sure, where?", [1.0]),
        "as one of four": replace(of_four, other_features=(np.zeros(BASIS.num_axes),) * 2),
        "in other letters": question("a car", "sure, where?", "Where to", [1.0]),
        "nothing of it": question("a car", "No.", "Yes!", [1.0]),
    }
    found = dict(zip(questions, shows_again(ASKED, *questions.values()), strict=True))
    assert [name for name, is_shown in found.items() if is_shown] == list(questions)[:3]


def test_before_the_first_question_no_reply_was_shown() -> None:
    """And after all of them each was; a bank may be empty."""
    likeness, num = Likeness.measure(BASIS), len(BASIS.bank)
    nothing, everything = np.zeros(num, dtype=bool), np.ones(num, dtype=bool)
    assert not likeness.shows_again(nothing, nothing).any()
    assert likeness.shows_again(everything, nothing).all()
    assert Likeness.measure(replace(BASIS, bank=())).shows_again(nothing[:0], nothing[:0]).shape == (0,)


def test_of_a_pick_all_replies_were_shown() -> None:
    """Of a pair that had others to offer, only its two; and a pair shows none of its own others."""
    of_four = replace(question("a boat", "No.", "Yes!", [1.0]), others=("Maybe.", "Where to?"))
    of_four = replace(of_four, other_features=(np.zeros(BASIS.num_axes),) * 2)
    bank = (of_four, question("a car", "Maybe.", "Sure.", [1.0]))
    likeness = Likeness.measure(replace(BASIS, bank=bank))
    first, nothing = np.array([True, False]), np.array([False, False])
    assert likeness.shows_again(first, nothing).tolist() == [True, False]
    assert likeness.shows_again(first, first).tolist() == [True, True]
    assert likeness.shows_again(~first, nothing, 2).tolist() == [False, True]
    assert likeness.shows_again(~first, nothing, 4).tolist() == [True, True]


def test_items_of_one_taste_are_no_repeats() -> None:
    """Where all tastes lie on one line all pairs of items are parallel; of a model's replies such ones are repeats."""
    others = question("a car", "No.", "Yes!", [2.0, 4.0])
    items = Learnt(np.zeros((4, 1)), ITEMS, ("Sure, where?", "Where to?", "No.", "Yes!"))
    first = np.array([True, False])
    of_replies, of_items = (
        Likeness.measure(replace(BASIS, bank=(ASKED, others), learnt=learnt)) for learnt in (None, items)
    )
    assert of_replies.repeats(first).tolist() == [True, True]
    assert of_items.repeats(first).tolist() == [True, False]
