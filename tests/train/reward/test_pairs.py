"""Pairs as a reward model reads them: the tokens that decoding would draw, and where they are compared."""

from __future__ import annotations

import numpy as np
import pytest

from personalign.decode.load import render
from personalign.errors import InputError, MessageError
from personalign.train.reward.pairs import Pair, comparison, soft_choices, split
from tests.decode.tiny_models import Kit
from tests.train.talker import prompt


def test_rows_are_what_decoding_would_have_in_front_of_it(kit: Kit) -> None:
    """The prompt as decoding renders it, the text, and the token that ends a turn."""
    found = comparison(kit.base, Pair(prompt("cat"), "the hat", "a mat"))
    words = kit.base.tokenizer
    assert words.decode(found.first) == "<|user|>a cat<|end|><|assistant|>the hat<|end|>"
    assert words.decode(found.second) == "<|user|>a cat<|end|><|assistant|>a mat<|end|>"


def test_prefixes_are_compared_position_by_position_from_where_they_differ(kit: Kit) -> None:
    """What is left of the longer reply is compared with all of the shorter, and whole replies come last."""
    pair = Pair(prompt("cat"), "the cat", "the cat sat on the mat")
    found = comparison(kit.base, pair)
    start, ends = len(render(kit.base.tokenizer, pair.prompt)), (len(found.first) - 1, len(found.second) - 1)
    same = [a == b for a, b in zip(found.first, found.second, strict=False)].index(False)
    assert same > start  # control: the replies begin alike
    assert found.places == [(min(i, ends[0]), i) for i in range(same, ends[1] + 1)]
    assert found.places[-1] == ends


def test_a_soft_choice_is_bradley_and_terrys() -> None:
    """Its log-odds are the features' difference; nothing known of a feature, nothing known of the choice."""
    first, second = np.array([[1.0, 0.0, np.nan]]), np.array([[-1.0, 0.0, 0.0]])
    p = soft_choices(first, second)
    assert np.log(p / (1 - p))[0, :2] == pytest.approx([2.0, 0.0])
    assert np.isnan(p[0, 2])
    assert soft_choices(second, first)[0, :2] == pytest.approx(1 - p[0, :2])


def test_no_prompt_is_on_both_sides() -> None:
    """All pairs of a prompt are trained on, or none; the seed says which."""
    names = [*"abcdefghij"] * 3
    train, dev = split(names, 0.2, 0, "prompts")
    sides = [{names[i] for i in side} for side in (train, dev)]
    assert sorted([*train, *dev]) == list(range(30))
    assert (len(sides[0]), len(sides[1])) == (8, 2)
    assert not sides[0] & sides[1]
    assert any(not np.array_equal(split(names, 0.2, seed, "prompts")[1], dev) for seed in range(1, 4))


def test_one_prompt_cannot_be_split() -> None:
    """There would be nothing to try the reward on."""
    with pytest.raises(InputError, match="about 1 prompts; expected at least 2"):
        split(["a cat"] * 4, 0.1, 0, "prompts")


@pytest.mark.parametrize(
    ("first", "second", "complaint"),
    [
        ("", "the cat", "blank"),
        ("the cat", "the cat", "compared with itself"),
        ("the <|end|> cat", "the cat", "marks turns"),
        ("the cat " * 200, "the cat", "reads at most 256"),
    ],
)
def test_replies_that_cannot_be_compared_are_refused(kit: Kit, first: str, second: str, complaint: str) -> None:
    """Each with what was found."""
    with pytest.raises(MessageError, match=complaint):
        comparison(kit.base, Pair(prompt("cat"), first, second))
