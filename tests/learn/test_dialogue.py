"""The axes of a dialogue: each moves the way it says, none can be pumped, and any text is measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from personalign.learn.axes import measure as measure_on
from personalign.learn.dialogue import AXES, MEASURES
from personalign.types import Message
from tests.learn.any_text import texts
from tests.learn.people import Array

ASKED: list[Message] = [{"role": "user", "content": "I'd like to rent a small car in Lisbon please."}]
NAMES = [axis.name for axis in AXES]

# A reply with less of the axis, and one with more, that are otherwise close to each other.
PAIRS: dict[str, tuple[str, str]] = {
    "length": ("Booked.", "Booked for the whole of next week from the airport onwards."),
    "questions": ("Tell me the date.", "Which date?"),
    "warmth": ("A car is there.", "Thanks, a car is there, enjoy."),
    "enthusiasm": ("It is a fine car.", "It is a wonderful car!"),
    "figures": ("It costs a bit and leaves early.", "It costs $45 and leaves at 9:30."),
    "names": ("We have one in the city.", "We have one in Porto from Hertz."),
    "choices": ("Take the van.", "Take the van or another option instead."),
    "confirmation": ("The van goes on Monday.", "Please confirm the following details."),
    "echo": ("There is one.", "There is a small car to rent in Lisbon."),
    "first_person": ("The van is booked.", "I have booked my van."),
    "second_person": ("The van is booked.", "Your van is booked for you."),
    "contractions": ("It is booked and you are set.", "It's booked and you're set."),
    "hedging": ("That is it.", "That would perhaps be it, I think."),
    "sentence_length": ("It is red. It is new. It is fast.", "It is red and new and fast with four wheels."),
    "lists": ("It has wheels.", "It has wheels, doors, seats and lights."),
    "opening": ("The van is booked.", "Sure, the van is booked."),
}


def measure(prompt: list[Message], reply: str) -> Array:
    return measure_on(prompt, reply, AXES)


def of(name: str, reply: str, prompt: list[Message] = ASKED) -> float:
    return float(measure(prompt, reply)[NAMES.index(name)])


def test_every_axis_is_explained_and_measured() -> None:
    """Twelve axes at least, each with a measure, a name of its own and words for both directions."""
    assert len(AXES) >= 12
    assert set(NAMES) == set(MEASURES) == set(PAIRS)
    assert len(set(NAMES)) == len(AXES)
    assert len({words for axis in AXES for words in (axis.about, axis.less, axis.more)}) >= 2 * len(AXES)
    assert all(axis.about and axis.less and axis.more and axis.less != axis.more for axis in AXES)


@pytest.mark.parametrize("name", NAMES)
def test_each_axis_moves_as_it_says(name: str) -> None:
    """Of two replies written by hand the one with more of it measures higher, and by a good part of the axis."""
    less, more = PAIRS[name]
    assert of(name, more) >= of(name, less) + 0.4


@pytest.mark.parametrize("name", NAMES)
def test_no_axis_is_another_one(name: str) -> None:
    """The control: the axes don't all move together; another pair moves this one less than its own, or not."""
    own = of(name, PAIRS[name][1]) - of(name, PAIRS[name][0])
    others = [of(name, more) - of(name, less) for other, (less, more) in PAIRS.items() if other != name]
    assert sum(moved < own / 2 for moved in others) >= len(others) // 2


# ---------------------------------------------------------------- no pumping


def test_stuttering_adds_nothing() -> None:
    """“Sure! Sure!!!!!!” is worth no more than “Sure!” said twice, on any axis, however often it is said."""
    twice = measure(ASKED, "Sure! Sure!")
    for pumped in ("Sure! Sure!!!!!!", "Sure! " * 50, "Sure!!! " * 50):
        assert (measure(ASKED, pumped) <= twice).all()
    assert of("enthusiasm", "Sure! Great!") > of("enthusiasm", "Sure! Sure!")  # the control: something new counts


@given(texts)
def test_saying_it_again_and_again_adds_nothing(reply: str) -> None:
    """Any reply repeated thirty times measures as three times over does."""
    np.testing.assert_array_equal(measure(ASKED, " ".join([reply] * 30)), measure(ASKED, " ".join([reply] * 3)))


def test_raw_counts_would_be_pumped() -> None:
    """The control: counted plainly, the same repetition has no end."""
    assert ("Sure! " * 30).count("!") > 5 * ("Sure! " * 3).count("!")


def flood(times: int, end: str = ". ") -> str:
    """Ever new sentences, or one that doesn't end, with something for every axis."""
    rich = "Sure, I've found you {0}: Hotel{0}, Bar{0} and Cafe{0} or maybe another great option{0}"
    everything = " ".join(words for _, words in PAIRS.values())
    return end.join([*(rich.format(f"{i}x") for i in range(times)), everything])


@pytest.mark.parametrize("end", [". ", "! ", "? ", ", "])
def test_every_axis_ends(end: str) -> None:
    """No axis grows past its cap: a hundred new clauses measure as twenty, but for the mean length of sentences."""
    long, longer = measure(ASKED, flood(20, end)), measure(ASKED, flood(100, end))
    sums = np.array(NAMES) != "sentence_length"
    np.testing.assert_array_equal(longer[sums], long[sums])
    assert (long > measure(ASKED, "No problem.")).sum() >= len(AXES) - 2  # the control: it was felt


def test_sentences_end() -> None:
    """A sentence of a hundred words counts as one of forty does."""
    words = [f"w{i}" for i in range(100)]
    at = [of("sentence_length", " ".join(words[:n]) + ".") for n in (20, 40, 100)]
    assert at[0] < at[1] == at[2]
