"""Feedback is kept as an answer that nobody asked for: counted apart, never undone, and gone with the person."""

from __future__ import annotations

import numpy as np
import pytest

from personalign.errors import InputError, ProfileError
from personalign.store import Shown, Store, schema
from personalign.store.places import find
from personalign.types import Profile

ON_BOTH = True  # databases

PROMPT = ({"role": "user", "content": "a taxi, please"},)


def observe(store: Store, fit, choice: str = "a", kind: str = "edit", pair: str = "pair", v: float = 1.0) -> Profile:
    shown = Shown(f"{kind}:{pair}", PROMPT, "left", "right", swapped=False, v=np.full(3, v), kind=kind)
    return store.commit_feedback("ada", "basis", shown, choice, fit)


def test_feedback_is_fitted_and_counted_apart(store: Store, show, fit) -> None:
    """It joins the fit at once; answers counts questions only, informative adds the weights and rounds down."""
    store.commit_answer("ada", show("q1").id, "a", fit)
    profile = observe(store, fit, "b")
    assert (profile.revision, profile.answers, profile.informative) == (2, 1, 1)
    assert profile.covariance[0, 0] == 3.0
    assert observe(store, fit, pair="another").informative == 2
    assert [answer.kind for answer in store.answers("ada", "basis")] == ["question", "edit", "edit"]
    assert store.exposures("basis") == {"q1": 1}


def test_feedback_alone_waits_until_it_is_worth_an_answer(store: Store, fit) -> None:
    """Three thumbs are worth one answer, two are not."""
    found = [observe(store, fit, kind="thumbs", pair=str(number)).informative for number in range(3)]
    assert found == [0, 0, 1]


def test_the_same_again_changes_nothing_and_the_other_choice_takes_its_place(store: Store, fit) -> None:
    """A request that is sent twice counts once; a thumb that turns is one thumb, the first kept and marked."""
    first = observe(store, fit, "a", "thumbs")
    assert observe(store, fit, "a", "thumbs").revision == first.revision
    turned = observe(store, fit, "b", "thumbs")
    assert (turned.revision, turned.covariance[0, 0]) == (2, 2.0)
    assert [answer.choice for answer in store.answers("ada", "basis")] == ["b"]
    assert [row["undone_at"] is None for row in store.export("ada")["tables"]["answers"]] == [False, True]
    assert observe(store, fit, "a", "edit").covariance[0, 0] == 3.0  # another kind on the same pair stands beside it


def test_undo_passes_feedback_over(store: Store, show, fit) -> None:
    """The last answer to a question is taken back; feedback that came later stays, and alone there is nothing."""
    store.commit_answer("ada", show("q1").id, "a", fit)
    observe(store, fit)
    undone = store.undo_answer("ada", "basis", fit)
    assert undone is not None
    assert (undone.answers, [answer.kind for answer in store.answers("ada", "basis")]) == (0, ["edit"])
    assert store.undo_answer("ada", "basis", fit) is None


def test_feedback_of_strangers_and_without_numbers_is_refused(store: Store, fit) -> None:
    """Nothing of it is stored."""
    with pytest.raises(ProfileError, match="NaN"):
        observe(store, fit, v=np.nan)
    store.forget("ada")
    with pytest.raises(InputError, match="isn't known"):
        observe(store, fit)
    assert store.answers("ada", "basis") == ()


def test_an_older_schema_takes_no_feedback_for_answers(store: Store, show, fit, url: str, sql) -> None:
    """Going down, feedback goes, for it would count fully there; answers and profiles stay, and going up as well."""
    store.commit_answer("ada", show("q1").id, "a", fit)
    observe(store, fit)
    store.close()
    schema.migrate(find(url), "0001")
    assert sql("SELECT question_id FROM presentations") == [("q1",)]
    schema.migrate(find(url), schema.HEAD)
    assert sql("SELECT kind FROM presentations") == [("question",)]
    assert sql("SELECT count(*) FROM answers") == [(1,)]
    assert sql("SELECT revision FROM profiles") == [(2,)]
