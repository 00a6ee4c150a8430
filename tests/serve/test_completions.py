"""Replies that are kept for feedback: by id, for their own person, for a while, and gone with them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from personalign.serve import completions
from personalign.serve.completions import Completions

HELLO = ({"role": "user", "content": "Hello"},)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def nobody(users: Sequence[str], number: int) -> tuple[list[str], int]:
    """No one was erased by another process."""
    return [], number


def keep(kept: Completions, completion_id: str, user: str, text: str = "Hi!") -> None:
    kept.keep(completion_id, kept.begin(user, HELLO, {"max_tokens": 4}), text)  # type: ignore[arg-type] - one message


def test_a_reply_is_found_by_its_own_person() -> None:
    """With what it answers and how; a foreign id and an absent one are the same."""
    kept = Completions(3600, nobody)
    keep(kept, "1", "ada")
    completion = kept.find("1", "ada")
    assert completion is not None
    assert (completion.messages, completion.text, completion.options) == (HELLO, "Hi!", {"max_tokens": 4})
    assert kept.find("1", "ben") is kept.find("2", "ada") is None


def test_replies_are_kept_for_an_hour() -> None:
    """And not longer, however often they are asked for."""
    clock = Clock()
    kept = Completions(3600, nobody, clock)
    keep(kept, "1", "ada")
    clock.now = 3599
    keep(kept, "2", "ada")
    assert kept.find("1", "ada") is not None
    clock.now = 3601
    assert kept.find("1", "ada") is None
    assert kept.find("2", "ada") is not None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all together are too large, the oldest go first."""
    monkeypatch.setattr(completions, "MOST_CHARACTERS", 6000)
    kept = Completions(3600, nobody)
    for number in range(10):
        keep(kept, str(number), "ada", "x" * 900)
    assert [number for number in range(10) if kept.find(str(number), "ada")] == [7, 8, 9]


def test_what_was_asked_for_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema may be longer than all texts, and the shortest replies take memory of their own."""
    monkeypatch.setattr(completions, "MOST_CHARACTERS", 6000)
    for options, most in (({"regex": "x" * 900}, 3), ({}, 5)):
        kept = Completions(3600, nobody)
        for number in range(10):
            kept.keep(str(number), kept.begin("ada", HELLO, options), "Hi!")  # type: ignore[arg-type] - one message
        assert sum(kept.find(str(number), "ada") is not None for number in range(10)) == most


def test_a_person_who_is_erased_leaves_nothing() -> None:
    """Neither what was kept nor what is still being written; others', and later ones of the same id, stay."""
    kept = Completions(3600, nobody)
    keep(kept, "1", "ada")
    keep(kept, "2", "ben")
    unfinished = kept.begin("ada", HELLO, {})  # type: ignore[arg-type] - one message
    kept.forget("ada")
    kept.keep("3", unfinished, "Hi!")
    assert kept.find("1", "ada") is kept.find("3", "ada") is None
    assert kept.find("2", "ben") is not None
    keep(kept, "4", "ada")
    assert kept.find("4", "ada") is not None
