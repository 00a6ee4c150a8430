"""A change is drafted, fitted outside of every lock, and written only where its person is as they were."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from personalign.errors import Conflict, InputError
from personalign.store import Answer, Shown, Store, answering, records
from personalign.store import store as store_module
from personalign.store.sqlite import engine
from personalign.types import Gaussian, Profile
from tests.store.store_worker import is_known

ON_BOTH = True  # databases

Fit = Callable[[tuple[Answer, ...]], Gaussian]


def pair(name: str = "pair", text: str = "left") -> Shown:
    return Shown(f"edit:{name}", (), text, "right", swapped=False, v=np.ones(3), kind="edit")


def undo(store: Store, fit: Fit) -> Profile | None:
    return store.undo_answer("ada", "basis", fit)


CHANGES: dict[str, Callable[[Store, str, Fit], object]] = {
    "answer": lambda store, shown, fit: store.commit_answer("ada", shown, "a", fit),
    "feedback": lambda store, _, fit: store.commit_feedback("ada", "basis", pair(), "a", fit),
    "undo": lambda store, _, fit: undo(store, fit),
    "refit": lambda store, _, fit: store.adopt("ada", "second", lambda shown: (fit(()), shown.v)[1], fit),
}


@pytest.mark.parametrize("change", CHANGES)
def test_others_write_while_a_fit_runs(store: Store, url: str, show, fit, monkeypatch, change: str) -> None:
    """Fitting and measuring hold no lock: another store's write goes through in the middle of each."""
    monkeypatch.setitem(engine.COMMON, "busy_timeout", 50)
    store.save_basis("second", "tiny", {})
    store.commit_answer("ada", show("q1").id, "a", fit)
    shown, written = show("q2").id, []
    with Store.open(url) as other:

        def slow_fit(answers: tuple[Answer, ...]) -> Gaussian:
            other.add_user(f"user-{len(written)}")
            written.append(len(answers))
            return fit(answers)

        CHANGES[change](store, shown, slow_fit)
    assert written


def test_what_changed_meanwhile_is_fitted_too(store: Store, url: str, show, fit) -> None:
    """Feedback that comes while an answer is fitted isn't lost: the answer is fitted again, with it."""
    shown, seen = show("q1").id, []
    with Store.open(url) as other:

        def interrupted(answers: tuple[Answer, ...]) -> Gaussian:
            seen.append([answer.kind for answer in answers])
            other.commit_feedback("ada", "basis", pair(), "a", fit)
            return fit(answers)

        profile = store.commit_answer("ada", shown, "a", interrupted)
    assert seen == [["question"], ["edit", "question"]]
    assert (profile.revision, profile.covariance[0, 0]) == (2, 3.0)


def test_whoever_is_always_interrupted_is_told(store: Store, url: str, show, fit, monkeypatch) -> None:
    """After so many attempts it is a Conflict, and nothing is written."""
    monkeypatch.setattr(store_module, "ATTEMPTS", 3)
    shown, seen = show("q1").id, []
    with Store.open(url) as other:

        def interrupted(answers: tuple[Answer, ...]) -> Gaussian:
            seen.append(answers)
            other.commit_feedback("ada", "basis", pair(str(len(seen))), "a", fit)
            return fit(answers)

        with pytest.raises(Conflict, match="try again"):
            store.commit_answer("ada", shown, "a", interrupted)
    assert len(seen) == 3
    assert {answer.kind for answer in store.answers("ada", "basis")} == {"edit"}


def test_answers_are_in_order_whatever_the_clock_says(store: Store, show, fit, monkeypatch) -> None:
    """With the clock an hour back, undo takes the answer that was given last, and a copy keeps the order."""
    store.save_basis("second", "tiny", {})
    sound = answering.now
    for hours, question in ((0, "q1"), (1, "q2"), (2, "q3")):
        monkeypatch.setattr(answering, "now", lambda hours=hours: sound() - timedelta(hours=hours))
        store.commit_answer("ada", show(question).id, "a", fit)
    store.adopt("ada", "second", lambda shown: shown.v, fit)
    for basis in ("basis", "second"):
        assert [answer.question_id for answer in store.answers("ada", basis)] == ["q1", "q2", "q3"]
        store.undo_answer("ada", basis, fit)
        assert store.open_presentation("ada", basis).question_id == "q3"


# Erasure


def test_a_call_that_began_before_an_erasure_brings_nobody_back(store: Store, show, fit) -> None:
    """Known or not when it began, back or not when it ends: nothing of it is stored; one that began later is."""
    for before, after in ((True, False), (True, True), (False, False), (False, True)):
        store.forget("ada")
        if before:
            store.add_user("ada")
        began = store.person("ada")
        store.add_user("ada")
        store.forget("ada")
        if after:
            store.add_user("ada")
        with pytest.raises(InputError, match="erased meanwhile"):
            store.commit_feedback("ada", "basis", pair(), "a", fit, person=began)
        with pytest.raises(InputError, match="erased meanwhile"):
            store.present("ada", "basis", Shown("q", (), "a", "b", swapped=False, v=np.ones(3)), person=began)
        assert is_known(store, "ada") == after
        assert not store.export("ada")["tables"]["presentations"]
    store.forget("ada")
    assert store.commit_feedback("ada", "basis", pair(), "a", fit, person=store.person("ada")).revision == 1


def test_anothers_erasure_stops_no_newcomer(store: Store, fit) -> None:
    """Two calls of a newcomer, side by side with somebody's erasure, are both stored."""
    began = store.person("newcomer")
    store.forget("ada")
    for name in ("one", "another"):
        store.commit_feedback("newcomer", "basis", pair(name), "a", fit, person=began)
    assert len(store.answers("newcomer", "basis")) == 2


# How much is read and kept


def test_a_fit_reads_no_texts(store: Store, show, fit) -> None:
    """What is fitted leaves the texts on the disk; what is shown reads them (the control)."""
    store.commit_answer("ada", show("q1").id, "a", fit)
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(store._connections.reader, "before_cursor_execute", note)
    store.state("ada", "basis")
    assert not any("presentations.prompt" in statement for statement in statements)
    store.open_presentation("ada", "basis")
    assert any("presentations.prompt" in statement for statement in statements)


def test_the_newest_feedback_is_fitted_and_a_share_of_it_kept(store: Store, show, fit, monkeypatch) -> None:
    """However much comes, so much is read and so much stored; answers to questions aren't dropped for it."""
    monkeypatch.setattr(records, "MOST_FEEDBACK", 3)
    monkeypatch.setattr(answering, "MOST_FEEDBACK", 3)
    monkeypatch.setattr(answering, "KEPT_FEEDBACK", 5)
    store.commit_answer("ada", show("q0").id, "a", fit)
    for number in range(9):
        profile = store.commit_feedback("ada", "basis", pair(str(number)), "a", fit)
    assert profile.covariance[0, 0] == 1 + 1 + 3
    assert [answer.question_id for answer in store.answers("ada", "basis")] == ["q0", "edit:6", "edit:7", "edit:8"]
    assert len(store.export("ada")["tables"]["presentations"]) == 1 + 5
    assert store.undo_answer("ada", "basis", fit).answers == 0
