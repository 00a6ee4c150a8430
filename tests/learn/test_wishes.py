"""Wishes in words: what is surely about replies is understood, towards the right end; nothing else moves a taste."""

from __future__ import annotations

import pytest
from hypothesis import given

from personalign.learn.axes import named_axes
from personalign.learn.wishes import MILD, PLAIN, STRONG, understand
from tests.learn.any_text import texts

AXES = (*named_axes("assistant"), *named_axes("dialogue"))
PROSE = named_axes("assistant")
SAID = {
    "shorter please, and stop the bullet points": {"reply_length": -PLAIN, "bullets": -PLAIN},
    "A bit shorter would be nice.": {"reply_length": -MILD},
    "Much shorter, please!": {"reply_length": -STRONG},
    "Please don’t use so many numbers.": {"numbers": -PLAIN},
    "Don't be so brief.": {"reply_length": PLAIN},
    "Your answers aren't detailed enough.": {"reply_length": PLAIN},
    "Less formal, please.": {"formality": -PLAIN},
    "No bullets and no headings.": {"bullets": -PLAIN, "headings": -PLAIN},
    "Be warm but not too enthusiastic.": {"empathy": PLAIN, "excitement": -PLAIN},
    "Never use emoji again.": {"emoji": -STRONG},
    "I'm in a hurry, be brief.": {"reply_length": -PLAIN},
}
ORDINARY = (
    "make the pasta sauce thicker",
    "Write a short poem about autumn.",
    "Write a story about a dragon, and keep it short.",
    "The movie was too long.",
    "I prefer short hair.",
    "He always keeps it short.",
    "Do you like bullet points?",
    "No more questions, thanks.",
    "You are formal.",
    "Don't be less formal.",
    'Translate "keep it short" into French.',
    '<script>alert("shorter please")</script>',
    "Kürzere Antworten, bitte.",
    "もっと短くしてください。",
    "😀😀😀",
    "!?,",
    "",
)


@pytest.mark.parametrize("text", SAID)
def test_a_wish_is_understood(text: str) -> None:
    """Axis, direction and strength, with the words that say it."""
    understood = understand(text, PROSE)
    assert {wish.axis: wish.position for wish in understood.wishes} == SAID[text]
    assert all(wish.kind == "said" and wish.words in text for wish in understood.wishes)


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_request_moves_nothing(text: str) -> None:
    """It is what isn't understood, as it was written."""
    understood = understand(text, AXES)
    assert understood.wishes == ()
    assert all(part in text for part in understood.remainder)
    assert bool(understood.remainder) == any(map(str.isalnum, text))


def test_part_of_a_text_is_understood() -> None:
    """The rest is told; beside a task only what is to last is a wish."""
    understood = understand("Thanks for that! Shorter, please. And water my plants.", PROSE)
    assert [wish.words for wish in understood.wishes] == ["Shorter, please"]
    assert understood.remainder == ("And water my plants",)
    task = "Write a poem about my cat. Keep it short."
    assert understand(task, PROSE).wishes == ()
    assert understand(f"{task} From now on, no emoji.", PROSE).wishes != ()


def test_a_wish_and_its_opposite_say_nothing() -> None:
    """Neither is taken, and both are told as not understood; said twice, the stronger is."""
    both = understand("Shorter, please. Be warmer. Longer, please.", PROSE)
    assert [wish.axis for wish in both.wishes] == ["empathy"]
    assert both.remainder == ("Shorter, please", "Longer, please")
    (twice,) = understand("Much shorter, please. Keep it short.", PROSE).wishes
    assert twice.position == -STRONG


def test_only_the_axes_that_there_are_count() -> None:
    """The other set has other names for the same, one the other way round; what has no axis isn't understood."""
    formal = {wish.axis: wish.position for wish in understand("Be more formal.", named_axes("dialogue")).wishes}
    assert formal == {"contractions": -PLAIN}
    assert understand("No headings, please.", named_axes("dialogue")).remainder == ("No headings, please",)


@given(texts)
def test_any_text_is_read(text: str) -> None:
    """Whatever it holds: no error, and nothing that isn't in it."""
    understood = understand(f"{text}, shorter please", AXES)
    assert all(part in f"{text}, shorter please" for part in understood.remainder)
    assert all(-1 <= wish.position <= 1 for wish in understood.wishes)


def test_a_long_text_is_read() -> None:
    """Without an end of a sentence, with nothing else, or of words that change nothing: no long part is kept."""
    for text in ("shorter and " * 800, "shorter, " * 1000, ".,!" * 3000, f"{'please ' * 1000} shorter"):
        assert all(len(wish.words) < 200 for wish in understand(text, AXES).wishes)
