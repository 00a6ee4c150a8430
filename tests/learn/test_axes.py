"""The sets of named axes: none is taken for another, and a basis's axes are measured in its own order."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given

from personalign.errors import BasisError, InputError
from personalign.learn.axes import SETS, measure, measure_many, named_axes
from personalign.types import Message
from personalign.words import Axis
from tests.learn.any_text import texts
from tests.learn.people import Array

ASKED: list[Message] = [{"role": "user", "content": "I'd like to rent a small car in Lisbon please."}]
REPLY = "Sure! I've found **two** cars in Lisbon:\n\n1. A Fiat for $40.\n2. A van.\n\nWhich would you like?"
LOWEST_AND_HIGHEST = {"dialogue": (0.0, np.log1p(80)), "assistant": (-8.0, 8.0)}
WORDLESS = ["", " ", "\n", "!!!", "?", "...", "\u2028", "---", "| --- |", "**", "()"]
DIALOGUE, ASSISTANT = named_axes("dialogue"), named_axes("assistant")


def test_a_name_stands_for_one_measure() -> None:
    """No axis of one set has the name of another's, so a stored basis can't be measured by the wrong set."""
    names = [axis.name for axis_set in SETS.values() for axis in axis_set.axes]
    assert len(names) == len(set(names)) == sum(len(axis_set.measures) for axis_set in SETS.values())


@pytest.mark.parametrize("name", SETS)
def test_every_axis_has_a_measure_and_words(name: str) -> None:
    """Each axis of a set is measured, and both its ends are named."""
    axes = SETS[name].axes
    assert [axis.name for axis in axes] == list(SETS[name].measures)
    assert all(axis.about and axis.less and axis.more and axis.less != axis.more for axis in axes)
    assert all(len(text) <= 60 for axis in axes for text in (axis.about, axis.less, axis.more))


def test_an_unknown_set_is_named() -> None:
    """A set that there isn't is refused, with those there are."""
    with pytest.raises(InputError, match=r"'prose'.*dialogue or assistant"):
        named_axes("prose")


def test_many_are_each() -> None:
    """Rows of many replies are the measures of each; none at all make an empty table."""
    replies = [REPLY, "No.", ""]
    rows: Array = measure_many([ASKED] * 3, replies, ASSISTANT)
    np.testing.assert_array_equal(rows, [measure(ASKED, reply, ASSISTANT) for reply in replies])
    assert measure_many([], [], ASSISTANT).shape == (0, len(ASSISTANT))
    assert measure_many([], [], DIALOGUE[:3]).shape == (0, 3)


def test_axes_are_measured_in_the_order_asked_for() -> None:
    """A basis with some of the axes in its own order gets those, even if they come from two sets."""
    some = (ASSISTANT[5], DIALOGUE[15], ASSISTANT[0], DIALOGUE[0])
    alone = [float(measure(ASKED, REPLY, [axis])[0]) for axis in some]
    np.testing.assert_array_equal(measure(ASKED, REPLY, some), alone)
    assert len(set(alone)) == len(some)  # the control: in another order it would be seen


def test_an_unknown_axis_is_named() -> None:
    """An axis that this version can't measure is refused by name, with what is known and what to do."""
    sarcasm = Axis("sarcasm", "irony", "plain", "ironic")
    with pytest.raises(BasisError, match=r"'sarcasm'.*warmth.*empathy.*install"):
        measure(ASKED, "Oh great.", (*DIALOGUE, sarcasm))


def test_one_prompt_for_each_reply() -> None:
    """Prompts and replies of different number are refused."""
    with pytest.raises(ValueError, match="zip"):
        measure_many([ASKED], ["one", "two"], DIALOGUE)


# ---------------------------------------------------------------- what every set keeps to


@pytest.mark.parametrize("name", SETS)
@given(asked=texts, reply=texts)
def test_any_text_is_measured(name: str, asked: str, reply: str) -> None:
    """Every text gives finite values between the smallest and the largest cap, the same ones each time."""
    prompt: list[Message] = [{"role": "user", "content": asked}]
    axes, (lowest, highest) = named_axes(name), LOWEST_AND_HIGHEST[name]
    row = measure(prompt, reply, axes)
    assert row.shape == (len(axes),)
    assert lowest <= row.min() <= row.max() <= highest
    assert row.tobytes() == measure(prompt, reply, axes).tobytes()


@pytest.mark.parametrize(("name", "reply"), [*product(SETS, WORDLESS), ("dialogue", "🙂")])
def test_a_reply_without_words_is_zero(name: str, reply: str) -> None:
    """Where nothing is said every axis is 0, not NaN, after no prompt too; where something is, they aren't."""
    for prompt in (ASKED, []):
        assert not measure(prompt, reply, named_axes(name)).any()
        assert measure(prompt, f"{reply} Hello", named_axes(name)).any()  # the control


@pytest.mark.parametrize(("name", "axis"), [("dialogue", "echo"), ("assistant", "restating")])
def test_only_one_axis_looks_at_the_prompt(name: str, axis: str) -> None:
    """What the user wrote moves one axis; what the assistant wrote before moves nothing."""
    axes, reply = named_axes(name), "There is a small car to rent in Lisbon."
    with_prompt, without = measure(ASKED, reply, axes), measure([], reply, axes)
    assert [axes[j].name for j in np.flatnonzero(with_prompt != without)] == [axis]
    as_assistant: list[Message] = [{"role": "assistant", "content": ASKED[0]["content"]}]
    np.testing.assert_array_equal(measure(as_assistant, reply, axes), without)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(
    ("one", "other"), [("It's great.", "It’s great."), ("THANKS, enjoy.", "thanks, enjoy."), ("Sure.", "  Sure.\n")]
)
def test_spelling_doesnt_matter(name: str, one: str, other: str) -> None:
    """Curly apostrophes, capitals of common words and white space around a reply measure the same."""
    one_row, other_row = (measure(ASKED, reply, named_axes(name)) for reply in (one, other))
    np.testing.assert_array_equal(one_row, other_row)
    assert one_row.any()  # the control: there is something to measure
