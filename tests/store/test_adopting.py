"""Answers follow to a new basis once, as they stand, and what was under the old one stays."""

from __future__ import annotations

import numpy as np
import pytest

from personalign.errors import ProfileError
from personalign.store import Shown, Store
from personalign.types import Array

ON_BOTH = True  # databases


def twice(shown) -> Array:
    return 2 * shown.v


@pytest.fixture(autouse=True)
def bases(store: Store) -> None:
    store.save_basis("second", "tiny", {})
    store.save_basis("third", "tiny", {})


def choices(store: Store, basis: str) -> list[str]:
    return [answer.choice for answer in store.answers("ada", basis)]


def test_answers_and_feedback_follow_with_their_times(store: Store, show, fit) -> None:
    """They are measured and fitted anew; the old basis keeps answers, profile and an open question."""
    for number, choice in enumerate(("a", "skip", "tie")):
        store.commit_answer("ada", show(f"q{number}", v=(number, 1, 2)).id, choice, fit)
    shown = Shown("edit:pair", (), "left", "right", swapped=False, v=np.ones(3), kind="edit")
    store.commit_feedback("ada", "basis", shown, "b", fit)
    waiting = show("q9")
    before = store.profile("ada", "basis")
    assert store.behind("second") == ["ada"]
    profile = store.adopt("ada", "second", twice, fit)
    assert profile is not None
    assert (profile.revision, profile.answers, profile.informative) == (1, 3, 2)
    assert profile.mean.tolist() == [2 * (0 + 1 + 2 + 1), 8, 14]
    old, new = store.answers("ada", "basis"), store.answers("ada", "second")
    for one, other in zip(old, new, strict=True):
        assert (one.choice, one.kind, one.answered_at, one.number) == (
            other.choice,
            other.kind,
            other.answered_at,
            other.number,
        )
        assert other.v.tolist() == (2 * one.v).tolist()
    after = store.profile("ada", "basis")
    assert (after.revision, after.mean.tobytes()) == (before.revision, before.mean.tobytes())
    assert store.open_presentation("ada", "basis").id == waiting.id
    assert store.open_presentation("ada", "second") is None


def test_what_followed_once_is_not_lacking(store: Store, show, fit) -> None:
    """A second refit is nothing; a later answer alone follows, and joins what was answered here."""
    store.commit_answer("ada", show("q1").id, "a", fit)
    store.adopt("ada", "second", twice, fit)
    assert store.behind("second") == []
    assert store.adopt("ada", "second", twice, fit) is None
    assert store.profile("ada", "second").revision == 1
    here = store.present("ada", "second", Shown("q2", (), "a", "b", swapped=False, v=np.ones(3)))
    store.commit_answer("ada", here.id, "b", fit)
    store.commit_answer("ada", show("q3").id, "tie", fit)
    assert store.behind("second") == ["ada"]
    profile = store.adopt("ada", "second", twice, fit)
    assert (profile.revision, choices(store, "second")) == (3, ["a", "b", "tie"])


def test_what_was_taken_back_does_not_follow(store: Store, show, fit) -> None:
    """Undone under the old basis, or under the one between: the newest basis says what stands."""
    for question in ("q1", "q2", "q3"):
        store.commit_answer("ada", show(question).id, "a", fit)
    store.undo_answer("ada", "basis", fit)
    store.adopt("ada", "second", twice, fit)
    assert choices(store, "second") == ["a", "a"]
    store.undo_answer("ada", "second", fit)
    store.adopt("ada", "third", twice, fit)
    assert choices(store, "third") == ["a"]


def test_feedback_that_was_given_again_meanwhile_counts_once(store: Store, fit) -> None:
    """The newer one stands."""
    shown = Shown("edit:pair", (), "left", "right", swapped=False, v=np.ones(3), kind="edit")
    store.commit_feedback("ada", "basis", shown, "a", fit)
    store.commit_feedback("ada", "second", shown, "b", fit)
    assert store.adopt("ada", "second", twice, fit) is None
    assert choices(store, "second") == ["b"]


def test_what_cannot_be_measured_stays_behind(store: Store, show, fit) -> None:
    """The rest is taken over; with nothing else to take, nothing is written, and the person is still behind."""
    for question in ("q1", "q2"):
        store.commit_answer("ada", show(question).id, "a", fit)
    store.adopt("ada", "second", lambda shown: None if shown.question_id == "q1" else shown.v, fit)
    assert [answer.question_id for answer in store.answers("ada", "second")] == ["q2"]
    assert store.behind("second") == ["ada"]
    assert store.adopt("ada", "second", lambda _: None, fit) is None
    assert store.adopt("ada", "second", lambda shown: shown.v, fit) is not None
    assert store.behind("second") == []


def test_a_refit_that_fails_changes_nothing(store: Store, show, fit) -> None:
    """Features that aren't numbers are refused, and the person is still behind; so they are a stranger's."""
    store.commit_answer("ada", show("q1").id, "a", fit)
    with pytest.raises(ProfileError, match="NaN"):
        store.adopt("ada", "second", lambda shown: shown.v * np.nan, fit)
    assert store.answers("ada", "second") == ()
    assert store.behind("second") == ["ada"]
    assert store.adopt("stranger", "second", twice, fit) is None
