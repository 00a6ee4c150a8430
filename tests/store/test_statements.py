"""What a person states is kept with the profile that follows from it, until it is taken back or they are erased."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from personalign.errors import InputError, StoreError
from personalign.store import Answer, Statements, Store, records, schema
from personalign.store.places import find
from personalign.types import Gaussian, Profile, Statement

ON_BOTH = True  # databases

SHORT = Statement("length", -1.0)
WARM = Statement("warmth", 0.5, "said", "a bit warmer")
Fit = Callable[[tuple[Answer, ...]], Gaussian]


def state(store: Store, fit: Fit, *stated: Statement, basis: str = "basis", user: str = "ada") -> Profile:
    news: Statements = {(statement.axis, statement.kind): statement for statement in stated}
    profile = store.commit_statements(user, basis, news, fit, person=store.person(user))
    assert profile is not None
    return profile


def test_the_newest_of_an_axis_and_kind_holds(store: Store, fit: Fit) -> None:
    """What is stated again changes nothing, another position takes the first one's place, None takes it back."""
    assert state(store, fit, SHORT, WARM).stated == (SHORT, WARM)
    assert state(store, fit, WARM).revision == 1
    longer = Statement("length", 0.25)
    assert state(store, fit, longer).stated == (WARM, longer)
    assert store.profile("ada", "basis").stated == (WARM, longer)
    gone = store.commit_statements("ada", "basis", {("length", "set"): None, ("names", "set"): None}, fit)
    assert (gone.revision, gone.stated) == (3, (WARM,))
    rows = store.export("ada")["tables"]["statements"]
    assert [(row["axis"], row["position"]) for row in rows] == [
        ("length", -1.0),
        ("warmth", 0.5),
        ("length", 0.25),
        ("length", None),
    ]


def test_a_newcomer_is_added_by_what_they_state_alone(store: Store, fit: Fit) -> None:
    """Taking back what was never stated adds nobody."""
    assert store.commit_statements("ben", "basis", {("length", "set"): None}, fit) is None
    assert store.person("ben").created_at is None
    assert state(store, fit, SHORT, user="ben").stated == (SHORT,)
    assert store.person("ben").created_at is not None


def test_answers_and_statements_keep_each_other(store: Store, show, fit: Fit) -> None:
    """An answer after a statement, an undo and a statement after an answer lose none of them."""
    state(store, fit, SHORT)
    assert store.commit_answer("ada", show("q1").id, "a", fit).stated == (SHORT,)
    profile = state(store, fit, WARM)
    assert (profile.stated, profile.answers) == ((SHORT, WARM), 1)
    undone = store.undo_answer("ada", "basis", fit)
    assert (undone.stated, undone.answers) == ((SHORT, WARM), 0)


def test_a_statement_while_another_is_fitted_is_not_lost(store: Store, url: str, fit: Fit) -> None:
    """The fit runs once more, and finds it."""
    seen = []
    with Store.open(url) as other:

        def interrupted(answers: tuple[Answer, ...]) -> Gaussian:
            seen.append(len(store.before_answers("ada", "basis")[0]))
            if len(seen) == 1:
                state(other, fit, WARM)
            return fit(answers)

        assert state(store, interrupted, SHORT).stated == (WARM, SHORT)
    assert seen == [0, 1]


def test_another_basis_takes_statements_over(store: Store, show, fit: Fit) -> None:
    """Whoever stated something, or took it back, is behind on every other basis until a refit; the old one stays."""
    store.save_basis("second", "tiny", {})
    state(store, fit, SHORT)
    assert (store.behind("basis"), store.behind("second")) == ([], ["ada"])
    assert store.profile("ada", "second") is None
    adopted = store.adopt("ada", "second", lambda shown: shown.v, fit)
    assert (adopted.revision, adopted.stated) == (1, (SHORT,))
    assert store.adopt("ada", "second", lambda shown: shown.v, fit) is None
    state(store, fit, WARM, basis="second")
    assert (store.behind("basis"), store.behind("second")) == (["ada"], [])
    assert store.profile("ada", "basis").stated == (SHORT,)  # as it was fitted
    assert store.adopt("ada", "basis", lambda shown: shown.v, fit).stated == (SHORT, WARM)


def test_nothing_stated_outlives_an_erasure(store: Store, fit: Fit) -> None:
    """A statement that was begun before it is refused; the id starts anew."""
    state(store, fit, SHORT)
    began = store.person("ada")
    store.forget("ada")
    assert not any(store.export("ada")["tables"].values())
    with pytest.raises(InputError, match="erased meanwhile"):
        store.commit_statements("ada", "basis", {("length", "set"): SHORT}, fit, person=began)
    assert store.before_answers("ada", "basis")[0] == {}
    assert state(store, fit, WARM).stated == (WARM,)


def test_a_statement_that_is_gone_is_missed(store: Store, fit: Fit, sql) -> None:
    """Each of a person's last thousand is there, or it is a StoreError; the profile before it is not believed."""
    for row in (1, 3):
        state(store, fit, SHORT, WARM, Statement("names", 0.0))
        sql(f"DELETE FROM statements WHERE number = {row}")
        for read in (lambda: store.profile("ada", "basis"), lambda: store.state("ada", "basis")):
            with pytest.raises(StoreError, match="statements of this person are missing"):
                read()
        store.forget("ada")


def test_a_slider_that_is_moved_all_day_fills_no_disk(store: Store, fit: Fit, monkeypatch) -> None:
    """Of what holds no longer the newest are kept; what holds stays, however old it is."""
    monkeypatch.setattr(records, "KEPT_STATEMENTS", 5)
    state(store, fit, WARM)
    for position in np.linspace(-1, 1, 9).tolist():
        profile = state(store, fit, Statement("length", position))
    assert profile.stated == (WARM, Statement("length", 1.0))
    assert [row["number"] for row in store.export("ada")["tables"]["statements"]] == [1, 6, 7, 8, 9, 10]
    assert store.state("ada", "basis").profile.stated == profile.stated


def test_a_downgrade_forgets_statements_and_damages_no_profile(store: Store, url: str, show, fit: Fit, sql) -> None:
    """Whoever answered keeps a profile that fits its checksum; whoever only stated something starts anew."""
    store.commit_answer("ada", show("q1").id, "a", fit)
    state(store, fit, SHORT)
    state(store, fit, WARM, user="ben")
    store.close()
    for revision in ("0008", schema.HEAD):
        schema.migrate(find(url), revision)
    with Store.open(url) as opened:
        profile = opened.profile("ada", "basis")
        assert (profile.revision, profile.answers, profile.stated) == (2, 1, ())
        assert opened.profile("ben", "basis") is None
        assert state(opened, fit, WARM, user="ben").stated == (WARM,)
