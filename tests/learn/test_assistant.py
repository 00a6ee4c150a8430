"""The axes of an assistant's prose: each moves the way it says, none can be pumped, and any text is measured."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalign.learn.assistant import AXES, MEASURES
from personalign.learn.axes import measure as measure_on
from personalign.types import Message
from tests.learn.any_text import texts
from tests.learn.people import Array

ASKED: list[Message] = [{"role": "user", "content": "Give me three tips for sleeping better at night."}]
NAMES = [axis.name for axis in AXES]
RUNS_AWAY_S = 300  # of the processor: some hundred times what the slowest takes, so that no busy machine gets there
STEP = 0.5  # of what a pair moves: saying it ten times must gain less

# A reply with less of the axis, and one with more, that are otherwise close to each other.
PAIRS: dict[str, tuple[str, str]] = {
    "reply_length": ("Go to bed.", f"Go to bed. {' '.join(f'Count sheep {i} in one field.' for i in range(12))}"),
    "bullets": ("Go to bed early. Keep it dark. Read.", "- Go to bed early.\n- Keep it dark.\n* Read."),
    "steps": ("Go to bed early. Keep it dark. Read.", "1. Go to bed early.\n2. Keep it dark.\n3) Read."),
    "headings": (
        "Evening\nRead a book.\nNight\nSleep.",
        "## Evening\nRead a book.\n**Night**\nSleep.\nMorning:\nRise.",
    ),
    "emphasis": ("Keep the room dark and cool.", "Keep the room **dark** and *cool*."),
    "paragraphs": ("Read a book. Keep it dark. Rise early.", "Read a book.\n\nKeep it dark.\n\nRise early."),
    "code": ("Set the alarm with at.", "Set the alarm:\n```\nat 07:00 < wake.sh\necho done\n```\nor with `cron`."),
    "emoji": ("Good night.", "Good night 😴🌙."),
    "excitement": ("It is a nice book. Read it.", "It is an amazing book! Read it!"),
    "empathy": ("Nights are short.", "I'm sorry to hear that, and I understand how tough it can feel."),
    "formality": ("Hey, that's kinda cool, don't miss it.", "Therefore it is good, and you are not to miss it."),
    "learned_words": (
        "Go to bed and sleep well in the dark.",
        "Physiological mechanisms regulate circadian alertness.",
    ),
    "sentence_words": ("Read. Go to bed. Sleep well.", "Read for a while, go to bed when it is dark and sleep well."),
    "tentativeness": ("Tea helps. Books work.", "Tea may help. Books could perhaps work."),
    "warnings": ("Take a pill.", "Be careful and consult a doctor: pills carry risks."),
    "preamble": ("Read a book. Keep it dark.", "Sure! Here are three tips. Read a book. Keep it dark."),
    "restating": ("Read a book.", "For sleeping better at night there are three tips."),
    "closing_offer": ("Read a book. Good night.", "Read a book. Let me know if you have more questions."),
    "asking_back": ("Say when the lamp is out.", "When is the lamp out? Do you read?"),
    "addressing": ("Keep the lamp out. Read a book.", "You keep the lamp out. Your book helps you."),
    "saying_i": ("The lamp stays out. Books help.", "I leave the lamp out. My books help me."),
    "examples": ("Read something calm.", "Read something calm, for example a novel, such as an imagined scenario."),
    "numbers": ("Sleep some hours from late on.", "Sleep 8 hours from 22:30 on, in 18 degrees."),
    "proper_names": ("Read something by a poet from the north.", "Read Peer Gynt by Henrik Ibsen from Norway."),
    "asides": ("Read a calm book in bed.", "Read a book (a calm one) – in bed."),
}


def measure(prompt: list[Message], reply: str) -> Array:
    return measure_on(prompt, reply, AXES)


def of(name: str, reply: str, prompt: list[Message] = ASKED) -> float:
    return float(measure(prompt, reply)[NAMES.index(name)])


def step(name: str, pair: str) -> float:
    less, more = PAIRS[pair]
    return of(name, more) - of(name, less)


def test_every_axis_is_tried() -> None:
    """Each axis has a measure and a pair below."""
    assert set(NAMES) == set(MEASURES) == set(PAIRS)
    assert len(NAMES) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_each_axis_moves_as_it_says(name: str) -> None:
    """Of two replies written by hand the one with more of it measures higher, by a good part of the axis."""
    assert step(name, name) >= 0.4


@pytest.mark.parametrize("name", NAMES)
def test_no_axis_is_another_one(name: str) -> None:
    """The control: another axis's pair hardly ever moves this one as much as its own."""
    others = [step(name, other) for other in NAMES if other != name]
    assert sum(abs(value) < step(name, name) / 2 for value in others) >= 0.8 * len(others)


# ---------------------------------------------------------------- no pumping


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("between", [" ", "\n", "\n\n"])
def test_saying_it_ten_times_gains_less_than_a_step(name: str, between: str) -> None:
    """A reply's axis hardly rises when the reply is written down ten times over."""
    more = PAIRS[name][1]
    assert of(name, between.join([more] * 10)) - of(name, more) < STEP * step(name, name)


@given(texts, st.sampled_from([" ", "\n", "\n\n"]))
def test_saying_it_again_and_again_adds_nothing(reply: str, between: str) -> None:
    """Any reply repeated 31 times measures as seven times over does."""
    # both odd: a fence opens and closes code in turn
    np.testing.assert_array_equal(measure(ASKED, between.join([reply] * 31)), measure(ASKED, between.join([reply] * 7)))


@pytest.mark.parametrize(
    "marker", ["Sure! ", "🙂 ", "!!! ", "**so** ", "- so\n", "1. so\n", "You! ", "I may. ", "(so) "]
)
def test_a_marker_alone_ends(marker: str) -> None:
    """A marker written a hundred times is worth what it is worth written three times, on every axis."""
    np.testing.assert_array_equal(measure(ASKED, marker * 101), measure(ASKED, marker * 3))


def flood(times: int, end: str) -> str:
    """Ever new sentences, with something for every axis in each."""
    rich = (
        "Sure, here are great tips{0} for you: Hotel{0} may help (tip{0}), for example **bed{0}** 🙂 at {0}:30, I hope"
        "{end}\n- item {0}\n1. step {0}\n## Part {0}\n\n`code{0}`\n"
    )
    everything = "\n".join(words for _, words in PAIRS.values())
    return "".join([*(rich.format(f"{i}", end=end) for i in range(times)), everything])


@pytest.mark.parametrize("end", [".", "!", "?"])
def test_every_axis_ends(end: str) -> None:
    """No axis but a mean grows past its cap: two hundred new clauses measure as eighty."""
    means = {"learned_words", "sentence_words", "tentativeness", "addressing", "saying_i"}
    capped = [name not in means for name in NAMES]
    long, longer = measure(ASKED, flood(80, end)), measure(ASKED, flood(200, end))
    np.testing.assert_array_equal(longer[capped], long[capped])
    assert (np.abs(longer - long) < 0.1).all()
    assert (long > measure(ASKED, "No problem.")).sum() >= len(AXES) - 4  # the control: it was felt


# ---------------------------------------------------------------- any text


def test_emoji_alone_are_emoji() -> None:
    """A reply of nothing but emoji moves that axis alone."""
    row = measure(ASKED, "🙂🎉🌙")
    assert [name for name, value in zip(NAMES, row, strict=True) if value] == ["emoji"]


@pytest.mark.parametrize("reply", ["你好！你想去哪里？", "Привет! Как дела?", "مرحبا، كيف حالك؟ أهلا!"])
def test_other_scripts_are_measured(reply: str) -> None:
    """Length, exclamations and questions are seen where words aren't English."""
    assert np.isfinite(measure(ASKED, reply)).all()
    assert of("reply_length", reply) > 0
    assert of("excitement", reply) > 0


@pytest.mark.parametrize(
    "bit",
    [
        *("a", "word ", "You may. ", "- item\n", "1. ", "|", "\n", "! ", "’", "😀"),
        *("**", "*x", "__", "(", "(a", "`", "```\n", " - "),
    ],
)
def test_no_pattern_runs_away(bit: str) -> None:
    """A reply of 1 MB of anything is measured; a pattern that tries every pair of places would take hours."""
    start = time.process_time()
    assert np.isfinite(measure(ASKED, bit * (1_000_000 // len(bit)))).all()
    assert time.process_time() - start < RUNS_AWAY_S


# ---------------------------------------------------------------- what is looked at


@pytest.mark.parametrize(
    ("name", "plain", "marked"),
    [
        ("bullets", "Read\nSleep", "• Read\n+ Sleep"),
        ("steps", "Read\nSleep", "Step 1: Read\nStep 2: Sleep"),
        ("headings", "Night", "# Night"),
        ("emphasis", "a b\nc d\ne f", "| a | b |\n|---|---|\n| c | d |"),
        ("code", "ls", "~~~sh\nls\n~~~"),
    ],
)
def test_markdown_is_seen(name: str, plain: str, marked: str) -> None:
    """Every way to write a mark counts, and the words are the same with it and without."""
    assert of(name, marked) > of(name, plain) == 0.0


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("numbers", "1. Read.\n2. Sleep."),
        ("proper_names", "Read. Sleep. I do."),
        ("excitement", "```\nif (!a) echo wow!\n```"),
        ("asides", "See [the page](https://example.org/a)."),
        ("emphasis", "2 * 3 * 4 = 24"),
        ("asking_back", "```\nWhat?\n```"),
    ],
)
def test_what_only_looks_like_it_isnt_counted(name: str, reply: str) -> None:
    """Numbers of a list, first words, code, links and products don't move an axis."""
    assert of(name, reply) == 0.0
